"""Our server with a synthetic job in place of the crawl: all else is the product.

Routes, handlers, hub, log, subscriber, encoder, delivery and transport are those of ``eventmesh
serve``, with their default limits; only what a crawl would fetch is made up.

``python -m benchmarks.ours PORT [PROFILE]``: a POST of ``{"urls": ["http://bench/?n=5000"]}``
streams 5,000 results. Further words of the query: ``size=200``, the bytes of an event; ``idle``, it
falls silent after ``start``; ``readers=50``, it begins when the session has so many; ``lossy``,
those lose events instead of holding up the run, which no field of a request asks for, but an
embedder may (`ReaderSpec.strategy`).
"""

import os
import sys
import time
from collections.abc import Sequence
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

import attrs
import trio

from benchmarks.synthetic import MAKERS, MEDIUM
from eventmesh_trio.abc import JobCounts, Publisher
from eventmesh_trio.app.dispatch import Application
from eventmesh_trio.app.lifespan import Mesh, open_mesh
from eventmesh_trio.app.loading import load_config
from eventmesh_trio.app.process import settle_process
from eventmesh_trio.errors import EventMeshError
from eventmesh_trio.mesh.reader import OverflowStrategy, ReaderSpec
from eventmesh_trio.mesh.run import Run
from eventmesh_trio.mesh.session import Session
from eventmesh_trio.mesh.subscriber import Subscriber
from eventmesh_trio.pipeline.report import summary_event
from eventmesh_trio.pipeline.tally import Tally
from eventmesh_trio.transport.listeners import open_listeners, parse_bind, serve_listeners
from eventmesh_trio.wire.events import Event, Gap, Metadata, Progress, RunStatus, Start
from eventmesh_trio.wire.requests import CrawlRequest
from eventmesh_trio.wire.timestamps import utc_timestamp


@attrs.frozen
class Wishes:
    """What the query of a request's one URL asks for."""

    total: int
    size: int
    idle: bool
    readers: int
    lossy: bool

    @classmethod
    def read(cls, url: str) -> "Wishes":
        query = parse_qs(urlsplit(url).query, keep_blank_values=True)
        return cls(
            total=int(query["n"][0]),
            size=int(query.get("size", [str(MEDIUM)])[0]),
            idle="idle" in query,
            readers=int(query.get("readers", ["0"])[0]),
            lossy="lossy" in query,
        )


class SyntheticJob:
    """So many events, each with all its structs built anew, as the peers build their dicts."""

    kind: Literal["crawl", "deepsearch"] = "crawl"

    def __init__(self, wishes: Wishes, session: Session, request_id: str) -> None:
        self.total = wishes.total
        self._make = MAKERS[wishes.size]
        self._idle = wishes.idle
        self._complete = _prepare_session(session, wishes)
        self._session_id = session.session_id
        self._request_id = request_id
        self._tally = Tally(wishes.total)
        self._started = trio.current_time()

    @property
    def done(self) -> bool:
        return not self._idle and self._tally.completed == self.total

    @property
    def counts(self) -> JobCounts:
        return self._tally.counts

    def opening(self) -> Sequence[Event]:
        names: dict[str, Any] = {
            "timestamp": utc_timestamp(time.time()),
            "request_id": self._request_id,
            "session_id": self._session_id,
            "total_urls": self.total,
        }
        return Metadata(**names, stream_type="crawl"), Start(**names, options={})

    async def work(self, publisher: Publisher) -> None:
        await self._complete.wait()
        for index in range(self._tally.completed, self.total):
            if not publisher.has_room():
                await publisher.wait_room()
            self._tally.successful = index + 1
            publisher.publish(self._make(index, self.total, self._request_id))
        if self._idle:
            await trio.sleep_forever()

    def progress(self) -> Progress:
        elapsed = trio.current_time() - self._started
        return Progress(
            timestamp=utc_timestamp(time.time()),
            request_id=self._request_id,
            completed=self._tally.completed,
            total=self.total,
            current_url=None,
            url=None,
            phase="publish",
            estimated_completion=None,
            performance_metrics=self._tally.performance_metrics(elapsed),
        )

    def closing(
        self, status: RunStatus, reason: str | None, error: EventMeshError | None
    ) -> Sequence[Event]:
        if error is not None:
            raise error
        return (
            summary_event(
                self._tally,
                elapsed_seconds=trio.current_time() - self._started,
                status=status,
                reason=reason,
                session_id=self._session_id,
                request_id=self._request_id,
                timestamp=utc_timestamp(time.time()),
            ),
        )


class SyntheticMesh(Mesh):
    """A mesh whose crawls are synthetic; the request's one URL says how long they are."""

    def start_crawl(
        self,
        session: Session,
        request: CrawlRequest,
        *,
        request_id: str,
        reader: ReaderSpec | None,
        **identity: Any,
    ) -> tuple[Run, Subscriber | None]:
        wishes = Wishes.read(request.urls[0])
        job = SyntheticJob(wishes, session, request_id)
        return self.hub.start_run(session, job, request_id=request_id, reader=reader, **identity)


def _prepare_session(session: Session, wishes: Wishes) -> trio.Event:
    """Attach readers as they are wished for; the event says that there are enough of them."""
    complete = trio.Event()
    subscribe = session.subscribe
    strategy: OverflowStrategy = "drop_oldest" if wishes.lossy else "block"

    def subscribe_as_wished(
        spec: ReaderSpec, *, after: int | None = None, gap: Gap | None = None
    ) -> Subscriber:
        reader = subscribe(attrs.evolve(spec, strategy=strategy), after=after, gap=gap)
        if len(session.subscribers) >= wishes.readers:
            complete.set()
        return reader

    if wishes.readers:
        session.subscribe = subscribe_as_wished  # type: ignore[method-assign]
    else:
        complete.set()
    return complete


async def serve(mesh_type: type[Mesh], port: int, profile: str | None = None) -> None:
    """Serve what such a mesh runs in place of crawls, on a port of the loopback. Never returns."""
    settle_process()
    config = load_config(environ=os.environ, profile=profile)
    listeners = await open_listeners([parse_bind(f"127.0.0.1:{port}")], None)
    async with open_mesh(config) as mesh:
        parts = (mesh.hub, mesh.ports, mesh.cache, mesh.metrics, mesh.search)
        application = Application(mesh_type(config, *parts))
        await serve_listeners(
            application.handle,
            listeners,
            config.transport,
            proxies=config.server.trusted_proxies,
        )


if __name__ == "__main__":
    trio.run(serve, SyntheticMesh, int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
