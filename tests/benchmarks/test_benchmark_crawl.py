"""The parts of the crawl comparison that measure nothing themselves; and one quick run of ours."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import crawl
from benchmarks.crawl import compare, demands_of
from benchmarks.crawl_ours import count_results
from benchmarks.crawlers import Crawl, Peer
from benchmarks.loop_delay import quantile
from benchmarks.outcome import Options
from benchmarks.site import MAX_BYTES, MIN_BYTES, NoNginx, Site, made_pages
from benchmarks.usage import Peak, parse_stat, resident_bytes, touched_bytes, tree_of
from tests.helpers.clock import wait_until
from tests.helpers.programs import require_program


def a_crawl(rate: float, per_cpu_second: float, mib: float, largest: float | None = None) -> Crawl:
    peak = Peak(pss_mib=mib, largest_mib=mib if largest is None else largest)
    return Crawl(100, 100 / rate, 100 / per_cpu_second, 0.0, peak)


def response(*events: dict[str, object]) -> list[bytes]:
    lines = b"".join(json.dumps(event).encode() + b"\n" for event in events)
    whole = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + lines
    return [whole[:30], whole[30:]]


def result(*, document: object, from_cache: bool = False) -> dict[str, object]:
    return {"event": "result", "result": {"document": document, "from_cache": from_cache}}


def test_a_name_with_spaces_and_parentheses_does_not_shift_the_fields_of_a_process() -> None:
    numbers = " ".join(map(str, range(4, 60)))
    stat = parse_stat(f"17 (a (b) c) S {numbers}")
    assert (stat.parent, stat.own_ticks, stat.children_ticks) == (4, 14 + 15, 16 + 17)


def test_the_memory_of_a_server_is_that_of_all_its_processes() -> None:
    worker = "held = bytearray(b'x') * (64 << 20); input()"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {worker!r}])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        for measured in (resident_bytes, touched_bytes):
            wait_until(lambda: measured(process.pid) > 64 << 20, 10, "the worker's memory")  # noqa: B023
        process.communicate(b"\n")


def test_the_tree_of_a_process_has_its_grandchildren_and_no_strangers() -> None:
    parents = {1: 0, 10: 1, 11: 10, 12: 11, 20: 1}
    assert tree_of([10], parents) == [10, 11, 12]


def test_a_process_below_another_root_and_one_that_has_ended_are_counted_once_and_not_at_all() -> (
    None
):
    assert tree_of([10, 11, 99], {10: 1, 11: 10}) == [10, 11]


def test_the_peak_is_of_all_processes_at_one_moment() -> None:
    peak, mib = Peak(), 1 << 20
    for sizes in ([(10 * mib, 20 * mib)], [(4 * mib, 9 * mib), (7 * mib, 8 * mib)], [(mib, mib)]):
        peak.note(sizes)
    assert (peak.pss_mib, peak.processes, peak.rss_mib, peak.largest_mib) == (11, 2, 20, 10)


@pytest.mark.parametrize(("share", "wanted"), [(0.5, 500), (0.999, 999), (1.0, 1000), (0.0001, 1)])
def test_a_quantile_is_one_of_the_values(share: float, wanted: int) -> None:
    assert quantile(list(range(1000, 0, -1)), share) == wanted


def test_urls_are_distinct_and_every_label_makes_new_ones_of_the_same_pages() -> None:
    site = Site(80, [f"{number:04}.html" for number in range(7)])
    first, second = site.urls(20, "a"), site.urls(20, "b")
    assert len({*first, *second}) == 40
    assert [url.rpartition("/")[2] for url in first] == [url.rpartition("/")[2] for url in second]
    assert first[:7] != sorted(first[:7])


def test_made_pages_are_the_same_each_time_and_of_mixed_sizes() -> None:
    pages = made_pages(40)
    sizes = sorted(map(len, pages.values()))
    assert pages == made_pages(40)
    assert MIN_BYTES <= sizes[0] < 30_000
    assert 250_000 < sizes[-1] <= MAX_BYTES


def test_results_with_a_document_are_counted_over_all_responses() -> None:
    streams = [
        response(result(document={}), result(document=None), {"event": "summary"}),
        response(result(document={}, from_cache=True), {"event": "summary"}),
    ]
    assert count_results(streams) == (2, 1)


@pytest.mark.parametrize(
    ("stream", "complaint"),
    [
        (response(result(document={})), "without its summary"),
        ([b"HTTP/1.1 503 Service Unavailable\r\n\r\nbusy"], "503"),
    ],
)
def test_a_response_that_is_cut_or_refused_is_no_figure(
    stream: Sequence[bytes], complaint: str
) -> None:
    with pytest.raises(RuntimeError, match=complaint):
        count_results([stream])


def test_demands_compare_medians_and_tell_the_spread_of_the_rounds() -> None:
    crawls = {
        "eventmesh_trio": [a_crawl(300, 150, 90), a_crawl(100, 160, 90), a_crawl(200, 170, 95)],
        "eventmesh_trio, cached": [a_crawl(1000, 900, 90)] * 3,
        "Scrapy + trafilatura": [a_crawl(10, 10, 260, 130)] * 3,
        "Scrapy that only fetches": [a_crawl(400, 400, 150, 80)] * 3,
    }
    scaling = {
        "2 cores, 1 worker": [a_crawl(100, 100, 60)] * 3,
        "2 cores, 2 workers": [a_crawl(160, 100, 60)] * 3,
    }
    found = {
        demand.text: demand
        for demand in demands_of(crawls, scaling, [12.0, 80.0, 13.0], [2.0, 4.0, 1.0])
    }
    rate = found["pages/s on both cores, beside Scrapy + trafilatura"]
    assert (rate.found, rate.low, rate.high, rate.is_met) == (20, 10, 30, True)
    assert not found["pages per CPU second, beside Scrapy that only fetches"].is_met
    memory = found["memory, workers counted, beside the least (Scrapy that only fetches)"]
    assert memory.found == pytest.approx(90 / 80)
    assert not memory.is_met
    late = found["tasks late, p99.9, in ms above an idle program"]
    assert (late.found, late.high, late.is_met) == (12, 76, True)
    assert found["from one worker to two, pages/s"].found == pytest.approx(1.6)
    assert found["cached beside cold, pages/s"].is_met
    assert not any("Crawl4AI" in text for text in found)


def test_without_nginx_nothing_is_measured_and_it_is_said_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(NoNginx, match="nginx is not installed: apt-get install -y nginx-light"):
        compare(Options(quick=True), peers=False)


@pytest.mark.parametrize("failing", ["fails", "brings too little"])
def test_a_peer_that_fails_in_a_later_round_is_left_out_of_all(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = Peer("x", "peers.x", (), ())
    missing: dict[str, str] = {}
    taken = crawl._Taken()
    site = Site("http://site.example", ["a"])

    def run_peer(_: Peer, urls: Sequence[str], *__: object, **___: object) -> Crawl:
        if taken.crawls and failing == "fails":
            raise RuntimeError("it fails")
        brought = len(urls) - bool(taken.crawls)
        return Crawl(brought, 1.0, 1.0, 0.0, Peak())

    monkeypatch.setattr(crawl, "run_peer", run_peer)
    sizes = crawl.Sizes(pages=20, scaling=1, at_once=1, rounds=2)
    crawl._take_peer(peer, site, tmp_path, taken, sizes, missing)
    assert (list(taken.crawls), missing) == (["x"], {})
    crawl._take_peer(peer, site, tmp_path, taken, sizes, missing)
    reason = "it fails" if failing == "fails" else "x brought 19 of 20 pages"
    assert (taken.crawls, missing) == ({}, {"x": reason})


@pytest.mark.slow
def test_a_quick_run_of_ours_alone_has_all_its_cases() -> None:
    require_program("nginx", "apt-get install -y nginx-light")
    outcome = compare(Options(quick=True), peers=False)
    assert [len(case.figures) for case in outcome.cases] == [2, 2, 1, 3, 5, 2]
    assert all(figure.median > 0 for case in outcome.cases for figure in case.figures)
    assert all(figure.details["cpu_ms_per_page"] > 0 for figure in outcome.cases[0].figures)
