"""Random cancels, resumes, pauses and cuts: no event is lost or doubled, nothing is left behind."""

import contextlib
import itertools
import random
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from mesh_support import LineEncoder, SmallJob, indexes, parsed, seq_of, spec, tags

from eventmesh_trio.errors import BackpressureExceeded
from eventmesh_trio.mesh.flow import Track
from eventmesh_trio.mesh.hub import Hub, open_hub
from eventmesh_trio.mesh.limits import MeshLimits
from eventmesh_trio.mesh.log import EventLog
from eventmesh_trio.mesh.reader import ReaderSpec
from eventmesh_trio.mesh.session import Position, Session
from eventmesh_trio.mesh.subscriber import Subscriber
from eventmesh_trio.wire.events import Event
from tests.helpers.scheduling import run_in_order

NAPS = (0.0, 0.0, 0.001, 0.01, 0.3)
EVENT_BYTES = 1100  # what a result of `SmallJob` weighs, at most


class Scene(dict[str, object]):
    """What a life is about, by name, for its failure to show; functions are asked only then."""

    def __str__(self) -> str:
        return "\n".join(
            f"{name}: {thing() if callable(thing) else thing}" for name, thing in self.items()
        )


Life = Callable[[int, Scene], Awaitable[None]]


def describe(session: Session) -> str:
    """A session's log and runs, one line each."""
    log = session.log
    kept = [f"{seq} {type(log.event(seq)).__name__}" for seq in range(log.first, log.top + 1)]
    states = {name: run.state.value for name, run in session.runs.items()}
    held = [
        (place.seq, place.capacity) for run in session.runs.values() for place in run.track.places
    ]
    return f"runs {states}, held {held}\n  kept of {log.top}: {kept}"


@attrs.define(eq=False)
class Client:
    """Reads with random pace, is cut at random, and resumes by the last id that it has received."""

    hub: Hub = attrs.field(repr=False)
    rnd: random.Random = attrs.field(repr=False)
    lossless: bool = True
    request_id: str | None = None  # of the one run that it follows
    loses: bool = True  # what the kernel took when it was cut is lost to it, at times
    events: list[dict[str, Any]] = attrs.field(factory=list)
    last_id: str | None = None

    async def follow(self, session: Session) -> None:
        for _ in range(10_000):
            position = session.resolve(self.last_id)
            if self._has_all(session, position.after):
                return
            settings: dict[str, Any] = {} if self.lossless else {"strategy": "drop_oldest"}
            if self.request_id is not None:
                settings["request_id"] = self.request_id
                if self.last_id is None:
                    position = Position(0, None)
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
        raise AssertionError("it never comes to its end")

    def _has_all(self, session: Session, after: int) -> bool:
        if self.request_id is None:
            return session.is_exhausted(after)
        return bool(self.events) and self.events[-1]["event"] == "summary"

    async def _read(self, reader: Any) -> None:
        while True:
            batch = await reader.receive_batch()
            started = trio.current_time()
            received = parsed(batch.pieces)
            # The kernel took some of it when the connection was cut: only its id is the truth.
            lost = self.loses and self.rnd.random() < 0.1
            cut = self.rnd.randrange(len(received) + 1) if lost else None
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


async def survive(seed: int, scene: Scene) -> None:
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
        scene |= {"limits": limits, "log": lambda: describe(session), "job": job}
        clients = [
            Client(hub, random.Random(rnd.random()), lossless=index % 3 != 2)
            for index in range(1 + seed % 7)
        ]
        scene["clients"] = clients
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


async def depend(seed: int, scene: Scene) -> None:
    """A log that keeps for replay hardly more than a window, and one client that comes and goes."""
    rnd = random.Random(seed)
    window_bytes = rnd.choice((1, 5000, 20_000))
    limits = MeshLimits(
        window_bytes=window_bytes,
        publish_stride=rnd.choice((1, 7, 64)),
        max_batch_events=rnd.choice((1, 10, 1024)),
        # With what is published after one wait, and the last events, which wait for no room.
        replay_bytes=window_bytes + 10 * EVENT_BYTES,
    )
    async with open_hub(limits) as hub:
        session = hub.open_session("s")
        job = SmallJob(total=rnd.randrange(1, 150), nap=rnd.choice(NAPS), burst=rnd.randrange(1, 9))
        # Without a stream: its place is held from the first event.
        run, _ = hub.start_run(session, job, request_id="req-1")
        request_id = rnd.choice((None, "req-1"))
        client = Client(hub, random.Random(rnd.random()), request_id=request_id, loses=False)
        scene |= {"limits": limits, "log": lambda: describe(session), "client": client}
        await trio.sleep(rnd.choice(NAPS))
        await client.follow(session)
        assert run.state.value == "completed"
        client.check(job.total)


async def perish(seed: int, scene: Scene) -> None:
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
        clients: list[Client] = []
        scene |= {"log": lambda: describe(session), "job": job, "clients": clients}
        async with trio.open_nursery() as nursery:
            for _ in range(rnd.randrange(4)):
                client = Client(hub, random.Random(rnd.random()))
                clients.append(client)
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


async def reattach(seed: int, scene: Scene) -> None:
    """Several runs in one session; clients of one or all of them are cut, linger and resume."""
    rnd = random.Random(seed)
    limits = MeshLimits(
        window_bytes=rnd.choice((1, 5000, 1 << 20)),
        publish_stride=rnd.choice((1, 7, 64)),
        replay_bytes=1 << 24,
    )
    async with open_hub(limits) as hub:
        before = trio.lowlevel.current_statistics().tasks_living
        session = hub.open_session("s")
        scene |= {"limits": limits, "log": lambda: describe(session)}
        totals = {name: rnd.randrange(1, 80) for name in "abc"}
        clients: list[Client] = []
        scene["clients"] = clients
        async with trio.open_nursery() as nursery:
            for name, total in totals.items():
                job = SmallJob(name, total=total, nap=rnd.choice(NAPS), burst=rnd.randrange(1, 9))
                run, _ = hub.start_run(session, job, request_id=name)
                for request_id in (name, name, None)[: rnd.randrange(4)]:
                    client = Client(hub, random.Random(rnd.random()), request_id=request_id)
                    clients.append(client)
                    nursery.start_soon(client.follow, session)
                await trio.sleep(rnd.choice(NAPS))
                rnd.choice((run.pause, run.resume))()
                run.resume()
        for run in session.runs.values():
            await run.wait_ended()
            if any(client.request_id == run.request_id for client in clients):
                assert run.state.value == "completed"
        for client in clients:
            check_reattached(client, totals)
        assert not session.log.sleepers
        assert not session.log.flow.places
        assert not any(run.track.places for run in session.runs.values())
        assert trio.lowlevel.current_statistics().tasks_living == before


def check_reattached(client: Client, totals: dict[str, int]) -> None:
    logged = [event for event in client.events if event["id"]]
    numbers = [seq_of(event) for event in logged]
    assert numbers == sorted(set(numbers)), "doubled or out of order"
    assert "gap" not in tags(client.events)
    ended = {event["request_id"] for event in logged if event["event"] == "summary"}
    if client.request_id is not None:
        assert ended == {client.request_id}
    for name in ended:
        mine = [event for event in logged if event["request_id"] == name]
        if client.request_id is not None or mine[0]["event"] == "metadata":
            assert indexes(mine) == list(range(totals[name]))


async def mingle(seed: int, scene: Scene) -> None:
    """Several runs in one session; readers of one or all of them, lossless or lossy, none cut."""
    rnd = random.Random(seed)
    limits = MeshLimits(
        publish_stride=rnd.choice((1, 7, 64)),
        max_batch_events=rnd.choice((1, 10, 1024)),
        replay_bytes=rnd.choice((0, 20_000, 1 << 24)),
    )
    async with open_hub(limits) as hub:
        session = hub.open_session("s")
        said = record(session.log)
        scene |= {"limits": limits, "log": lambda: describe(session), "said": said}
        anchor = session.subscribe(spec(until="never", strategy="drop_oldest"))
        totals = {name: rnd.randrange(1, 120) for name in "abc"}
        readings = []
        async with trio.open_nursery() as nursery:
            for name, total in totals.items():
                job = SmallJob(name, total=total, nap=rnd.choice(NAPS), burst=rnd.randrange(1, 9))
                scene[f"job {name}"] = job
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
                    reading = Reading(reader, rnd, name)
                    scene[f"reading {len(readings)}"] = reading.describe
                    readings.append(reading)
                    nursery.start_soon(reading.follow)
        anchor.close()
        assert len(said) == sum(totals.values()) + 3 * len(totals)
        for reading in readings:
            scene["checked"] = reading.describe
            reading.check(said, keeps_all=limits.replay_bytes == 1 << 24)
        assert not session.log.flow.places


def record(log: EventLog) -> dict[int, tuple[str, str]]:
    """Whose and what each event of ``log`` is, by its number: what is evicted stays known here."""
    said: dict[int, tuple[str, str]] = {}
    append = log.append

    def recording(track: Track, event: Event) -> int:
        seq = append(track, event)
        said[seq] = (track.request_id, type(event).__name__)
        return seq

    log.append = recording
    return said


@attrs.define(eq=False)
class Reading:
    """Reads to the end at random pace, and knows what it must have read."""

    reader: Subscriber
    rnd: random.Random
    name: str | None
    events: list[dict[str, Any]] = attrs.field(factory=list)
    evicted: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        # Without replay the openings are gone, and a gap says so.
        self.evicted = (6 if self.name is None else 2) - self.reader.statistics().pending

    def describe(self) -> str:
        return f"{self.reader.spec}\n  {self.reader.statistics()}\n  {self.events}"

    async def follow(self) -> None:
        while True:
            try:
                batch = await self.reader.receive_batch()
            except trio.EndOfChannel:
                break
            await trio.sleep(self.rnd.choice(NAPS))
            self.reader.sent(batch.events, batch.nbytes, 0)
            self.events += parsed(batch.pieces)
        self.reader.close()

    def check(self, said: dict[int, tuple[str, str]], *, keeps_all: bool) -> None:
        mine = [seq for seq, (name, _) in said.items() if self.name in (None, name)]
        ends = {seq for seq in mine if said[seq][1] == "Summary"}
        logged = [event for event in self.events if event["id"]]
        got = [seq_of(event) for event in logged]
        assert got == sorted(set(got)), "doubled or out of order"
        assert set(got) <= set(mine)
        assert [event["request_id"] for event in logged] == [said[seq][0] for seq in got]
        # Loss is told, always, and nothing is told lost that was sent.
        gaps = [event for event in self.events if event["event"] == "gap"]
        lost = {n for gap in gaps for n in range(gap["missing_from"], gap["missing_to"] + 1)}
        assert lost.intersection(mine) == set(mine).difference(got)
        statistics = self.reader.statistics()
        assert len(got) + statistics.dropped == len(mine) - self.evicted
        assert bool(gaps) == bool(statistics.dropped or self.evicted)
        assert statistics.pending == 0
        if self.reader.spec.lossless:
            assert got == mine[self.evicted :]
        if self.reader.spec.lossless or keeps_all:
            # No strategy drops how a run ended. But the log holds nothing for a lossy reader: one
            # that writes while all of a run passes and is evicted gets a gap, and nothing else.
            assert ends <= set(got)


def live(life: Life, seed: int, order: int) -> None:
    """One life. A failure shows its state, and ``live(life, seed, order)`` brings it back."""
    scene = Scene()

    async def bounded() -> None:
        try:
            with trio.fail_after(1e6):  # a lost wake-up shows at once under this clock
                await life(seed, scene)
        except BaseException as error:
            error.add_note(f"again by: live({life.__name__}, seed={seed}, order={order})\n{scene}")
            raise

    run_in_order(bounded, f"{seed}/{order}")


LIVES = (survive, depend, perish, reattach, mingle)


@pytest.mark.parametrize(
    "block", [0, *(pytest.param(block, marks=pytest.mark.slow) for block in range(1, 10))]
)
@pytest.mark.parametrize("life", LIVES)
def test_random_readers_and_commands_lose_nothing_and_leave_nothing(
    life: Life, block: int, logged: object
) -> None:
    for seed in range(block * 20, (block + 1) * 20):
        live(life, seed, order=0)


@pytest.mark.slow
@pytest.mark.parametrize("order", range(1, 4))
@pytest.mark.parametrize("life", LIVES)
def test_they_lose_nothing_in_whatever_order_tasks_have_their_turn(
    life: Life, order: int, logged: object
) -> None:
    for seed in range(200):
        live(life, seed, order)


@pytest.mark.parametrize("life", LIVES)
def test_a_life_comes_again_by_its_seed_and_order(life: Life, logged: object) -> None:
    def steps(order: int) -> list[tuple[float, str]]:
        seen: list[tuple[float, str]] = []

        class Steps(trio.abc.Instrument):
            def before_task_step(self, task: trio.lowlevel.Task) -> None:
                seen.append((trio.current_time(), task.name))

        run_in_order(lambda: life(7, Scene()), f"7/{order}", [Steps()])
        return seen

    assert steps(0) == steps(0) != steps(1)


def test_a_life_that_fails_shows_its_state_and_how_to_bring_it_back() -> None:
    async def fail(seed: int, scene: Scene) -> None:
        scene["answer"] = lambda: 42
        raise AssertionError

    with pytest.raises(AssertionError) as caught:
        live(fail, 3, 1)
    (note,) = caught.value.__notes__
    assert note == "again by: live(fail, seed=3, order=1)\nanswer: 42"


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
