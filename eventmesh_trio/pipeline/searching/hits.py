"""From what a provider found to the hits of a search: readable, each URL once, ranked, not more."""

import html
import re
from collections.abc import Iterable
from typing import Final

import attrs

from eventmesh_trio.wire.events import SearchHit
from eventmesh_trio.wire.urls import parse_url

__all__ = ["MAX_SNIPPET_CHARACTERS", "MAX_TITLE_CHARACTERS", "Found", "HitList", "plain_text"]

MAX_TITLE_CHARACTERS: Final = 300
MAX_SNIPPET_CHARACTERS: Final = 1000

_TAG: Final = re.compile(r"</?[a-zA-Z][^<>]{0,200}>")
_BLANK: Final = re.compile(r"[\s\x00-\x1f\x7f]+")


@attrs.frozen
class Found:
    """One result as a provider told it; its texts may hold markup."""

    url: str | None
    title: str | None = None
    snippet: str | None = None


class HitList:
    """At most ``limit`` hits, in the order in which they were added, ranked from 1."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._seen: set[str] = set()
        self._hits: list[SearchHit] = []

    @property
    def full(self) -> bool:
        return len(self._hits) >= self._limit

    def add(self, found: Iterable[Found]) -> int:
        """Take what is new; returns how many that were.

        A URL that is not one that could be fetched is left out, as is one that was there before.
        """
        before = len(self._hits)
        for result in found:
            title = plain_text(result.title, MAX_TITLE_CHARACTERS)
            snippet = plain_text(result.snippet, MAX_SNIPPET_CHARACTERS)
            self._add((result.url or "").strip(), title, snippet)
        return len(self._hits) - before

    def add_hits(self, hits: Iterable[SearchHit]) -> None:
        """Take what is new of hits whose texts are plain already; they are ranked anew."""
        for hit in hits:
            self._add(hit.url, hit.search_title, hit.search_snippet)

    def _add(self, url: str, title: str, snippet: str) -> None:
        if self.full:
            return
        try:
            href = parse_url(url).href
        except ValueError:
            return
        if href in self._seen:
            return
        self._seen.add(href)
        self._hits.append(
            SearchHit(url=url, rank=len(self._hits) + 1, search_title=title, search_snippet=snippet)
        )

    @property
    def hits(self) -> tuple[SearchHit, ...]:
        return tuple(self._hits)


def plain_text(text: str | None, max_characters: int) -> str:
    """A provider's text without tags, character references, control characters and long blanks."""
    if not text:
        return ""
    # Four times the limit is enough to have something left; the rest need not be looked at.
    plain = html.unescape(_TAG.sub("", text[: 4 * max_characters]))
    return _BLANK.sub(" ", plain).strip()[:max_characters].rstrip()
