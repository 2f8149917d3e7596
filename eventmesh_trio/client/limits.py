"""The standing limits of a client, with their units."""

import attrs
from attrs.validators import ge, gt

from eventmesh_trio.wire.sse import MAX_EVENT_BYTES

__all__ = ["ClientLimits"]


@attrs.frozen
class ClientLimits:
    """How long a client waits, how often it tries again, how much it takes.

    Deadlines of a call are the caller's (``trio.fail_after``); these bound what a caller does not
    see: one connection among several, one wait between two of them, and cleanup.
    """

    connect_seconds: float = attrs.field(default=10.0, validator=gt(0))
    """To dial, TLS handshake included."""

    response_seconds: float = attrs.field(default=30.0, validator=gt(0))
    """For a whole control request and its response."""

    idle_seconds: float = attrs.field(default=75.0, validator=gt(0))
    """Silence after which a stream counts as dead; a server is never silent for more than 40 s."""

    max_attempts: int = attrs.field(default=10, validator=ge(0))
    """Reconnects in a row without anything new; 0 never reconnects."""

    max_outage_seconds: float = attrs.field(default=120.0, validator=ge(0))
    """From the first failure on, until something new arrives."""

    backoff_seconds: float = attrs.field(default=0.25, validator=ge(0))
    """Before the first reconnect, where the server says nothing else; doubled each time."""

    max_backoff_seconds: float = attrs.field(default=15.0, validator=ge(0))
    """The longest wait of our own, an SSE stream's ``retry`` included (``Retry-After`` is not)."""

    steady_seconds: float = attrs.field(default=20.0, validator=gt(0))
    """A connection that held this long ends an outage even if nothing new came over it."""

    farewell_seconds: float = attrs.field(default=5.0, validator=gt(0))
    """For cancelling the run when a crawl is left."""

    max_event_bytes: int = attrs.field(default=MAX_EVENT_BYTES, validator=gt(0))
    """One event or message."""

    max_response_bytes: int = attrs.field(default=8 * 2**20, validator=gt(0))
    """The body of a control response, or of an error."""
