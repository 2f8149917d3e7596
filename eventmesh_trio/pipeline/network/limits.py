"""The standing limits of fetching: every one a number with its unit, a default, and an effect."""

from typing import Any, Final

import attrs

from eventmesh_trio.pipeline.network.breaker import BreakerLimits
from eventmesh_trio.pipeline.network.tunnel import OutgoingProxy, without_credentials

__all__ = ["MAX_HEADER_BYTES", "FetchLimits"]

# h11 as httpcore2 sets it up gives up on a message head of 100 KiB; ours has to come first.
MAX_HEADER_BYTES: Final = 96 * 1024


def _positive(_: Any, attribute: "attrs.Attribute[Any]", value: float) -> None:
    if not value > 0:
        raise ValueError(f"{attribute.name} is {value}; it must be more than 0")


def _proxy(_: Any, __: "attrs.Attribute[Any]", value: str) -> None:
    if value:
        OutgoingProxy.parse(value)


def _not_negative(_: Any, attribute: "attrs.Attribute[Any]", value: float) -> None:
    if not value >= 0:
        raise ValueError(f"{attribute.name} is {value}; it must not be negative")


@attrs.frozen(kw_only=True)
class FetchLimits:
    """What one fetch, and all fetches of a server together, may take.

    The deadline over a whole URL is not here: it is the caller's cancel scope. These are the
    shorter limits inside it, so that one bad hop does not use up the time of all retries.

    Raises:
      ValueError: a value that makes no sense; the message names it.
    """

    resolve_seconds: float = attrs.field(default=5.0, validator=_positive)
    """How long a name lookup may take."""

    connect_seconds: float = attrs.field(default=5.0, validator=_positive)
    """How long one connection attempt to one address may take, and again the TLS handshake."""

    next_address_seconds: float = attrs.field(default=0.25, validator=_positive)
    """How long an attempt to connect may take before the name's next address is tried beside it."""

    max_addresses: int = attrs.field(default=4, validator=_positive)
    """How many addresses of one name are tried, in the resolver's order."""

    response_head_seconds: float = attrs.field(default=15.0, validator=_positive)
    """From the request's last byte to the end of the response head, interim responses included."""

    idle_read_seconds: float = attrs.field(default=10.0, validator=_positive)
    """How long a body may stand still. A body that trickles is ended by the caller's deadline."""

    write_seconds: float = attrs.field(default=10.0, validator=_positive)
    """How long sending the request may take."""

    max_header_bytes: int = attrs.field(default=64 * 1024, validator=_positive)
    """Of the response head with its interim (1xx) responses; at most 96KB. Over
    HTTP/2 it is for all that is not body, before the body and again within it."""

    max_header_count: int = attrs.field(default=256, validator=_positive)
    """Fields in one response head."""

    max_body_bytes: int = attrs.field(default=10 * 1024 * 1024, validator=_positive)
    """Of one body as received, content codings not removed, its framing (chunk sizes and
    extensions, frame heads) included."""

    max_decoded_bytes: int = attrs.field(default=10 * 1024 * 1024, validator=_positive)
    """What any one content coding of a body may expand to."""

    max_redirects: int = attrs.field(default=10, validator=_not_negative)
    """Redirects followed for one URL; 0 follows none and answers the first with an error."""

    max_discard_bytes: int = attrs.field(default=64 * 1024, validator=_not_negative)
    """What is read of a redirect's own body to keep its connection; more closes the connection."""

    discard_seconds: float = attrs.field(default=1.0, validator=_positive)
    """How long reading a redirect's own body may take before its connection is closed instead."""

    max_connections: int = attrs.field(default=256, validator=_positive)
    """Connections to all origins at once, idle ones included. Who comes later waits."""

    max_idle_connections: int = attrs.field(default=64, validator=_not_negative)
    """Connections kept open for reuse; 0 keeps none."""

    keep_alive_seconds: float = attrs.field(default=15.0, validator=_positive)
    """How long an idle connection is kept for reuse; after twice that it is closed, used or not."""

    resolver: str = attrs.field(default="dns", validator=attrs.validators.in_(("dns", "system")))
    """Who looks names up: ``dns`` asks the name servers of ``/etc/resolv.conf`` itself (after
    ``/etc/hosts``), and no number of slow names delays another; ``system`` asks the system's
    resolver, in threads, which may know other sources of names."""

    max_lookups: int = attrs.field(default=4096, validator=_positive)
    """Names that are looked up at once by the resolver ``dns``; who comes later waits."""

    resolver_threads: int = attrs.field(default=64, validator=_positive)
    """Name lookups at once by the resolver ``system``; each takes a thread for as long as that
    takes."""

    resolver_threads_per_domain: int = attrs.field(default=4, validator=_positive)
    """Of these, how many may be busy with names of one registrable domain."""

    http2: bool = False
    """Offer HTTP/2 to origins that are asked over TLS; one request at a time on a connection."""

    proxy: str = attrs.field(default="", validator=_proxy, repr=without_credentials)
    """The outgoing proxy through which all is fetched: ``http://user:password@host:port``, or with
    ``socks5``. It is asked for connections to the addresses that were judged (``CONNECT``), for
    plain http as well. Its own address is not judged. Empty: none."""

    proxy_resolves: bool = False
    """Leave names to the outgoing proxy that cannot be resolved here. Nobody judges their addresses
    then: it is for the proxy to keep fetches away from private networks."""

    breaker: BreakerLimits = attrs.field(factory=BreakerLimits)
    """When an origin that does not answer is left alone, and for how long."""

    @max_header_bytes.validator
    def _fits_h11(self, _: "attrs.Attribute[int]", value: int) -> None:
        if value > MAX_HEADER_BYTES:
            raise ValueError(f"max_header_bytes is {value}; at most {MAX_HEADER_BYTES} can be read")
