"""Long texts are written by another encoder than the rest of an event: to the same bytes."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from benchmarks.hot_paths import result
from eventmesh_trio.wire.codec import encode_json
from eventmesh_trio.wire.encoders import EnvelopeEncoder, HTTPEncoder
from eventmesh_trio.wire.events import Event, SearchContent, SearchResult, stamp
from eventmesh_trio.wire.texts import LONG_TEXT, may_be_long, with_texts_written

ENCODERS = (HTTPEncoder("ndjson"), HTTPEncoder("sse"), EnvelopeEncoder("frame"))
_ROOM = 2**24  # bytes; more than a batch has
LONG = "long and plain. " * (LONG_TEXT // 16)


def with_texts(index: int = 0, /, **texts: str) -> Event:
    event = result(index)
    assert event.result is not msgspec.UNSET
    assert event.result.document is not None
    document = replace(event.result.document, **texts)
    changed = replace(event, result=replace(event.result, document=document))
    return stamp(changed, f"epoch-{index + 1}")


def search_result(markdown: str) -> SearchResult:
    return SearchResult(
        timestamp="2024-01-15T10:30:00.000Z",
        request_id="req-1",
        url="http://site.example/",
        rank=1,
        search_title="A page",
        search_snippet="of some words",
        content=SearchContent(title="A page", markdown=markdown, word_count=3),
        crawl_result=None,
    )


@given(st.text(max_size=40), st.text(max_size=40), st.sampled_from(["markdown", "text", "html"]))
def test_an_event_with_a_long_text_is_the_same_json_as_ever(
    before: str, after: str, member: str
) -> None:
    event = with_texts(**{member: before + LONG + after})
    plain = msgspec.json.encode(event)
    assert with_texts_written(event) is not event
    assert encode_json(with_texts_written(event)) == plain


def test_every_character_is_written_as_msgspec_writes_it() -> None:
    points = [*range(0xD800), *range(0xE000, 0x110000)]
    text = "".join(map(chr, points))
    event = with_texts(text=text, markdown=text[::-1])
    assert encode_json(with_texts_written(event)) == msgspec.json.encode(event)


def test_the_page_of_a_search_result_is_written_too() -> None:
    event = search_result('"' + LONG)
    assert with_texts_written(event) is not event
    assert encode_json(with_texts_written(event)) == msgspec.json.encode(event)


@pytest.mark.parametrize(
    "event",
    [
        result(0),
        search_result("short"),
        replace(search_result(""), content=None),
        replace(result(0), result=msgspec.UNSET),
    ],
)
def test_an_event_without_long_texts_is_itself(event: Event) -> None:
    assert with_texts_written(event) is event


@pytest.mark.parametrize("encoder", ENCODERS, ids=str)
def test_half_a_pair_in_a_long_text_still_becomes_a_replacement(
    encoder: HTTPEncoder | EnvelopeEncoder,
) -> None:
    broken, whole = with_texts(text=LONG + "\ud83d"), with_texts(text=LONG + "�")
    for room in (_ROOM, 1):
        assert encoder.encode_batch([broken], room) == encoder.encode_batch([whole], room)
    assert encoder.encode(broken) == encoder.encode(whole)


@given(st.lists(st.booleans(), min_size=1, max_size=12), st.sampled_from((1, 9_000, 65_536, _ROOM)))
def test_a_batch_of_long_and_short_events_is_its_events_one_after_the_other(
    kinds: list[bool], room: int
) -> None:
    events = [with_texts(i, **({"text": LONG} if long else {})) for i, long in enumerate(kinds)]
    for encoder in ENCODERS:
        batch = encoder.encode_batch(events, room)
        pieces = [encoder.encode(event) for event in events[: batch.taken]]
        assert batch.data == b"".join(pieces)
        assert list(encoder.decode_batch(batch.data)) == events[: batch.taken]


def test_events_of_which_many_fill_a_batch_are_not_searched_for_long_texts() -> None:
    few: list[Event] = [result(0)] * 8
    assert may_be_long(few, 65_536)
    assert not may_be_long(few * 8, 65_536)
