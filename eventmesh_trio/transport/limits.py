"""Every limit of the transport, with its unit in its name. All are on by default."""

from typing import Final

import attrs

__all__ = ["MIB", "TransportLimits"]

MIB: Final = 1024 * 1024


@attrs.frozen(kw_only=True)
class TransportLimits:
    """What one server grants its peers. Frozen: a running connection never changes its rules.

    Raises:
      ValueError: a limit is zero or negative.
    """

    # Time that a peer may take.
    tls_handshake_seconds: float = 10.0
    """From the accept to the end of the TLS handshake."""
    header_seconds: float = 10.0
    """From a request's first byte to the end of its head; the first's from the accept, or from the
    end of the TLS handshake."""
    body_seconds: float = 60.0
    """How long a handler may have to wait for one request's body, all waits together."""
    keep_alive_seconds: float = 75.0
    """Between two requests of one connection."""
    write_stall_seconds: float = 30.0
    """A write that makes no progress of 128 KiB (or to its end) for so long breaks the link."""
    farewell_seconds: float = 2.0
    """What a connection that is being closed waits for its peer to read the last response."""

    # Size of a request.
    max_request_line_bytes: int = 8 * 1024
    """Method, target and version; a longer one is answered with 414."""
    max_header_bytes: int = 32 * 1024
    """The whole head, request line included; also the trailers of a chunked body."""
    max_header_count: int = 100
    """Fields in one request head."""
    max_body_bytes: int = 10 * MIB
    """The largest request body that any handler is given."""
    max_drained_bytes: int = 64 * 1024
    """An unread request body up to this size is read away to keep the connection."""
    max_pipelined_bytes: int = 64 * 1024
    """What is kept of later requests while a response streams; one read (64 KiB) may go beyond."""
    max_requests_per_connection: int = 10_000
    """After so many, the connection is closed."""

    # Connections.
    max_connections: int = 12_000
    """Open at once; more are told 503. More than streams: health and control need some, too."""
    max_connections_per_address: int = 1_000
    """Open at once of one address (of IPv6: one /64) that is no proxy's; more are told 429."""
    max_refusals: int = 100
    """Connections beyond a cap that are being told so at once; those beyond are just closed."""
    accept_backoff_seconds: float = 0.1
    """The pause after an accept that failed for want of descriptors or memory."""
    unsent_bytes: int = 128 * 1024
    """``TCP_NOTSENT_LOWAT``: a later, more urgent message waits behind no more than this."""

    # WebSocket (RFC 6455, RFC 7692).
    max_message_bytes: int = 10 * MIB
    """Received messages, after decompression; larger ones are answered with close code 1009."""
    enable_deflate: bool = True
    """Offer permessage-deflate to WebSocket clients."""
    min_deflate_bytes: int = 128
    """Smaller messages are sent uncompressed: they would hardly shrink."""
    max_deflate_bytes: int = MIB
    """Larger messages are sent uncompressed: some clients cannot inflate them."""
    ping_idle_seconds: float = 30.0
    """Silence after which a WebSocket peer is pinged."""
    pong_seconds: float = 10.0
    """How long its pong may take before the socket is closed."""
    close_seconds: float = 5.0
    """How long the close handshake waits for the peer's close frame."""

    # ASGI servers.
    max_receive_messages: int = 8
    """Messages taken from the ASGI server ahead of the handler."""
    max_delivery_seconds: float = 86_400.0
    """The age at which a streamed response ends under ASGI, where a disconnect can be hidden."""

    def __attrs_post_init__(self) -> None:
        for field in attrs.fields(type(self)):
            value = getattr(self, field.name)
            if not isinstance(value, bool) and value <= 0:
                raise ValueError(f"{field.name} must be more than 0, not {value}")
