"""How name servers are asked: by connected UDP sockets that many queries share, and by TCP."""

import random
import socket
from typing import Final

import attrs
import trio

from eventmesh_trio.pipeline.network.dns_message import Question, Reply, decode_reply, encode_query

__all__ = ["Channel", "ask_stream", "open_socket", "socket_address"]

_QUERIES_PER_SOCKET: Final = 200
_SOCKET_SECONDS: Final = 10.0  # a port that is used for longer may be found out
_MAX_DATAGRAM_BYTES: Final = 4096
_SYSTEM_RANDOM: Final = random.SystemRandom()


@attrs.define(eq=False)
class _Waiting:
    question: Question
    done: trio.Event = attrs.field(factory=trio.Event)
    reply: Reply | None = None


class Channel:
    """One connected UDP socket, and the queries that wait on it."""

    def __init__(self, udp: trio.socket.SocketType) -> None:
        self._socket = udp
        self._waiting: dict[int, _Waiting] = {}
        self._connected = trio.Event()
        self._queries = 0
        self._expires_at = trio.current_time() + _SOCKET_SECONDS
        self._retired = False
        self._closed = False

    @property
    def is_used_up(self) -> bool:
        expired = trio.current_time() >= self._expires_at
        return self._closed or expired or self._queries >= _QUERIES_PER_SOCKET

    def retire(self) -> None:
        """Close it when nobody waits for an answer any more."""
        self._retired = True
        if not self._waiting:
            self._socket.close()

    async def ask(self, question: Question, extended: bool) -> Reply:
        """Send a query and wait for its answer. Raises: OSError, trio.ClosedResourceError."""
        self._queries += 1
        query_id = _SYSTEM_RANDOM.randrange(0x10000)
        while query_id in self._waiting:
            query_id = _SYSTEM_RANDOM.randrange(0x10000)
        waiting = self._waiting[query_id] = _Waiting(question)
        try:
            await self._connected.wait()
            await self._socket.send(encode_query(query_id, question, extended))
            await waiting.done.wait()
        except ConnectionRefusedError:  # told once, and to one: but it is so for all of them
            self._give_up()
            raise
        finally:
            del self._waiting[query_id]
            if self._retired:
                self.retire()
        if waiting.reply is None:
            raise ConnectionRefusedError
        return waiting.reply

    async def run(self, address: tuple[object, ...]) -> None:
        """Receive answers, for as long as the socket is open."""
        try:
            await self._socket.connect(address)
            self._connected.set()
            while True:
                try:
                    data = await self._socket.recv(_MAX_DATAGRAM_BYTES)
                except ConnectionRefusedError:  # nobody listens at that port
                    self._give_up()
                else:
                    self._take(data)
        except (OSError, trio.ClosedResourceError):
            pass  # retired; or no way to that server, which those who wait are told below
        finally:
            self._closed = True
            self._connected.set()
            self._socket.close()
            self._give_up()

    def _take(self, data: bytes) -> None:
        waiting = self._waiting.get(int.from_bytes(data[:2], "big")) if len(data) > 1 else None
        if waiting is None or waiting.reply is not None:
            return  # too late, or of somebody who guesses
        try:
            waiting.reply = decode_reply(data, waiting.question)
        except ValueError:
            return  # a forgery must not end the wait for the true answer
        waiting.done.set()

    def _give_up(self) -> None:
        for waiting in self._waiting.values():
            waiting.done.set()


async def ask_stream(address: tuple[object, ...], question: Question) -> Reply:
    """Ask over TCP (RFC 7766). Raises: OSError, ValueError, trio.BrokenResourceError."""
    tcp = trio.socket.socket(_family(address), trio.socket.SOCK_STREAM)
    try:
        await tcp.connect(address)
    except BaseException:
        tcp.close()
        raise
    async with trio.SocketStream(tcp) as stream:
        query_id = _SYSTEM_RANDOM.randrange(0x10000)
        query = encode_query(query_id, question)
        await stream.send_all(len(query).to_bytes(2, "big") + query)
        received = b""
        while len(received) < 2 or len(received) < 2 + int.from_bytes(received[:2], "big"):
            data = await stream.receive_some(65536)
            if not data:
                raise ValueError("the answer is cut off")
            received += data
    reply = decode_reply(received[2:], question)
    if reply.query_id != query_id or reply.truncated:
        raise ValueError("the answer is to another query, or still not whole")
    return reply


def socket_address(server: str, port: int) -> tuple[object, ...]:
    """As the kernel has it, with the scope of a link-local address; looks nothing up."""
    (_, _, _, _, address), *_ = socket.getaddrinfo(
        server, port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
    )
    return tuple(address)


def _family(address: tuple[object, ...]) -> int:
    return socket.AF_INET if len(address) == 2 else socket.AF_INET6


def open_socket(server: str) -> trio.socket.SocketType:
    """A UDP socket of the server's family. Raises: OSError."""
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    return trio.socket.socket(family, trio.socket.SOCK_DGRAM)
