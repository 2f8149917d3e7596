import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventmesh_trio.wire.http_dates import parse_http_date, parse_retry_after

_NOW = 784111740.0  # 08:49:00 on 6 November 1994


@pytest.fixture(params=["UTC", "XXX+8", "XXX-5"])
def _anywhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("_anywhere")
@pytest.mark.parametrize(
    "text",
    [
        b"Sun, 06 Nov 1994 08:49:37 GMT",
        b"Sunday, 06-Nov-94 08:49:37 GMT",
        b"Sun Nov  6 08:49:37 1994",
        b"Sun, 06 Nov 1994 08:49:37 -0000",
    ],
)
def test_each_form_of_a_date_is_the_same_moment_wherever_the_machine_is(text: bytes) -> None:
    assert parse_http_date(text) == _NOW + 37
    assert parse_retry_after(text, _NOW) == 37


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        (b"120", 120),
        (b" 0 ", 0),
        (b"9" * 400, 999_999_999),
        (b"Sun, 06 Nov 1994 08:48:37 GMT", 0),
        (b"soon", None),
        (b"-5", None),
        (b"", None),
        ("٣".encode(), None),
    ],
)
def test_a_wait_is_read_as_seconds_or_as_a_date(value: bytes | None, seconds: float | None) -> None:
    assert parse_retry_after(value, _NOW) == seconds


@given(st.binary(max_size=60))
def test_any_bytes_are_a_wait_or_none(value: bytes) -> None:
    seconds = parse_retry_after(value, _NOW)
    assert seconds is None or seconds >= 0
