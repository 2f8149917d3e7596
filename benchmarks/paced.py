"""Our server with a synthetic job that publishes by a schedule; as `benchmarks.ours` otherwise.

``python -m benchmarks.paced PORT``: a POST of the body that `benchmarks.pace.Pace.body` makes.
"""

import sys
import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

import trio

from benchmarks.ours import SyntheticJob, Wishes
from benchmarks.pace import Pace
from benchmarks.synthetic import MEDIUM
from eventmesh_trio.abc import Publisher
from eventmesh_trio.app.dispatch import Application
from eventmesh_trio.app.lifespan import Mesh, open_mesh
from eventmesh_trio.app.loading import load_config
from eventmesh_trio.app.process import allow_descriptors, collect_less_often
from eventmesh_trio.mesh.reader import ReaderSpec
from eventmesh_trio.mesh.run import Run
from eventmesh_trio.mesh.session import Session
from eventmesh_trio.mesh.subscriber import Subscriber
from eventmesh_trio.transport.listeners import open_listeners, parse_bind, serve_listeners
from eventmesh_trio.wire.requests import CrawlRequest


class PacedJob(SyntheticJob):
    """Each result when it is due; what is late at once, without a pause but for room."""

    def __init__(self, pace: Pace, session: Session, request_id: str) -> None:
        wishes = Wishes(total=pace.count, size=MEDIUM, idle=False, readers=0, lossy=False)
        super().__init__(wishes, session, request_id)
        self._pace = pace

    async def work(self, publisher: Publisher) -> None:
        for index in range(self.counts.completed, self.total):
            if (seconds := self._pace.due_seconds(index) - time.monotonic()) > 0:
                await trio.sleep(seconds)
            if not publisher.has_room():
                await publisher.wait_room()
            self._tally.successful = index + 1
            publisher.publish(self._make(index, self.total, self._request_id))


class PacedMesh(Mesh):
    """A mesh whose crawls are paced, as the query of the request's one URL says."""

    def start_crawl(
        self,
        session: Session,
        request: CrawlRequest,
        *,
        request_id: str,
        reader: ReaderSpec | None,
        **identity: Any,
    ) -> tuple[Run, Subscriber | None]:
        pace = Pace.of_query(parse_qs(urlsplit(request.urls[0]).query))
        job = PacedJob(pace, session, request_id)
        return self.hub.start_run(session, job, request_id=request_id, reader=reader, **identity)


async def main(port: int) -> None:
    allow_descriptors()
    collect_less_often()
    config = load_config()
    listeners = await open_listeners([parse_bind(f"127.0.0.1:{port}")], None)
    async with open_mesh(config) as mesh:
        parts = (mesh.hub, mesh.ports, mesh.cache, mesh.metrics, mesh.search)
        application = Application(PacedMesh(config, *parts))
        await serve_listeners(
            application.handle,
            listeners,
            config.transport,
            proxies=config.server.trusted_proxies,
        )


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]))
