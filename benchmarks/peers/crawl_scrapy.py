"""Scrapy, with an item pipeline that reads pages.

``python -m benchmarks.peers.crawl_scrapy READER``, one of `benchmarks.peers.crawl_readers`.

What slows a crawl of one willing host is off: delays, throttling, robots.txt, cookies, retries of
what does not fail, redirects, the telnet console, logging, statistics of depth and referer.
"""

import logging
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import scrapy
from scrapy.crawler import CrawlerProcess

from benchmarks.peers.crawl_readers import READERS, Read, warm
from benchmarks.peers.crawl_talk import Task, await_task, report_done, write_document


class PageSpider(scrapy.Spider):
    name = "pages"
    task: Task

    async def start(self) -> AsyncIterator[Any]:
        for url in self.task.urls:
            yield scrapy.Request(url, dont_filter=True)

    def parse(self, response: Any) -> Any:
        yield {"url": response.url, "body": response.body}


class ReadPage:
    """The item pipeline: reads the page, and writes its document."""

    read: Read
    task: Task

    def open_spider(self) -> None:
        path = Path(self.task.output)
        self.output = path.open("w", encoding="utf-8")

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
    task = await_task()
    PageSpider.task = ReadPage.task = task
    settings["CONCURRENT_REQUESTS"] = settings["CONCURRENT_REQUESTS_PER_DOMAIN"] = task.concurrency
    settings["CONCURRENT_ITEMS"] = task.concurrency
    process = CrawlerProcess(settings)
    process.crawl(PageSpider)
    process.start()
    report_done()


if __name__ == "__main__":
    main()
