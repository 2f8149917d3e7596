"""The long texts of events, written as JSON before the rest of it is.

Half of what an event of 20 KB cost was to look for characters that JSON escapes: msgspec takes
2.4 us for a text of 9.4 KB, orjson 0.5 (of Markdown with quotes and line ends 3.6 and 2.4). Both
write the same bytes.
"""

from collections.abc import Sequence
from typing import Any, Final

from msgspec import UNSET, Raw, UnsetType
from msgspec.structs import replace
from orjson import dumps

from eventmesh_trio.wire.events import Document, Event, Result, SearchResult

__all__ = ["LONG_TEXT", "may_be_long", "with_texts_written"]

LONG_TEXT: Final = 2048
"""Characters. With fewer the copies that are made here (0.5 us) cost as much as they save."""


def may_be_long(events: Sequence[Event], room: float) -> bool:
    """Whether to look for long texts in events that fill ``room`` bytes, or less."""
    return room >= LONG_TEXT * len(events)


def with_texts_written(event: Event) -> Event:
    """The event as it is, or one that is encoded to the same bytes in less time.

    A text with half a surrogate pair stays what it is: it is for the encoder to say so.
    """
    if isinstance(event, Result):
        page = event.result
        if page is UNSET or page.document is None:
            return event
        document = page.document
        if max(len(document.text), len(document.markdown)) < LONG_TEXT and document.html is UNSET:
            return event
        return replace(event, result=replace(page, document=_with_texts_written(document)))
    if isinstance(event, SearchResult) and event.content is not None:
        content = event.content
        if len(content.markdown) >= LONG_TEXT:
            return replace(event, content=replace(content, markdown=_written(content.markdown)))
    return event


def _with_texts_written(document: Document) -> Document:
    return replace(
        document,
        text=_written(document.text),
        markdown=_written(document.markdown),
        html=_written(document.html),
    )


def _written(text: str | UnsetType) -> Any:
    if text is UNSET or len(text) < LONG_TEXT:
        return text
    try:
        return Raw(dumps(text))
    except TypeError:  # half of a surrogate pair
        return text
