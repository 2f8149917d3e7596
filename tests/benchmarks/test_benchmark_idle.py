"""What the comparison of idle streams asks of its figures."""

import pytest

from benchmarks.contestants import OURS, serving
from benchmarks.idle import EACH_ITS_RUN, Held, _cases, demands, own_streams


def held(kib: float, *milliseconds: float) -> Held:
    return Held(kib * 1024, [one / 1000 for one in milliseconds])


@pytest.mark.parametrize(
    ("kib", "worst_ms", "met"),
    [(13.9, 49.0, [True, True]), (14.1, 49.0, [False, True]), (13.9, 51.0, [True, False])],
)
def test_memory_and_the_worst_new_request_are_judged_where_most_streams_were_held(
    kib: float, worst_ms: float, met: list[bool]
) -> None:
    few = {OURS.name: [held(99, 99)], EACH_ITS_RUN: [held(30, 1)]}
    many = {OURS.name: [held(kib, 1, worst_ms)], EACH_ITS_RUN: [held(99, 99)]}
    cases = [
        *_cases(1_000, "sse", few),
        *_cases(1_000, "websocket", few),
        *_cases(10_000, "sse", many),
        *_cases(10_000, "websocket", many),
    ]
    found = list(demands(cases))
    assert [demand.is_met for demand in found[:2]] == met
    assert [demand.asked for demand in found] == [14.0, 50.0, 19.0, 50.0]
    assert all("10,000" in demand.text for demand in found)


def test_a_round_of_new_requests_counts_by_its_worst_and_tells_the_rest_of_all() -> None:
    _, requests = _cases(10, "sse", {OURS.name: [held(1, 1, 2, 3), held(1, 4, 5, 60)]})
    figure = requests.figure(OURS.name)
    assert figure is not None
    assert figure.rounds == pytest.approx((3, 60))
    assert figure.details["p50_ms"] == pytest.approx(3)


def test_our_server_obeys_the_environment_and_a_refusal_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EVENTMESH_STREAM__GENERAL__MAX_CONCURRENT_STREAMS", "1")
    with serving(OURS, None) as (address, _):
        open_one = own_streams(OURS)(address)
        with open_one(), pytest.raises(RuntimeError, match="503 Service Unavailable"):
            open_one()
