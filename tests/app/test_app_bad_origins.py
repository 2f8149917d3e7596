"""An origin that misbehaves in every way known to us costs its own URL, and nobody else anything.

Each way is crawled beside pages of an honest origin. Measured are the server's own memory (its
peak: bodies and documents are in it; what a worker takes is bounded by ``workers.memory_bytes``,
and is looked at too), its loop's delay (by a task in that loop), and an idle process's alongside.
A busy process waits for a processor longer than an idle one does when others want them too, the
rest of the suite's machine for example: that time is taken off, and printed.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import attrs
import pytest

from tests.helpers.bad_answers import ANSWERS
from tests.helpers.bad_origin import NAMES, TLS_NAMES, Bad, open_bad_origin
from tests.helpers.bad_pages import PAGES
from tests.helpers.clock import fresh_memory_seconds, wait_until
from tests.helpers.probe import Delays, idle_process, probed_command, settings_for
from tests.helpers.processes import children, resident_bytes, resident_bytes_each
from tests.helpers.raw import open_crawl
from tests.helpers.servers import KINDS, Kind, ServerProcess, open_server

URL_SECONDS: Final = 0.5  # the deadline of a URL
JOB_SECONDS: Final = 2.5  # of a worker with a page; a page has two attempts
BOUND_SECONDS: Final = 1.5  # what may be added: workers that start anew, and a busy machine
MEMORY_BYTES: Final = 64 * 2**20
WORKER_BYTES: Final = 512 * 2**20
DELAY_SECONDS: Final = 0.05
EVENT_MEMORY_BYTES: Final = 32 * 2**20
"""New memory that the longest event takes in one turn: its texts as UTF-8, itself, and a copy."""

OK: Final = "a document"
OUTCOMES: Final[Mapping[str, Sequence[str]]] = {
    "too_large": (
        "gzip bomb",
        "deflate bomb",
        "raw deflate bomb",
        "brotli bomb",
        "zstd bomb",
        "gzip bomb in three gzips",
        "brotli bomb in zstd",
        "1xx without end",
        "a header line of 10 MB",
        "a hundred thousand headers",
        "three hundred small headers",
        "a reason of 200 KB",
        "body without end",
    ),
    "unsupported_content": (
        "zstd window of 2 TiB",
        "zstd claims 2^60 bytes",
        "gzip in gzip, five times",
        "a hundred thousand gzip members",
        "gzip that is not",
        "a coding nobody knows",
        "two thousand codings",
        "image that says html",
        "html that says image",
        "binary without a type",
        "four thousand nul bytes",
        "9 MB of control characters",
    ),
    "network_error": (
        "gzip cut short",
        "nul in a header",
        "space before a colon",
        "http 0.9",
        "status 1000",
        "status -1",
        "binary garbage",
        "http 2 unasked",
        "switches protocols",
        "empty reply",
        "reset before the head",
        "reset within the head",
        "end within the head",
        "reset after the head",
        "reset within the body",
        "length too long",
        "two lengths",
        "length negative",
        "length of thirty digits",
        "length in words",
        "transfer coding gzip",
        "chunks cut short",
        "chunks without their end",
        "chunk size of no number",
        "chunk size negative",
        "chunk size of 25 digits",
        "chunk longer than it says",
        "chunk extension without end",
        "trailers flood",
        "redirect to a control character",
        "tls handshake reset",
        "tls on a plain port",
    ),
    "timeout": (
        "drip of head bytes",
        "drip of header fields",
        "drip of 1xx",
        "stall before the head",
        "stall within the head",
        "stall after the head",
        "stall within the body",
        "drip of body bytes",
        "drip of trailers",
        "http 1.0 that keeps alive without a length",
        "robots.txt drips",
        "tls handshake stalls",
    ),
    "too_many_redirects": (
        "redirect to itself",
        "redirect with a body without end",
        "redirect around a cycle",
        "redirects to ever new places",
        "location that splits the response",
    ),
    "blocked_address": (
        "redirect into the inside",
        "redirect to a file",
        "redirect to the port of a mail server",
        "redirect to nowhere",
        "redirect of 60 KB",
    ),
    "http_error": (
        "status 999",
        "304 unasked",
        "waits for 31 years",
        "retry-after of garbage",
        "redirect without a location",
    ),
    "tls_error": (
        "tls certificate expired",
        "tls certificate of another name",
        "tls certificate signed by itself",
        "tls certificate of an unknown authority",
        "tls handshake of garbage",
        "plain http on a tls port",
    ),
    OK: (
        "cookies flood",
        "a content type of 60 KB",
        "folded header",
        "lines that end in lf",
        "length too short",
        "length and chunks",
        "keeps alive and hangs up",
        "a second response unasked",
        "204 with a body",
        "205 unasked",
        "200 with an empty body",
        "charset that nobody knows",
        "charset that lies",
        "charset that runs code elsewhere",
        "nul bytes here and there",
        "robots.txt without end",
        "robots.txt is a bomb",
        "robots.txt leads in a circle",
    ),
}
# Where more than one thing is right: how far the machine comes within the time, or what is made of
# what no RFC defines.
EITHER: Final[Mapping[str, frozenset[str]]] = {
    **{name: frozenset({OK, "parse_error"}) for name in PAGES},
    "version 3.7": frozenset({OK, "network_error"}),
    "chunks of one byte without end": frozenset({"timeout", "too_large"}),
    "chunk extensions flood": frozenset({"timeout", "too_large", "network_error"}),
    "robots.txt is garbage": frozenset({"robots_denied", "timeout"}),
}
EXPECTED: Final[Mapping[str, frozenset[str]]] = {
    **EITHER,
    **{name: frozenset({outcome}) for outcome, names in OUTCOMES.items() for name in names},
}

_PLAIN: Final = [name for name in ANSWERS if name not in PAGES]
_HARD: Final = list(PAGES)
GROUPS: Final[Mapping[str, Sequence[str]]] = {
    **{f"answers {n}": _PLAIN[n::3] for n in range(3)},
    **{f"pages {n}": _HARD[n::3] for n in range(3)},
    "tls": TLS_NAMES,
}


@attrs.frozen
class Scene:
    bad: Bad
    server: ServerProcess
    probe: Path
    idle: Path

    def delays(self, start: float) -> tuple[Delays, Delays]:
        """Of the server and of the idle process, since then."""
        end = time.monotonic()
        return (
            Delays.read(self.probe).between(start, end),
            Delays.read(self.idle).between(start, end),
        )


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bad]:
    with open_bad_origin(tmp_path_factory.mktemp("bad")) as origin:
        yield origin


@contextmanager
def open_probed(kind: Kind, bad: Bad, folder: Path, **settings: str) -> Iterator[Scene]:
    """A server that is warm, with a probe in it and one beside it."""
    probe, idle = folder / "probe", folder / "idle"
    environment = settings_for(
        probe,
        {
            "SSL_CERT_FILE": str(bad.authority),
            "EVENTMESH_WORKERS__WORKERS": "2",
            "EVENTMESH_WORKERS__JOB_SECONDS": str(JOB_SECONDS),
            "EVENTMESH_WORKERS__MEMORY_BYTES": str(WORKER_BYTES),
            **settings,
        },
    )
    with (
        idle_process(idle),
        open_server(kind, environment, command=probed_command(kind)) as server,
    ):
        scene = Scene(bad, server, probe, idle)
        # Warm: workers, certificates, and every part of Python that the first page needs. On a busy
        # machine a worker's start may take longer than these settings give it.
        for attempt in range(3):
            results, _ = crawl(scene, [*bad.good(16), bad.good_tls()], timeout_seconds=10)
            failed = [found[0] for found in results.values() if found[0]["error"]]
            if not failed:
                break
            assert attempt < 2, failed
        yield scene


@pytest.fixture(scope="module", params=KINDS)
def scene(
    request: pytest.FixtureRequest, bad: Bad, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    with open_probed(request.param, bad, tmp_path_factory.mktemp(request.param)) as opened:
        yield opened


def crawl(
    scene: Scene, urls: Sequence[str], **options: Any
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Any]]:
    """The results by URL, and the summary."""
    settled = {
        "timeout_seconds": URL_SECONDS,
        "max_retries": 0,
        "cache_mode": "disabled",
        **options,
    }
    results: dict[str, list[dict[str, Any]]] = {}
    with open_crawl(scene.server.address, list(urls), settled) as stream:
        for event in stream.read_events():
            if event.kind == "result":
                results.setdefault(event.data["url"], []).append(event.data["result"])
    return results, event.data


def kind_of(result: Mapping[str, Any]) -> str:
    assert (result["document"] is None) != (result["error"] is None), result
    if result["error"] is None:
        return OK
    error = result["error"]
    assert error["message"], error
    assert "Traceback" not in error["message"], error
    return str(error["type"])


def judge_good(urls: Sequence[str], results: Mapping[str, list[dict[str, Any]]]) -> None:
    """Each honest page has one result, which is that page."""
    for url in urls:
        (result,) = results[url]
        number = url.rpartition("/")[2]
        assert result["document"] is not None, (url, result["error"])
        assert result["document"]["title"] == f"Good {number}"
        assert f"This is good page {number} of an honest origin." in result["document"]["text"]


def peak_bytes(pid: int) -> int:
    """The most that was resident since `forget_peak` (proc(5))."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel tells no peak")


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def test_every_way_to_misbehave_has_its_outcome_in_the_table() -> None:
    assert set(EXPECTED) == set(NAMES)
    assert sorted(name for group in GROUPS.values() for name in group) == sorted(NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_a_bad_origin_costs_its_own_url_one_proper_result(scene: Scene, group: str) -> None:
    pid = scene.server.serving_pid
    wrong: list[str] = []
    largest, slowest, workers = 0, 0.0, 0
    began = time.monotonic()
    for turn, name in enumerate(GROUPS[group]):
        good = scene.bad.good(3, first=3 * turn)
        before = resident_bytes(pid)
        forget_peak(pid)
        started = time.monotonic()
        url = scene.bad.url(name)
        results, summary = crawl(scene, [url, *good], respect_robots=name.startswith("robots"))
        seconds = time.monotonic() - started
        grown = peak_bytes(pid) - before
        workers = max([workers, *resident_bytes_each(children(pid))])
        judge_good(good, results)
        (result,) = results[url]
        allowed = URL_SECONDS + BOUND_SECONDS + (2 * JOB_SECONDS if name in PAGES else 0)
        if kind_of(result) not in EXPECTED[name]:
            wrong.append(f"{name}: {kind_of(result)} {result['error']}")
        if seconds > allowed:
            wrong.append(f"{name}: {seconds:.2f} s, allowed are {allowed}")
        if grown > MEMORY_BYTES:
            wrong.append(f"{name}: {grown >> 20} MiB more")
        assert (summary["total_urls"], summary["cancelled"]) == (4, 0)
        largest, slowest = max(largest, grown), max(slowest, seconds)
    server, idle = scene.delays(began)
    memory = fresh_memory_seconds(EVENT_MEMORY_BYTES)
    late, beside = server.percentile(0.999, own=True), idle.percentile(0.999)
    print(
        f"{scene.server.kind}, {group}: {len(GROUPS[group])} ways in "
        f"{time.monotonic() - began:.1f} s, slowest {slowest:.2f} s; server up "
        f"{largest >> 20} MiB at most, a worker at {workers >> 20}; "
        f"loop p99.9 {late * 1000:.1f} ms ({server.percentile(0.999) * 1000:.1f} with the wait for "
        f"a processor), idle {beside * 1000:.1f} ms, memory {memory * 1000:.1f} ms, "
        f"of {len(server.samples)} samples"
    )
    assert not wrong, "\n".join(wrong)
    assert workers <= WORKER_BYTES
    assert late <= beside + DELAY_SECONDS + memory


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_all_of_them_at_once_harm_nobody_beside_them(bad: Bad, tmp_path: Path, kind: Kind) -> None:
    # Connections kept for the next to use are descriptors, too.
    with open_probed(kind, bad, tmp_path, EVENTMESH_FETCH__KEEP_ALIVE_SECONDS="0.5") as scene:
        pid = scene.server.serving_pid
        descriptors = scene.server.fewest_descriptors(1.5)
        # Of the pages that keep a worker for seconds only some: the processors are two.
        names = [n for n in NAMES if not n.startswith("robots") and n not in PAGES] + _HARD[::5]
        good = bad.good(100)
        urls = [bad.url(name) for name in names]
        before = resident_bytes(pid)
        forget_peak(pid)
        began = time.monotonic()
        mixed = [url for pair in zip(good, urls, strict=False) for url in pair]
        mixed += [*good[len(urls) :], *urls[len(good) :]]
        # So many at once share two processors: a URL's own time is not what is looked at here.
        results, summary = crawl(scene, mixed, concurrency=64, timeout_seconds=5)
        seconds = time.monotonic() - began
        memory = fresh_memory_seconds(EVENT_MEMORY_BYTES)
        grown = peak_bytes(pid) - before
        server, idle = scene.delays(began)
        late, beside = server.percentile(0.999, own=True), idle.percentile(0.999)
        print(
            f"{kind}: {len(mixed)} URLs at once in {seconds:.1f} s; server up {grown >> 20} MiB; "
            f"loop p99.9 {late * 1000:.1f} ms ({server.percentile(0.999) * 1000:.1f} with the wait "
            f"for a processor), idle {beside * 1000:.1f} ms, memory {memory * 1000:.1f} ms"
        )
        judge_good(good, results)
        assert sorted(results) == sorted(mixed)
        assert [len(found) for found in results.values()] == [1] * len(mixed)
        kinds = {name: kind_of(results[bad.url(name)][0]) for name in names}
        assert {n: k for n, k in kinds.items() if k not in EXPECTED[n] | {"timeout"}} == {}
        assert summary["status"] == "completed"
        assert (summary["total_urls"], summary["cancelled"]) == (len(mixed), 0)
        assert late <= beside + DELAY_SECONDS + memory
        wait_until(
            lambda: scene.server.descriptors() <= descriptors,
            5,
            lambda: f"{scene.server.descriptors()} descriptors, {descriptors} before",
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "a second response unasked",
        "204 with a body",
        "304 unasked",
        "length too short",
        "location that splits the response",
    ],
)
def test_what_nobody_asked_for_answers_no_request(scene: Scene, name: str) -> None:
    urls = [scene.bad.url(name, f"/page/{number}") for number in range(8)]
    results, _ = crawl(scene, urls, concurrency=1)
    assert sorted(results) == sorted(urls)
    smuggled = [url for url in urls if "smuggled" in str(results[url])]
    assert smuggled == []
