"""Crawl4AI without a browser: its HTTP strategy, its Markdown, its metadata.

``python -m benchmarks.peers.crawl_crawl4ai``. Its cache is off, and no page is waited for.
"""

import asyncio
from typing import IO

from crawl4ai import (
    AsyncWebCrawler,
    CacheMode,
    CrawlerRunConfig,
    HTTPCrawlerConfig,
    MemoryAdaptiveDispatcher,
)
from crawl4ai.async_crawler_strategy import AsyncHTTPCrawlerStrategy

from benchmarks.peers.crawl_talk import Task, await_task, report_done, write_document


async def crawl(task: Task, output: IO[str]) -> None:
    strategy = AsyncHTTPCrawlerStrategy(browser_config=HTTPCrawlerConfig())
    config = CrawlerRunConfig(
        cache_mode=CacheMode.BYPASS,
        check_robots_txt=False,
        mean_delay=0,
        max_range=0,
        verbose=False,
        log_console=False,
        stream=True,
    )
    # The one that streams; nothing is waited for unless the machine is out of memory.
    dispatcher = MemoryAdaptiveDispatcher(
        max_session_permit=task.concurrency, memory_threshold_percent=95.0
    )
    async with AsyncWebCrawler(crawler_strategy=strategy, verbose=False) as crawler:
        async for result in await crawler.arun_many(
            list(task.urls), config=config, dispatcher=dispatcher
        ):
            if result.success:
                found = {"markdown": str(result.markdown), "metadata": result.metadata}
                write_document(output, result.url, found)


def main() -> None:
    task = await_task()
    with open(task.output, "w", encoding="utf-8") as output:
        asyncio.run(crawl(task, output))
    report_done()


if __name__ == "__main__":
    main()
