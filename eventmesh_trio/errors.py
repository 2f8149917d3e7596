"""Every way in which this program fails, as one tree of exceptions.

Each class knows what a client is told about it: a stable ``type`` and ``code``, the HTTP ``status``
it gets before a stream has begun, whether a retry can help, whose fault it is (``category``), and
what the reader of the message can do (``suggestions``). Instances add the ``message`` and a
``context`` of plain JSON values. Nothing here imports anything of ours. One module although it is
long: it is a table, a row to each failure.
"""

from collections.abc import Iterator, Mapping
from typing import ClassVar, TypeVar

__all__ = [
    "AuthenticationError",
    "BackpressureExceeded",
    "BlockedAddress",
    "BufferOverflow",
    "CancelledByClient",
    "CircuitOpen",
    "ClientDisconnected",
    "ConfigError",
    "ConflictError",
    "ConnectionBroken",
    "DNSError",
    "DependencyError",
    "EventMeshError",
    "FetchTimeout",
    "ForbiddenError",
    "HTTPStatusError",
    "InternalError",
    "InvalidRequest",
    "LocalProtocolError",
    "MethodNotAllowed",
    "NetworkFailure",
    "NotFoundError",
    "OperationTimeout",
    "OverloadedError",
    "PageError",
    "ParseFailure",
    "PayloadTooLarge",
    "PipelineFailure",
    "ProtocolError",
    "ProxyFailure",
    "RateLimited",
    "RemoteProtocolError",
    "RenderFailure",
    "RequestError",
    "RobotsDenied",
    "StreamingError",
    "SubscriberLagged",
    "TLSFailure",
    "TooLarge",
    "TooManyRedirects",
    "UnknownCursor",
    "UnsupportedContent",
    "UnsupportedMediaType",
    "UpgradeRequired",
    "ValidationError",
    "WebSocketClosed",
    "bare",
    "leaves",
]

Error = TypeVar("Error", bound=BaseException)


class EventMeshError(Exception):
    """The root of the tree.

    Args:
      message: one sentence for the person who reads the response; no internals.
      context: plain JSON values that help to act on it.
      retry_after_seconds: how long to wait before a retry, where that is known.
    """

    type: ClassVar[str] = "internal_error"
    code: ClassVar[str] = "INTERNAL"
    status: ClassVar[int] = 500
    category: ClassVar[str] = "server"
    retryable: ClassVar[bool] = False
    suggestions: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        message: str,
        *,
        context: Mapping[str, object] | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.context: dict[str, object] = dict(context or {})
        self.retry_after_seconds = retry_after_seconds

    @property
    def error_code(self) -> str:
        """The stable word for programs; a property because some carry a number (``HTTP_404``)."""
        return self.code

    @property
    def can_retry(self) -> bool:
        """Whether the same request may succeed later (`HTTPStatusError` decides by its status)."""
        return self.retryable


class InternalError(EventMeshError):
    """A bug of ours; the message tells nothing of the inside."""

    suggestions = ("Report this with the request id",)


class ConfigError(EventMeshError):
    """A setting that is unknown, malformed or contradicts another; the message names it."""

    type = "config_error"
    code = "CONFIG"
    category = "client"


# --- A request that is refused before a stream begins (docs/wire.rst, "Errors") -----------------


class RequestError(EventMeshError):
    """The request cannot be served; the response is one JSON error object."""

    category = "client"
    status = 400


class ValidationError(RequestError):
    """A field is missing, of a wrong type, or out of range. ``field`` names it (``urls[3]``)."""

    type = "validation_error"
    code = "VALIDATION"

    def __init__(self, message: str, *, field: str | None = None, **context: object) -> None:
        super().__init__(message, context={**({"field": field} if field else {}), **context})
        self.field = field


class AuthenticationError(RequestError):
    """No valid credentials."""

    type = "authentication_error"
    code = "AUTHENTICATION"
    status = 401


class ForbiddenError(RequestError):
    """Understood and refused: what a page of an ``Origin`` asks that is not allowed."""

    type = "forbidden"
    code = "FORBIDDEN"
    status = 403


class NotFoundError(RequestError):
    """No such path, session or run."""

    type = "not_found"
    code = "NOT_FOUND"
    status = 404


class MethodNotAllowed(RequestError):
    """The path exists, the method does not; ``allow`` is the ``Allow`` field's value."""

    type = "method_not_allowed"
    code = "METHOD_NOT_ALLOWED"
    status = 405

    def __init__(self, method: str, allow: str) -> None:
        super().__init__(
            f"{method} is not allowed here; allowed: {allow}", context={"allow": allow}
        )
        self.allow = allow


class ConflictError(RequestError):
    """The session has a live run already."""

    type = "conflict"
    code = "CONFLICT"
    status = 409


class PayloadTooLarge(RequestError):
    """The request body is over its limit."""

    type = "payload_too_large"
    code = "PAYLOAD_TOO_LARGE"
    status = 413


class UnsupportedMediaType(RequestError):
    """The body is not JSON by its ``Content-Type``, or is coded by its ``Content-Encoding``.

    ``accept_encoding``: the codings that are taken, where it was the coding (RFC 9110, 15.5.16).
    """

    type = "unsupported_media_type"
    code = "UNSUPPORTED_MEDIA_TYPE"
    status = 415

    def __init__(
        self,
        message: str,
        *,
        accept_encoding: str | None = None,
        context: Mapping[str, object] | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message, context=context, retry_after_seconds=retry_after_seconds)
        self.accept_encoding = accept_encoding


class UpgradeRequired(RequestError):
    """A plain GET on the WebSocket route."""

    type = "upgrade_required"
    code = "UPGRADE_REQUIRED"
    status = 426


class RateLimited(RequestError):
    """Too many from this client; come back after ``retry_after_seconds``."""

    type = "rate_limited"
    code = "TemporaryFailure"
    status = 429
    retryable = True


class OverloadedError(RequestError):
    """The server is full or draining; come back after ``retry_after_seconds``."""

    type = "overloaded"
    code = "TemporaryFailure"
    status = 503
    category = "server"
    retryable = True


class DependencyError(RequestError):
    """Something that this request needs (a search provider, a browser) cannot serve now."""

    type = "dependency_error"
    code = "TemporaryFailure"
    status = 503
    category = "server"
    retryable = True


# --- One URL that failed; the run goes on (``result.error``) --------------------------------------


class PageError(EventMeshError):
    """Why one URL has no document."""

    category = "network"


class FetchTimeout(PageError):
    """The URL's time was up, retries included; or one of the shorter limits inside it."""

    type = "timeout"
    code = "NET_TIMEOUT"
    retryable = True
    suggestions = (
        "Retry with a longer timeout",
        "Check that the site answers",
        "Lower the concurrency",
    )


class NetworkFailure(PageError):
    """The connection was refused, reset, or ended before the response did."""

    type = "network_error"
    code = "NET_FAILED"
    retryable = True
    suggestions = ("Check network connectivity", "Verify that the URL is reachable", "Retry later")


class ProxyFailure(NetworkFailure):
    """The outgoing proxy could not be used: nothing is said by that about the origin."""

    code = "NET_PROXY"
    suggestions = (
        "Check the server's outgoing proxy",
        "Check that it allows connections to this URL's host and port",
        "Retry later",
    )


class DNSError(PageError):
    """The name has no address, or its name server did not answer."""

    type = "dns_error"
    code = "NET_DNS"
    retryable = True
    suggestions = ("Check the spelling of the host name", "Retry later")


class TLSFailure(PageError):
    """The certificate or the handshake was not acceptable."""

    type = "tls_error"
    code = "NET_TLS"
    suggestions = ("Check the site's certificate",)


class HTTPStatusError(PageError):
    """The origin answered with 400 or more (or a redirect that leads nowhere)."""

    type = "http_error"
    code = "HTTP"
    category = "origin"
    suggestions = (
        "Verify that the URL is right",
        "Check whether the page needs a login",
        "Retry later if the error says that it may help",
    )

    def __init__(self, http_status: int, **context: object) -> None:
        super().__init__(f"the origin answered with HTTP status {http_status}", context=context)
        self.http_status = http_status

    @property
    def error_code(self) -> str:
        return f"HTTP_{self.http_status}"

    @property
    def can_retry(self) -> bool:
        return self.http_status in (408, 425, 429, 500, 502, 503, 504)


class TooLarge(PageError):
    """The body is over the limit, compressed or decompressed."""

    type = "too_large"
    code = "BODY_TOO_LARGE"
    category = "content"
    suggestions = ("Raise the body limit of the server",)


class UnsupportedContent(PageError):
    """The content type or coding is not one that we read."""

    type = "unsupported_content"
    code = "UNSUPPORTED_CONTENT"
    category = "content"
    suggestions = ("Fetch this file with another tool",)


class BlockedAddress(PageError):
    """The address is not public. The message tells nothing about what lies behind the name."""

    type = "blocked_address"
    code = "BLOCKED_ADDRESS"
    category = "policy"
    suggestions = ("Only public addresses are fetched; the operator can allow a network",)


class RobotsDenied(PageError):
    """The site's robots.txt does not allow this URL."""

    type = "robots_denied"
    code = "ROBOTS_DENIED"
    category = "policy"
    suggestions = (
        "Ask the site's owner for permission",
        "Set respect_robots to false where you may",
    )


class TooManyRedirects(PageError):
    """A redirect loop, or more hops than allowed."""

    type = "too_many_redirects"
    code = "TOO_MANY_REDIRECTS"
    category = "origin"
    suggestions = ("Open the URL in a browser to see where it leads",)


class ParseFailure(PageError):
    """The page could not be parsed or extracted within its limits."""

    type = "parse_error"
    code = "PARSE_FAILED"
    category = "pipeline"
    suggestions = ("Try extract_mode raw",)


class RenderFailure(PageError):
    """The browser could not render the page."""

    type = "render_error"
    code = "RENDER_FAILED"
    category = "pipeline"
    retryable = True
    suggestions = ("Try render_mode static", "Retry later")


class CircuitOpen(PageError):
    """The origin failed so often that it is left alone for a while."""

    type = "circuit_open"
    code = "CIRCUIT_OPEN"
    category = "origin"
    retryable = True
    suggestions = ("Retry after the time given",)


class CancelledByClient(PageError):
    """The run was cancelled before this URL had a result."""

    type = "cancelled"
    code = "CANCELLED"
    category = "client"
    suggestions = ("Crawl this URL again",)


# --- The stream's own failures (``StreamingError`` of streaming-api.md) --------------------------


class StreamingError(EventMeshError):
    """A stream could not go on."""

    category = "server"


class BufferOverflow(StreamingError):
    """A reader with the ``disconnect`` strategy fell behind its window."""

    type = "buffer_overflow"
    code = "BUFFER_OVERFLOW"
    retryable = True
    suggestions = ("Reconnect with the last event id", "Ask for a larger X-Buffer-Size")


class ConnectionBroken(StreamingError):
    """The connection to the client failed while it was written to."""

    type = "connection_error"
    code = "CONNECTION"
    retryable = True
    suggestions = ("Reconnect with the last event id",)


class BackpressureExceeded(StreamingError):
    """A lossless reader stood still longer than ``stall_seconds``; it can resume by its last id."""

    type = "backpressure_exceeded"
    code = "BACKPRESSURE"
    category = "client"
    suggestions = ("Reconnect with the last event id and read faster",)


class ClientDisconnected(StreamingError):
    """The client went away."""

    type = "client_disconnected"
    code = "CLIENT_DISCONNECTED"
    category = "client"
    suggestions = ("Reconnect with the last event id",)


class PipelineFailure(StreamingError):
    """The run itself failed: a bug of ours, contained in this run."""

    type = "internal_error"
    code = "PIPELINE"
    category = "pipeline"
    retryable = True
    suggestions = ("Start the run again", "Report this with the request id")


class InvalidRequest(StreamingError):
    """A command on a WebSocket that cannot be obeyed; the socket stays open."""

    type = "validation_error"
    code = "INVALID_REQUEST"
    category = "client"
    status = 400
    suggestions = ("Correct the command as its message says",)


class OperationTimeout(StreamingError):
    """The run's own time limit ended it."""

    type = "timeout"
    code = "RUN_TIMEOUT"
    retryable = True
    suggestions = ("Raise run_timeout_seconds", "Crawl fewer URLs in one run")


class SubscriberLagged(StreamingError):
    """A subscriber was evicted while it waited; nobody's fault, and it can resume."""

    type = "subscriber_lagged"
    code = "SUBSCRIBER_LAGGED"
    category = "client"
    retryable = True
    suggestions = ("Reconnect with the last event id and read faster",)


class UnknownCursor(StreamingError):
    """A last event id that is malformed or of another log; the reader gets a ``gap``."""

    type = "unknown_cursor"
    code = "UNKNOWN_CURSOR"
    category = "client"
    suggestions = ("Attach without a cursor to read from the start of the run",)


# --- Protocol errors, in h11's sense -----------------------------------------------------------


class ProtocolError(EventMeshError):
    """Bytes or calls that the protocol does not allow."""


class LocalProtocolError(ProtocolError):
    """Our own code broke the protocol: a bug."""

    type = "local_protocol_error"
    code = "LOCAL_PROTOCOL"


class RemoteProtocolError(ProtocolError):
    """The peer broke the protocol; ``status_hint`` is the response it deserves."""

    type = "protocol_error"
    code = "PROTOCOL"
    category = "client"

    def __init__(self, message: str, *, status_hint: int = 400) -> None:
        super().__init__(message)
        self.status_hint = status_hint


class WebSocketClosed(EventMeshError):
    """The WebSocket is closed, by either side (RFC 6455, section 7.1.5 and 7.4).

    ``code`` 1005 means that the close frame had none, 1006 that the connection ended without one.
    """

    type = "websocket_closed"
    category = "client"

    def __init__(self, close_code: int, reason: str = "") -> None:
        super().__init__(f"the WebSocket is closed with code {close_code} {reason}".rstrip())
        self.close_code = close_code
        self.reason = reason


# --- What is done with them -----------------------------------------------------------------------


def bare(error: Error) -> Error:
    """Let an error that is kept as data go of its traceback and causes; the error itself.

    The frames of these hold everything that was at work, often the error too. All of that, and
    perhaps a session's log, would stay until the collector of cyclic garbage comes.
    """
    error.__cause__ = error.__context__ = error.__traceback__ = None
    return error


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The exceptions in a group, in order and however deep; of an exception alone, itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error
