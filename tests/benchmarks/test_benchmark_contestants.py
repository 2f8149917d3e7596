"""Who takes part: all are asked for the same events, and a comparison runs with who is here."""

import importlib.util
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import attrs
import msgspec
import pytest

from benchmarks import contestants, fanout, stream
from benchmarks.bare import REQUEST_ID
from benchmarks.contestants import (
    BARE,
    ENCODING_BARE,
    NODE,
    OURS,
    PEERS,
    Contestant,
    serving,
    start_all,
)
from benchmarks.environment import ENVIRONMENT, NODE_MODULES, ROOT, importing
from benchmarks.outcome import Options
from benchmarks.readers import Reader, http_request
from benchmarks.synthetic import MAKERS, SIZES
from eventmesh_trio.wire.events import stamp


@pytest.fixture
def payload(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The peers' events, encoded by what is here: orjson is in the peers' environment only."""
    monkeypatch.setitem(sys.modules, "orjson", SimpleNamespace(dumps=msgspec.json.encode))
    spec = importlib.util.spec_from_file_location("payload", ROOT / "benchmarks/peers/payload.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def cores() -> Iterator[None]:
    """A comparison puts its driver on one core; a test gives all of them back."""
    before = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, before)


KINDS = {str: "text", int: "number", float: "number", bool: "truth", type(None): "nothing"}


def shape(value: Any) -> Any:
    """The members, and the kinds of what they hold, as JSON knows them."""
    if isinstance(value, dict):
        return {name: shape(one) for name, one in value.items()}
    return [shape(one) for one in value] if isinstance(value, list) else KINDS[type(value)]


def our_event(size: int) -> Any:
    event = stamp(MAKERS[size](7, 50, REQUEST_ID), "epoch-000000-8")
    return json.loads(msgspec.json.encode(event))


@pytest.mark.parametrize("size", SIZES)
def test_peers_build_events_of_the_same_members_and_length(payload: ModuleType, size: int) -> None:
    sent = list(payload.events({"n": 50, "size": size}))
    assert [kind for kind, _, _ in sent[:1] + sent[-1:]] == ["metadata", "summary"]
    theirs = json.loads(sent[8][2])
    assert shape(theirs) == shape(our_event(size))
    ours = len(json.dumps(our_event(size)))
    assert abs(len(json.dumps(theirs)) - ours) <= 3


def test_shared_events_are_built_once_and_are_as_many(payload: ModuleType) -> None:
    sent = list(payload.events({"n": 200, "shared": True}))
    assert len(sent) == 202
    assert sent[1][2] == sent[1 + payload.SHARED_EVENTS][2]
    assert sent[1][2] != sent[2][2]


@pytest.mark.parametrize("contestant", [OURS, *PEERS, BARE, ENCODING_BARE], ids=lambda c: c.name)
def test_every_contestant_is_asked_for_a_count_and_a_size(contestant: Contestant) -> None:
    body, message = contestant.body(12, size=200), contestant.message(12, size=200)
    for asked in (json.loads(body), json.loads(message)):
        words = json.dumps(asked)
        assert "12" in words
        assert "200" in words
    assert all(contestant.target(framing).startswith("/") for framing in contestant.framings)


def test_a_server_that_does_not_start_is_an_error_and_leaves_nothing() -> None:
    broken = Contestant(
        "broken", lambda python, _: [python, "-c", "raise SystemExit(3)"], runtime="ours"
    )
    with pytest.raises(RuntimeError, match="broken did not start"), serving(broken, None):
        raise AssertionError("it did not start")


def is_running(process: int) -> bool:
    """Whether there is such a process, one that only waits to be reaped not counted."""
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def test_a_server_is_ended_with_the_workers_it_has_started() -> None:
    program = (
        "import os, socket, subprocess, sys\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        "listener = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
        "while True:\n"
        "    stream, _ = listener.accept()\n"
        "    stream.sendall(b'%d\\n' % child.pid)\n"
        "    stream.close()\n"
    )
    parent = Contestant(
        "parent", lambda python, port: [python, "-c", program, str(port)], runtime="ours"
    )
    with serving(parent, None) as (address, _):
        reader = Reader(address)
        with reader.socket.makefile() as lines:
            worker = int(lines.readline())
        reader.socket.close()
        assert is_running(worker)
    deadline = time.monotonic() + 5
    while is_running(worker):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_benchmark_that_is_terminated_ends_its_servers() -> None:
    program = (
        "import time\n"
        "from benchmarks.command import heed_termination\n"
        "from benchmarks.contestants import BARE, serving\n"
        "heed_termination()\n"
        "with serving(BARE, None) as (_, pid):\n"
        "    print(pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        server = int(driver.stdout.readline())
        assert is_running(server)
        driver.terminate()
        assert driver.wait(10) == 128 + 15
    assert not is_running(server)


def test_the_bare_sockets_serve_what_they_were_asked_for() -> None:
    for limit in (BARE, ENCODING_BARE):
        with serving(limit, None) as (address, _):
            measured = stream.run_once(limit, address, stream.Scenario("sse", 3, 1_400, 1), 500)
            assert measured.results == 1_500


@pytest.mark.slow
def test_node_sends_events_of_the_same_members() -> None:
    if not (NODE_MODULES / "ws").is_dir():
        pytest.skip("Node's peers are not installed: python -m benchmarks stream --quick")
    with serving(NODE, None) as (address, _):
        for size in SIZES:
            reader = Reader(address)
            with reader.socket, reader.socket.makefile("rb") as lines:
                reader.ask(http_request(NODE.target("ndjson"), NODE.body(9, size=size)))
                events = (json.loads(line) for line in lines if line.startswith(b'{"event'))
                eighth = next(itertools.islice(events, 8, None))
            assert shape(eighth) == shape(our_event(size))


@pytest.fixture
def who_is_here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Only ours, and of the peers one, where it is installed: a test installs nothing."""
    python = ENVIRONMENT / "bin" / "python"
    here = [
        peer
        for peer in (contestants.AIOHTTP,)
        if python.is_file() and importing(str(python), peer.modules) is None
    ]
    missing = {"another": "was not asked"}
    for module in (stream, fanout):
        monkeypatch.setattr(module, "prepare", lambda: ([OURS, *here], dict(missing)))
    return [peer.name for peer in here]


@pytest.mark.slow
def test_a_quick_comparison_of_streams_gives_figures_and_demands(
    who_is_here: list[str], cores: None
) -> None:
    outcome = stream.compare(Options(quick=True))
    assert len(outcome.cases) == 6
    for case in outcome.cases:
        names = [figure.contestant for figure in case.figures]
        limits = [] if "websocket" in case.name else [BARE.name, ENCODING_BARE.name]
        assert names == [OURS.name, contestants.TUNED.name, *who_is_here, *limits]
        assert all(figure.median > 0 and len(figure.rounds) == 1 for figure in case.figures)
    assert outcome.missing == {"another": "was not asked"}
    asked = [demand.text for demand in outcome.demands]
    assert any("bare socket that encodes" in text for text in asked)
    assert any("no case below any peer" in text for text in asked) is bool(who_is_here)


@pytest.mark.slow
def test_a_quick_comparison_of_fan_out_gives_figures_and_demands(
    who_is_here: list[str], cores: None
) -> None:
    outcome = fanout.compare(Options(quick=True))
    assert [case.name for case in outcome.cases] == ["50 readers", "500 readers"]
    for case in outcome.cases:
        names = [figure.contestant for figure in case.figures]
        assert names == [OURS.name, fanout.LOSSY, *who_is_here, BARE.name]
        lossless = case.figure(OURS.name)
        assert lossless is not None
        assert lossless.details["arrived"] == 1.0
    assert len(outcome.demands) == 2 + bool(who_is_here)


def test_a_peer_that_does_not_start_costs_the_others_nothing() -> None:
    absent = Contestant("x", lambda python, _: [python, "-c", ""], runtime="ours")
    missing: dict[str, str] = {}
    with ExitStack() as stack:
        servers = start_all(stack, (absent, BARE), None, missing)
        assert [contestant.name for contestant, _, _ in servers] == [BARE.name]
        assert missing == {"x": "x did not start"}
        broken = attrs.evolve(absent, is_ours=True)
        with pytest.raises(RuntimeError, match="x did not start"):
            start_all(stack, (broken,), None, missing)
