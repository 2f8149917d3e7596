from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventmesh_trio.wire.timestamps import utc_timestamp

_YEAR_1 = datetime(1, 1, 2, tzinfo=UTC).timestamp()
_YEAR_9999 = datetime(9999, 12, 30, tzinfo=UTC).timestamp()


@given(st.floats(min_value=_YEAR_1, max_value=_YEAR_9999))
def test_a_timestamp_reads_back_as_the_nearest_millisecond(seconds: float) -> None:
    text = utc_timestamp(seconds)
    assert text.endswith("Z")
    back = datetime.fromisoformat(text)
    assert back.utcoffset() == timedelta(0)
    milliseconds = (back - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    assert milliseconds == round(seconds * 1000)


@given(
    st.floats(min_value=_YEAR_1, max_value=_YEAR_9999),
    st.lists(st.floats(min_value=-0.002, max_value=0.002), min_size=1),
)
def test_a_time_close_to_the_last_one_is_rounded_for_itself(
    seconds: float, offsets: list[float]
) -> None:
    utc_timestamp(seconds)
    for offset in offsets:
        close = seconds + offset
        back = datetime.fromisoformat(utc_timestamp(close))
        milliseconds = (back - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
        assert milliseconds == round(close * 1000)


@given(st.floats(min_value=_YEAR_1, max_value=_YEAR_9999))
def test_every_timestamp_has_the_same_length(seconds: float) -> None:
    assert len(utc_timestamp(seconds)) == len("2024-01-15T10:30:00.000Z")


@given(st.lists(st.floats(min_value=0, max_value=4e9), min_size=2))
def test_later_times_never_sort_before_earlier_ones(times: list[float]) -> None:
    times.sort()
    texts = [utc_timestamp(seconds) for seconds in times]
    assert texts == sorted(texts)


def test_known_times_are_written_as_rfc_3339_shows_them() -> None:
    assert utc_timestamp(0) == "1970-01-01T00:00:00.000Z"
    assert utc_timestamp(1705314600.0) == "2024-01-15T10:30:00.000Z"
    assert utc_timestamp(1705314600.9996) == "2024-01-15T10:30:01.000Z"  # rounds into the second
    assert utc_timestamp(-0.001) == "1969-12-31T23:59:59.999Z"


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 1e18])
def test_a_time_outside_the_calendar_raises(seconds: float) -> None:
    with pytest.raises((ValueError, OverflowError)):
        utc_timestamp(seconds)
