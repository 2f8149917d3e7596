"""Which handler serves which path and method: one table, for the dispatcher and `/openapi.json`.

``docs/wire.rst`` tells what each does. A path is matched whole, without regard to a trailing slash;
``{id}`` stands for one segment.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import attrs

from eventmesh_trio.errors import MethodNotAllowed, NotFoundError

__all__ = ["API_PREFIX", "Match", "Route", "RouteTable"]

API_PREFIX: Final = "/api/v1"
_PARAMETER: Final = re.compile(r"\{(\w+)\}")


@attrs.frozen
class Route:
    """One canonical path with its aliases; ``methods`` maps a method to its handler.

    ``streams``: its responses are streams, each of which holds one place while it is open.
    """

    path: str
    methods: Mapping[str, Callable[..., Awaitable[None]]]
    summary: str
    aliases: Sequence[str] = ()
    streams: bool = False

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.path, *self.aliases)

    @property
    def allow(self) -> str:
        """The ``Allow`` field's value (RFC 9110, section 10.2.1)."""
        also_head = ("HEAD",) if "GET" in self.methods else ()
        return ", ".join((*self.methods, *also_head, "OPTIONS"))


@attrs.frozen
class Match:
    route: Route
    parameters: Mapping[str, str]

    def handler(self, method: str) -> Callable[..., Awaitable[None]]:
        """The handler of a method; HEAD is served by GET's.

        Raises:
          MethodNotAllowed: there is none.
        """
        wanted = "GET" if method == "HEAD" else method
        try:
            return self.route.methods[wanted]
        except KeyError:
            raise MethodNotAllowed(method, self.route.allow) from None


class RouteTable:
    """All routes, compiled once."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)
        self._exact: dict[str, Route] = {}
        self._patterns: list[tuple[re.Pattern[str], Route]] = []
        for route in routes:
            for path in route.paths:
                if "{" in path:
                    pattern = _PARAMETER.sub(r"(?P<\1>[^/]+)", path)
                    self._patterns.append((re.compile(pattern), route))
                else:
                    self._exact[path] = route

    @property
    def allow(self) -> str:
        """What ``Allow`` says of the server as a whole (``OPTIONS *``: RFC 9110, 9.3.7)."""
        return ", ".join(
            dict.fromkeys(method for route in self.routes for method in route.allow.split(", "))
        )

    def match(self, path: str) -> Match:
        """Find a path's route. Raises `NotFoundError`."""
        trimmed = path.rstrip("/") or "/"
        if (route := self._exact.get(trimmed)) is not None:
            return Match(route, {})
        for pattern, route in self._patterns:
            if (found := pattern.fullmatch(trimmed)) is not None:
                return Match(route, found.groupdict())
        raise NotFoundError(f"there is nothing at {path[:200]}")
