"""Our server with a synthetic job in place of the crawl: all else is the product.

Routes, handlers, hub, log, subscriber, encoder, delivery and transport are those of ``eventmesh
serve``, with their default limits; only what a crawl would fetch is made up.

``python -m benchmarks.ours PORT [PROFILE]``: a POST of ``{"urls": ["http://bench/?n=5000"]}``
streams 5,000 results; with ``?idle`` it falls silent after ``start``.
"""

import sys
import time
from collections.abc import Sequence
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

import trio

from eventmesh_trio.abc import JobCounts, Publisher
from eventmesh_trio.app.dispatch import Application
from eventmesh_trio.app.lifespan import Mesh, open_mesh
from eventmesh_trio.app.loading import load_config
from eventmesh_trio.app.process import allow_descriptors, collect_less_often
from eventmesh_trio.errors import EventMeshError
from eventmesh_trio.mesh.reader import ReaderSpec
from eventmesh_trio.mesh.run import Run
from eventmesh_trio.mesh.session import Session
from eventmesh_trio.mesh.subscriber import Subscriber
from eventmesh_trio.pipeline.report import summary_event
from eventmesh_trio.pipeline.tally import Tally
from eventmesh_trio.transport.listeners import open_listeners, parse_bind, serve_listeners
from eventmesh_trio.wire.events import (
    CrawlProgress,
    Document,
    Event,
    Metadata,
    PageResult,
    PipelineMetadata,
    Progress,
    Result,
    RunStatus,
    Start,
)
from eventmesh_trio.wire.requests import CrawlRequest
from eventmesh_trio.wire.timestamps import utc_timestamp

TEXT = (
    "A crawl server reads pages and sends what is worth reading as soon as it is read. "
    "Whoever listens should neither wait for the slowest page nor lose the quickest. "
)
_HASH = "sha256:" + "0" * 64
_STAGES = ("fetch", "decode", "parse", "extract")


class SyntheticJob:
    """``total`` results, each with all its structs built anew, as the peers build their dicts."""

    kind: Literal["crawl", "deepsearch"] = "crawl"

    def __init__(self, total: int, idle: bool, session_id: str, request_id: str) -> None:
        self.total = total
        self._idle = idle
        self._session_id = session_id
        self._request_id = request_id
        self._tally = Tally(total)
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
        for index in range(self._tally.completed, self.total):
            if not publisher.has_room():
                await publisher.wait_room()
            self._publish(publisher, index)
        if self._idle:
            await trio.sleep_forever()

    def _publish(self, publisher: Publisher, index: int) -> None:
        timestamp = utc_timestamp(time.time())
        url = f"http://site.example/page/{index}"
        document = Document(
            url=url,
            title=f"Page {index}",
            markdown=TEXT,
            text=TEXT,
            word_count=30,
            reading_time=1,
            quality_score=85,
            extracted_at=timestamp,
            content_hash=_HASH,
        )
        page = PageResult(
            url=url,
            status=200,
            from_cache=False,
            gate_decision="raw",
            quality_score=0.85,
            processing_time_ms=12,
            document=document,
            error=None,
            cache_key="crawl:v1:site:p:0",
        )
        self._tally.successful = completed = index + 1
        result = Result(
            timestamp=timestamp,
            request_id=self._request_id,
            index=index,
            result=page,
            progress=CrawlProgress(completed, self.total, 1.0),
            pipeline_metadata=PipelineMetadata(
                gate_decision_reason="text ratio 0.6",
                extraction_method="article",
                processing_stages=_STAGES,
            ),
            url=url,
            status=200,
            from_cache=False,
            gate_decision="raw",
            quality_score=0.85,
            processing_time_ms=12,
            error=None,
        )
        publisher.publish(result)

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
        query = parse_qs(urlsplit(request.urls[0]).query, keep_blank_values=True)
        job = SyntheticJob(int(query["n"][0]), "idle" in query, session.session_id, request_id)
        return self.hub.start_run(session, job, request_id=request_id, reader=reader, **identity)


async def main(port: int, profile: str | None = None) -> None:
    allow_descriptors()
    collect_less_often()
    config = load_config(profile=profile)
    listeners = await open_listeners([parse_bind(f"127.0.0.1:{port}")], None)
    async with open_mesh(config) as mesh:
        parts = (mesh.hub, mesh.ports, mesh.cache, mesh.metrics, mesh.search)
        application = Application(SyntheticMesh(config, *parts))
        await serve_listeners(
            application.handle,
            listeners,
            config.transport,
            proxies=config.server.trusted_proxies,
        )


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]), *sys.argv[2:])
