"""Crawl inside a trio program of your own: no server, no sockets but those to the sites.

python examples/embed.py https://example.com/ https://example.org/
"""

import sys

import trio

from eventmesh_trio import open_mesh
from eventmesh_trio.wire.events import Result, Summary


async def main(urls: list[str]) -> None:
    async with open_mesh() as mesh, mesh.crawl(urls, concurrency=4) as stream:
        async for event in stream:
            match event:
                case Result(result=page) if page and page.document:
                    document = page.document
                    print(f"{page.status}  {document.word_count:6d} words  {document.title}")
                case Result(result=page) if page and page.error:
                    print(f"{page.status}  {page.error.error_code}  {page.url}")
                case Summary():
                    print(f"{event.successful} of {event.total_urls} in {event.total_time_ms} ms")


if __name__ == "__main__":
    trio.run(main, sys.argv[1:])
