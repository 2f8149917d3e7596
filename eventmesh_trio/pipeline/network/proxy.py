"""The browser's way to the network: an HTTP proxy on loopback that judges every target.

What a page's scripts ask for is seen by nobody but the browser, and a filter over URLs sees no
addresses. So the browser is given no other way out than this: absolute-form requests and CONNECT
(RFC 9112, section 3.2.2; RFC 9110, section 9.3.6), each resolved, judged and dialled as our own
fetches are, by `GuardedBackend.dial`. Who has no passage (`open_passage`) is not let through, so
that no other user of the machine gets a relay.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from functools import partial
from typing import Final

import attrs
import structlog
import trio

from eventmesh_trio.pipeline.network.dial import GuardedBackend
from eventmesh_trio.pipeline.network.passage import (
    Passage,
    Passages,
    PassageStatistics,
    ProxyCounts,
    ProxyLimits,
)
from eventmesh_trio.pipeline.network.proxy_connection import ProxyConnection

__all__ = [
    "CheckingProxy",
    "Passage",
    "PassageStatistics",
    "ProxyLimits",
    "ProxyStatistics",
    "open_proxy",
]

_log: Final = structlog.get_logger(__name__)
_BACKLOG: Final = 128


@attrs.frozen
class ProxyStatistics:
    """Of one proxy since it was opened; ``open_connections`` and ``passages`` are of now."""

    requests: int
    refused: int
    unauthorised: int
    sent_bytes: int
    received_bytes: int
    open_connections: int
    passages: int


@asynccontextmanager
async def open_proxy(
    backend: GuardedBackend, limits: ProxyLimits | None = None
) -> AsyncIterator["CheckingProxy"]:
    """Listen on a free port of 127.0.0.1; all connections end with the block, at once.

    Args:
      backend: resolves, judges and dials; `HTTPFetcher.backend` is that of a fetcher.
    """
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=_BACKLOG)
    proxy = CheckingProxy(listeners[0].socket.getsockname()[1], backend, limits or ProxyLimits())
    async with trio.open_nursery() as nursery:
        # `serve_listeners` closes them, and outlasts a shortage of descriptors.
        await nursery.start(partial(trio.serve_listeners, proxy.serve, listeners))
        try:
            yield proxy
        finally:
            nursery.cancel_scope.cancel()


class CheckingProxy:
    """Made by `open_proxy`. Without the credentials of an open passage it does nothing.

    Attributes:
      port: where it listens, on 127.0.0.1.
    """

    def __init__(self, port: int, backend: GuardedBackend, limits: ProxyLimits) -> None:
        self.port = port
        self._backend = backend
        self._limits = limits
        self._passages = Passages(limits.max_page_connections)
        self._counts = ProxyCounts()
        self._closed_ports = {port}
        self._open_connections = 0

    @property
    def address(self) -> str:
        """As ``Target.createBrowserContext`` wants it for its ``proxyServer``."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def bypass_list(self) -> str:
        """For ``proxyBypassList``: Chromium sends loopback past every proxy unless told not to."""
        return "<-loopback>"

    @property
    def browser_arguments(self) -> tuple[str, ...]:
        """What Chromium has to be started with, so that nothing of it takes another way."""
        return (
            f"--proxy-server={self.address}",
            f"--proxy-bypass-list={self.bypass_list}",
            # No lookup but ours. The rule holds for addresses too, that of the proxy included.
            "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
            "--dns-prefetch-disable",
            # UDP knows no such proxy.
            "--disable-quic",
            "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
        )

    def close_port(self, port: int) -> None:
        """Let no page reach this port, on any host: what listens here is not for pages.

        For the browser's own debugging port, where the policy allows loopback. The proxy's is
        closed from the start.
        """
        self._closed_ports.add(port)

    def open_passage(
        self, *, max_received_bytes: int | None = None
    ) -> AbstractContextManager[Passage]:
        """Let one page through; its connections are closed with the block.

        Args:
          max_received_bytes: of all its responses together, where not ``limits.max_page_bytes``.
        """
        return self._passages.open(max_received_bytes or self._limits.max_page_bytes)

    def statistics(self) -> ProxyStatistics:
        return ProxyStatistics(
            **attrs.asdict(self._counts),
            open_connections=self._open_connections,
            passages=len(self._passages),
        )

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Serve one connection of a browser; whatever happens in it ends no other."""
        if self._open_connections >= self._limits.max_connections:
            await trio.aclose_forcefully(stream)
            return
        self._open_connections += 1
        try:
            await ProxyConnection(
                stream=stream,
                backend=self._backend,
                limits=self._limits,
                passages=self._passages,
                counts=self._counts,
                closed_ports=self._closed_ports,
            ).run()
        except* Exception as group:
            _log.error("a connection of the checking proxy failed", exc_info=group)
        finally:
            self._open_connections -= 1
