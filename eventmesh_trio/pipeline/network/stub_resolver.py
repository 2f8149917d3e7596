"""Names to addresses by asking the system's name servers ourselves, without a thread for each.

``getaddrinfo`` holds a thread for as long as a name server is silent, so however the threads are
shared out, enough slow names leave none for fast ones. Here a lookup that waits costs a few hundred
bytes and an entry in a dict: a thousand silent zones delay nobody.

It does what the C library's stub does: hosts file, search list, retries over all servers, TCP for
what is truncated. It does not do what a name service switch adds (mDNS, LDAP); where that is needed
``fetch.resolver = "system"`` goes the old way.

Answers are believed from the server that was asked, at the port it was asked from (the kernel sees
to both: each socket is connected), for the question that was asked, by an unpredictable number. A
socket serves some 200 queries, for some seconds, and is then replaced by one with another port
(RFC 5452).
"""

import random
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv6Address
from typing import Final

import attrs
import structlog
import trio

from eventmesh_trio.errors import DNSError
from eventmesh_trio.pipeline.network.dns_channel import (
    Channel,
    ask_stream,
    open_socket,
    socket_address,
)
from eventmesh_trio.pipeline.network.dns_message import (
    Question,
    RecordType,
    Reply,
    encode_query,
)
from eventmesh_trio.pipeline.network.guard import IPAddress
from eventmesh_trio.pipeline.network.name_files import NameFiles

__all__ = ["StubResolver", "open_stub_resolver"]

_PORT: Final = 53
_TRY_SECONDS: Final = 1.0  # for the first answer; doubled for each next try
_TRIES: Final = 4
_OTHER_FAMILY_SECONDS: Final = 0.3  # that one family is waited for when the other is there
_MAX_STREAMS: Final = 32  # lookups over TCP at once
_NO_ERROR: Final = 0
_FORMAT_ERROR: Final = 1
_NOT_IMPLEMENTED: Final = 4
_NO_SUCH_NAME: Final = 3
_ANYWHERE_V6: Final = ("2001:db8::1", _PORT)  # no packet is sent there
_RANDOM: Final = random.Random()
_LOOPBACK: Final[Sequence[IPAddress]] = (IPv4Address("127.0.0.1"), IPv6Address("::1"))

_NO_ADDRESS: Final = "the host name has no address"
_logger: Final = structlog.get_logger(__name__)
_NO_ANSWER: Final = "the name server did not answer for this host name"


@asynccontextmanager
async def open_stub_resolver(
    *,
    resolve_seconds: float,
    max_lookups: int,
    completes_names: bool = True,
    files: NameFiles | None = None,
    port: int = _PORT,
) -> AsyncIterator["StubResolver"]:
    """Open a resolver; its sockets and tasks end with the block.

    Args:
      resolve_seconds: after which a lookup is given up, whoever still waits for it.
      max_lookups: names that are looked up at once; more wait for their turn.
      completes_names: use the search list. A crawler of the public network must not: what is found
        below the machine's own domains tells of its inside, or stands in for a public name.
      files: the system's where None.
      port: that the name servers listen on.
    """
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield StubResolver(
                nursery, resolve_seconds, max_lookups, completes_names, files or NameFiles(), port
            )
        except Exception as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure  # out here: the caller's own exception is not made a group of


@attrs.define(eq=False)
class _Flight:
    """One lookup, and all who wait for it."""

    waiting: int = 0
    landed: trio.Event = attrs.field(factory=trio.Event)
    addresses: Sequence[IPAddress] = ()
    failure: str = _NO_ANSWER


class StubResolver:
    """A `eventmesh_trio.pipeline.network.resolver.Resolver`. Made by `open_stub_resolver`."""

    def __init__(
        self,
        nursery: trio.Nursery,
        resolve_seconds: float,
        max_lookups: int,
        completes_names: bool,
        files: NameFiles,
        port: int,
    ) -> None:
        self._nursery = nursery
        self._resolve_seconds = resolve_seconds
        self._places = trio.CapacityLimiter(max_lookups)
        self._streams = trio.CapacityLimiter(_MAX_STREAMS)
        self._completes_names = completes_names
        self._files = files
        self._port = port
        self._flights: dict[str, _Flight] = {}
        self._channels: dict[str, Channel] = {}

    @property
    def lookups(self) -> int:
        """Names that are being looked up."""
        return len(self._flights)

    async def resolve(self, name: str) -> Sequence[IPAddress]:
        """The addresses of a name, both families in turn, the one that can be reached first.

        Callers of one name share a lookup. Cancelled: it goes on for the others, and ends by
        itself.

        Raises: DNSError.
        """
        name = name.lower()
        flight = self._flights.get(name)
        if flight is None:
            flight = self._flights[name] = _Flight()
            self._nursery.start_soon(self._fly, name, flight)
        flight.waiting += 1
        try:
            await flight.landed.wait()
        finally:
            flight.waiting -= 1
        if not flight.addresses:
            raise DNSError(flight.failure)
        return flight.addresses

    async def _fly(self, name: str, flight: _Flight) -> None:
        try:
            async with self._places:
                if not flight.waiting:
                    return  # they left before it had a place
                with trio.move_on_after(self._resolve_seconds):
                    flight.addresses = _ordered(await self._look_up(name))
                    flight.failure = _NO_ADDRESS
        except _NoAnswer:
            flight.failure = _NO_ANSWER
        except ValueError:  # UnicodeError included
            flight.failure = "the host name is not one that can be looked up"
        except Exception:
            # A bug, or a machine without threads, must not end more than this name.
            _logger.exception("a name could not be looked up")
            flight.failure = _NO_ANSWER
        finally:
            del self._flights[name]
            flight.landed.set()

    async def _look_up(self, name: str) -> Sequence[IPAddress]:
        await self._files.refresh()
        bare = name.rstrip(".")
        if (known := self._files.hosts.get(bare)) is not None:
            return known
        if bare == "localhost" or bare.endswith(".localhost"):
            return _LOOPBACK  # RFC 6761: never asked for
        resolver = self._files.resolver
        for candidate in resolver.candidates(name) if self._completes_names else (bare,):
            try:
                found = await self._both_families(candidate)
            except ValueError:
                if candidate == bare:
                    raise
                continue  # too long with the domain behind it
            if found:
                return found
        return ()

    async def _both_families(self, name: str) -> Sequence[IPAddress]:
        """The addresses of just this name.

        Raises:
          _NoAnswer: a family was not answered, and the other has none.
        """
        kinds = (RecordType.AAAA, RecordType.A)
        replies: dict[RecordType, Reply] = {}

        async def ask(kind: RecordType) -> None:
            reply = await self._ask(Question(name, kind))
            if reply is None:
                return
            replies[kind] = reply
            # The other family is waited for, also where there is no such name of any kind: some
            # servers say so of names that only have addresses of the other (RFC 4074, section 4.2).
            if reply.addresses or reply.code == _NO_SUCH_NAME:
                scope.deadline = min(scope.deadline, trio.current_time() + _OTHER_FAMILY_SECONDS)

        encode_query(0, Question(name, RecordType.A))  # raises ValueError here, where it is caught
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                for kind in kinds:
                    nursery.start_soon(ask, kind)
        found = [one for kind in kinds if kind in replies for one in replies[kind].addresses]
        there_is_none = any(reply.code == _NO_SUCH_NAME for reply in replies.values())
        if not found and not there_is_none and len(replies) < len(kinds):
            raise _NoAnswer
        return found

    async def _ask(self, question: Question) -> Reply | None:
        """The answer of the first server that gives one; None where none does."""
        servers = self._files.resolver.servers
        extended = True
        for attempt in range(max(_TRIES, len(servers))):
            server = servers[attempt % len(servers)]
            # Not all at the same moment, where many wait for the same server.
            seconds = _RANDOM.uniform(0.8, 1.2) * _TRY_SECONDS * 2.0 ** (attempt // len(servers))
            with trio.move_on_after(seconds):
                try:
                    reply = await self._ask_server(server, question, extended)
                except (
                    OSError,
                    ValueError,
                    trio.BrokenResourceError,
                    trio.BusyResourceError,  # the socket is full, and another waits for room
                    trio.ClosedResourceError,
                ):
                    await trio.sleep(seconds / 4)  # a server that is restarting, perhaps
                    continue
                if reply.code in (_NO_ERROR, _NO_SUCH_NAME):
                    return reply
                # A server that does not know EDNS may say so instead of ignoring it (RFC 6891, 7).
                extended = extended and reply.code not in (_FORMAT_ERROR, _NOT_IMPLEMENTED)
        return None

    async def _ask_server(self, server: str, question: Question, extended: bool) -> Reply:
        channel = self._channels.get(server)
        if channel is None or channel.is_used_up:
            if channel is not None:
                channel.retire()
            address = socket_address(server, self._port)  # which may fail, and leaves nothing then
            channel = self._channels[server] = Channel(open_socket(server))
            self._nursery.start_soon(channel.run, address)
        reply = await channel.ask(question, extended)
        if not reply.truncated:
            return reply
        async with self._streams:
            return await ask_stream(socket_address(server, self._port), question)


class _NoAnswer(Exception):
    """No server has an answer."""


def _ordered(addresses: Sequence[IPAddress]) -> Sequence[IPAddress]:
    """Both families in turn (RFC 8305, section 4), IPv6 first where there is a way for it."""
    sixes = [address for address in addresses if address.version == 6]
    fours = [address for address in addresses if address.version == 4]
    first, second = (sixes, fours) if not fours or (sixes and _reaches_v6()) else (fours, sixes)
    mixed: list[IPAddress] = []
    for index in range(max(len(first), len(second))):
        mixed += (*first[index : index + 1], *second[index : index + 1])
    return mixed


def _reaches_v6() -> bool:
    """Whether this machine has a route for IPv6. Sends nothing."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.connect(_ANYWHERE_V6)
    except OSError:
        return False
    return True
