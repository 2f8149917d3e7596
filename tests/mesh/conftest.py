"""What the mesh's tests share."""

from collections.abc import AsyncIterator

import pytest
import structlog

from eventmesh_trio.mesh.hub import Hub, open_hub


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    """A hub with the default limits. Where time matters, ask for ``autojump_clock`` as well."""
    async with open_hub() as hub:
        yield hub


@pytest.fixture
def logged() -> object:
    """What was logged, as structlog's entries."""
    with structlog.testing.capture_logs() as entries:
        yield entries
