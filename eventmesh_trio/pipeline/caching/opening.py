"""Where documents are kept, from the setting: a store that works, whatever the disk says."""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import structlog

from eventmesh_trio.pipeline.caching.file import Unusable
from eventmesh_trio.pipeline.caching.limits import CacheLimits
from eventmesh_trio.pipeline.caching.memory import MemoryStore
from eventmesh_trio.pipeline.caching.sqlite import open_sqlite_store
from eventmesh_trio.pipeline.caching.store import Store

__all__ = ["open_store", "user_store"]

_logger: Final = structlog.get_logger(__name__)
_MEMORY: Final = "memory:"


@asynccontextmanager
async def open_store(limits: CacheLimits) -> AsyncIterator[Store]:
    """Open the store that ``limits.store`` names; in memory where that cannot be opened.

    That is logged then, and told by the store's statistics. Raises nothing.
    """
    async with AsyncExitStack() as stack:
        store: Store
        if limits.store == _MEMORY:
            store = MemoryStore(limits)
            stack.push_async_callback(store.aclose)
        else:
            path = Path(limits.store.removeprefix("sqlite:"))
            try:
                path = _expanded(path)
                store = await stack.enter_async_context(open_sqlite_store(path, limits))
            except Unusable as error:
                _logger.error(
                    "the document store cannot be used; documents are kept in memory",
                    path=str(path),
                    reason=str(error),
                )
                store = MemoryStore(limits, trouble=str(error))
                stack.push_async_callback(store.aclose)
        yield store


def _expanded(path: Path) -> Path:
    """The path with the home directory for its ``~``. Raises: Unusable, where there is none."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise Unusable(str(error)) from None


def user_store(environ: Mapping[str, str]) -> str:
    """The value of ``cache.store`` that is a file in the user's data directory.

    Source: https://specifications.freedesktop.org/basedir-spec/latest/
    """
    home = environ.get("XDG_DATA_HOME", "")
    # A relative path is invalid there, and to be ignored.
    base = Path(home) if os.path.isabs(home) else Path("~/.local/share")
    return f"sqlite:{base / 'eventmesh' / 'documents.sqlite'}"
