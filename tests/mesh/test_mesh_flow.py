"""The room of a flow is that of its slowest place, whoever moves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventmesh_trio.mesh.flow import Flow, Place

moves = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(0, 300)), max_size=60)


def places_of(flow: Flow, windows: list[tuple[int, int]]) -> list[Place]:
    places = [Place(flow, 0, (0, 0), capacity, nbytes) for capacity, nbytes in windows]
    flow.places.update(dict.fromkeys(places))
    flow.relimit()
    return places


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 400)), min_size=1, max_size=5), moves)
def test_limits_are_those_of_the_slowest_place_after_every_move(
    windows: list[tuple[int, int]], steps: list[tuple[int, int, int]]
) -> None:
    flow = Flow()
    places = places_of(flow, windows)
    for number, events, nbytes in steps:
        place = places[number % len(places)]
        freed = flow.frees(place)
        place.events += events
        place.nbytes += nbytes
        if freed:
            flow.relimit()
        assert flow.limit_events == min(one.events + one.capacity for one in places)
        assert flow.limit_bytes == min(one.nbytes + one.window_bytes for one in places)


@pytest.mark.parametrize("readers", [1, 2, 50])
def test_of_readers_that_keep_up_together_only_the_last_makes_room(readers: int) -> None:
    flow = Flow()
    places = places_of(flow, [(8, 1000)] * readers)
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
    behind, ahead = places_of(flow, [(4, 100), (9, 900)])
    assert not flow.frees(ahead)
    assert flow.frees(behind)
