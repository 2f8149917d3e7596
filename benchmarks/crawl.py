"""Crawling end to end: pages in from an nginx, Markdown out; ours beside other crawlers.

``python -m benchmarks.crawl [--quick] [--rounds 3] [--corpus FOLDER] [--ours] [--json FILE]``

See `ABOUT` for what is measured. ``FOLDER`` is the extraction corpus; by default that of
``EVENTMESH_SHARED`` or of ``../shared``. Without one, the pages are made of the demonstration
site's.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs

from benchmarks.crawl_ours import serving_ours
from benchmarks.crawlers import PEERS, Crawl, Peer, ask, prepare, run_peer, spawned
from benchmarks.loop_delay import quantile
from benchmarks.outcome import Case, Demand, Figure, Options, Outcome
from benchmarks.site import Site, pages_of, serving_pages, shared_corpus

__all__ = ["ABOUT", "TITLE", "Sizes", "compare", "demands_of"]

TITLE = "Crawling: pages/s from URL to Markdown"
ABOUT = """\
Pages of 10 to 500 KB (the extraction corpus, under 2,000 distinct URLs) are served by an nginx on
the same machine and crawled 16 at once: fetched, read to Markdown with metadata, and written out.
Ours is ``eventmesh serve`` with its cache in a file, as it is started by default, asked over HTTP;
``cached`` is the same crawl once more, of pages that were modified a month ago. The peers are
processes that write their documents to a file; each gets the URLs in two processes, one a core, and
the slow ones fewer of them, of the same mix of sizes. ``trafilatura`` gives Markdown with links,
images and metadata, ``resiliparse`` plain text (it knows no Markdown). Nobody asks for
``robots.txt``, waits between two requests or retries. Starting and ending is in no figure.

Processor time and memory are those of all processes of a crawler: seconds with the children's, and
the proportional set size at its peak, looked at five times a second; of the peers' two processes it
is the larger one's alone. How late the tasks of our server are is measured by a task in it that
sleeps 5 ms, over and over, and by a program beside it that does nothing else.
"""
OURS: Final = "eventmesh_trio"
CACHED: Final = "eventmesh_trio, cached"
_CONCURRENCY: Final = 16
_CONCURRENCIES: Final = (1, 4, 16, 64, 256)
_WARM_UP: Final = 40
"""Pages that do not count, of each server: until its workers have imported what they need."""
_LATE_QUANTILE: Final = 0.999


@attrs.frozen
class Sizes:
    """How many pages: of the main comparison, of each step of the scaling, of each concurrency."""

    pages: int
    scaling: int
    at_once: int
    rounds: int


FULL: Final = Sizes(pages=2000, scaling=500, at_once=345, rounds=3)
QUICK: Final = Sizes(pages=250, scaling=120, at_once=60, rounds=1)
_FEWEST: Final = 20  # pages of a slow peer


@attrs.define
class _Taken:
    """All rounds, by contestant."""

    crawls: dict[str, list[Crawl]] = attrs.field(factory=dict)
    late_ms: list[float] = attrs.field(factory=list)
    idle_late_ms: list[float] = attrs.field(factory=list)

    def add(self, name: str, crawl: Crawl, wanted: int) -> None:
        """Note a crawl. Raises: RuntimeError: pages are missing, so that it says nothing."""
        if crawl.pages != wanted:
            raise RuntimeError(f"{name} brought {crawl.pages} of {wanted} pages")
        self.crawls.setdefault(name, []).append(crawl)


def compare(options: Options, *, corpus: Path | None = None, peers: bool = True) -> Outcome:
    """Run the comparison. ``corpus`` is a folder of pages, None for the one that is found.

    Raises:
      NoNginx: what serves the pages is not installed.
    """
    sizes = QUICK if options.quick else FULL
    if options.rounds is not None:
        sizes = attrs.evolve(sizes, rounds=options.rounds)
    able, missing = prepare(PEERS if peers else ())
    pages, told = pages_of(corpus or shared_corpus())
    print(told, file=sys.stderr)
    taken = _Taken()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "site").mkdir()
        with serving_pages(pages, folder / "site") as site:
            for number in range(sizes.rounds):
                turns = [None, *able]
                turn = number % len(turns)
                for peer in (*turns[turn:], *turns[:turn]):
                    if peer is None:
                        _take_ours(site, folder, taken, sizes, number)
                    elif peer.name not in missing:
                        _take_peer(peer, site, folder, taken, sizes, missing)
            scaling = _take_scaling(site, folder, sizes)
            at_once = _take_concurrencies(site, folder, sizes)
    return Outcome(
        "crawl",
        _cases(taken, scaling, at_once, told),
        demands_of(taken.crawls, scaling, taken.late_ms, taken.idle_late_ms),
        missing,
    )


@contextmanager
def _room(folder: Path, name: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=name, dir=folder) as room:
        yield Path(room)


def _take_peer(
    peer: Peer, site: Site, folder: Path, taken: _Taken, sizes: Sizes, missing: dict[str, str]
) -> None:
    """One round of a peer; one that fails in any is left out of all, and costs the others none."""
    urls = site.urls(max(_FEWEST, int(sizes.pages * peer.share)), "peer")
    try:
        with _room(folder, "peer") as room:
            crawl = run_peer(peer, urls, room, concurrency=_CONCURRENCY, processes=2)
        taken.add(peer.name, crawl, len(urls))
    except RuntimeError as error:
        missing[peer.name] = str(error)
        taken.crawls.pop(peer.name, None)


def _take_ours(site: Site, folder: Path, taken: _Taken, sizes: Sizes, number: int) -> None:
    """One round of ours, cold and then cached, on a server that has seen nothing but a warm-up."""
    urls = site.urls(sizes.pages, f"round{number}")
    idle = [sys.executable, "-m", "benchmarks.loop_delay"]
    with (
        _room(folder, "ours") as room,
        serving_ours(room) as server,
        spawned(idle, room) as beside,
    ):
        server.crawl(site.urls(_WARM_UP, "warm"), concurrency=_CONCURRENCY)
        server.delays()
        ask(beside, "")
        taken.add(OURS, server.crawl(urls, concurrency=_CONCURRENCY), len(urls))
        taken.late_ms.append(1000 * quantile(server.delays(), _LATE_QUANTILE))
        taken.idle_late_ms.append(1000 * quantile(ask(beside, ""), _LATE_QUANTILE))
        cached = server.crawl(urls, concurrency=_CONCURRENCY)
        if cached.cached != len(urls):
            raise RuntimeError(f"only {cached.cached} of {len(urls)} pages were in the cache")
        taken.add(CACHED, cached, len(urls))


def _take_scaling(site: Site, folder: Path, sizes: Sizes) -> dict[str, list[Crawl]]:
    """Ours on one core and on all, with one worker and with two."""
    allowed = os.sched_getaffinity(0)
    places = {
        "1 core, 1 worker": ({min(allowed)}, 1),
        "2 cores, 1 worker": (allowed, 1),
        "2 cores, 2 workers": (allowed, 2),
    }
    found: dict[str, list[Crawl]] = {name: [] for name in places}
    for number in range(sizes.rounds):
        for name, (cores, workers) in places.items():
            with (
                _room(folder, "scaling") as room,
                serving_ours(room, cores=cores, workers__workers=workers) as server,
            ):
                server.crawl(site.urls(_WARM_UP, "warm"), concurrency=_CONCURRENCY)
                urls = site.urls(sizes.scaling, f"scaling{number}")
                found[name].append(server.crawl(urls, concurrency=_CONCURRENCY))
    return found


def _take_concurrencies(site: Site, folder: Path, sizes: Sizes) -> dict[str, list[Crawl]]:
    """Ours with more and more fetches at once, on one server."""
    found: dict[str, list[Crawl]] = {str(concurrency): [] for concurrency in _CONCURRENCIES}
    with _room(folder, "at-once") as room, serving_ours(room) as server:
        server.crawl(site.urls(_WARM_UP, "warm"), concurrency=_CONCURRENCY)
        for number in range(sizes.rounds):
            for concurrency in _CONCURRENCIES:
                urls = site.urls(sizes.at_once, f"at-once{number}-{concurrency}")
                found[str(concurrency)].append(server.crawl(urls, concurrency=concurrency))
    return found


# --- What came of it ------------------------------------------------------------------------------


def _figure(name: str, crawls: Sequence[Crawl], what: str) -> Figure:
    details = {
        "pages": statistics.median(crawl.pages for crawl in crawls),
        "cpu_ms_per_page": statistics.median(1000 / crawl.per_cpu_second for crawl in crawls),
        "main_cpu_ms_per_page": statistics.median(
            1000 * crawl.main_cpu / crawl.pages for crawl in crawls
        ),
        "peak_pss_mib": statistics.median(memory_of(name, crawl) for crawl in crawls),
        "peak_rss_mib": statistics.median(crawl.peak.rss_mib for crawl in crawls),
    }
    rounds = {
        "rate": [crawl.rate for crawl in crawls],
        "cpu": [crawl.per_cpu_second for crawl in crawls],
        "memory": [memory_of(name, crawl) for crawl in crawls],
    }[what]
    return Figure(name, tuple(rounds), details)


def memory_of(name: str, crawl: Crawl) -> float:
    """Ours with all its workers; of a peer's processes, which only halve the work, the larger."""
    return crawl.peak.pss_mib if name.startswith(OURS) else crawl.peak.largest_mib


def _cases(
    taken: _Taken,
    scaling: Mapping[str, Sequence[Crawl]],
    at_once: Mapping[str, Sequence[Crawl]],
    told: str,
) -> tuple[Case, ...]:
    everybody = taken.crawls
    alone = {name: crawls for name, crawls in everybody.items() if name != CACHED}
    late = (
        Figure(OURS, tuple(taken.late_ms)),
        Figure("an idle trio program", tuple(taken.idle_late_ms)),
    )
    return (
        Case(
            f"pages per CPU second, children counted; {told}",
            "pages/CPU s",
            tuple(_figure(name, crawls, "cpu") for name, crawls in everybody.items()),
        ),
        Case(
            "pages/s on both cores",
            "pages/s",
            tuple(_figure(name, crawls, "rate") for name, crawls in everybody.items()),
        ),
        Case(
            "memory at its peak, workers counted",
            "MiB",
            tuple(_figure(name, crawls, "memory") for name, crawls in alone.items()),
            less_is_better=True,
        ),
        Case(
            "our pages/s by cores and workers",
            "pages/s",
            tuple(_figure(f"{OURS}, {name}", found, "rate") for name, found in scaling.items()),
        ),
        Case(
            "our pages/s by concurrency",
            "pages/s",
            tuple(_figure(f"{OURS}, {name}", found, "rate") for name, found in at_once.items()),
        ),
        Case("how late tasks are, p99.9", "ms", late, less_is_better=True),
    )


def _ratio(text: str, asked: float, ours: Sequence[float], theirs: Sequence[float]) -> Demand:
    pairs = [one / other for one, other in zip(ours, theirs, strict=True)]
    found = statistics.median(ours) / statistics.median(theirs)
    return Demand(text, asked, found, min(pairs), max(pairs))


_RATIOS: Final = (
    ("Scrapy + trafilatura", 15.0),
    ("Crawl4AI, HTTP strategy", 15.0),
    ("Scrapy + resiliparse", 1.5),
    ("Scrapy that only fetches", 1.0),
)


def demands_of(
    crawls: Mapping[str, Sequence[Crawl]],
    scaling: Mapping[str, Sequence[Crawl]],
    late_ms: Sequence[float],
    idle_late_ms: Sequence[float],
) -> tuple[Demand, ...]:
    """What the project holds itself to, of those who took part."""
    demands = []
    for name, asked in _RATIOS:
        if theirs := crawls.get(name):
            demands += [
                _ratio(
                    f"pages per CPU second, beside {name}",
                    asked,
                    [crawl.per_cpu_second for crawl in crawls[OURS]],
                    [crawl.per_cpu_second for crawl in theirs],
                ),
                _ratio(
                    f"pages/s on both cores, beside {name}",
                    asked,
                    _rates(crawls[OURS]),
                    _rates(theirs),
                ),
            ]
    peers = [name for name in crawls if not name.startswith(OURS)]
    if peers:
        least = min(peers, key=lambda name: _memory(name, crawls[name]))
        share = _memory(OURS, crawls[OURS]) / _memory(least, crawls[least])
        demands.append(
            Demand(f"memory, workers counted, beside the least ({least})", 1.0, share, at_most=True)
        )
    over = [one - other for one, other in zip(late_ms, idle_late_ms, strict=True)]
    demands.append(
        Demand(
            "tasks late, p99.9, in ms above an idle program",
            50.0,
            statistics.median(over),
            min(over),
            max(over),
            at_most=True,
        )
    )
    one, two = _rates(scaling["2 cores, 1 worker"]), _rates(scaling["2 cores, 2 workers"])
    cold, cached = _rates(crawls[OURS]), _rates(crawls[CACHED])
    return (
        *demands,
        _ratio("from one worker to two, pages/s", 1.5, two, one),
        _ratio("cached beside cold, pages/s", 5.0, cached, cold),
    )


def _rates(crawls: Sequence[Crawl]) -> list[float]:
    return [crawl.rate for crawl in crawls]


def _memory(name: str, crawls: Sequence[Crawl]) -> float:
    return statistics.median(memory_of(name, crawl) for crawl in crawls)


def show(outcome: Outcome) -> None:
    for case in outcome.cases:
        print(f"\n{case.name} ({case.unit})")
        for figure in case.figures:
            spread = f"{min(figure.rounds):,.1f} - {max(figure.rounds):,.1f}"
            details = ", ".join(f"{name} {value:,.1f}" for name, value in figure.details.items())
            print(f"  {figure.contestant:38} {figure.median:9,.1f} {spread:>19}  {details}")
    print()
    for demand in outcome.demands:
        sign = "<=" if demand.at_most else ">="
        met = "met" if demand.is_met else "NOT MET"
        print(f"{demand.text}: {demand.found:.2f} (asked {sign} {demand.asked:g}): {met}")
    for name, reason in outcome.missing.items():
        print(f"missing: {name}: {reason}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--corpus", type=Path, help="the extraction corpus")
    parser.add_argument("--ours", action="store_true", help="without the peers")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    arguments = parser.parse_args()
    options = Options(arguments.quick, arguments.rounds)
    outcome = compare(options, corpus=arguments.corpus, peers=not arguments.ours)
    show(outcome)
    if arguments.json:
        arguments.json.write_text(json.dumps(attrs.asdict(outcome), indent=1))


if __name__ == "__main__":
    main()
