"""When each event of a stream is due: agreed on before, so that nobody's delay moves the rest.

Times are of CLOCK_MONOTONIC, which all processes of a machine share: a server waits for them, and
who reads the event knows by its index when it was due. What is late is sent at once, and counts
from when it was due: a server that stands still is charged for all that it holds up meanwhile.
"""

import json
from collections.abc import Mapping
from typing import Self
from urllib.parse import urlencode

import attrs

__all__ = ["AT_ONCE", "Pace"]


@attrs.frozen
class Pace:
    """``count`` events, the first at ``start_ns`` and then one each ``every_ns``."""

    count: int
    start_ns: int = 0
    every_ns: int = 0

    def due_ns(self, index: int) -> int:
        return self.start_ns + index * self.every_ns

    def due_seconds(self, index: int) -> float:
        """The same as `time.monotonic` tells it."""
        return self.due_ns(index) / 1e9

    def shifted(self, ns: int) -> "Pace":
        return attrs.evolve(self, start_ns=self.start_ns + ns)

    def body(self, *, is_ours: bool) -> bytes:
        """The request that asks for it: of ours as the query of a URL to crawl."""
        members = {"n": self.count, "start_ns": self.start_ns, "every_ns": self.every_ns}
        if is_ours:
            return json.dumps({"urls": [f"http://bench/?{urlencode(members)}"]}).encode()
        return json.dumps(members).encode()

    @classmethod
    def of_query(cls, query: Mapping[str, list[str]]) -> Self:
        """What our server finds in that query."""
        return cls(*(int(query[name][0]) for name in ("n", "start_ns", "every_ns")))


AT_ONCE = Pace(1)
"""One event, due already."""
