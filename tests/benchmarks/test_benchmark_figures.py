"""Ratios, demands and the tables of a terminal."""

import pytest

from benchmarks.outcome import Case, Demand, Figure
from benchmarks.ratios import (
    best_peer,
    is_limit,
    is_ours,
    peers_of,
    ratio,
    ratio_demand,
    worst_against,
)
from benchmarks.tables import case_text, demand_text, number

OURS = Figure("eventmesh_trio", (90.0, 100.0, 110.0), {"first_byte_ms": 1.5})
TUNED = Figure("eventmesh_trio, high_throughput", (200.0, 200.0, 200.0))
FAST = Figure("fast", (60.0, 50.0, 40.0), {"first_byte_ms": 0.25, "loss": 0.0})
SLOW = Figure("slow", (10.0, 10.0, 10.0))
LIMIT = Figure("bare socket that encodes", (1000.0, 1000.0, 1000.0))
CASE = Case("ndjson, 1 reader", "events/s", (OURS, TUNED, SLOW, FAST, LIMIT))
TIMES = Case("first byte", "ms", (OURS, SLOW, FAST), less_is_better=True)


def test_a_figure_is_the_median_of_its_rounds() -> None:
    assert Figure("x", (3.0, 1.0, 2.0)).median == 2.0
    assert Figure("x", (1.0, 2.0)).median == 1.5


def test_everybody_is_ours_a_limit_or_a_peer() -> None:
    assert [is_ours(f.contestant) for f in CASE.figures] == [True, True, False, False, False]
    assert [is_limit(f.contestant) for f in CASE.figures] == [False] * 4 + [True]
    assert peers_of(CASE) == (SLOW, FAST)


def test_a_ratio_is_of_medians_with_the_extremes_of_single_rounds() -> None:
    found = ratio(OURS, FAST)
    assert (found.of_medians, found.low, found.high) == (2.0, 1.5, 2.75)


def test_a_ratio_of_times_is_theirs_to_ours_so_that_more_is_better() -> None:
    assert ratio(FAST, OURS, less_is_better=True).of_medians == 2.0


def test_rounds_that_do_not_pair_up_have_no_extremes() -> None:
    found = ratio(OURS, Figure("x", (50.0,)))
    assert (found.of_medians, found.low, found.high) == (2.0, None, None)


def test_the_best_peer_is_the_fastest_and_never_a_limit() -> None:
    assert best_peer(CASE) is FAST
    assert best_peer(CASE, ["slow", "not there"]) is SLOW
    assert best_peer(CASE, ["not there"]) is None
    assert best_peer(TIMES) is SLOW


def test_a_demand_compares_ours_by_default_settings_and_needs_a_rival() -> None:
    (demand,) = ratio_demand("ours to fast", CASE, FAST, 2.0)
    assert (demand.found, demand.low, demand.high, demand.is_met) == (2.0, 1.5, 2.75, True)
    assert list(ratio_demand("ours to nobody", CASE, None, 2.0)) == []


def test_a_demand_is_met_at_its_very_bound_and_missed_beyond_it() -> None:
    assert Demand("x", 2.0, 2.0).is_met
    assert not Demand("x", 2.0, 1.99).is_met
    assert Demand("x", 2.0, 2.0, at_most=True).is_met
    assert not Demand("x", 2.0, 2.01, at_most=True).is_met


def test_the_worst_case_is_found_over_all_cases_and_peers() -> None:
    close = Case("sse", "events/s", (OURS, SLOW, Figure("close", (98.0,))))
    worst = worst_against([CASE, close])
    assert worst is not None
    case, peer, found = worst
    assert (case, peer.contestant, round(found.of_medians, 2)) == (close, "close", 1.02)
    assert worst_against([Case("alone", "s", (OURS, LIMIT))]) is None


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0.000"), (0.0123, "0.012"), (0.5, "0.500"), (9.994, "9.99"), (12.34, "12.3"),
        (123.4, "123"), (1234567.0, "1,234,567"),
    ],
)  # fmt: skip
def test_a_number_has_the_digits_that_one_reads(value: float, shown: str) -> None:
    assert number(value) == shown


def test_the_table_of_a_case_shows_everybody_with_the_ratios_of_each_of_ours() -> None:
    lines = [line.split() for line in case_text(CASE).splitlines()]
    assert lines[0] == ["ndjson,", "1", "reader"]
    by_name = {line[0]: line for line in lines[2:]}
    assert by_name["fast"] == [
        "fast",
        "50.0",
        "40.0",
        "-",
        "60.0",
        "0.250",
        "0.000",
        "2.00x",
        "4.00x",
    ]
    assert by_name["slow"] == ["slow", "10.0", "10.0", "-", "10.0", "10.00x", "20.00x"]
    assert "x" not in lines[2][-1]  # ours is compared with nobody


def test_the_line_of_a_demand_says_what_was_asked_and_found() -> None:
    missed = Demand("ours to granian", 1.7, 1.5, 1.4, 1.6)
    assert demand_text(missed) == "MISSED ours to granian: at least 1.70, found 1.50 (1.40 - 1.60)"
    met = Demand("p99, ms", 8.0, 3.0, at_most=True)
    assert demand_text(met) == "met    p99, ms: at most 8.00, found 3.00"
