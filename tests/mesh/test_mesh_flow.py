"""The room of a flow is that of its slowest place, whoever moves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventmesh_trio.mesh.flow import Flow, Place

UNLIMITED = Flow().limit_events

windows = st.tuples(st.integers(1, 3), st.integers(1, 400))
moves = st.tuples(st.integers(0, 9), st.integers(0, 3), st.integers(0, 300))


def add(flow: Flow, capacity: int, nbytes: int) -> Place:
    place = Place(flow, 0, (0, 0), capacity, nbytes)
    flow.add(place)
    return place


def brute(flow: Flow) -> tuple[int, int]:
    """The limits, by a look at all places."""
    return (
        min((one.events + one.capacity for one in flow.places), default=UNLIMITED),
        min((one.nbytes + one.window_bytes for one in flow.places), default=UNLIMITED),
    )


@pytest.mark.parametrize("at_once", [True, False])
@given(st.lists(windows | moves | st.integers(0, 9), max_size=80))
def test_room_is_that_of_the_slowest_place_whoever_comes_moves_and_goes(
    at_once: bool, steps: list[tuple[int, ...] | int]
) -> None:
    flow = Flow()
    for step in steps:
        places, freed = list(flow.places), False
        if isinstance(step, int):
            if places:
                place = places[step % len(places)]
                freed = flow.frees(place)
                del flow.places[place]
        elif len(step) == 2:
            add(flow, *step)
        elif places:
            number, events, nbytes = step
            place = places[number % len(places)]
            freed = flow.frees(place)
            place.events += events
            place.nbytes += nbytes
        if freed:
            flow.stale = True
        if freed and at_once:
            flow.relimit()
        limits = brute(flow)
        if at_once:
            assert (flow.limit_events, flow.limit_bytes) == limits
        assert flow.limit_events <= limits[0]
        assert flow.limit_bytes <= limits[1]
        # A publisher goes on where there is room, and only there.
        room = flow.events < limits[0] and flow.nbytes < limits[1]
        assert flow.has_room is room
        if room:
            flow.events += 1
            flow.nbytes += 50


@pytest.mark.parametrize("readers", [1, 2, 50])
def test_of_readers_that_keep_up_together_only_the_last_makes_room(readers: int) -> None:
    flow = Flow()
    places = [add(flow, 8, 1000) for _ in range(readers)]
    for _ in range(3):
        freed = []
        for place in places:
            freed.append(flow.frees(place))
            place.events += 1
            place.nbytes += 10
            if freed[-1]:
                flow.relimit()
        assert freed == [False] * (readers - 1) + [True]


def test_a_place_ahead_of_the_slowest_makes_no_room() -> None:
    flow = Flow()
    behind, ahead = add(flow, 4, 100), add(flow, 9, 900)
    assert not flow.frees(ahead)
    assert flow.frees(behind)
