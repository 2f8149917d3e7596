"""When the peers' events are due, and what they are; see ``benchmarks/pace.py``."""

import time
from typing import Any

import orjson

from benchmarks.peers.payload import MAKERS, MEDIUM, REQUEST_ID, now


def opening(asked: dict[str, Any]) -> bytes:
    head = {"timestamp": now(), "request_id": REQUEST_ID, "total_urls": asked["n"]}
    return orjson.dumps({"event": "metadata", **head})


def seconds_left(index: int, asked: dict[str, Any]) -> float:
    """Until that event is due; 0 or less where it is late."""
    due = asked["start_ns"] + index * asked["every_ns"]
    return float(due - time.monotonic_ns()) / 1e9


def paced(index: int, asked: dict[str, Any]) -> bytes:
    return orjson.dumps(MAKERS[MEDIUM](index, asked["n"]))
