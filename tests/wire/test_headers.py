"""The tuning fields of a request, and what a response says of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventmesh_trio.errors import ValidationError
from eventmesh_trio.wire.headers import (
    ReaderBounds,
    ReaderWishes,
    backpressure_threshold,
    cors_fields,
    parse_identifier,
    parse_wishes,
    preflight_fields,
    wish_fields,
)


def wishes(**fields: str) -> ReaderWishes:
    sent = {name.replace("_", "-").encode(): value.encode() for name, value in fields.items()}
    return parse_wishes(sent.get, ReaderBounds())


def test_silence_means_the_defaults():
    assert wishes() == ReaderWishes(256, 2000, True, 100, 65_536)


@pytest.mark.parametrize(
    ("sent", "used"),
    [("1024", 1024), ("1", 64), ("-5", 64), ("99999", 2048), ("1e3", 1000), (" 512 ", 512)],
)
def test_a_number_out_of_range_is_clamped(sent, used):
    assert wishes(x_buffer_size=sent).buffer_size == used


@pytest.mark.parametrize("sent", ["", "many", "0x10", "NaN", "1,5"])
def test_what_is_not_a_number_is_refused_by_name(sent):
    with pytest.raises(ValidationError, match="X-Buffer-Timeout"):
        wishes(x_buffer_timeout=sent)


@pytest.mark.parametrize(
    ("sent", "used"),
    [("true", True), ("FALSE", False), ("1", True), ("0", False), ("Yes", True), ("no", False)],
)
def test_booleans_are_read_in_any_case(sent, used):
    assert wishes(x_enable_backpressure=sent).enable_backpressure is used


def test_what_is_not_a_boolean_is_refused():
    with pytest.raises(ValidationError, match="X-Enable-Backpressure"):
        wishes(x_enable_backpressure="perhaps")


@given(st.binary(max_size=30))
def test_any_field_value_is_read_or_refused(value):
    for name in (b"x-buffer-size", b"x-enable-backpressure", b"x-max-memory-per-connection"):
        try:
            read = parse_wishes({name: value}.get, ReaderBounds())
        except ValidationError:
            continue
        assert 64 <= read.buffer_size <= 2048
        assert 4096 <= read.max_memory_bytes <= 262_144


def test_every_value_used_is_echoed_and_the_threshold_is_800_of_1024():
    used = wishes(x_buffer_size="1024", x_slow_client_threshold="5")
    fields = dict(wish_fields(used, capacity=1024, used=3, session_id="s", request_id="r"))
    assert fields[b"x-backpressure-threshold"] == b"800"
    assert fields[b"x-buffer-capacity"] == fields[b"x-buffer-size"] == b"1024"
    assert fields[b"x-buffer-current"] == b"3"
    assert fields[b"x-slow-client-threshold"] == b"50"
    assert fields[b"x-buffer-timeout"] == b"2000"
    assert fields[b"x-enable-backpressure"] == b"true"
    assert (fields[b"x-session-id"], fields[b"x-request-id"]) == (b"s", b"r")
    assert backpressure_threshold(256) == 200


@given(st.text(max_size=140))
def test_an_identifier_is_of_its_alphabet_or_refused(text):
    try:
        assert parse_identifier(text, "X-Session-ID") == text
        assert text.isascii()
        assert 1 <= len(text) <= 128
    except ValidationError as error:
        assert error.field == "X-Session-ID"


def test_only_allowed_origins_may_read_a_response():
    assert (b"access-control-allow-origin", b"*") in cors_fields(b"http://a", ["*"])
    only = cors_fields(b"http://a", ["http://a"])
    assert (b"access-control-allow-origin", b"http://a") in only
    assert (b"vary", b"Origin") in only
    assert cors_fields(b"http://b", ["http://a"]) == [(b"vary", b"Origin")]
    assert cors_fields(None, ["http://a"]) == [(b"vary", b"Origin")]  # caches keep these apart
    assert cors_fields(b"http://a", []) == []  # CORS is switched off
    assert cors_fields(None, ["*"]) == []
    assert not any(b"credentials" in name for name, _ in cors_fields(b"http://a", ["*"]))


def test_a_preflight_is_told_the_methods():
    fields = dict(preflight_fields(b"http://a", ["*"], ["GET", "POST"]))
    assert fields[b"access-control-allow-methods"] == b"GET, POST"
    assert b"X-Session-ID" in fields[b"access-control-allow-headers"]
    assert preflight_fields(b"http://b", ["http://a"], ["GET"]) == [(b"vary", b"Origin")]


@pytest.mark.parametrize("value", ["1_000", "nan", "", "ten", "0x10"])
def test_what_only_a_programming_language_reads_is_not_a_number(value):
    with pytest.raises(ValidationError, match="X-Buffer-Size"):
        wishes(x_buffer_size=value)
