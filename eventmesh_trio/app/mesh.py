"""`Mesh`: all that a program has of us: sessions, runs, their end, health and statistics."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final
from weakref import WeakKeyDictionary

import attrs
import structlog
import trio

from eventmesh_trio.abc import Job, SearchProvider
from eventmesh_trio.app.admission import Admission
from eventmesh_trio.app.config import Config
from eventmesh_trio.app.embedded import EmbeddedStream, embedded_spec
from eventmesh_trio.app.health import health, stats
from eventmesh_trio.app.observability import Metrics
from eventmesh_trio.errors import StreamingError, bare
from eventmesh_trio.mesh.flow import Track
from eventmesh_trio.mesh.global_metrics import GlobalStreamingMetrics
from eventmesh_trio.mesh.hub import Hub
from eventmesh_trio.mesh.observers import LifecycleChannel, Loss
from eventmesh_trio.mesh.reader import ReaderSpec
from eventmesh_trio.mesh.run import Run
from eventmesh_trio.mesh.session import Session
from eventmesh_trio.mesh.subscriber import Subscriber
from eventmesh_trio.pipeline.caching.cache import DocumentCache
from eventmesh_trio.pipeline.crawl import CrawlJob, CrawlPorts
from eventmesh_trio.pipeline.deepsearch import DeepSearchJob, FirstAnswer
from eventmesh_trio.transport.drain import Drain
from eventmesh_trio.wire.dialects import Dialect
from eventmesh_trio.wire.identifiers import new_identifier
from eventmesh_trio.wire.requests import (
    CrawlOptions,
    CrawlRequest,
    DeepSearchRequest,
    parse_crawl_request,
    parse_deepsearch_request,
)

__all__ = ["Mesh"]

_log: Final = structlog.get_logger("eventmesh_trio.app")


@attrs.define(eq=False)
class Mesh:
    """What handlers, the socket and embedders share. Made by `lifespan.open_mesh`."""

    config: Config
    hub: Hub
    ports: CrawlPorts
    cache: DocumentCache
    metrics: Metrics
    search: SearchProvider
    dialects: WeakKeyDictionary[Track, Dialect] = attrs.field(factory=WeakKeyDictionary)
    """In which a socket asked for a run, for as long as its events are kept."""
    answers: WeakKeyDictionary[Run, FirstAnswer] = attrs.field(factory=WeakKeyDictionary)
    """Of the deep searches: whether their provider has served."""
    service: Drain = attrs.field(factory=Drain, init=False)
    """Counts what is served now, and begins its end; shared with the transport."""
    admission: Admission = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.admission = Admission(
            self.config.stream.general,
            self.service,
            self.config.server.trusted_proxies,
            self.metrics.refusal,
        )
        self.hub.on_refusal = self.metrics.refusal

    # --- Runs -------------------------------------------------------------------------------

    def read_request(self, body: Any) -> CrawlRequest:
        """A crawl's decoded JSON body; raises `ValidationError`, naming its member."""
        return parse_crawl_request(
            body,
            max_urls=self.config.server.max_urls,
            concurrency=self.config.crawl.concurrency,
        )

    def read_search(self, body: Any) -> DeepSearchRequest:
        """A deep search's decoded JSON body; raises `ValidationError`, naming its member."""
        request = parse_deepsearch_request(body, concurrency=self.config.crawl.concurrency)
        self.search.check(request.query)
        return request

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
          OverloadedError: the server has as many live runs as it may, or is draining.
        """
        self.admission.require_serving()
        job = CrawlJob(
            request,
            session_id=session.session_id,
            request_id=request_id,
            ports=self.ports,
            limits=self.config.crawl,
        )
        return self._start(
            session, job, request.options, request_id, reader, idempotency_key, fingerprint
        )

    def start_search(
        self,
        session: Session,
        request: DeepSearchRequest,
        *,
        request_id: str,
        reader: ReaderSpec | None,
        idempotency_key: str | None = None,
        fingerprint: str | None = None,
    ) -> tuple[Run, Subscriber | None]:
        """Start a deep search, as `start_crawl`; `wait_answer` tells whether it can be served."""
        self.admission.require_serving()
        job = DeepSearchJob(
            request,
            session_id=session.session_id,
            request_id=request_id,
            provider=self.search,
            ports=self.ports,
            limits=self.config.crawl,
        )
        run, subscriber = self._start(
            session, job, request.crawl_options, request_id, reader, idempotency_key, fingerprint
        )
        self.answers[run] = job.first_answer
        return run, subscriber

    async def wait_answer(self, run: Run) -> None:
        """Wait until a deep search has its provider's answer, at most ``answer_wait_seconds``.

        A failure after that is told by the run's events. Any other run need not be waited for.

        Raises:
          DependencyError: the provider could not serve. The run has ended, and a request with its
            idempotency key begins another.
        """
        await trio.lowlevel.checkpoint()
        answer = self.answers.get(run)
        if answer is None:
            return
        failure = None
        with trio.move_on_after(self.config.search.answer_wait_seconds):
            failure = await answer.wait()
        if failure is not None:
            run.idempotency_key = None
            raise bare(failure)

    def _start(
        self,
        session: Session,
        job: Job,
        options: CrawlOptions,
        request_id: str,
        reader: ReaderSpec | None,
        idempotency_key: str | None,
        fingerprint: str | None,
    ) -> tuple[Run, Subscriber | None]:
        return self.hub.start_run(
            session,
            job,
            request_id=request_id,
            timeout_seconds=options.run_timeout_seconds,
            reader=reader,
            held_capacity=self.config.stream.buffer.default_events,
            idempotency_key=idempotency_key,
            fingerprint=fingerprint,
        )

    @asynccontextmanager
    async def crawl(self, urls: Sequence[str], **options: Any) -> AsyncIterator[EmbeddedStream]:
        """Crawl within this program: ``async with mesh.crawl(urls, concurrency=3) as stream``.

        Leaving the block before the summary cancels the run.

        Args:
          options: as in the ``options`` object of ``docs/wire.rst``.
        Raises:
          ValidationError: naming the URL or option that cannot be.
        """
        request = self.read_request({"urls": list(urls), "options": options})
        session = self.hub.open_session(None)
        request_id = new_identifier("req")
        spec = embedded_spec(self.config.stream, request_id)
        run, subscriber = self.start_crawl(session, request, request_id=request_id, reader=spec)
        assert subscriber is not None, "a run with a reader has a subscriber"
        try:
            yield EmbeddedStream(run, subscriber)
        finally:
            subscriber.close()  # an unnamed session without readers is cancelled at once

    @asynccontextmanager
    async def deepsearch(
        self,
        query: str,
        *,
        limit: int = 10,
        include_content: bool = True,
        country: str | None = None,
        locale: str | None = None,
        **crawl_options: Any,
    ) -> AsyncIterator[EmbeddedStream]:
        """Search and crawl within this program: ``async with mesh.deepsearch("...") as stream``.

        Entering waits for the provider's answer; leaving is as with `crawl`.

        Args:
          crawl_options: as in the ``options`` object of ``docs/wire.rst``.
        Raises:
          DependencyError: the provider cannot serve.
          ValidationError: naming the argument that cannot be.
        """
        request = self.read_search(
            {
                "query": query,
                "limit": limit,
                "include_content": include_content,
                "country": country,
                "locale": locale,
                "crawl_options": crawl_options,
            }
        )
        session = self.hub.open_session(None)
        request_id = new_identifier("req")
        spec = embedded_spec(self.config.stream, request_id)
        run, subscriber = self.start_search(session, request, request_id=request_id, reader=spec)
        assert subscriber is not None, "a run with a reader has a subscriber"
        try:
            await self.wait_answer(run)
            yield EmbeddedStream(run, subscriber)
        finally:
            subscriber.close()  # an unnamed session without readers is cancelled at once

    # --- Draining ---------------------------------------------------------------------------

    @property
    def is_draining(self) -> bool:
        """Whether new runs and WebSockets are refused."""
        return self.service.begun

    async def drain(self) -> None:
        """Refuse new runs and end the live ones, each with its summary (``reason: "shutdown"``).

        Readers that never end by themselves end when everything was written to them.
        Cancelled: the runs are ending all the same.
        """
        self._refuse_new()
        await self.hub.drain("shutdown")

    async def end_service(self) -> bool:
        """End everything that is served, in order; whether all of it came to its own end.

        New runs are refused at once. Live ones may go on for ``server.finish_seconds``, and are
        then cancelled, each with its summary; what is still served ``server.drain_seconds`` after
        that is left for the caller to cut.
        Cancelled: to be cut at once.
        """
        server, began = self.config.server, trio.current_time()
        streams, runs = self.admission.streams, self.hub.census.snapshot().active_runs
        _log.info("draining", streams=streams, runs=runs)
        self._refuse_new()
        with trio.move_on_after(server.finish_seconds):
            await self.hub.wait_idle()
        with trio.move_on_after(server.drain_seconds) as scope:
            await self.drain()
            self.service.begin()  # from here on nobody need be told: stop accepting
            await self.service.wait_empty()
        cut = self.service.connections if scope.cancelled_caught else 0
        _log.info("drained", seconds=round(trio.current_time() - began, 3), cut=cut)
        return not scope.cancelled_caught

    def _refuse_new(self) -> None:
        self.service.begin(accepting=True)
        for session in self.hub.sessions.values():
            for reader in session.subscribers:
                reader.end_when_idle()

    # --- Health and statistics ----------------------------------------------------------------

    def open_lifecycle(
        self,
        *,
        capacity: int = 1024,
        overflow: Loss = "drop_oldest",
        progress_interval_seconds: float = 0.05,
    ) -> LifecycleChannel:
        """Watch connections and runs: ``async with mesh.open_lifecycle() as channel``, and iterate.

        Told is what happens from this call on. The channel ends when the mesh does.

        Args:
          capacity: the events that may wait; one more, and one is lost and counted.
          overflow: which one: the oldest that waits, or the new one.
          progress_interval_seconds: the least time between two progress updates of one run.
        """
        return self.hub.open_lifecycle(
            capacity=capacity,
            overflow=overflow,
            progress_interval_seconds=progress_interval_seconds,
        )

    def statistics(self) -> GlobalStreamingMetrics:
        """The whole of it at this moment: connections, runs, events, health."""
        return self.hub.census.snapshot()

    def health(self) -> dict[str, Any]:
        """The whole picture, for ``/healthz``."""
        return health(self.hub, self.cache.statistics().store, draining=self.is_draining)

    async def stats(self) -> dict[str, Any]:
        """What ``/metrics`` tells, as JSON. A checkpoint."""
        return await stats(self.hub, self.cache.statistics(), self.metrics)

    # --- What delivery tells ----------------------------------------------------------------

    def observe_first_byte(self, subscriber: Subscriber, protocol: str, seconds: float) -> None:
        """Note a stream's time to first byte, for its own summary and for ``/metrics``."""
        subscriber.first_byte(seconds * 1000)
        self.metrics.first_byte(protocol, seconds)

    def note_eviction(self, error: StreamingError) -> None:
        self.metrics.eviction(error.type)
