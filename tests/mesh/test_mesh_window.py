from eventmesh_trio.mesh.pressure import Pressure
from eventmesh_trio.mesh.window import DynamicBuffer, warning_threshold

SAMPLES = 50  # those that a `Pressure` looks back on where it is not told otherwise


def test_the_threshold_is_25_of_32_of_the_capacity() -> None:
    assert [warning_threshold(n) for n in (1024, 256, 64)] == [800, 200, 50]
    assert DynamicBuffer(1024).threshold == 800


def test_a_capacity_out_of_range_is_clamped() -> None:
    assert DynamicBuffer(1).capacity == 64
    assert DynamicBuffer(10_000).capacity == 2048
    assert DynamicBuffer(5, min_capacity=2, max_capacity=10).capacity == 5


def test_it_grows_by_half_rounded_up_when_more_than_one_percent_was_impeded() -> None:
    buffer = DynamicBuffer(75)
    assert buffer.record(75, 1, slow=False)
    assert (buffer.capacity, buffer.resizes) == (113, 1)


def test_one_percent_exactly_is_not_more_than_one_percent() -> None:
    buffer = DynamicBuffer(100)
    assert not buffer.record(100, 1, slow=False)
    assert buffer.capacity == 100


def test_it_judges_only_whole_windows() -> None:
    buffer = DynamicBuffer(256)
    assert not buffer.record(255, 255, slow=False)
    assert buffer.record(1, 0, slow=False)
    assert buffer.capacity == 384


def test_each_window_is_judged_by_itself() -> None:
    buffer = DynamicBuffer(100)
    buffer.record(100, 1, slow=False)
    assert not buffer.record(100, 1, slow=False)  # 2 of 200 would be no more than 1 % either
    assert not buffer.record(99, 50, slow=False)
    assert buffer.capacity == 100


def test_it_never_outgrows_its_maximum_nor_shrinks_below_its_minimum() -> None:
    buffer = DynamicBuffer(256)
    for _ in range(20):
        buffer.record(5000, 5000, slow=False)
    assert buffer.capacity == 2048
    resizes = buffer.resizes
    assert not buffer.record(5000, 5000, slow=False)
    assert buffer.resizes == resizes
    for _ in range(200):
        buffer.record(5000, 0, slow=True)
    assert buffer.capacity == 64


def test_it_shrinks_by_a_quarter_for_a_slow_reader_even_where_events_waited() -> None:
    buffer = DynamicBuffer(256)
    assert buffer.record(256, 256, slow=True)
    assert buffer.capacity == 192


def test_a_slow_reader_of_few_events_is_judged_after_ten_writes() -> None:
    buffer = DynamicBuffer(256)
    changed = [buffer.record(1, 0, slow=True) for _ in range(20)]
    assert [index for index, change in enumerate(changed, 1) if change] == [10, 20]
    assert buffer.capacity == 144


def test_a_fixed_window_stays_as_it_was_asked_for() -> None:
    buffer = DynamicBuffer(256, adaptive=False)
    buffer.record(1000, 1000, slow=False)
    buffer.record(1000, 0, slow=True)
    assert (buffer.capacity, buffer.resizes) == (256, 0)


def test_the_factors_can_be_set() -> None:
    buffer = DynamicBuffer(100, growth_factor=2.0, shrink_factor=0.5)
    buffer.record(100, 100, slow=False)
    assert buffer.capacity == 200
    buffer.record(200, 0, slow=True)
    assert buffer.capacity == 100


def test_a_reader_is_slow_when_more_than_half_of_its_last_sends_were() -> None:
    pressure = Pressure(100)
    for _ in range(SAMPLES // 2):
        pressure.record(1)
        pressure.record(101)
    assert not pressure.is_slow
    pressure.record(500)  # and one fast send leaves the window
    assert pressure.is_slow


def test_the_threshold_itself_is_not_slow() -> None:
    pressure = Pressure(100)
    for _ in range(SAMPLES):
        pressure.record(100)
    assert (pressure.is_slow, pressure.slow_sends) == (False, 0)


def test_a_few_slow_sends_do_not_make_a_slow_reader() -> None:
    pressure = Pressure(100)
    for _ in range(4):
        pressure.record(1000)
    assert not pressure.is_slow
    pressure.record(1000)
    assert pressure.is_slow


def test_what_is_50_sends_old_is_forgotten_but_the_count_of_slow_ones_is_not() -> None:
    pressure = Pressure(100)
    for _ in range(SAMPLES):
        pressure.record(400)
    for _ in range(SAMPLES):
        pressure.record(2)
    assert (pressure.is_slow, pressure.slow_sends) == (False, SAMPLES)
    assert pressure.average_ms == 2


def test_the_average_before_any_send_is_zero() -> None:
    assert Pressure(100).average_ms == 0
