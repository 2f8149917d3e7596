import math
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventmesh_trio.errors import ValidationError
from eventmesh_trio.wire.codec import (
    MAX_JSON_DEPTH,
    AnyEvent,
    decode_event,
    decode_json,
    encode_json,
)
from eventmesh_trio.wire.events import (
    CrawlStart,
    ErrorInfo,
    Event,
    Gap,
    RunError,
    Start,
    UnknownEvent,
    stamp,
)

NOW = "2026-01-02T03:04:05.678Z"
any_text = st.text(alphabet=st.characters(exclude_categories=()))  # lone surrogates too
json_scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
json_values = st.recursive(
    json_scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)


def start(options: Any) -> Start:
    return Start(timestamp=NOW, total_urls=1, session_id="s", options=options)


@given(json_values)
def test_what_is_encoded_decodes_to_the_same(value: Any) -> None:
    decoded = decode_json(encode_json(value))
    if not _has_infinity(value):
        assert decoded == value


def _has_infinity(value: Any) -> bool:
    if isinstance(value, float):
        return math.isinf(value)
    if isinstance(value, dict):
        return any(map(_has_infinity, value.values()))
    return isinstance(value, list) and any(map(_has_infinity, value))


@given(any_text, any_text)
def test_any_text_can_be_encoded_and_is_valid_utf8_without_newlines(key: str, text: str) -> None:
    body = encode_json(start({key: [text]}))
    assert b"\n" not in body
    assert b"\r" not in body
    body.decode("utf-8", "strict")
    assert isinstance(decode_event(body), Start)


def test_lone_surrogates_become_replacement_characters() -> None:
    assert decode_json(encode_json({"a\udfff": "x\ud800y"})) == {"a\ufffd": "x\ufffdy"}


def test_a_split_pair_becomes_its_character() -> None:
    assert decode_json(encode_json("\ud83d\ude00 \ude00")) == "\U0001f600 \ufffd"


def test_scrubbing_keeps_the_rest_of_an_event() -> None:
    event = start({"n": 1, "f": 0.5, "none": None, "t": ("a", "\ud800"), "yes": True})
    assert decode_event(encode_json(event)) == start(
        {"n": 1, "f": 0.5, "none": None, "t": ["a", "\ufffd"], "yes": True}
    )


def test_raw_parts_survive_scrubbing() -> None:
    value = {"raw": msgspec.Raw(b'{"a":[1]}'), "text": "\ud800"}
    assert decode_json(encode_json(value)) == {"raw": {"a": [1]}, "text": "\ufffd"}


def test_not_a_number_is_null() -> None:
    assert encode_json([math.nan, math.inf, -math.inf]) == b"[null,null,null]"


def test_read_only_mappings_are_objects() -> None:
    assert encode_json(start(MappingProxyType({"a": 1}))).endswith(b'"options":{"a":1}}')


def test_what_has_no_json_form_is_a_bug_of_the_caller() -> None:
    with pytest.raises(NotImplementedError, match="object has no JSON form"):
        encode_json(object())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"{",
        b"1 2",
        b"nul",
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"9" * 5000,
        b"\xff",
        b'"\xed\xa0\x80"',
        b'"\\ud800"',
        b'"\\udc00 "',
        b'{"\\ud800":1}',
        b'"\x01"',
        b"\xef\xbb\xbf{}",
        b"\x00",
        '"\ud800"',
    ],
)
def test_bad_json_is_a_validation_error(data: bytes | str) -> None:
    with pytest.raises(ValidationError, match=r"^not valid JSON$"):
        decode_json(data)
    with pytest.raises(ValidationError, match=r"^not "):
        decode_event(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'["\\ud800"]', "half of a surrogate pair"),
        ('["\\uD83Dx"]', "half of a surrogate pair"),
        (b'["\\udfff"]', "surrogate pair"),
        (b'["\\\\ud800"', "truncated"),
        (b'["\\ud83d\\ude00"', "truncated"),
        (b'["\xff"]', "invalid UTF-8"),
    ],
)
def test_bad_json_says_what_is_bad_about_it(data: bytes | str, reason: str) -> None:
    with pytest.raises(ValidationError) as caught:
        decode_json(data)
    assert reason in str(caught.value.context["reason"])


@given(st.binary() | any_text)
def test_any_input_is_decoded_or_refused(data: bytes | str) -> None:
    for decode in (decode_json, decode_event):
        try:
            decode(data)
        except ValidationError as error:
            assert "nested" in error.message or error.message.startswith("not ")


@pytest.mark.parametrize("brackets", ["[]", "{}"])
@pytest.mark.parametrize("excess", [1, 500, 100_000])
def test_deep_nesting_is_refused(brackets: str, excess: int) -> None:
    depth = MAX_JSON_DEPTH + excess
    text = nested(depth) if brackets == "[]" else '{"a":' * depth + "1" + "}" * depth
    for data in (text, text.encode()):
        with pytest.raises(ValidationError, match="nested too deeply"):
            decode_json(data)


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@given(st.integers(1, 12), st.integers(1, 12))
def test_the_depth_limit_is_exact(depth: int, limit: int) -> None:
    if depth <= limit:
        decode_json(nested(depth), max_depth=limit)
    else:
        with pytest.raises(ValidationError):
            decode_json(nested(depth), max_depth=limit)


def test_wide_but_flat_values_are_not_deep() -> None:
    assert len(decode_json(b"[" + b"[]," * 10_000 + b"[]]", max_depth=2)) == 10_001


def test_brackets_inside_strings_do_not_count() -> None:
    assert decode_json(encode_json("[" * 1000)) == "[" * 1000


def test_every_event_class_is_known_to_the_decoder() -> None:
    assert set(AnyEvent.__args__) == set(Event.__subclasses__())


def test_an_event_decodes_to_its_class() -> None:
    gap = Gap(timestamp=NOW, missing_from=3, missing_to=None, epoch_changed=True)
    assert decode_event(encode_json(gap)) == gap
    error = RunError(
        timestamp=NOW,
        request_id="r",
        recovery_suggestions=("a",),
        error=ErrorInfo(
            type="timeout",
            error_type="timeout",
            category="network",
            message="m",
            retryable=True,
            retry_after_seconds=1.5,
            error_code="NET_TIMEOUT",
            context={"k": [1]},
            timestamp=NOW,
        ),
    )
    assert decode_event(encode_json(error).decode()) == error


def test_an_event_of_a_newer_server_is_an_unknown_event() -> None:
    body = b'{"event":"comet","id":"e-1","tail":[1]}'
    assert decode_event(body) == UnknownEvent(
        event="comet", members={"event": "comet", "id": "e-1", "tail": [1]}
    )


def test_a_known_tag_with_other_members_is_an_unknown_event() -> None:
    body = b'{"event":"crawl_start","timestamp":"t","total_urls":"many"}'
    event = decode_event(body)
    assert isinstance(event, UnknownEvent)
    assert event.members["total_urls"] == "many"


def test_new_members_of_a_known_event_are_ignored() -> None:
    body = b'{"event":"crawl_start","timestamp":"t","total_urls":2,"new":{"a":[]}}'
    assert decode_event(body) == CrawlStart(timestamp="t", total_urls=2)


@pytest.mark.parametrize("data", [b"[]", b"1", b"null", b"{}", b'{"event":1}', b'"result"'])
def test_what_is_no_event_is_refused(data: bytes) -> None:
    with pytest.raises(ValidationError, match="not an event"):
        decode_event(data)


def test_an_event_with_deep_unknown_members_is_refused() -> None:
    body = '{"event":"new","deep":%s}' % nested(100_000)  # noqa: UP031
    with pytest.raises(ValidationError, match="nested too deeply"):
        decode_event(body)


def test_the_deepest_event_is_far_from_the_limit() -> None:
    """The limit must never refuse what we send; `MAX_JSON_DEPTH` says 6."""
    assert max(_depth(cls) for cls in AnyEvent.__args__) <= 6


def _depth(annotation: Any) -> int:
    parts = getattr(annotation, "__args__", ())
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        fields = msgspec.structs.fields(annotation)
        return 1 + max((_depth(field.type) for field in fields), default=0)
    own = 1 if getattr(annotation, "__origin__", None) is tuple else 0
    return own + max((_depth(part) for part in parts), default=0)


def test_a_stamp_is_in_place_for_a_fresh_event_and_a_copy_for_one_that_has_an_id() -> None:
    event = CrawlStart(timestamp=NOW, total_urls=2)
    assert stamp(event, "abc-12") is event
    assert decode_event(encode_json(event)) == event
    again = stamp(event, "def-1")
    assert (event.id, again.id) == ("abc-12", "def-1")
