"""The DevTools client against a scripted browser in memory: every answer finds who asked."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import memory_stream_one_way_pair, wait_all_tasks_blocked

from eventmesh_trio.pipeline.rendering.cdp import CDPConnection, CDPLimits, open_cdp
from eventmesh_trio.pipeline.rendering.cdp_messages import (
    AnswerTooLarge,
    CommandFailed,
    CommandTimeout,
    ConnectionLost,
    SessionClosed,
)
from eventmesh_trio.pipeline.rendering.cdp_transports import (
    MessageTooLarge,
    PipeTransport,
    TransportLost,
)


class Peer:
    """The browser's end of two pipes."""

    def __init__(self) -> None:
        self.ours, self.commands = memory_stream_one_way_pair()
        self.answers, self.theirs = memory_stream_one_way_pair()
        self._pending = b""

    async def command(self) -> dict[str, Any]:
        """The next command that was written."""
        while b"\0" not in self._pending:
            data = await self.commands.receive_some()
            assert data, "the client has closed its pipe"
            self._pending += bytes(data)
        message, _, self._pending = self._pending.partition(b"\0")
        return dict(json.loads(message))

    async def say(self, **message: Any) -> None:
        await self.answers.send_all(json.dumps(message).encode() + b"\0")

    def transport(self, max_message_bytes: int = 10_000) -> PipeTransport:
        return PipeTransport(self.ours, self.theirs, max_message_bytes)


@asynccontextmanager
async def open_pair(
    *, max_message_bytes: int = 10_000, events: Sequence[str] = (), **limits: Any
) -> AsyncIterator[tuple[CDPConnection, Peer]]:
    peer = Peer()
    async with open_cdp(
        peer.transport(max_message_bytes), CDPLimits(**limits), browser_events=events
    ) as connection:
        yield connection, peer


async def test_answers_in_any_order_reach_who_asked():
    async with open_pair() as (cdp, peer), trio.open_nursery() as nursery:
        results: dict[str, Any] = {}

        async def ask(method: str) -> None:
            results[method] = await cdp.browser.execute(method, n=1)

        for method in ("A", "B", "C"):
            nursery.start_soon(ask, method)
        commands = [await peer.command() for _ in range(3)]
        assert {command["id"] for command in commands} == {1, 2, 3}
        for command in reversed(commands):
            assert command["params"] == {"n": 1}
            await peer.say(id=command["id"], result={"of": command["method"]})
        await wait_all_tasks_blocked()
        assert results == {name: {"of": name} for name in "ABC"}


async def test_an_error_is_raised_with_its_code_and_text():
    async with open_pair() as (cdp, peer), trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(CommandFailed, match=r"Page\.go: no such page") as caught:
                await cdp.browser.execute("Page.go")
            assert caught.value.code == -32000

        nursery.start_soon(ask)
        command = await peer.command()
        await peer.say(id=command["id"], error={"code": -32000, "message": "no such page"})


async def test_a_command_without_an_answer_times_out_and_a_late_answer_is_thrown_away(
    autojump_clock: trio.testing.MockClock,
):
    async with open_pair(command_seconds=3) as (cdp, peer):
        began = trio.current_time()
        with pytest.raises(CommandTimeout, match="3 seconds"):
            await cdp.browser.execute("Slow.one")
        assert trio.current_time() - began == 3
        command = await peer.command()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cdp.browser.execute, "Next.one")
            await peer.say(id=command["id"], result={"late": True})
            following = await peer.command()
            await peer.say(id=following["id"], result={})


async def test_a_cancelled_command_leaves_the_connection_usable():
    async with open_pair() as (cdp, peer):
        with trio.move_on_after(0):
            await cdp.browser.execute("Given.up")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cdp.browser.execute, "Next.one")
            command = await peer.command()
            while command["method"] != "Next.one":
                command = await peer.command()
            await peer.say(id=command["id"], result={})


async def test_events_reach_their_session_and_only_those_that_it_wants():
    async with open_pair(events=["Root.wanted"]) as (cdp, peer):
        one = cdp.open_session("S1", ["Page.wanted"])
        other = cdp.open_session("S2", ["Page.wanted"])
        await peer.say(method="Page.wanted", params={"n": 1}, sessionId="S2")
        await peer.say(method="Page.other", params={"n": 2}, sessionId="S1")
        await peer.say(method="Page.wanted", params={"n": 3}, sessionId="S1")
        await peer.say(method="Page.wanted", params={"n": 4}, sessionId="nobody")
        await peer.say(method="Root.wanted", params={"n": 5})
        assert (await one.receive()).params == {"n": 3}
        assert (await other.receive()).params == {"n": 1}
        assert (await cdp.browser.receive()).params == {"n": 5}


async def test_commands_of_a_session_carry_its_id():
    async with open_pair() as (cdp, peer):
        session = cdp.open_session("S1", ())
        session.notify("Page.go", url="x")
        assert (await peer.command())["sessionId"] == "S1"
        cdp.browser.notify("Browser.go")
        assert "sessionId" not in await peer.command()


@pytest.mark.parametrize(
    ("max_event_bytes", "events"), [(400, 4), (1 << 20, 9)], ids=["bytes", "number"]
)
async def test_a_session_that_does_not_keep_up_is_closed_and_no_other(
    max_event_bytes: int, events: int
):
    async with open_pair(max_events=8) as (cdp, peer):
        slow = cdp.open_session("S1", ["E"], max_event_bytes=max_event_bytes)
        quick = cdp.open_session("S2", ["E"])
        for number in range(events):
            await peer.say(method="E", params={"n": number, "fill": "x" * 60}, sessionId="S1")
        await peer.say(method="E", params={}, sessionId="S2")
        await quick.receive()
        for number in range(events - 1):  # what was queued is not lost
            assert (await slow.receive()).params["n"] == number
        with pytest.raises(SessionClosed, match="too many"):
            await slow.receive()
        with pytest.raises(SessionClosed, match="too many"):
            await slow.execute("Page.go")


async def test_a_target_that_is_gone_ends_its_session_and_its_commands_at_once():
    async with open_pair() as (cdp, peer), trio.open_nursery() as nursery:
        session = cdp.open_session("S1", ["E"])

        async def ask() -> None:
            with pytest.raises(SessionClosed, match="gone"):
                await session.execute("Page.go")

        nursery.start_soon(ask)
        await peer.command()
        await peer.say(method="Target.detachedFromTarget", params={"sessionId": "S1"})
        with pytest.raises(SessionClosed, match="gone"):
            await session.receive()


async def test_a_browser_that_ends_is_told_to_everybody_who_waits():
    async with open_pair() as (cdp, peer), trio.open_nursery() as nursery:
        session = cdp.open_session("S1", ["E"])

        async def ask() -> None:
            with pytest.raises(ConnectionLost):
                await session.execute("Page.go")

        async def listen() -> None:
            with pytest.raises(ConnectionLost):
                await session.receive()

        nursery.start_soon(ask)
        nursery.start_soon(listen)
        nursery.start_soon(cdp.wait_lost)
        await wait_all_tasks_blocked()
        await peer.answers.aclose()
    assert cdp.is_lost
    with pytest.raises(ConnectionLost):
        await cdp.browser.execute("Page.go")
    with pytest.raises(ConnectionLost):
        await cdp.open_session("S2", ()).execute("Page.go")
    session.notify("Page.go")  # takes no notice


async def test_an_answer_that_is_too_large_is_told_to_who_asked_and_the_rest_goes_on():
    async with open_pair(max_message_bytes=1000) as (cdp, peer), trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(AnswerTooLarge):
                await cdp.browser.execute("Page.everything")

        nursery.start_soon(ask)
        command = await peer.command()
        big = json.dumps({"id": command["id"], "result": {"x": "y" * 5000}}, separators=(",", ":"))
        await peer.answers.send_all(big.encode() + b"\0")
        session = cdp.open_session("S1", ["E"])
        other = cdp.open_session("S2", ["E"])
        event = {"method": "E", "params": {"x": "y" * 5000}, "sessionId": "S1"}
        await peer.answers.send_all(json.dumps(event, separators=(",", ":")).encode() + b"\0")
        with pytest.raises(SessionClosed, match="too large"):
            await session.receive()
        await peer.say(method="E", params={}, sessionId="S2")
        await other.receive()
        assert cdp.skipped_messages == 2


async def test_what_is_not_of_the_protocol_is_passed_over():
    async with open_pair(events=["E"]) as (cdp, peer):
        for junk in (b"", b"nonsense", b"[]", b'{"id": "one"}', b"\xff\xfe", b'{"method": 5}'):
            await peer.answers.send_all(junk + b"\0")
        await peer.answers.send_all(b'{"method":"E","params":{"half":"\\ud800"}}\0')
        assert (await cdp.browser.receive()).params == {"half": "?"}
        assert cdp.skipped_messages == 6


async def test_a_browser_that_reads_nothing_is_given_up(autojump_clock: trio.testing.MockClock):
    class Stuck:
        async def send_all(self, data: bytes) -> None:
            await trio.sleep_forever()

    peer = Peer()
    transport = PipeTransport(Stuck(), peer.theirs, 1000)  # type: ignore[arg-type]
    async with open_cdp(transport, CDPLimits(command_seconds=2, queue_commands=4)) as cdp:
        with pytest.raises((CommandTimeout, ConnectionLost)):
            await cdp.browser.execute("Page.go")
        await cdp.wait_lost()
    async with open_cdp(transport, CDPLimits(command_seconds=2, queue_commands=4)) as cdp:
        for _ in range(10):
            cdp.browser.notify("Page.go")
        assert cdp.is_lost


async def test_thousands_of_notices_at_once_are_no_sign_of_a_browser_that_does_not_read():
    async with open_pair() as (cdp, _):
        for _ in range(8000):
            cdp.browser.notify("Fetch.failRequest", requestId="interception-job-1.0")
        assert not cdp.is_lost


@given(
    st.lists(st.binary(max_size=60).map(lambda b: b.replace(b"\0", b"")), max_size=12), st.data()
)
def test_framing_is_indifferent_to_the_boundaries_of_pieces(
    messages: list[bytes], data: st.DataObject
):
    """Messages over the limit are told by their edges, the others come whole, in order."""
    limit = 30
    wire = b"".join(message + b"\0" for message in messages)
    found: list[bytes] = []

    async def main() -> None:
        sink, source = memory_stream_one_way_pair()
        transport = PipeTransport(sink, source, limit)
        async with trio.open_nursery() as nursery:

            async def feed() -> None:
                rest = wire
                while rest:
                    size = data.draw(st.integers(1, 40))
                    await sink.send_all(rest[:size])
                    rest = rest[size:]
                    await trio.testing.wait_all_tasks_blocked()
                await sink.aclose()

            nursery.start_soon(feed)
            while True:
                try:
                    found.append(await transport.receive())
                except MessageTooLarge as error:
                    found.append(error.head[:10] + b"..." + error.tail[-10:])
                except TransportLost:
                    return

    trio.run(main)
    expected = [
        message if len(message) <= limit else message[:10] + b"..." + message[-10:]
        for message in messages
    ]
    assert found == expected


@given(st.permutations(range(12)), st.sets(st.integers(0, 11)))
def test_whatever_is_answered_in_whatever_order_each_command_has_its_own_result(
    order: list[int], silent: set[int]
):
    async def main() -> None:
        async with open_pair(command_seconds=5) as (cdp, peer):
            ends: dict[int, object] = {}

            async def ask(number: int) -> None:
                try:
                    ends[number] = (await cdp.browser.execute("M", n=number))["n"]
                except CommandTimeout:
                    ends[number] = None

            async with trio.open_nursery() as nursery:
                for number in range(12):
                    nursery.start_soon(ask, number)
                commands = {}
                for _ in range(12):
                    command = await peer.command()
                    commands[command["params"]["n"]] = command
                for number in order:
                    if number not in silent:
                        await peer.say(id=commands[number]["id"], result={"n": number})
            assert ends == {n: None if n in silent else n for n in range(12)}
            assert not cdp._pending

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
