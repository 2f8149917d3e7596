"""Scrapy, with an item pipeline that reads pages.

``python -m benchmarks.peers.crawl_scrapy READER CONCURRENCY``, the first one of
`benchmarks.peers.crawl_readers`. It is told what to crawl when its engine runs.

What slows a crawl of one willing host is off: delays, throttling, robots.txt, cookies, retries of
what does not fail, redirects, the telnet console, logging, statistics of depth and referer.
"""

import logging
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO, Any

import scrapy
from scrapy.crawler import CrawlerProcess

from benchmarks.peers.crawl_readers import READERS, Read, warm
from benchmarks.peers.crawl_talk import await_task, report_done, write_document


class PageSpider(scrapy.Spider):
    name = "pages"

    async def start(self) -> AsyncIterator[Any]:
        task = await_task()
        ReadPage.output = Path(task.output).open("w", encoding="utf-8")  # noqa: SIM115, ASYNC230
        for url in task.urls:
            yield scrapy.Request(url, dont_filter=True)

    def parse(self, response: Any) -> Any:
        yield {"url": response.url, "body": response.body}


class ReadPage:
    """The item pipeline: reads the page, and writes its document."""

    read: Read
    output: IO[str]  # opened when the task is known, closed with the spider

    def process_item(self, item: dict[str, Any]) -> dict[str, Any]:
        found = self.read(item["body"], item["url"])
        write_document(self.output, item["url"], found)
        return {"url": item["url"]}

    def close_spider(self) -> None:
        self.output.close()


def main() -> None:
    ReadPage.read = staticmethod(warm(READERS[sys.argv[1]]()))
    settings = {
        "LOG_ENABLED": False,
        "LOG_INSTALL_ROOT_HANDLER": False,
        "TELNETCONSOLE_ENABLED": False,
        "ROBOTSTXT_OBEY": False,
        "COOKIES_ENABLED": False,
        "RETRY_ENABLED": False,
        "REDIRECT_ENABLED": False,
        "AUTOTHROTTLE_ENABLED": False,
        "DOWNLOAD_DELAY": 0,
        "RANDOMIZE_DOWNLOAD_DELAY": False,
        "MEMUSAGE_ENABLED": False,
        "DEPTH_STATS_VERBOSE": False,
        "REFERER_ENABLED": False,
        "ITEM_PIPELINES": {ReadPage: 100},
    }
    logging.disable(logging.WARNING)
    for name in ("CONCURRENT_REQUESTS", "CONCURRENT_REQUESTS_PER_DOMAIN", "CONCURRENT_ITEMS"):
        settings[name] = int(sys.argv[2])
    process = CrawlerProcess(settings)
    process.crawl(PageSpider)
    process.start()
    report_done()


if __name__ == "__main__":
    main()
