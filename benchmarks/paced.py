"""Our server with a synthetic job that publishes by a schedule; as `benchmarks.ours` otherwise.

``python -m benchmarks.paced PORT``: a POST of the body that `benchmarks.pace.Pace.body` makes.
"""

import sys
import time
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import trio

from benchmarks.ours import SyntheticJob, Wishes, serve
from benchmarks.pace import Pace
from benchmarks.synthetic import MEDIUM
from eventmesh_trio.abc import Publisher
from eventmesh_trio.app.lifespan import Mesh
from eventmesh_trio.mesh.reader import ReaderSpec
from eventmesh_trio.mesh.run import Run
from eventmesh_trio.mesh.session import Session
from eventmesh_trio.mesh.subscriber import Subscriber
from eventmesh_trio.wire.requests import CrawlRequest

HALF_A_TIMER_SECONDS: Final = 0.0005
"""The loop of the peers rounds timers to the nearest millisecond, and yields where that is none;
trio's rounds up. Half a millisecond less makes ours the same as theirs."""


async def _wait_until(due: float) -> None:
    while True:
        seconds = due - time.monotonic()
        if seconds <= 0:
            return
        await trio.sleep(max(0, seconds - HALF_A_TIMER_SECONDS))


class PacedJob(SyntheticJob):
    """Each result when it is due; what is late at once, without a pause but for room."""

    def __init__(self, pace: Pace, session: Session, request_id: str) -> None:
        wishes = Wishes(total=pace.count, size=MEDIUM, idle=False, readers=0, lossy=False)
        super().__init__(wishes, session, request_id)
        self._pace = pace

    async def work(self, publisher: Publisher) -> None:
        for index in range(self.counts.completed, self.total):
            await _wait_until(self._pace.due_seconds(index))
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


if __name__ == "__main__":
    trio.run(serve, PacedMesh, int(sys.argv[1]))
