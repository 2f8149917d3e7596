"""New connections are counted up to their first event, and no server's end is taken for one."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benchmarks.connect import Sitting, _figure, measure, steps_of
from benchmarks.contestants import FRAMINGS, OURS, serving


@contextmanager
def answering(*answers: bytes) -> Iterator[tuple[str, int]]:
    """A server that sends those answers, one for each thing that it receives, and closes."""

    def serve() -> None:
        while True:
            try:
                stream, _ = listener.accept()
            except OSError:
                return
            with stream:
                for answer in answers:
                    stream.recv(65536)
                    stream.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_each_connection_is_timed_up_to_its_first_event_and_read_to_its_last() -> None:
    with answering(b"one", b"..two..three") as address:
        steps = [(b"a", b"one"), (b"b", b"two"), (b"", b"three")]
        found = measure(address, steps, 5, clients=2)
    assert len(found.seconds) == 5
    assert 0 < sum(found.seconds) / 2 <= found.total_seconds
    assert found.rate == pytest.approx(5 / found.total_seconds)


def test_a_server_that_closes_before_the_first_event_is_an_error() -> None:
    with answering(b"HTTP/1.1 503\r\n\r\n") as address:
        with pytest.raises(RuntimeError, match="503"):
            measure(address, [(b"a", b"one")], 1)


def test_a_figure_tells_the_rate_of_each_round_and_the_times_of_all() -> None:
    figure = _figure("x", [Sitting([0.001, 0.002], 0.004, 0.1), Sitting([0.003], 0.003, 0.25)])
    assert figure.rounds == pytest.approx((500, 1000 / 3))
    assert figure.details == pytest.approx({"p50_ms": 2, "p99_ms": 3, "driver_percent": 25})


def test_our_server_brings_each_new_connection_its_first_event_in_all_framings() -> None:
    with serving(OURS, None) as (address, _):
        for framing in FRAMINGS:
            assert len(measure(address, steps_of(OURS, framing), 20).seconds) == 20
