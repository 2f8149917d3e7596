"""Entries as bytes."""

from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from eventmesh_trio.abc import (
    CacheEntry,
    Extraction,
    ExtractionScores,
    GateFeatures,
    Validators,
)
from eventmesh_trio.pipeline.caching.codec import EntryCodec, UnreadableEntry
from eventmesh_trio.wire.events import Document, Image, Link
from tests.helpers.entries import make_entry

_text = st.text(st.characters(codec="utf-8"), max_size=40)
_maybe = st.none() | _text
_ratio = st.floats(0, 1)


def some(kind: Any, **members: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(members).map(lambda found: kind(**found))


_documents = some(
    Document,
    **dict.fromkeys(("url", "title", "markdown", "text", "extracted_at", "content_hash"), _text),
    **dict.fromkeys(("word_count", "reading_time", "quality_score"), st.integers(0, 2**40)),
    **dict.fromkeys(("author", "date", "language", "canonical_url", "page_type"), _maybe),
    tags=st.lists(_text, max_size=3).map(tuple),
    links=st.lists(st.builds(Link, _text, _text), max_size=3).map(tuple),
    images=st.lists(st.builds(Image, _text, _text), max_size=3).map(tuple),
    html=st.just(UNSET) | _text,
    truncated=st.just(UNSET) | st.booleans(),
)
_features = some(
    GateFeatures,
    page_chars=st.integers(0, 10**9),
    visible_chars=st.integers(0, 10**9),
    paragraphs=st.integers(0, 1000),
    has_article=st.booleans(),
    has_opengraph=st.booleans(),
    has_article_jsonld=st.booleans(),
    script_chars=st.integers(0, 10**9),
    spa_markers=st.lists(_text, max_size=3).map(tuple),
)
_scores = some(
    ExtractionScores,
    text_chars=st.integers(0, 10**9),
    **dict.fromkeys(("length", "prose", "continuity", "trust"), _ratio),
)
_entries = some(
    CacheEntry,
    extraction=some(
        Extraction,
        document=_documents,
        method=_text,
        gate_score=_ratio,
        gate_decision=st.sampled_from(["raw", "probes_first", "headless"]),
        gate_reason=_text,
        gate_features=st.none() | _features,
        scores=st.none() | _scores,
    ),
    status=st.integers(200, 299),
    final_url=_text,
    stored_at=st.floats(0, 1e10),
    fresh_until=st.floats(0, 1e10) | st.just(inf),
    validators=st.none() | st.builds(Validators, _text, _maybe, _maybe),
    fields=st.lists(st.tuples(st.binary(max_size=9), st.binary(max_size=9)), max_size=3).map(tuple),
)


@given(_entries)
def test_an_entry_comes_back_as_it_was(entry: CacheEntry) -> None:
    codec = EntryCodec()
    head, body = codec.encode_head(entry), codec.encode_body(entry)
    assert codec.decode(head, body) == entry
    assert codec.final_url(head) == entry.final_url


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_bytes_that_are_no_entry_are_told_from_one(head: bytes, body: bytes) -> None:
    with pytest.raises(UnreadableEntry):
        EntryCodec().decode(head, body)


def test_a_flipped_bit_is_found() -> None:
    codec = EntryCodec()
    entry = make_entry("some text that zstd does not compress to nothing " * 9)
    head, body = codec.encode_head(entry), codec.encode_body(entry)
    for at in range(len(body)):
        broken = body[:at] + bytes([body[at] ^ 0x10]) + body[at + 1 :]
        try:
            found = codec.decode(head, broken)
        except UnreadableEntry:
            continue
        assert found == entry, f"bit flipped in byte {at}"
