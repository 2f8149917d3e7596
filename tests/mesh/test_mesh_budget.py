"""The memory that all sessions of a hub may hold together."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio.testing
from mesh_support import SmallJob, read_all, spec, tags

from eventmesh_trio.errors import BackpressureExceeded, OverloadedError
from eventmesh_trio.mesh.budget import STEP_BYTES
from eventmesh_trio.mesh.hub import Hub, open_hub
from eventmesh_trio.mesh.limits import MeshLimits
from eventmesh_trio.mesh.run import Run
from eventmesh_trio.mesh.subscriber import Subscriber
from eventmesh_trio.wire.encoders import HTTPEncoder

MIB = 1 << 20
TEXT = "x" * 50_000  # a result of some 100 KB


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    limits = MeshLimits(max_total_bytes=MIB, publish_stride=1, stall_seconds=30)
    async with open_hub(limits) as hub:
        yield hub


def start(
    hub: Hub, session_id: str | None, total: int, **settings: Any
) -> tuple[Run, Subscriber | None]:
    session = hub.open_session(session_id)
    job = SmallJob(total=total, text=TEXT)
    return hub.start_run(session, job, request_id=job.request_id, reader=spec(**settings))


async def finish(hub: Hub, session_id: str, total: int) -> None:
    _, reader = start(hub, session_id, total)
    assert reader is not None
    async with reader:
        await read_all(reader)


async def test_what_the_logs_hold_is_counted_and_given_back(
    autojump_clock: object, hub: Hub
) -> None:
    await finish(hub, "a", 5)
    held = hub.find("a").log.kept_bytes
    assert held > 5 * 100_000
    assert held - STEP_BYTES <= hub.budget.used <= held
    await trio.sleep(hub.limits.retention_seconds + 1)
    assert hub.find("a") is None
    assert hub.budget.used == 0


async def test_kept_sessions_are_forgotten_for_live_ones_the_oldest_first(
    autojump_clock: object, hub: Hub
) -> None:
    for name in "abc":
        await finish(hub, name, 3)
    assert list(hub.sessions) == ["a", "b", "c"]
    await finish(hub, "d", 3)
    assert list(hub.sessions) == ["b", "c", "d"]
    assert hub.budget.used <= hub.limits.max_total_bytes


async def test_a_live_log_gives_up_what_its_readers_have_passed(
    autojump_clock: object, hub: Hub
) -> None:
    await finish(hub, "a", 40)  # 4 MB in all, though 16 would be kept for replay
    assert hub.budget.used <= hub.limits.max_total_bytes
    assert hub.find("a").log.first > 1


async def test_runs_wait_for_their_own_readers_while_memory_is_short(
    autojump_clock: object, hub: Hub
) -> None:
    readers = [start(hub, name, 8)[1] for name in "abc"]
    await trio.testing.wait_all_tasks_blocked()
    assert hub.budget.exceeded  # by what was in hand when the limit was reached
    assert hub.budget.used <= hub.limits.max_total_bytes + 3 * 200_000
    with pytest.raises(OverloadedError):
        start(hub, "d", 1)
    for reader in readers:
        assert reader is not None
        assert tags(await read_all(reader)).count("result") == 8
    assert not hub.budget.exceeded
    assert not hub.budget.waiting
    await finish(hub, "d", 1)


async def test_a_run_whose_reader_keeps_up_goes_on_while_others_hold_all_memory(
    autojump_clock: object, hub: Hub
) -> None:
    session = hub.open_session("quick")
    job = SmallJob(total=30, nap=0.1, text=TEXT)
    _, quick = hub.start_run(session, job, request_id=job.request_id, reader=spec())
    assert quick is not None
    for name in "abc":
        start(hub, name, 8)
    await trio.testing.wait_all_tasks_blocked()
    assert hub.budget.exceeded
    assert tags(await read_all(quick)).count("result") == 30
    assert trio.current_time() == pytest.approx(3.0)  # its own naps and nothing else
    assert hub.budget.exceeded


async def test_who_holds_memory_and_does_not_read_is_cut_off(
    autojump_clock: object, hub: Hub
) -> None:
    readers = [start(hub, name, 8)[1] for name in "abc"]
    await trio.testing.wait_all_tasks_blocked()
    assert hub.budget.exceeded
    await trio.sleep(hub.limits.stall_seconds + 1)
    failures = [reader.failure for reader in readers if reader is not None]
    assert any(isinstance(failure, BackpressureExceeded) for failure in failures)
    await trio.sleep(hub.limits.linger_seconds + 1)
    assert not hub.budget.exceeded


async def test_what_is_encoded_for_a_replay_is_counted_when_its_reader_has_gone(
    autojump_clock: object, hub: Hub
) -> None:
    await finish(hub, "a", 5)
    session = hub.find("a")
    assert session is not None
    before = hub.budget.used
    readers = [
        session.subscribe(spec(encoder_for=lambda _: HTTPEncoder("ndjson")), after=0)
        for _ in range(2)
    ]
    for reader in readers:
        batch = await reader.receive_batch()
        reader.sent(batch.events, batch.nbytes, 0)
        reader.close()
    assert hub.budget.used == session.log.kept_bytes > before + 100_000


async def test_what_was_waited_while_memory_was_short_is_not_held_against_a_reader(
    autojump_clock: object, hub: Hub
) -> None:
    session = hub.open_session("a")
    _, reader = hub.start_run(
        session,
        SmallJob(total=300),
        request_id="req-1",
        reader=spec(capacity=100, adaptive=False),
    )
    assert reader is not None
    hub.budget.change(10 * MIB)
    await trio.sleep(hub.limits.stall_seconds - 1)
    hub.budget.change(-10 * MIB)
    await trio.testing.wait_all_tasks_blocked()
    assert reader.failure is None
    assert session.log.top == 100
    before = trio.current_time()
    while reader.failure is None:
        await trio.sleep(0.1)
    assert trio.current_time() - before == pytest.approx(hub.limits.stall_seconds, abs=0.2)
