"""Read broken pages, for as long as is asked, and tell the worst that came of it.

    python tools/fuzz_extract.py --seconds 600 [--seed 5] [--pages FOLDER] [--keep FOLDER]

A page is taken, broken in one to four ways, and read in a process of its own kind, which is killed
when it takes too long. Each page must give a document or be refused (`UnsupportedContent`), within
`SECONDS_PER_MB` and `MAX_PAGE_MB` of memory. What does not is written to the folder of ``--keep``,
and the exit status is 1.

Pages are those of this file and of ``--pages``: files, ``.gz`` or not, of any kind.
"""

import argparse
import gzip
import multiprocessing
import random
import resource
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final, NamedTuple

SECONDS_PER_MB: Final = 1.0
"""Processor time of one page, for every MB of it..."""
LEAST_SECONDS: Final = 0.5
"""...and what any page may take, however small: a collection of garbage, a busy machine."""
MAX_PAGE_MB: Final = 200
"""Memory that one page may take more than the process had before it."""
HANG_SECONDS: Final = 20.0
"""Of wall clock, after which a page is called hung and its process is killed."""
MAX_PAGE_BYTES: Final = 4_000_000
"""Larger mutations are cut: a limit of this program, to make many small ones."""
PAGES_PER_PROCESS: Final = 400

_SENTENCE: Final = "The harbour museum opened its doors yesterday, and visitors praised it. "
_PARAGRAPHS: Final = "".join(f"<p>Paragraph {n}. {_SENTENCE * 3}</p>" for n in range(12))
OWN_PAGES: Final[tuple[bytes, ...]] = (
    f"""<!doctype html><html lang=en><head><meta charset=utf-8><title>Museum</title>
    <script type="application/ld+json">{{"@type": "NewsArticle", "headline": "Museum",
    "author": {{"name": "Ada"}}, "datePublished": "2026-03-01"}}</script>
    <meta property="og:title" content="Museum"></head><body><nav><a href=/>Home</a></nav>
    <article><h1>Museum</h1>{_PARAGRAPHS}<ul><li>One<ol start=3><li>Two</ol></ul>
    <pre><code class="language-python">def f():\n    return 1</code></pre>
    <table><tr><th>A<th colspan=2>B<tr><td rowspan=2>1<td>2<td>3<tr><td>4<td>5</table>
    <blockquote><p>Said <b>she <i>and</b> he</i></blockquote><dl><dt>T<dd>D</dl>
    <figure><img src=a.png alt=x><figcaption>C</figcaption></figure></article>
    <div class=comments><p>First comment</div><footer>All rights</footer></body></html>""".encode(),
    ("<table><tr><td>" + "Text<br><br>".join(_SENTENCE * 2 for _ in range(9))).encode("utf-16"),
    (
        "<div class=thread>"
        + "".join(
            f"<div class=post id=p{n}><b>User{n}</b><p>{_SENTENCE * 2}</p></div>" for n in range(20)
        )
    ).encode(),
    "<meta charset=shift_jis><p>昨日、古い港に印刷博物館が開館し、人々が訪れた。".encode("cp932")
    * 20,
    b"""<?xml version="1.0"?><rss><channel><title>F</title><item><title>A &amp;amp; b</title>
    <link>http://e.org/1</link><description><![CDATA[<p>Body <b>text]]></description></item>
    <item><title>B</title></item></channel></rss>""",
    b"""{"version": "https://jsonfeed.org/version/1", "items": [{"title": "<p>text"}]}""",
    b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[]/Count 0>>"
    b"endobj\ntrailer<</Root 1 0 R>>\n%%EOF",
)
_TAGS: Final = (
    b"div p a b i ul ol li table tr td th tbody pre code blockquote h2 br img section article form"
    b" font span select option svg math title style script template noscript details summary dl dt"
    b" dd button iframe textarea frameset plaintext sup sub ruby rt caption object nobr".split()
)
_TYPES: Final = (
    *(None, "text/html", "text/html; charset=utf-8", "text/plain", "application/xhtml+xml"),
    *("application/xml", "application/json", "text/csv", "application/octet-stream"),
)
_CHARSETS: Final = (None, None, "utf-8", "iso-8859-1", "gb2312", "utf-16", "shift_jis", "nonsense")
_MODES: Final = ("article", "article", "article", "full", "metadata", "raw")

_PIECES: Final = (
    *(b"\x00", b"<!--", b"-->", b"<![CDATA[", b"<script>", b"</body>", b"'", b'"', b"<svg><style>"),
    *(b"<table>", b"<plaintext>", b"\xff\xfe", b"%PDF-1.7", b"<?xml version='1.0'?>", b"\x1b$B"),
    *(b"<a href='javascript:x'>", b"[](<>)", b"```\n", b"| a |\n", b"\xf0\x9f\x98\x80" * 300),
)

Mutation = Callable[[random.Random, bytes, bytes], bytes]


class Case(NamedTuple):
    """One page to read, and how."""

    body: bytes
    charset: str | None
    content_type: str | None
    mode: str


class Outcome(NamedTuple):
    """Of one page. ``failure`` is "" where it is as it should be."""

    seconds: float
    grown_mb: float
    failure: str


def _place(rng: random.Random, body: bytes) -> int:
    """A position, mostly at a tag."""
    at = rng.randrange(len(body) + 1)
    found = body.find(b"<", at) if rng.random() < 0.7 else at
    return found if found >= 0 else at


def _truncate(rng: random.Random, body: bytes, _: bytes) -> bytes:
    at = _place(rng, body)
    return body[:at] if rng.random() < 0.7 else body[at:]


def _flip(rng: random.Random, body: bytes, _: bytes) -> bytes:
    changed = bytearray(body)
    for _number in range(rng.choice((1, 5, 50, len(body) // 50))):
        if changed:
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _delete(rng: random.Random, body: bytes, _: bytes) -> bytes:
    """Take out tags: some, or all of one name."""
    if rng.random() < 0.5:
        name = rng.choice(_TAGS)
        return body.replace(rng.choice((b"</" + name, b"<" + name)), b"")
    pieces = body.split(b">")
    share = rng.choice((0.01, 0.1, 0.5))
    return b">".join(p.partition(b"<")[0] if rng.random() < share else p for p in pieces)


def _duplicate(rng: random.Random, body: bytes, _: bytes) -> bytes:
    start = _place(rng, body)
    piece = body[start : start + rng.choice((5, 20, 200, 5000))]
    times = rng.choice((2, 10, 100, 3000))
    return body[:start] + piece * min(times, MAX_PAGE_BYTES // (len(piece) + 1)) + body[start:]


def _nest(rng: random.Random, body: bytes, _: bytes) -> bytes:
    at = _place(rng, body)
    names = rng.sample(_TAGS, rng.choice((1, 1, 2, 3)))
    times = rng.choice((10, 600, 5000, 30_000))
    numbered = rng.random() < 0.3
    opened = b"".join(
        b"<%s id=%d>" % (name, n) if numbered else b"<%s>" % name
        for n in range(times)
        for name in names
    )
    closed = b"".join(b"</%s>" % name for name in reversed(names)) * times
    return body[:at] + opened + body[at:] + (closed if rng.random() < 0.5 else b"")


def _flood_attributes(rng: random.Random, body: bytes, _: bytes) -> bytes:
    at = _place(rng, body)
    value = rng.choice((b"", b"=1", b"='<>'", b'="x"', b"=<b", b"='"))
    count = rng.choice((10, 1000, 60_000))
    flood = b" ".join(b"a%d%s" % (n, value) for n in range(count))
    name = rng.choice((b"<p ", b"<html ", b"<body ", b"<a ", b""))
    return body[:at] + name + flood + b">" + body[at:]


def _flood_entities(rng: random.Random, body: bytes, _: bytes) -> bytes:
    at = _place(rng, body)
    entity = rng.choice(
        (b"&amp;", b"&#0;", b"&#x10ffff;", b"&lt;b&gt;", b"&nosuch;", b"&", b"&#55357;")
    )
    return body[:at] + entity * rng.choice((5, 1000, 100_000)) + body[at:]


def _splice(rng: random.Random, body: bytes, other: bytes) -> bytes:
    return body[: _place(rng, body)] + other[_place(rng, other) :]


def _recode(rng: random.Random, body: bytes, _: bytes) -> bytes:
    text = body.decode("utf-8", "replace")
    name = rng.choice(("utf-16", "utf-16-le", "utf-8-sig", "cp1251", "gb18030", "cp932", "utf-32"))
    return text.encode(name, "replace")


def _insert(rng: random.Random, body: bytes, _: bytes) -> bytes:
    piece = rng.choice(_PIECES)
    for _number in range(rng.choice((1, 3, 500))):
        at = _place(rng, body)
        body = body[:at] + piece + body[at:]
    return body


MUTATIONS: Final[tuple[Mutation, ...]] = (
    *(_truncate, _flip, _delete, _duplicate, _nest, _flood_attributes, _flood_entities, _splice),
    *(_recode, _insert),
)


def make_case(rng: random.Random, pages: Sequence[bytes]) -> Case:
    """A page, broken."""
    body = rng.choice(pages)
    for _ in range(rng.randint(1, 4)):
        body = rng.choice(MUTATIONS)(rng, body, rng.choice(pages))[:MAX_PAGE_BYTES]
    return Case(body, rng.choice(_CHARSETS), rng.choice(_TYPES), rng.choice(_MODES))


def read_case(case: Case) -> Outcome:
    """Read it here, and measure."""
    from eventmesh_trio.errors import UnsupportedContent  # noqa: PLC0415  # only in the processes
    from eventmesh_trio.pipeline.extract import extract_page  # noqa: PLC0415

    before = _peak_mb()
    began = time.process_time()
    failure = ""
    try:
        extract_page(
            case.body,
            "https://example.org/a/b",
            charset=case.charset,
            content_type=case.content_type,
            mode=case.mode,  # type: ignore[arg-type]  # one of the modes
        )
    except UnsupportedContent:
        pass
    except Exception:
        failure = traceback.format_exc()
    seconds = time.process_time() - began
    grown = _peak_mb() - before
    if not failure and seconds > max(LEAST_SECONDS, SECONDS_PER_MB * len(case.body) / 1e6):
        failure = f"took {seconds:.2f} s for {len(case.body)} bytes"
    if not failure and grown > MAX_PAGE_MB:
        failure = f"took {grown:.0f} MB for {len(case.body)} bytes"
    return Outcome(seconds, grown, failure)


def _peak_mb() -> float:
    """The most memory that this process ever had: what a page adds to it is less than it took."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _forget_peak() -> None:
    """Let the peak be what is in use now (Linux, ``man 5 proc_pid_clear_refs``)."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")


def _serve(connection: Connection) -> None:
    while (case := connection.recv()) is not None:
        _forget_peak()
        connection.send(read_case(case))


class _Reader:
    """A process that reads, and that is replaced when it hangs, dies, or has read enough."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._start()

    def _start(self) -> None:
        self._ours, theirs = self._context.Pipe()
        self._process = self._context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self._read = 0

    def read(self, case: Case) -> Outcome:
        if self._read >= PAGES_PER_PROCESS:
            self.close()
            self._start()
        self._read += 1
        self._ours.send(case)
        try:
            if self._ours.poll(HANG_SECONDS):
                outcome = self._ours.recv()
                assert isinstance(outcome, Outcome)
                return outcome
            failure = f"hung for {HANG_SECONDS:g} s"
        except EOFError:
            self._process.join()
            failure = f"the process died with {self._process.exitcode}"
        self.close()
        self._start()
        return Outcome(HANG_SECONDS, 0.0, failure)

    def close(self) -> None:
        self._process.kill()
        self._process.join()
        self._ours.close()


def load_pages(folder: Path | None) -> list[bytes]:
    """Our own pages, and those of a folder."""
    pages = list(OWN_PAGES)
    for path in sorted(folder.rglob("*")) if folder is not None else ():
        if path.is_file() and path.suffix != ".json":
            body = path.read_bytes()
            pages.append(gzip.decompress(body) if path.suffix == ".gz" else body)
    return pages


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until time is up; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--pages", type=Path, help="a folder of pages to break, besides our own")
    parser.add_argument("--keep", type=Path, help="a folder for the pages that fail")
    options = parser.parse_args(arguments)
    pages = load_pages(options.pages)
    rng = random.Random(options.seed)
    reader = _Reader()
    outcomes: list[tuple[Outcome, int]] = []
    failures = 0
    until = time.monotonic() + options.seconds
    try:
        while time.monotonic() < until:
            case = make_case(rng, pages)
            outcome = reader.read(case)
            outcomes.append((outcome, len(case.body)))
            if outcome.failure:
                failures += 1
                print(f"case {len(outcomes)}: {case.mode} {case.content_type}: {outcome.failure}")
                if options.keep is not None:
                    options.keep.mkdir(parents=True, exist_ok=True)
                    (options.keep / f"{options.seed}-{len(outcomes)}").write_bytes(case.body)
    finally:
        reader.close()
    large = [
        (outcome.seconds / size * 1e6, number, size)
        for number, (outcome, size) in enumerate(outcomes, 1)
        if size >= 100_000
    ]
    print(
        f"pages {len(pages)}, mutations {len(outcomes)}, MB {sum(s for _, s in outcomes) / 1e6:.0f}"
    )
    print(f"failures {failures}")
    print(f"longest {max(o.seconds for o, _ in outcomes):.2f} s")
    if large:
        rate, number, size = max(large)
        print(f"slowest of 100 kB or more {rate:.2f} s/MB (case {number}, {size} bytes)")
    print(f"most memory {max(o.grown_mb for o, _ in outcomes):.0f} MB")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
