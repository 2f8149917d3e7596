"""Fixtures for clients of the whole server: an origin, and the server in each of its forms."""

from collections.abc import Iterator, Mapping
from typing import Final

import pytest

from tests.helpers.origin import Origin, open_origin
from tests.helpers.servers import Kind, ServerProcess, open_server

FORMS: Final[Mapping[str, tuple[Kind, Mapping[str, str]]]] = {
    "native": ("native", {}),
    "hypercorn": ("hypercorn", {}),
    "compressed": ("native", {"EVENTMESH_STREAM__GENERAL__ENABLE_COMPRESSION": "true"}),
}
RETRY: Final = {"EVENTMESH_STREAM__SSE__RETRY_INTERVAL": "300ms"}


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with open_origin() as site:
        yield site


@pytest.fixture(scope="module", params=FORMS)
def server(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    """`eventmesh serve`, with and without compression, and Hypercorn's trio worker."""
    kind, settings = FORMS[request.param]
    with open_server(kind, {**RETRY, **settings}) as process:
        yield process


@pytest.fixture
def cuts(request: pytest.FixtureRequest) -> tuple[int, int]:
    """How many bytes of the first two connections' answers pass a proxy: two or three pages."""
    compressed = request.node.callspec.params["server"] == "compressed"
    return (2_000, 2_000) if compressed else (9_000, 9_000)
