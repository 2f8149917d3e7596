"""What the crawling peers share: they get ready, are told what to crawl, and say when it is done.

A peer imports all it needs, prints a line, and waits for a line of JSON: ``urls`` (a file with one
a line), ``concurrency`` and ``output`` (a file to write its documents to, a JSON object a line).
When all are there it prints another line. So neither imports nor the end of a process are in
anybody's figures.
"""

import json
import sys
from dataclasses import dataclass
from typing import IO, Any


@dataclass(frozen=True)
class Task:
    """What to crawl."""

    urls: tuple[str, ...]
    concurrency: int
    output: str


def await_task() -> Task:
    """Say that all is imported, and wait to be told what to do."""
    print(json.dumps({"ready": True}), flush=True)
    told: dict[str, Any] = json.loads(sys.stdin.readline())
    with open(told["urls"], encoding="utf-8") as urls:
        return Task(tuple(urls.read().split()), told["concurrency"], told["output"])


def report_done(**found: object) -> None:
    """Say that all documents are written."""
    print(json.dumps({"done": True, **found}), flush=True)


def write_document(output: IO[str], url: str, found: dict[str, Any]) -> None:
    """Write one document, as a pipeline or a feed would."""
    output.write(json.dumps({"url": url, **found}, ensure_ascii=False) + "\n")
