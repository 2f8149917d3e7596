"""``eventmesh serve`` as it is, and a task that watches how late its tasks are.

``python -m benchmarks.crawl_server NAME=VALUE ...``: the settings of the server. A line on its
input makes it answer with the delays since the last one, as `benchmarks.loop_delay` does.
"""

import sys

import trio

from benchmarks.loop_delay import DelayWatch, answer_lines
from eventmesh_trio.app.loading import load_config
from eventmesh_trio.app.observability import configure_logging
from eventmesh_trio.app.process import settle_process
from eventmesh_trio.app.server import serve


async def main(assignments: list[str]) -> None:
    watch = DelayWatch()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.watch)
        nursery.start_soon(answer_lines, watch.take)
        await serve(load_config(assignments=assignments))
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    configure_logging(as_json=True)
    settle_process()
    trio.run(main, sys.argv[1:])
