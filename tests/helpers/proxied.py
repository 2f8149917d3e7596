"""A checking proxy in memory: a browser's connections to it, and a script behind every address."""

import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address

import attrs
import h11
import trio
from structlog.testing import capture_logs
from trio.testing import memory_stream_pair

from eventmesh_trio.pipeline.network.dial import GuardedBackend
from eventmesh_trio.pipeline.network.guard import AddressPolicy, IPAddress
from eventmesh_trio.pipeline.network.limits import FetchLimits
from eventmesh_trio.pipeline.network.proxy import CheckingProxy, Passage, ProxyLimits

PUBLIC = "93.184.216.34"
CRLF = b"\r\n\r\n"


@attrs.define(eq=False)
class Visit:
    """One connection, as its origin sees it."""

    stream: trio.abc.Stream
    heads: list[bytes]

    async def request(self) -> bytes:
        """The next request head; ``b""`` at the end of the connection."""
        head = b""
        while not head.endswith(CRLF):
            data = await self.stream.receive_some(1)
            if not data:
                return b""
            head += data
        self.heads.append(head)
        return head

    async def body(self, nbytes: int) -> bytes:
        data = b""
        while len(data) < nbytes:
            data += await self.stream.receive_some(nbytes - len(data))
        return data

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)


Script = Callable[[Visit], Awaitable[None]]


def reply(body: bytes = b"page", *fields: bytes, status: bytes = b"200 OK") -> bytes:
    head = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *fields, b"", b""]
    return b"\r\n".join(head) + body


async def answering(visit: Visit) -> None:
    while await visit.request():
        await visit.send(reply())


@attrs.define(eq=False)
class Browser:
    """One connection to the proxy."""

    stream: trio.abc.HalfCloseableStream
    wire: h11.Connection = attrs.field(factory=lambda: h11.Connection(h11.CLIENT))

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def ask(
        self, method: str, target: str, *fields: tuple[str, str], body: bytes = b""
    ) -> int:
        """Send a request; the status of its response, whose content `read` has."""
        headers = [("Host", "whatever.example"), *fields]
        if body:
            headers.append(("Content-Length", str(len(body))))
        request = h11.Request(method=method, target=target, headers=headers)
        await self.send(
            (self.wire.send(request) or b"")
            + (self.wire.send(h11.Data(data=body)) or b"" if body else b"")
            + (self.wire.send(h11.EndOfMessage()) or b"")
        )
        return await self.status()

    async def event(self) -> object:
        while (event := self.wire.next_event()) is h11.NEED_DATA:
            self.wire.receive_data(await self.stream.receive_some(65536))
        return event

    async def status(self) -> int:
        event = await self.event()
        assert isinstance(event, h11.Response), event
        self.fields = {bytes(n).decode(): bytes(v).decode() for n, v in event.headers}
        return event.status_code

    fields: dict[str, str] = attrs.field(factory=dict)

    async def read(self) -> bytes:
        """The rest of the response, and be ready for another."""
        body = b""
        while isinstance(event := await self.event(), h11.Data):
            body += bytes(event.data)
        assert isinstance(event, h11.EndOfMessage), event
        if self.wire.our_state is h11.DONE and self.wire.their_state is h11.DONE:
            self.wire.start_next_cycle()
        return body

    async def is_closed(self) -> bool:
        with trio.move_on_after(1):
            try:
                return await self.stream.receive_some(1) == b""
            except trio.BrokenResourceError:
                return True
        return False


@attrs.define(eq=False)
class World:
    """A proxy whose origins are a script behind every address."""

    proxy: CheckingProxy
    nursery: trio.Nursery
    answers: dict[str, list[list[str]]]
    dialled: list[tuple[str, int]] = attrs.field(factory=list)
    heads: list[bytes] = attrs.field(factory=list)
    asked: list[str] = attrs.field(factory=list)
    open: int = 0

    def connect(self) -> Browser:
        ours, theirs = memory_stream_pair()
        self.nursery.start_soon(self.proxy.serve, theirs)
        return Browser(ours)


def shown(passage: Passage, password: str | None = None) -> tuple[str, str]:
    pair = f"{passage.username}:{passage.password if password is None else password}"
    return ("Proxy-Authorization", f"Basic {base64.b64encode(pair.encode()).decode()}")


@asynccontextmanager
async def open_world(
    script: Script = answering,
    *,
    policy: AddressPolicy | None = None,
    limits: ProxyLimits | None = None,
    **answers: Sequence[Sequence[str]],
) -> AsyncIterator[World]:
    """``answers``: name (``_`` for its dots) -> the answers of successive lookups."""
    world: World

    class Names:
        async def resolve(self, name: str) -> Sequence[IPAddress]:
            await trio.lowlevel.checkpoint()
            world.asked.append(name)
            left = world.answers.get(name, [[PUBLIC]])
            texts = left.pop(0) if len(left) > 1 else left[0]
            return [ip_address(text) for text in texts]

    async def connect(address: IPAddress, port: int) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        world.dialled.append((str(address), port))
        if port == 9999:
            raise ConnectionRefusedError(111, "refused")
        ours, theirs = memory_stream_pair()
        nursery.start_soon(serve, theirs)
        return ours

    async def serve(stream: trio.abc.Stream) -> None:
        world.open += 1
        try:
            await script(Visit(stream, world.heads))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the proxy left, as it may
        finally:
            world.open -= 1
            await trio.aclose_forcefully(stream)

    backend = GuardedBackend(FetchLimits(), policy or AddressPolicy(), Names(), connect)
    proxy = CheckingProxy(1, backend, limits or ProxyLimits())
    with capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            world = World(
                proxy,
                nursery,
                {name.replace("_", "."): [*map(list, many)] for name, many in answers.items()},
            )
            yield world
            nursery.cancel_scope.cancel()
    assert logs == [], "a connection failed in a way that was not foreseen"
