"""A site to crawl: pages of mixed sizes behind an nginx of our own, on loopback.

The pages are those of the extraction corpus that are of 10 to 500 KB. Without the corpus they are
the demonstration site's, repeated within themselves up to sizes that spread alike; the outcome says
which it was. A page stands under as many URLs as are wanted: ``/<any label>/<name>.html``.
"""

import os
import random
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs

from benchmarks.environment import ROOT
from benchmarks.peers.extractors import read_folder
from eventmesh_trio.demo import bundle

__all__ = [
    "NoNginx",
    "Site",
    "corpus_pages",
    "made_pages",
    "pages_of",
    "serving_pages",
    "shared_corpus",
]

MIN_BYTES: Final = 10_000
MAX_BYTES: Final = 500_000
_MADE_PAGES: Final = 120
_PARAGRAPH: Final = re.compile(rb"<p>(?:(?!</?p>).)+</p>", re.DOTALL)
_START_SECONDS: Final = 10.0
_AGE_SECONDS: Final = 30 * 86_400.0
"""Of the pages, for their ``Last-Modified``: a page of this minute may be used for no time at all
without asking for it again (RFC 9111, section 4.2.2), and most pages are older than that."""
_INSTALL: Final = "nginx is not installed: apt-get install -y nginx-light"
_CONFIG: Final = """\
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    types {{ text/html html; }}
    charset off;
    sendfile on;
    tcp_nopush on;
    open_file_cache max=4096 inactive=600s;
    keepalive_requests 1000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        root {folder}/pages;
        location / {{ rewrite ^/[^/]+/(.+)$ /$1 break; }}
    }}
}}
"""


def shared_corpus() -> Path | None:
    """The folder of the extraction corpus: beside the checkout, or in ``EVENTMESH_SHARED``."""
    folder = Path(os.environ.get("EVENTMESH_SHARED") or ROOT.parent / "shared") / "extraction"
    return folder if folder.is_dir() else None


def corpus_pages(folder: Path) -> dict[str, bytes]:
    """The corpus's pages that are neither small nor huge, by a name for each."""
    return {
        f"{number:04}.html": body
        for number, (_, body) in enumerate(read_folder(folder))
        if MIN_BYTES <= len(body) <= MAX_BYTES
    }


def made_pages(count: int = _MADE_PAGES) -> dict[str, bytes]:
    """Pages of the demonstration site, their paragraphs repeated up to sizes of 10 to 500 KB."""
    folder = ROOT / "eventmesh_trio" / "demo" / "pages"
    # Those that stand in the frame of a site, and have something to repeat.
    sources = [
        path.name
        for path in sorted(folder.glob("[a-z]*.html"))
        if b"chrome: " in bundle.raw(path.name) and _PARAGRAPH.search(bundle.raw(path.name))
    ]
    sizes = random.Random(6)
    made = {}
    for number in range(count):
        # Even by their logarithm, as sizes of pages on the Web are, more or less.
        size = int(MIN_BYTES * (MAX_BYTES / MIN_BYTES) ** sizes.random())
        page = bundle.page(sources[number % len(sources)], f"http://made.example/{number}")
        paragraphs = list(_PARAGRAPH.finditer(page))
        end = max(paragraphs, key=lambda match: len(match[0])).end()
        filling = b"\n".join(match[0] for match in paragraphs)
        times = -(-max(0, size - len(page)) // len(filling))
        made[f"{number:04}.html"] = (page[:end] + filling * times + page[end:])[:MAX_BYTES]
    return made


def pages_of(corpus: Path | None) -> tuple[dict[str, bytes], str]:
    """The pages to crawl, and a sentence that says what they are."""
    pages = corpus_pages(corpus) if corpus is not None else {}
    kind = "of the extraction corpus"
    if not pages:
        pages, kind = made_pages(), "of the demonstration site, made longer (the corpus is absent)"
    sizes = sorted(map(len, pages.values()))
    return pages, (
        f"{len(pages)} pages {kind}, {sizes[0] // 1000} to {sizes[-1] // 1000} KB,"
        f" {sum(sizes) // len(sizes) // 1000} KB on average"
    )


class NoNginx(Exception):
    """There is no nginx on this machine."""


@attrs.frozen
class Site:
    """A site that is being served."""

    port: int
    names: Sequence[str]

    def urls(self, count: int, label: str) -> list[str]:
        """So many distinct URLs of the pages in turn; another label makes all of them new.

        Any number of them has the mix of sizes of the whole: the names are shuffled once, alike
        each time.
        """
        shuffled = sorted(self.names)
        random.Random(6).shuffle(shuffled)
        base, size = f"http://127.0.0.1:{self.port}", len(shuffled)
        return [f"{base}/{label}-{n // size}/{shuffled[n % size]}" for n in range(count)]


@contextmanager
def serving_pages(pages: dict[str, bytes], folder: Path) -> Iterator[Site]:
    """Serve pages with an nginx whose files are all in ``folder``.

    Raises:
      NoNginx: the message says how to install it.
      RuntimeError: it does not start.
    """
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        raise NoNginx(_INSTALL)
    (folder / "pages").mkdir()
    modified = time.time() - _AGE_SECONDS
    for name, body in pages.items():
        (folder / "pages" / name).write_bytes(body)
        os.utime(folder / "pages" / name, (modified, modified))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = folder / "nginx.conf"
    config.write_text(_CONFIG.format(folder=folder, port=port))
    command = [program, "-p", str(folder), "-c", str(config), "-e", str(folder / "error.log")]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("nginx did not start") from None
                time.sleep(0.02)
        yield Site(port, tuple(pages))
    finally:
        process.terminate()
        process.wait()
