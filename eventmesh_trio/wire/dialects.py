"""How one canonical event looks to each kind of client: a table, not a ladder of ifs.

A *dialect* is a family of clients; a *shape* is how much of a result it reads. Both only rearrange
members: nothing is computed here.
"""

from collections.abc import Callable, Mapping
from typing import Final, Literal

from msgspec import UNSET, structs

from eventmesh_trio.wire.events import (
    Document,
    DocumentPreview,
    Event,
    Metadata,
    PageResult,
    Result,
    SearchResult,
    Start,
)

__all__ = [
    "OMITTED",
    "PREVIEW_CHARACTERS",
    "SHAPES",
    "Dialect",
    "Shape",
    "cut_result",
    "shape_result",
]

Dialect = Literal["canonical", "envelope", "flat"]
Shape = Literal["both", "nested", "flat", "preview"]

PREVIEW_CHARACTERS: Final = 500
OMITTED: Final[Mapping[Dialect, type[Event]]] = {"envelope": Start, "flat": Metadata}
"""What clients of a dialect do not know: each is told of a run's beginning by one event."""


def _nested(event: Result, _: PageResult) -> Result:
    return structs.replace(
        event,
        url=UNSET,
        status=UNSET,
        from_cache=UNSET,
        gate_decision=UNSET,
        quality_score=UNSET,
        processing_time_ms=UNSET,
        error=UNSET,
    )


def _flat(event: Result, page: PageResult) -> Result:
    return structs.replace(event, result=UNSET, document=page.document)


def _preview(event: Result, page: PageResult) -> Result:
    return structs.replace(event, document=_preview_of(page.document))


def _preview_of(document: Document | None) -> DocumentPreview | None:
    if document is None:
        return None
    return DocumentPreview(
        url=document.url,
        title=document.title,
        text=document.text[:PREVIEW_CHARACTERS],
        word_count=document.word_count,
        quality_score=document.quality_score,
    )


def cut_result(event: Result | SearchResult, share: float) -> Result | SearchResult:
    """A result with the front ``share`` (0-1) of what is long in its document; ``truncated``.

    Counts and hash stay those of the whole document.
    """
    if isinstance(event, SearchResult):
        return _cut_search_result(event, share)
    page = event.result
    if page is UNSET or page.document is None:
        return event
    whole = page.document
    document = structs.replace(
        whole,
        text=whole.text[: int(len(whole.text) * share)],
        markdown=whole.markdown[: int(len(whole.markdown) * share)],
        links=whole.links[: int(len(whole.links) * share)],
        images=whole.images[: int(len(whole.images) * share)],
        html=UNSET if whole.html is UNSET else whole.html[: int(len(whole.html) * share)],
        truncated=True,
    )
    return structs.replace(event, result=structs.replace(page, document=document))


def _cut_search_result(event: SearchResult, share: float) -> SearchResult:
    content = event.content
    if content is None:
        return event
    markdown = content.markdown[: int(len(content.markdown) * share)]
    return structs.replace(
        event, content=structs.replace(content, markdown=markdown, truncated=True)
    )


_RESULT: Final[Mapping[Shape, Callable[[Result, PageResult], Result]]] = {
    "both": lambda event, _: event,  # as the pipeline makes it: no work on the common path
    "nested": _nested,
    "flat": _flat,
    "preview": _preview,
}
SHAPES: Final = tuple(_RESULT)


def shape_result(event: Result, shape: Shape) -> Result:
    """Rearrange a canonical result (nested, with flat copies beside it) to ``shape``."""
    assert event.result is not UNSET, "a canonical result carries its nested form"
    return _RESULT[shape](event, event.result)
