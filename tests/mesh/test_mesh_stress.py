"""Random cancels, resumes, pauses and cuts: no event is lost or doubled, nothing is left behind."""

import contextlib
import itertools
import random
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from mesh_support import LineEncoder, SmallJob, indexes, parsed, seq_of, spec, tags

from eventmesh_trio.errors import BackpressureExceeded
from eventmesh_trio.mesh.hub import Hub, open_hub
from eventmesh_trio.mesh.limits import MeshLimits
from eventmesh_trio.mesh.reader import ReaderSpec
from eventmesh_trio.mesh.session import Session

NAPS = (0.0, 0.0, 0.001, 0.01, 0.3)


@attrs.define(eq=False)
class Client:
    """Reads with random pace, is cut at random, and resumes by the last id that it has received."""

    hub: Hub
    rnd: random.Random
    lossless: bool = True
    events: list[dict[str, Any]] = attrs.field(factory=list)
    last_id: str | None = None

    async def follow(self, session: Session) -> None:
        while True:
            position = session.resolve(self.last_id)
            if session.is_exhausted(position.after):
                return
            settings = {} if self.lossless else {"strategy": "drop_oldest"}
            reader = session.subscribe(
                spec(
                    capacity=self.rnd.randrange(1, 80),
                    min_capacity=1,
                    batch_bytes=self.rnd.choice((1, 300, 5000)),
                    **settings,
                ),
                after=position.after,
                gap=position.gap,
            )
            with trio.move_on_after(self.rnd.choice((0, 0.001, 0.05, 2, 1e6))):
                with contextlib.suppress(trio.EndOfChannel, BackpressureExceeded):
                    await self._read(reader)
            reader.close(keep_place=True)
            await trio.sleep(self.rnd.choice(NAPS))

    async def _read(self, reader: Any) -> None:
        while True:
            batch = await reader.receive_batch()
            started = trio.current_time()
            received = parsed(batch.pieces)
            # The kernel took some of it when the connection was cut: only its id is the truth.
            cut = self.rnd.randrange(len(received) + 1) if self.rnd.random() < 0.1 else None
            await trio.sleep(0 if cut is not None else self.rnd.choice(NAPS))
            for event in received[:cut]:
                self.events.append(event)
                self.last_id = event["id"] or self.last_id
            if cut is not None:
                return
            reader.sent(batch.events, batch.nbytes, trio.current_time() - started)

    def check(self, total: int) -> None:
        logged = [seq_of(event) for event in self.events if event["id"]]
        assert logged == sorted(set(logged)), "doubled or out of order"
        if self.lossless:
            assert "gap" not in tags(self.events)
            assert indexes(self.events) == list(range(total))
            assert tags(self.events)[-1] == "summary"


async def survive(seed: int) -> None:
    rnd = random.Random(seed)
    limits = MeshLimits(
        window_bytes=rnd.choice((1, 5000, 1 << 20)),
        publish_stride=rnd.choice((1, 7, 64)),
        max_batch_events=rnd.choice((1, 10, 1024)),
        replay_bytes=1 << 24,
    )
    async with open_hub(limits) as hub:
        before = trio.lowlevel.current_statistics().tasks_living
        session = hub.open_session("s")
        job = SmallJob(total=rnd.randrange(1, 150), nap=rnd.choice(NAPS), burst=rnd.randrange(1, 9))
        run, _ = hub.start_run(session, job, request_id="req-1")
        clients = [
            Client(hub, random.Random(rnd.random()), lossless=index % 3 != 2)
            for index in range(1 + seed % 7)
        ]
        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(client.follow, session)
            for _ in range(rnd.randrange(30)):
                await trio.sleep(rnd.choice(NAPS))
                rnd.choice((run.pause, run.resume))()
            run.resume()
        assert run.state.value == "completed"
        for client in clients:
            client.check(job.total)
        assert not session.log.sleepers
        assert not session.log.room
        assert not session.log.flow.places
        assert not run.track.places
        assert trio.lowlevel.current_statistics().tasks_living == before


async def perish(seed: int) -> None:
    """As above, but the run is cancelled, times out, fails or is abandoned somewhere."""
    rnd = random.Random(seed)
    async with open_hub(MeshLimits(stall_seconds=1, max_paused_seconds=2)) as hub:
        before = trio.lowlevel.current_statistics().tasks_living
        session = hub.open_session(rnd.choice(("s", None)))
        fail_at = rnd.choice((None, None, rnd.randrange(100)))
        job = SmallJob(total=500, nap=rnd.choice(NAPS), fail_at=fail_at)
        run, _ = hub.start_run(
            session, job, request_id="req-1", timeout_seconds=rnd.choice((None, 0.5, 5))
        )
        async with trio.open_nursery() as nursery:
            for _ in range(rnd.randrange(4)):
                client = Client(hub, random.Random(rnd.random()))
                nursery.start_soon(client.follow, session)
            commands: list[Callable[[], bool]] = [run.pause, run.resume, run.pause, run.cancel]
            for _ in range(rnd.randrange(10)):
                await trio.sleep(rnd.choice(NAPS))
                rnd.choice(commands)()
            await run.wait_ended()
        events = [session.log.event(seq) for seq in range(1, session.log.top + 1)]
        names = [type(event).__name__ for event in events]
        assert names.count("Summary") == 1
        assert names[-1] == "Summary"
        assert names.count("Result") == job.settled
        summary: Any = events[-1]
        assert summary.successful + summary.cancelled == summary.total_urls
        assert trio.lowlevel.current_statistics().tasks_living == before
        assert not hub._lingering


async def mingle(seed: int) -> None:
    """Several runs in one session; readers of one or all of them, lossless or lossy, none cut."""
    rnd = random.Random(seed)
    limits = MeshLimits(
        publish_stride=rnd.choice((1, 7, 64)),
        max_batch_events=rnd.choice((1, 10, 1024)),
        replay_bytes=rnd.choice((0, 20_000, 1 << 24)),
    )
    async with open_hub(limits) as hub:
        session = hub.open_session("s")
        anchor = session.subscribe(spec(until="never", strategy="drop_oldest"))
        totals = {name: rnd.randrange(1, 120) for name in "abc"}
        async with trio.open_nursery() as nursery:
            for name, total in totals.items():
                job = SmallJob(name, total=total, nap=rnd.choice(NAPS), burst=rnd.randrange(1, 9))
                hub.start_run(session, job, request_id=name)
            for name in (*totals, None, None):
                for strategy in ("block", "drop_oldest", "drop_newest"):
                    settings = {} if name is None else {"request_id": name}
                    reader = session.subscribe(
                        spec(
                            strategy=strategy,
                            capacity=rnd.randrange(1, 80),
                            min_capacity=1,
                            batch_bytes=rnd.choice((1, 300, 5000)),
                            **settings,
                        ),
                        after=0,
                    )
                    runs = 3 if name is None else 1
                    expected = sum(totals.values()) if name is None else totals[name]
                    # Without replay the openings are gone, and a gap says so.
                    evicted = 2 * runs - reader.statistics().pending
                    expected += 3 * runs - evicted
                    nursery.start_soon(count, reader, rnd, name, expected, evicted)
        anchor.close()
        assert not session.log.flow.places


async def count(
    reader: Any, rnd: random.Random, name: str | None, expected: int, evicted: int
) -> None:
    events = []
    while True:
        try:
            batch = await reader.receive_batch()
        except trio.EndOfChannel:
            break
        await trio.sleep(rnd.choice(NAPS))
        reader.sent(batch.events, batch.nbytes, 0)
        events += parsed(batch.pieces)
    reader.close()
    logged = [event for event in events if event["id"]]
    seqs = [seq_of(event) for event in logged]
    assert seqs == sorted(set(seqs))
    assert name is None or {event["request_id"] for event in logged} == {name}
    if reader.spec.lossless:  # for others the log need not keep even how a run ended
        assert tags(logged).count("summary") == (1 if name else 3)
    statistics = reader.statistics()
    assert len(logged) + statistics.dropped == expected
    assert statistics.pending == 0
    gaps = [event for event in events if event["event"] == "gap"]
    assert bool(gaps) == bool(statistics.dropped or evicted)
    # Order holds across gaps, and no gap names what was sent.
    lost = {n for gap in gaps for n in range(gap["missing_from"], gap["missing_to"] + 1)}
    assert not lost.intersection(seqs)
    if reader.spec.lossless and not evicted:
        assert not gaps


@pytest.mark.parametrize("block", range(4))
@pytest.mark.parametrize("life", [survive, perish, mingle])
def test_random_readers_and_commands_lose_nothing_and_leave_nothing(
    life: Callable[[int], Any], block: int, logged: object
) -> None:
    for seed in range(block * 50, (block + 1) * 50):
        with_clock = trio.testing.MockClock(autojump_threshold=0)

        async def bounded(seed: int = seed) -> None:
            with trio.fail_after(1e6):  # a lost wake-up shows at once under this clock
                await life(seed)

        try:
            trio.run(bounded, clock=with_clock)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


async def test_fifty_stuck_readers_do_not_widen_the_gaps_of_another_run(
    autojump_clock: object, hub: Hub
) -> None:
    for index in range(50):
        job = SmallJob(f"stuck-{index}", total=10_000)
        hub.start_run(
            hub.open_session(f"stuck-{index}"),
            job,
            request_id=job.request_id,
            reader=spec(request_id=job.request_id),
        )
    await trio.testing.wait_all_tasks_blocked()
    session = hub.open_session("fast")
    _, reader = hub.start_run(
        session, SmallJob(total=100, nap=0.1), request_id="req-1", reader=spec(request_id="req-1")
    )
    assert reader is not None
    moments = []
    while True:
        try:
            batch = await reader.receive_batch()
        except trio.EndOfChannel:
            break
        moments.append(trio.current_time())
        reader.sent(batch.events, batch.nbytes, 0)
    assert max(b - a for a, b in itertools.pairwise(moments)) == pytest.approx(0.1)


async def test_fan_out_encodes_once_for_all_readers(autojump_clock: object, hub: Hub) -> None:
    encoded: list[str | None] = []

    @attrs.frozen
    class Counting(LineEncoder):
        def encode(self, event: Any) -> bytes:
            encoded.append(event.id)
            return super().encode(event)

    counting = Counting()
    session = hub.open_session("s")
    totals = []

    async def read(reader: Any) -> None:
        events = 0
        while True:
            try:
                batch = await reader.receive_batch()
            except trio.EndOfChannel:
                break
            reader.sent(batch.events, batch.nbytes, 0)
            events += batch.events
        totals.append(events)

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            one = ReaderSpec(encoder_for=lambda _: counting, until="never", progress=False)
            reader = session.subscribe(one)
            reader.end_when_idle()
        hub.start_run(session, SmallJob(total=1000), request_id="req-1")
        for reader in session.subscribers:
            nursery.start_soon(read, reader)
    assert totals == [1003] * 50
    # Metadata and summary differ by reader.
    assert len(encoded) == 1001 + 2 * 50
