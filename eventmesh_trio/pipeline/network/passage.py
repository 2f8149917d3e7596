"""Leave to pass through the checking proxy: credentials, counts and an end for each page."""

import base64
import binascii
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import attrs
import trio

from eventmesh_trio.errors import PageError, TooLarge

__all__ = ["Passage", "PassageStatistics", "Passages", "ProxyCounts", "ProxyLimits"]

_MAX_FAILURES: Final = 256  # remembered for one page; the oldest goes first


@attrs.frozen(kw_only=True)
class ProxyLimits:
    """What the browser's connections to the checking proxy may take.

    How long lookups and connecting take is limited under ``fetch``.
    """

    max_connections: int = attrs.field(default=512, validator=attrs.validators.gt(0))
    """From browsers, all pages together; one more is closed at once."""

    max_page_connections: int = attrs.field(default=128, validator=attrs.validators.gt(0))
    """Of one page; one more is refused, so a page of many WebSockets leaves room for others."""

    head_seconds: float = attrs.field(default=10.0, validator=attrs.validators.gt(0))
    """From a connection's first moment, or a request's first byte, to the end of the head."""

    idle_seconds: float = attrs.field(default=30.0, validator=attrs.validators.gt(0))
    """How long a connection may stand still: between requests, within one, or as a tunnel."""

    max_header_bytes: int = attrs.field(default=64 * 1024, validator=attrs.validators.gt(0))
    """Of one request's or response's head."""

    max_page_bytes: int = attrs.field(default=64 * 1024 * 1024, validator=attrs.validators.gt(0))
    """What one page may receive, with all that it loads; its connections are cut there."""


@attrs.define
class ProxyCounts:
    """What all connections of a proxy have done since it was opened."""

    requests: int = 0
    refused: int = 0
    unauthorised: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0


@attrs.frozen
class PassageStatistics:
    """Of one passage since it was opened; ``open_connections`` is of now."""

    requests: int
    refused: int
    sent_bytes: int
    received_bytes: int
    open_connections: int


@attrs.define(eq=False)
class Passage:
    """One page's leave to pass: credentials (Basic) of its own, counts of its own.

    The browser is asked for them by a 407: answer ``Fetch.authRequired`` of source ``Proxy`` with
    ``ProvideCredentials``. With a browser context for each page they never mix.
    """

    max_received_bytes: int
    max_connections: int
    username: str = attrs.field(factory=lambda: secrets.token_hex(8), init=False)
    password: str = attrs.field(factory=lambda: secrets.token_urlsafe(32), init=False, repr=False)
    _requests: int = attrs.field(default=0, init=False)
    _refused: int = attrs.field(default=0, init=False)
    _sent_bytes: int = attrs.field(default=0, init=False)
    _received_bytes: int = attrs.field(default=0, init=False)
    _failures: OrderedDict[tuple[str, int], PageError] = attrs.field(
        factory=OrderedDict, init=False, repr=False
    )
    _connections: set[trio.CancelScope] = attrs.field(factory=set, init=False, repr=False)

    def failure(self, host: str, port: int) -> PageError | None:
        """Why a target was not reached at the last try: `BlockedAddress`, `DNSError`...

        What the browser says of it (``ERR_TUNNEL_CONNECTION_FAILED``, a status 403) tells less.
        ``host`` as in `eventmesh_trio.wire.urls.URL`.
        """
        return self._failures.get((host, port))

    @property
    def is_exhausted(self) -> bool:
        """Whether the page has received as much as it may; nothing more reaches it."""
        return self._received_bytes >= self.max_received_bytes

    def statistics(self) -> PassageStatistics:
        return PassageStatistics(
            requests=self._requests,
            refused=self._refused,
            sent_bytes=self._sent_bytes,
            received_bytes=self._received_bytes,
            open_connections=len(self._connections),
        )

    # --- For the proxy's connections ------------------------------------------------------------

    def enter(self, scope: trio.CancelScope) -> bool:
        """Let a connection in that has a request of this page: its scope ends with the passage.

        False where the page has as many connections as it may.
        """
        self._requests += 1
        if scope not in self._connections and len(self._connections) >= self.max_connections:
            self._refused += 1
            return False
        self._connections.add(scope)
        return True

    def left(self, scope: trio.CancelScope) -> None:
        self._connections.discard(scope)

    def refused(self, host: str, port: int, error: PageError) -> None:
        self._refused += 1
        self._failures[host, port] = error
        self._failures.move_to_end((host, port))
        while len(self._failures) > _MAX_FAILURES:
            self._failures.popitem(last=False)

    def reached(self, host: str, port: int) -> None:
        """What went wrong with this target before is over."""
        self._failures.pop((host, port), None)

    def sent(self, nbytes: int) -> None:
        self._sent_bytes += nbytes

    def received(self, nbytes: int) -> None:
        """Count what came from an origin.

        Raises:
          TooLarge: it is more than the page may have.
        """
        self._received_bytes += nbytes
        if self._received_bytes > self.max_received_bytes:
            raise TooLarge(
                "the page loads more than it may",
                context={"limit_bytes": self.max_received_bytes},
            )

    def close(self) -> None:
        for scope in self._connections:
            scope.cancel()


class Passages:
    """The passages that are open, found by the credentials of a request."""

    def __init__(self, max_connections: int) -> None:
        self._max_connections = max_connections
        self._open: dict[str, Passage] = {}

    def __len__(self) -> int:
        return len(self._open)

    @contextmanager
    def open(self, max_received_bytes: int) -> Iterator[Passage]:
        passage = Passage(max_received_bytes, self._max_connections)
        self._open[passage.username] = passage
        try:
            yield passage
        finally:
            del self._open[passage.username]
            passage.close()

    def find(self, proxy_authorization: bytes | None) -> Passage | None:
        """Whose credentials these are (RFC 7617), if anybody's."""
        scheme, _, token = (proxy_authorization or b"").partition(b" ")
        if scheme.lower() != b"basic":
            return None
        try:
            username, _, password = base64.b64decode(token.strip(), validate=True).partition(b":")
        except binascii.Error:
            return None
        passage = self._open.get(username.decode("latin-1"))
        # The name is as good as public; only the password has to be compared in constant time.
        if passage is None or not hmac.compare_digest(passage.password.encode(), password):
            return None
        return passage
