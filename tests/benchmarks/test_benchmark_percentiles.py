"""Percentiles by the nearest rank."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.percentiles import in_ms, percentile

seconds = st.lists(st.floats(0, 100), min_size=1)


@pytest.mark.parametrize(
    ("percent", "found"), [(1, 10), (50, 500), (99, 990), (99.9, 999), (99.95, 1000), (100, 1000)]
)
def test_a_percentile_is_the_value_at_its_rank(percent: float, found: int) -> None:
    assert percentile(range(1, 1001), percent) == found


@given(seconds, st.floats(0.001, 100))
def test_a_percentile_is_a_value_that_occurred_and_that_so_many_do_not_pass(
    values: list[float], percent: float
) -> None:
    found = percentile(values, percent)
    assert found in values
    assert sum(value <= found for value in values) * 100 >= percent * len(values) - 1e-6


@given(seconds)
def test_percentiles_rise_up_to_the_worst(values: list[float]) -> None:
    found = list(in_ms(values).values())
    assert found == sorted(found)
    assert found[-1] == max(values) * 1000


@pytest.mark.parametrize("percent", [0, -1, 100.1])
def test_there_is_no_percentile_beyond_all_values(percent: float) -> None:
    with pytest.raises(ValueError, match="percentile"):
        percentile([1.0], percent)


def test_there_is_no_percentile_of_nothing() -> None:
    with pytest.raises(ValueError, match="of 0 values"):
        percentile([], 50)
