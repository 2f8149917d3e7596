"""The ASGI application's start: who configures the log, and what is refused under hypercorn."""

import asyncio
import copy
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
import trio

from eventmesh_trio.app.asgi import make_app
from eventmesh_trio.app.config import Config
from eventmesh_trio.app.hypercorn import workers
from eventmesh_trio.app.observability import configure_logging
from eventmesh_trio.pipeline.rendering.limits import RenderLimits
from tests.helpers.programs import CHECKOUT


@pytest.fixture(autouse=True)
def untouched_log() -> Iterator[None]:
    """Each test begins with a structlog that nobody has configured, and leaves none behind."""
    before = structlog.get_config() if structlog.is_configured() else None
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()
    if before is not None:
        structlog.configure(**before)


async def live_through_a_lifespan(state: dict[str, Any] | None) -> list[dict[str, Any]]:
    """What the application answers to a start and, if that worked, to a shutdown."""
    told: list[dict[str, Any]] = []
    events, received = trio.open_memory_channel[dict[str, Any]](2)
    events.send_nowait({"type": "lifespan.startup"})
    events.send_nowait({"type": "lifespan.shutdown"})

    async def send(message: dict[str, Any]) -> None:
        told.append(message)

    scope: dict[str, Any] = {"type": "lifespan"}
    if state is not None:
        scope["state"] = state
    await make_app(Config())(scope, received.receive, send)
    return told


async def test_the_start_configures_a_log_that_nobody_has_configured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = await live_through_a_lifespan({})
    assert [message["type"] for message in told] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    structlog.get_logger("test").info("something happened", seconds=2)
    captured = capsys.readouterr()
    assert captured.out == ""
    line = json.loads(captured.err)
    assert (line["event"], line["level"], line["seconds"]) == ("something happened", "info", 2)
    assert line["timestamp"].endswith("Z")


async def test_a_log_that_somebody_has_configured_is_left_as_it_is() -> None:
    structlog.configure(processors=[structlog.testing.LogCapture()])
    before = structlog.get_config()
    await live_through_a_lifespan({})
    assert structlog.get_config() == before


async def test_middleware_may_copy_a_scope_with_the_application_in_its_state() -> None:
    state: dict[str, Any] = {}
    await live_through_a_lifespan(state)
    scope = {"type": "http", "path": "/livez", "headers": [(b"host", b"a")], "state": state}
    copied = copy.deepcopy(scope)
    assert copied["state"] is not state
    assert copied["state"] == state  # one application, however often its scope is copied


async def test_a_server_without_lifespan_state_is_told_what_to_use() -> None:
    (answer,) = await live_through_a_lifespan(None)
    assert answer["type"] == "lifespan.startup.failed"
    assert "hypercorn" in answer["message"]


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("grouped", [True, False])
def test_no_traceback_shows_local_variables(
    as_json: bool, grouped: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(as_json=as_json, level=logging.ERROR)

    def read(body: str) -> None:
        if grouped:
            raise ExceptionGroup("unread", [ValueError("no page")])
        raise ValueError("no page")

    try:
        read("".join(["what a ", "page ", "said"]))
    except (ValueError, ExceptionGroup):
        structlog.get_logger("test").exception("reading failed")
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "ValueError: no page" in said
    assert "what a page said" not in said


def test_a_process_that_hypercorn_did_not_start_counts_as_one_worker() -> None:
    assert workers() == 1


def test_several_workers_are_refused_with_what_to_do_instead() -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "hypercorn", "-k", "trio", "--bind", "127.0.0.1:0"),
            *("--workers", "2", "eventmesh_trio.asgi:app"),
        ],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    # It has ended; with which code is up to hypercorn, which forgets that of a worker that failed.
    assert "hypercorn runs 2 workers" in done.stderr
    assert "Set workers = 1" in done.stderr


async def test_a_mesh_that_cannot_open_is_told_to_the_server_with_the_reason() -> None:
    told: list[dict[str, Any]] = []
    events, received = trio.open_memory_channel[dict[str, Any]](1)
    events.send_nowait({"type": "lifespan.startup"})

    async def send(message: dict[str, Any]) -> None:
        told.append(message)

    config = Config(render=RenderLimits(browser="/no/such/browser", sandbox=False))
    await make_app(config)({"type": "lifespan", "state": {}}, received.receive, send)
    (answer,) = told
    assert answer["type"] == "lifespan.startup.failed"
    assert "/no/such/browser" in answer["message"]


def test_a_worker_that_is_not_trios_is_refused_by_its_name() -> None:
    told: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "lifespan.startup"}

    async def send(message: dict[str, Any]) -> None:
        told.append(message)

    asyncio.run(make_app(Config())({"type": "lifespan", "state": {}}, receive, send))
    (answer,) = told
    assert answer["type"] == "lifespan.startup.failed"
    assert "-k trio" in answer["message"]
