"""What a log says of weights and runs, beside a list that is summed up each time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mesh_support import LineEncoder, result_event

from eventmesh_trio.mesh.archive import weigh
from eventmesh_trio.mesh.flow import Track
from eventmesh_trio.mesh.log import EventLog
from eventmesh_trio.wire.encoders import HTTPEncoder

KIB = 1 << 10
ENCODER = LineEncoder("lines")

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 2), st.integers(0, 4 * KIB)),
        st.tuples(st.just("encode"), st.integers(0, 9), st.integers(1, 9)),
    ),
    min_size=30,
    max_size=120,
)


@given(STEPS, st.integers(2, 24))
def test_weights_runs_and_sizes_are_those_of_the_events_that_are_kept(steps, replay_kib):
    log = EventLog("epoch", replay_bytes=replay_kib * KIB, max_pinned_bytes=1 << 30)
    tracks = [log.open_track(name, lambda: None) for name in "abc"]
    appended: list[tuple[Track, int]] = []
    forms: dict[int, int] = {}
    for what, first, second in steps:
        if what == "append":
            event = result_event(tracks[first].request_id, len(appended), 1, "x" * (second // 2))
            appended.append((tracks[first], weigh(event)))
            assert log.append(tracks[first], event) == len(appended)
        elif log.first <= log.top:
            start = min(log.first + first, log.top)
            pieces = log.encoded(ENCODER, start, min(start + second, log.top), 1 << 30)
            forms.update({start + at: len(piece) for at, piece in enumerate(pieces)})
    kept = range(log.first, len(appended) + 1)
    weights = {seq: appended[seq - 1][1] for seq in kept}
    assert log.kept_bytes == sum(weights.values()) + sum(forms.get(seq, 0) for seq in kept)
    assert [track for _, track in log.owners(1, log.top)] == [appended[seq - 1][0] for seq in kept]
    for seq in [log.first - 1, *kept]:
        after = [one for one in kept if one > seq]
        assert log.weight(seq + 1, log.top) == sum(weights[one] for one in after)
        assert log.counted(log.flow, seq) == (
            seq,
            log.flow.nbytes - sum(weights[one] for one in after),
        )
        for track in tracks:
            mine = [weights[one] for one in after if appended[one - 1][0] is track]
            assert log.counted(track, seq) == (track.events - len(mine), track.nbytes - sum(mine))
    for seq in kept:
        track, stop = log.stretch(seq, log.top)
        assert all(appended[one - 1][0] is track for one in range(seq, stop + 1))
        assert stop == log.top or appended[stop][0] is not track


@pytest.mark.parametrize("runs", [1, 3])
def test_a_log_keeps_what_it_was_asked_to_and_little_more(runs):
    replay_bytes = 64 * KIB
    log = EventLog("epoch", replay_bytes=replay_bytes, max_pinned_bytes=1 << 30)
    tracks = [log.open_track(f"run-{number}", lambda: None) for number in range(runs)]
    for index in range(600):
        log.append(tracks[index % runs], result_event("a", index, 600))
        if index % 7 == 0:
            log.encoded(ENCODER, max(log.first, log.top - 3), log.top, 1 << 30)
        assert log.kept_bytes <= replay_bytes * 9 / 8 + 2 * KIB
    assert log.first > 1
    assert log.kept_bytes > replay_bytes / 2
    assert log.budget.used <= log.kept_bytes + 32 * KIB


def test_forms_that_take_a_log_over_a_step_are_charged_with_the_next_event():
    log = EventLog("epoch", replay_bytes=1 << 30, max_pinned_bytes=1 << 30)
    track = log.open_track("a", lambda: None)
    for index in range(25):
        log.append(track, result_event("a", index, 26))
    assert log.budget.used == 0  # less than a step
    log.encoded(HTTPEncoder("ndjson"), 1, 25, 1 << 30)
    assert log.kept_bytes > 32 * KIB
    log.append(track, result_event("a", 25, 26))
    assert log.budget.used == log.kept_bytes
