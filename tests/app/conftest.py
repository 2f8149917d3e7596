"""Fixtures for tests of the whole server from outside: an origin, and a server process."""

from collections.abc import Iterator

import pytest

from tests.helpers.origin import Origin, open_origin
from tests.helpers.servers import KINDS, ServerProcess, open_server


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with open_origin() as site:
        yield site


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    """The server under test, once in our own transport and once under hypercorn."""
    with open_server(request.param) as process:
        yield process


@pytest.fixture(scope="module")
def native_server() -> Iterator[ServerProcess]:
    with open_server("native") as process:
        yield process
