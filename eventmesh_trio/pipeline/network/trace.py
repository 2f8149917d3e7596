"""What a fetch did, hop by hop, for who wants to know: addresses, times by phase, sizes.

Nobody pays for it who does not ask: the network floor notes what it does in the trace of the task
that it works for, where there is one::

    with tracing() as trace:
        page = await fetcher.fetch(url, options)
    print(trace.hops[0].seconds["dns"])
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Final, Literal

import attrs
import trio

from eventmesh_trio.abc import Fields

__all__ = ["FetchTrace", "Hop", "Phase", "begin_hop", "current_hop", "phase", "tracing"]

Phase = Literal["dns", "connect", "tls", "first_byte", "body"]


@attrs.define(eq=False)
class Hop:
    """One request and its response; what did not happen is empty, 0 or None.

    ``seconds`` by phase: looking the name up, connecting, the TLS handshake, then from the request
    to the response head, and the body. A connection that is used again has none of the first three.
    """

    url: str
    purpose: Literal["page", "file"]
    seconds: dict[Phase, float] = attrs.field(factory=dict)
    addresses: tuple[str, ...] = ()
    status: int = 0
    http_version: str = ""
    fields: Fields = ()
    wire_bytes: int = 0
    decoded_bytes: int = 0

    def values(self, name: bytes) -> Sequence[str]:
        """The values of a response field, by its lower-case name."""
        return [value.decode("latin-1") for key, value in self.fields if key == name]


@attrs.define(eq=False)
class FetchTrace:
    """All hops since it was opened, robots.txt and further attempts among them."""

    hops: list[Hop] = attrs.field(factory=list)


_UNTIMED: Final = nullcontext()
_trace: Final[ContextVar[FetchTrace | None]] = ContextVar("_trace", default=None)


@contextmanager
def tracing() -> Iterator[FetchTrace]:
    """Trace what this task, and those started in the block, fetch."""
    trace = FetchTrace()
    token = _trace.set(trace)
    try:
        yield trace
    finally:
        _trace.reset(token)


def begin_hop(url: str, purpose: Literal["page", "file"]) -> None:
    """A request is about to be made; what is noted from here on is its own."""
    trace = _trace.get()
    if trace is not None:
        trace.hops.append(Hop(url, purpose))


def current_hop() -> Hop | None:
    """The request under way, where anybody wants to know."""
    trace = _trace.get()
    return trace.hops[-1] if trace is not None and trace.hops else None


def phase(name: Phase) -> AbstractContextManager[None]:
    """Add the time that the block takes, however it ends, to a phase of the current hop."""
    hop = current_hop()
    return _UNTIMED if hop is None else _timed(hop, name)


@contextmanager
def _timed(hop: Hop, name: Phase) -> Iterator[None]:
    began = trio.current_time()
    try:
        yield
    finally:
        hop.seconds[name] = hop.seconds.get(name, 0.0) + trio.current_time() - began
