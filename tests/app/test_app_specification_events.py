"""Every JSON example of the specification, against what a real server really says.

Events are taken from streams of a server process over sockets, with times short enough to see all
of them; those of a deep search from one whose engine is ours.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import pytest

from tests.helpers.clock import wait_until
from tests.helpers.origin import Origin
from tests.helpers.raw import (
    Connection,
    WebSocketClient,
    get_json,
    open_crawl,
    post_json,
    tag_of,
)
from tests.helpers.search_site import open_search_site
from tests.helpers.servers import ServerProcess, open_server
from tests.helpers.specification import json_examples

KINDS = (
    *("metadata", "progress", "result", "summary", "error", "backpressure_warning", "heartbeat"),
    *("system_status", "search_start", "search_results", "search_result"),
)
Events = Mapping[str, list[dict[str, Any]]]


def json_type(value: object) -> str:
    if value is None:
        return "null"
    names = {bool: "boolean", int: "number", float: "number", str: "string", list: "array"}
    return names.get(type(value), "object")


def differences(example: object, real: object, path: str = "") -> Iterator[str]:
    """Where ``real`` lacks a member of the example, or has it with another JSON type."""
    if json_type(example) != json_type(real):
        yield f"{path}: {json_type(real)} instead of {json_type(example)}"
    elif isinstance(example, dict) and isinstance(real, dict):
        if path.endswith("error_types"):  # a tally by names that are not fixed
            example = dict.fromkeys(real, next(iter(example.values())))
        for name, value in example.items():
            if name in real:
                yield from differences(value, real[name], f"{path}.{name}")
            else:
                yield f"{path}.{name} is missing"
    elif isinstance(example, list) and isinstance(real, list):
        if example and not real:
            yield f"{path} is empty"
        for index, item in enumerate(real):
            yield from differences(example[0], item, f"{path}[{index}]")


# --- A server whose streams say everything --------------------------------------------------------


SETTINGS = {
    "EVENTMESH_STREAM__NDJSON__KEEP_ALIVE_INTERVAL": "0.2s",
    "EVENTMESH_MESH__STALL_SECONDS": "1",
    "EVENTMESH_MESH__WARNING_SECONDS": "0",
    "EVENTMESH_WORKERS__WORKERS": "2",
}
SMALL_WINDOW = [("X-Buffer-Size", "64"), ("X-Max-Memory-Per-Connection", "4096")]


@pytest.fixture(scope="module")
def said(origin: Origin) -> Events:
    """Events by kind, of streams that were read well, late, or never."""
    events: dict[str, list[dict[str, Any]]] = defaultdict(list)

    def read(urls: list[str], *, until: str = "summary", **options: Any) -> None:
        with open_crawl(server.address, urls, options) as stream:
            for event in stream.read_events():
                events[event.kind].append(event.data)
                if event.kind == until:
                    break

    def hold() -> Connection:
        """A crawl whose reader stands still."""
        urls = origin.pages(220, host=2)
        options = {"concurrency": 16}
        return open_crawl(server.address, urls, options, headers=SMALL_WINDOW, receive_buffer=4096)

    with open_server("native", SETTINGS) as server:
        mixed = [*origin.slow_pages(8, 60), origin.url("/status/404"), *origin.stalling(1, host=1)]
        read(mixed, concurrency=2, timeout_seconds=0.3, max_retries=0)
        read(origin.slow_pages(1, 500))  # the silence before its page is broken by a heartbeat
        with hold() as late:
            wait_until(lambda: utilization_of(server) > 0.9, 10, "a window that is full")
            for event in late.read_events():
                events[event.kind].append(event.data)
        # Three streams are cut off, of few that end: who is attached then is told of the health.
        with ExitStack() as stuck:
            for _ in range(3):
                stuck.enter_context(hold())
            for _ in range(6):
                read(origin.pages(1))
            read(origin.slow_pages(60, 200, host=1), until="system_status", concurrency=1)
    return events


def utilization_of(server: ServerProcess) -> float:
    """The mean use of the windows of all readers."""
    utilization = get_json(server.address, "/stats")["streaming"]["buffer_utilization"]
    assert isinstance(utilization, float)
    return utilization


@pytest.fixture(scope="module")
def searched(origin: Origin) -> Events:
    """Events by kind, of a deep search; its pages are all well."""
    events: dict[str, list[dict[str, Any]]] = defaultdict(list)
    with (
        open_search_site(origin.pages(3)) as site,
        open_server("native", site.settings()) as server,
    ):
        response = post_json(server.address, "/deepsearch/stream", {"query": "best practices"})
    for line in response.body.splitlines():
        event = json.loads(line)
        events[event["event"]].append(event)
    return events


@pytest.fixture(scope="module")
def examples() -> Mapping[str, dict[str, Any]]:
    return {example["event"]: example for example in json_examples()}


def test_the_events_that_are_checked_are_those_that_are_shown(
    examples: Mapping[str, dict[str, Any]],
) -> None:
    assert set(examples) == set(KINDS)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_real_stream_has_every_member_of_the_example_with_its_type(
    kind: str, examples: Mapping[str, dict[str, Any]], said: Events, searched: Events
) -> None:
    real = [*said.get(kind, ()), *searched.get(kind, ())]
    assert real, f"no {kind} was said"
    misses = [list(differences(examples[kind], event)) for event in real]
    best = min(misses, key=len)
    assert not best, best


# What may be null or absent in some events of a kind, and why: a first result, a failure.
SOMETIMES: Mapping[str, Callable[[dict[str, Any]], bool]] = {
    "progress": lambda event: event["phase"] != "done" and event["completed"] > 0,
    "result": lambda event: event["error"] is None and event["pipeline_metadata"] is not None,
    "error": lambda event: event["error"]["retryable"],
    "summary": lambda event: event["failed"] > 0,
    "system_status": lambda event: event["streaming_health"]["status"] != "healthy",
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_event_of_a_kind_has_every_member_where_there_is_something_to_say(
    kind: str, examples: Mapping[str, dict[str, Any]], said: Events, searched: Events
) -> None:
    real = [*said.get(kind, ()), *searched.get(kind, ())]
    full = [event for event in real if kind not in SOMETIMES or SOMETIMES[kind](event)]
    assert full
    for event in full:
        assert not list(differences(examples[kind], event)), event


def test_the_messages_of_the_sdk_have_the_shown_members_with_their_types(
    origin: Origin, native_server: ServerProcess
) -> None:
    _, shown = json_examples("python-sdk-websocket.md")
    kinds = set(shown["message_type"].split("|"))
    with WebSocketClient(native_server.address, "/crawl/ws") as socket:
        messages = [socket.receive()]
        request = {"request_type": "crawl", "data": {"urls": origin.pages(2)}}
        socket.send(request)
        messages += socket.receive_until("summary")
        for message in ({"request_type": "ping", "data": {}}, {"request_type": "status"}, {}):
            socket.send(message)
            messages.append(socket.receive())
    assert kinds <= {tag_of(message) for message in messages}
    for message in messages:
        assert not list(differences(shown, message)), message
