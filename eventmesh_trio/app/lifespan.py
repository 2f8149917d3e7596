"""Everything that lives as long as the program: opened in one place, closed in reverse order.

`open_mesh` is also the door for embedding: no sockets are needed to crawl and to follow a run.
"""

import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from math import inf
from typing import Any
from weakref import WeakKeyDictionary

import attrs
import trio

from eventmesh_trio import __version__
from eventmesh_trio.abc import Encoder
from eventmesh_trio.app.config import Config
from eventmesh_trio.app.observability import Metrics
from eventmesh_trio.errors import StreamingError
from eventmesh_trio.mesh.hub import Hub, open_hub
from eventmesh_trio.mesh.reader import ReaderSpec, Until
from eventmesh_trio.mesh.run import Run
from eventmesh_trio.mesh.session import Session
from eventmesh_trio.mesh.subscriber import Subscriber
from eventmesh_trio.pipeline.cache import MemoryCache
from eventmesh_trio.pipeline.crawl import CrawlJob, CrawlPorts
from eventmesh_trio.pipeline.fetch import open_fetcher
from eventmesh_trio.pipeline.guard import AddressPolicy
from eventmesh_trio.pipeline.politeness import Politeness
from eventmesh_trio.pipeline.workers import open_extractor
from eventmesh_trio.wire.dialects import Dialect
from eventmesh_trio.wire.encoders import HTTPEncoder
from eventmesh_trio.wire.events import Event
from eventmesh_trio.wire.headers import ReaderWishes
from eventmesh_trio.wire.requests import CrawlRequest, parse_crawl_request

__all__ = ["EmbeddedStream", "Mesh", "open_mesh"]


@asynccontextmanager
async def open_mesh(config: Config | None = None) -> AsyncIterator["Mesh"]:
    """Open the hub and the pipeline's ports.

    Leaving the block cancels every run and waits for its tasks, connections and worker processes,
    each wait bounded. Under trio, in any task; no signals are touched.

    Args:
      config: all defaults where None; `load_config` reads one from a file and the environment.
    """
    config = config or Config()
    policy = AddressPolicy(allow_private=config.fetch.allow_private)
    async with (
        open_fetcher(config.fetch, policy, user_agent=config.fetch.user_agent) as fetcher,
        open_extractor(config.workers) as extractor,
    ):
        cache = MemoryCache(config.cache)
        ports = CrawlPorts(
            fetcher=fetcher,
            extractor=extractor,
            cache=cache,
            politeness=Politeness(fetcher, config.politeness),
        )
        async with open_hub(config.mesh) as hub:
            mesh = Mesh(config, hub, ports, cache)
            yield mesh
            await mesh.drain()


@attrs.define(eq=False)
class Mesh:
    """What handlers, the socket and embedders share. Made by `open_mesh`."""

    config: Config
    hub: Hub
    ports: CrawlPorts
    cache: MemoryCache
    metrics: Metrics = attrs.field(init=False)
    dialects: WeakKeyDictionary[Run, Dialect] = attrs.field(factory=WeakKeyDictionary)
    is_draining: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self.metrics = Metrics(self.hub, self.cache)

    # --- Runs -------------------------------------------------------------------------------

    def start_crawl(
        self,
        session: Session,
        request: CrawlRequest,
        *,
        request_id: str,
        reader: ReaderSpec | None,
        idempotency_key: str | None = None,
        fingerprint: str | None = None,
    ) -> tuple[Run, Subscriber | None]:
        """Start a crawl in a session, and its first reader with it; synchronous.

        Raises:
          ConflictError: the session has a live run of that id.
        """
        job = CrawlJob(
            request,
            session_id=session.session_id,
            request_id=request_id,
            ports=self.ports,
            limits=self.config.crawl,
        )
        return self.hub.start_run(
            session,
            job,
            request_id=request_id,
            timeout_seconds=request.options.run_timeout_seconds,
            reader=reader,
            idempotency_key=idempotency_key,
            fingerprint=fingerprint,
        )

    def reader_spec(
        self,
        wishes: ReaderWishes,
        *,
        encoder_for: Callable[[str | None], Encoder],
        until: Until,
        connection_id: str,
        request_id: str | None = None,
    ) -> ReaderSpec:
        """What a reader's wishes and the settings make of it."""
        window = self.config.stream.window
        return ReaderSpec(
            encoder_for=encoder_for,
            capacity=wishes.buffer_size,
            min_capacity=window.min_events,
            max_capacity=window.max_events,
            adaptive=wishes.enable_backpressure,
            slow_client_threshold_ms=wishes.slow_client_threshold_ms,
            buffer_timeout_ms=wishes.buffer_timeout_ms,
            batch_bytes=wishes.max_memory_bytes,
            heartbeat_seconds=inf if until == "never" else self.config.stream.heartbeat_seconds,
            flush_interval_seconds=self.config.stream.flush_interval_milliseconds / 1000,
            system_status=until != "never",
            until=until,
            request_id=request_id,
            connection_id=connection_id,
        )

    @asynccontextmanager
    async def crawl(self, urls: Sequence[str], **options: Any) -> AsyncIterator["EmbeddedStream"]:
        """Crawl within this program: ``async with mesh.crawl(urls, concurrency=3) as stream``.

        Leaving the block before the summary cancels the run.

        Args:
          options: as in the ``options`` object of WIRE.md, section 2.
        Raises:
          ValidationError: naming the URL or option that cannot be.
        """
        body = {"urls": list(urls), "options": options}
        request = parse_crawl_request(body, max_urls=self.config.server.max_urls)
        session = self.hub.open_session(None)
        request_id = f"req-{uuid.uuid4()}"
        encoder = HTTPEncoder("ndjson")
        spec = self.reader_spec(
            ReaderWishes(),
            encoder_for=lambda _: encoder,
            until="run",
            request_id=request_id,
            connection_id="embedded",
        )
        run, subscriber = self.start_crawl(session, request, request_id=request_id, reader=spec)
        assert subscriber is not None, "a run with a reader has a subscriber"
        try:
            yield EmbeddedStream(run, subscriber)
        finally:
            subscriber.close()  # an unnamed session without readers is cancelled at once

    # --- Draining ---------------------------------------------------------------------------

    async def drain(self) -> None:
        """Refuse new runs and end the live ones, each with its summary (``reason: "shutdown"``).

        Readers that never end by themselves end when everything was written to them.
        Cancelled: the runs are ending all the same.
        """
        self.is_draining = True
        for session in self.hub.sessions.values():
            for reader in session.subscribers:
                reader.end_when_idle()
        await self.hub.drain("shutdown")

    # --- Health and statistics ----------------------------------------------------------------

    def health(self) -> dict[str, Any]:
        """The whole picture, for ``/healthz``."""
        return {
            "status": "draining" if self.is_draining else self.hub.census.health,
            "version": __version__,
            "server_health": self.hub.census.server_health(),
            "sessions": len(self.hub.sessions),
        }

    def stats(self) -> dict[str, Any]:
        """What ``/metrics`` tells, as JSON."""
        snapshot = self.hub.census.snapshot()
        return {
            "streaming": {**attrs.asdict(snapshot), "efficiency": snapshot.efficiency()},
            "sessions": len(self.hub.sessions),
            "metrics": self.metrics.samples(),
            "cache": {
                **attrs.asdict(self.cache.statistics()),
                "hit_rate": self.cache.statistics().hit_rate,
            },
        }

    # --- What delivery tells ----------------------------------------------------------------

    def observe_first_byte(self, subscriber: Subscriber, protocol: str, seconds: float) -> None:
        """Note a stream's time to first byte, for its own summary and for ``/metrics``."""
        subscriber.first_byte(seconds * 1000)
        self.metrics.first_byte(protocol, seconds)

    def note_eviction(self, error: StreamingError) -> None:
        self.metrics.eviction(error.type)


@attrs.frozen
class EmbeddedStream:
    """A run's events, in order; the summary is the last. Iterate it once."""

    run: Run
    subscriber: Subscriber

    def pause(self) -> None:
        """Stop the work; pages in flight are fetched again after `resume`, none is lost."""
        self.run.pause()

    def resume(self) -> None:
        self.run.resume()

    async def cancel(self) -> None:
        """Cancel the run (a checkpoint); its summary still comes."""
        self.run.cancel()
        await trio.lowlevel.checkpoint()

    def __aiter__(self) -> "EmbeddedStream":
        return self

    async def __anext__(self) -> Event:
        try:
            return await self.subscriber.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None
