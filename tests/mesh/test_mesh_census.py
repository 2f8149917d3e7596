import attrs
import pytest
import trio

from eventmesh_trio.mesh.census import Census
from eventmesh_trio.mesh.global_metrics import SCORES, GlobalStreamingMetrics
from eventmesh_trio.mesh.reader import StreamProtocol


@attrs.define(eq=False)
class Reader:
    """What a census wants to know of a reader."""

    protocol: StreamProtocol = "ndjson"
    utilization: float = 0.0


def metrics(**changes: object) -> GlobalStreamingMetrics:
    members: dict[str, object] = {name.name: 0 for name in attrs.fields(GlobalStreamingMetrics)}
    return GlobalStreamingMetrics(**(members | changes))  # type: ignore[arg-type]


def test_efficiency_is_the_mean_of_delivery_and_of_success() -> None:
    assert metrics().efficiency() == 1.0
    some = metrics(total_messages_sent=100, total_messages_dropped=20, error_rate=0.1)
    assert some.efficiency() == pytest.approx((0.8 + 0.9) / 2)
    worst = metrics(total_messages_sent=1, total_messages_dropped=20, error_rate=1.0)
    assert worst.efficiency() == 0


async def test_connections_are_counted_while_they_last_and_their_time_is_averaged(
    autojump_clock: object,
) -> None:
    census = Census()
    first, second = Reader(), Reader()
    census.stream_opened(first)
    await trio.sleep(10)
    census.stream_opened(second)
    census.stream_closed(first)
    census.stream_closed(first)  # told twice, counted once
    await trio.sleep(4)
    snapshot = census.snapshot()
    assert (snapshot.active_connections, snapshot.total_connections) == (1, 2)
    assert snapshot.average_connection_duration_ms == pytest.approx(7000)
    assert snapshot.uptime_seconds == pytest.approx(14)


async def test_counts_add_up(autojump_clock: object) -> None:
    census = Census()
    for status in ("failed", "completed", "completed", "timed_out"):
        census.run_started()
        census.run_ended(status)
    census.run_started()
    census.sent("ndjson", 10, 1000)
    census.sent("ndjson", 4, 400)
    census.sent("websocket", 1, 100)
    census.coalesced(3)
    census.dropped(1)
    census.warned()
    snapshot = census.snapshot()
    assert (snapshot.active_runs, snapshot.total_runs, snapshot.failed_runs) == (1, 5, 1)
    assert snapshot.ended_runs == {"failed": 1, "completed": 2, "timed_out": 1}
    assert (snapshot.total_messages_sent, snapshot.total_bytes_sent) == (15, 1500)
    assert (snapshot.total_progress_coalesced, snapshot.total_messages_dropped) == (3, 1)
    assert snapshot.total_warnings == 1
    assert snapshot.drop_ratio == pytest.approx(1 / 15)
    assert snapshot.protocols["ndjson"].messages_sent == 14
    assert snapshot.protocols["ndjson"].bytes_sent == 1400
    assert snapshot.protocols["websocket"].messages_sent == 1
    assert "sse" not in snapshot.protocols


async def test_readers_are_counted_by_protocol_and_their_windows_are_averaged(
    autojump_clock: object,
) -> None:
    census = Census()
    assert census.snapshot().buffer_utilization == 0
    readers = [Reader("sse", 0.9), Reader("sse", 0.3), Reader("channel", 0.9)]
    for reader in readers:
        census.stream_opened(reader)
    assert census.snapshot().buffer_utilization == pytest.approx(0.7)
    census.stream_closed(readers[1])
    snapshot = census.snapshot()
    assert snapshot.buffer_utilization == pytest.approx(0.9)
    assert snapshot.protocols["sse"].active_connections == 1
    assert snapshot.protocols["sse"].total_connections == 2
    assert snapshot.protocols["channel"].active_connections == 1


async def test_windows_that_are_full_are_an_issue_whatever_the_health(
    autojump_clock: object,
) -> None:
    census = Census()
    reader = Reader("sse", 0.5)
    census.stream_opened(reader)
    assert census.system_status().streaming_health.issues == ()
    reader.utilization = 0.85
    await trio.sleep(1)  # it is looked at once a second
    (issue,) = census.system_status().streaming_health.issues
    assert issue == "High buffer utilization across connections: 85%"


@pytest.mark.parametrize(
    ("errors", "of", "health"),
    [
        (0, 100, "healthy"),
        (5, 100, "healthy"),
        (6, 100, "degraded"),
        (10, 100, "degraded"),
        (11, 100, "critical"),
        (1, 9, "healthy"),
    ],
)
async def test_health_follows_the_error_rate_of_enough_ends(
    autojump_clock: object, errors: int, of: int, health: str
) -> None:
    census = Census()
    for index in range(of):
        census.run_started()
        census.run_ended("failed" if index >= of - errors else "completed")
    assert census.health == health
    assert census.server_health().status == health
    assert census.system_status().streaming_health.score == SCORES[census.health]


@pytest.mark.parametrize(
    ("dropped", "health"), [(10, "healthy"), (11, "degraded"), (20, "degraded"), (21, "critical")]
)
async def test_health_follows_the_drop_ratio(
    autojump_clock: object, dropped: int, health: str
) -> None:
    census = Census()
    census.sent("sse", 100, 1)
    census.dropped(dropped)
    assert census.health == health
    status = census.system_status()
    assert bool(status.streaming_health.issues) == (health != "healthy")


async def test_cut_off_readers_count_as_errors(autojump_clock: object) -> None:
    census = Census()
    for index in range(20):
        reader = Reader()
        census.stream_opened(reader)
        census.stream_closed(reader, failed=index % 2 == 0)
    assert census.snapshot().total_evictions == 10
    assert census.error_rate == 0.5
    assert census.system_status().global_metrics.global_error_rate == 0.5


async def test_health_comes_back_when_the_window_has_passed_and_each_change_is_told(
    autojump_clock: object,
) -> None:
    told: list[str] = []
    census = Census(60, lambda: told.append("changed"))
    for _ in range(20):
        census.run_started()
        census.run_ended("failed")
    assert (census.health, census.health_version, told) == ("critical", 1, ["changed"])
    await trio.sleep(30)
    assert census.health == "critical"
    await trio.sleep(40)
    assert census.health == "healthy"
    assert (census.health_version, told) == (2, ["changed"] * 2)


async def test_throughput_is_of_the_recent_window(autojump_clock: object) -> None:
    census = Census(60)
    for _ in range(30):
        await trio.sleep(1)
        census.sent("sse", 10, 1)
    assert census.snapshot().throughput_events_per_sec == pytest.approx(10, rel=0.2)
    await trio.sleep(120)
    assert census.snapshot().throughput_events_per_sec == 0


async def test_a_steady_flow_has_a_steady_throughput(autojump_clock: object) -> None:
    census = Census(60)
    found = []
    for tick in range(3000):
        await trio.sleep(0.1)
        census.sent("ndjson", 10, 100)
        if tick > 20:
            found.append(census.snapshot().throughput_events_per_sec)
    assert (min(found), max(found)) == (pytest.approx(100, rel=0.01),) * 2


async def test_a_write_after_a_silence_is_no_burst(autojump_clock: object) -> None:
    census = Census()
    census.sent("ndjson", 5, 100)
    await trio.sleep(200)
    census.sent("ndjson", 6, 100)
    await trio.sleep(0.001)
    assert census.snapshot().throughput_events_per_sec == pytest.approx(0.1)


async def test_memory_and_load_are_measured(autojump_clock: object) -> None:
    census = Census()
    ballast = bytearray(64 << 20)
    for index in range(0, len(ballast), 4096):
        ballast[index] = 1
    large = census.snapshot().memory_usage_bytes
    assert large > 64 << 20
    assert census.server_health().memory_usage_mb == round(large / (1 << 20))
    del ballast
    await trio.sleep(2)  # a reading is good for a second
    assert census.snapshot().memory_usage_bytes < large - (32 << 20)
    assert census.server_health().system_load >= 0
