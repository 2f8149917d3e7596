"""A server that has run out of descriptors says so, stays idle, and is back as soon as it can."""

import resource
import time
from contextlib import ExitStack
from pathlib import Path

from tests.helpers.clock import cpu_seconds, wait_until
from tests.helpers.origin import Origin
from tests.helpers.raw import Connection, open_crawl, request
from tests.helpers.servers import ServerProcess, open_server

SPARE = 30
BACK_SECONDS = 1.0


def limit_descriptors(server: ServerProcess) -> int:
    """Let the server open only a few descriptors more; how many that are."""
    highest = max(int(path.name) for path in Path(f"/proc/{server.process.pid}/fd").iterdir())
    most = highest + 1 + SPARE
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (most, most))
    return most - server.descriptors()


def test_without_descriptors_the_server_answers_503_stays_idle_and_comes_back(
    origin: Origin,
) -> None:
    with open_server("native") as server:
        with open_crawl(server.address, origin.pages(8), {"concurrency": 4}) as stream:
            list(stream.read_events())  # starts what is started once
        with ExitStack() as stack:
            for _ in range(limit_descriptors(server) + 5):
                stack.enter_context(Connection(server.address))
            wait_until(lambda: "no descriptors left" in server.log, 2, "it has some left")
            answers, waits = [], []
            for _ in range(20):
                began = time.monotonic()
                answers.append(request(server.address, "GET", "/livez"))
                waits.append(time.monotonic() - began)
            assert {answer.status for answer in answers} == {503}
            assert {answer.error["type"] for answer in answers} == {"overloaded"}
            assert all(int(answer.headers["retry-after"]) > 0 for answer in answers)
            for _ in range(10):  # they say nothing, and keep the listener readable
                stack.enter_context(Connection(server.address))
            used, began = cpu_seconds(server.process.pid), time.monotonic()
            time.sleep(1)
            share = (cpu_seconds(server.process.pid) - used) / (time.monotonic() - began)
        seconds = wait_until(
            lambda: request(server.address, "GET", "/livez").status == 200,
            BACK_SECONDS,
            "the service is not back",
        )
        with open_crawl(server.address, origin.pages(2, first=50)) as stream:
            results = [event for event in stream.read_events() if event.kind == "result"]
        assert len(results) == 2
        # One line at the beginning and one at the end, however long it lasts.
        assert server.log.count("no descriptors left") == 1
        assert server.log.count("descriptors are back") == 1
    print(
        f"out of descriptors: {len(answers)} answers of 503, the slowest after "
        f"{max(waits) * 1000:.0f} ms; CPU {share:.1%}; service back after {seconds:.2f} s"
    )
    assert max(waits) < 1
    assert share < 0.1
