"""The script that one writes in an afternoon: httpx, a semaphore, trafilatura.

``python -m benchmarks.peers.crawl_httpx``. Pages are read between two fetches, in the same thread:
a thread of its own would share the interpreter's lock with it.
"""

import asyncio
from typing import IO

import httpx  # noqa: ASYNC127 - it is what people use

from benchmarks.peers.crawl_readers import READERS, Read, warm
from benchmarks.peers.crawl_talk import Task, await_task, report_done, write_document


async def crawl(task: Task, read: Read, output: IO[str]) -> None:
    gate = asyncio.Semaphore(task.concurrency)
    limits = httpx.Limits(
        max_connections=task.concurrency, max_keepalive_connections=task.concurrency
    )

    async def one(client: httpx.AsyncClient, url: str) -> None:
        async with gate:
            response = await client.get(url)
            response.raise_for_status()
            write_document(output, url, read(response.content, url))

    async with httpx.AsyncClient(limits=limits, timeout=60, trust_env=False) as client:
        await asyncio.gather(*(one(client, url) for url in task.urls))


def main() -> None:
    read = warm(READERS["trafilatura"]())
    task = await_task()
    with open(task.output, "w", encoding="utf-8") as output:
        asyncio.run(crawl(task, read, output))
    report_done()


if __name__ == "__main__":
    main()
