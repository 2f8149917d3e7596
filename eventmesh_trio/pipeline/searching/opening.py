"""The provider that the settings name, opened: its endpoint, its key, and what it may dial."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import attrs
import trio

from eventmesh_trio.errors import ConfigError
from eventmesh_trio.pipeline.network.guard import AddressPolicy
from eventmesh_trio.pipeline.network.limits import FetchLimits
from eventmesh_trio.pipeline.searching.apis import BraveAPI, SearchAPI, SearxngAPI, SerperAPI
from eventmesh_trio.pipeline.searching.client import open_api_client
from eventmesh_trio.pipeline.searching.limits import BRAVE_URL, SERPER_URL, SearchLimits
from eventmesh_trio.pipeline.searching.search import LocalProvider, Searchable, WebProvider
from eventmesh_trio.pipeline.searching.secret import Secret
from eventmesh_trio.wire.urls import parse_url

__all__ = ["open_search"]

_MAX_KEY_BYTES: Final = 4096


@asynccontextmanager
async def open_search(
    limits: SearchLimits,
    store: Searchable,
    *,
    fetch: FetchLimits | None = None,
    policy: AddressPolicy | None = None,
    user_agent: str,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator[LocalProvider | WebProvider]:
    """Open the provider that the settings name.

    Args:
      store: what the provider ``local`` searches.
      fetch: the times of one connection and exchange with an endpoint.
      policy: of which URLs kept documents are found, and which addresses are dialled for an
        endpoint that the operator did not name; one that the operator named is dialled wherever it
        is.
    Raises:
      ConfigError: a key's file that cannot be read, or holds no key.
    """
    if limits.provider == "local":
        yield LocalProvider(store, limits, policy=policy)
        return
    api, address, is_named = await _api_of(limits)
    # Of this client alone, and it dials nothing else: no redirect is followed.
    anywhere = AddressPolicy(allow_private=("0.0.0.0/0", "::/0"), deny_ports=())
    async with open_api_client(
        parse_url(address),
        # The lists of what is allowed speak of pages.
        policy=anywhere
        if is_named
        else attrs.evolve(policy or AddressPolicy(), allow_hosts=(), allow_ports=()),
        limits=fetch or FetchLimits(),
        max_answer_bytes=limits.max_answer_bytes,
        max_connections=limits.max_searches,
        user_agent=user_agent,
        ssl_context=ssl_context,
    ) as client:
        yield WebProvider(api, client, limits)


async def _api_of(limits: SearchLimits) -> tuple[SearchAPI, str, bool]:
    """The API, its address, and whether the operator named that."""
    match limits.provider:
        case "searxng":
            # Who copies the address of a search has the last segment in it already.
            base = limits.searxng_url.rstrip("/").removesuffix("/search")
            return SearxngAPI(), f"{base}/search", True
        case "serper":
            key = await _key_of(limits.serper_key, "search.serper_key_file", limits.serper_key_file)
            return SerperAPI(key), limits.serper_url, limits.serper_url != SERPER_URL
        case "brave":
            key = await _key_of(limits.brave_key, "search.brave_key_file", limits.brave_key_file)
            return BraveAPI(key), limits.brave_url, limits.brave_url != BRAVE_URL
        case _:
            raise AssertionError("the settings allow no other provider")


async def _key_of(key: Secret, setting: str, file: str) -> Secret:
    if key:
        await trio.lowlevel.checkpoint()
        return key
    try:
        async with await trio.open_file(Path(file).expanduser(), "rb") as opened:
            data = await opened.read(_MAX_KEY_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{setting}: {file}: {error.strerror}") from None
    try:
        found = Secret(data.decode("ascii").strip())
    except ValueError:
        found = Secret()
    if not found or len(data) > _MAX_KEY_BYTES:
        raise ConfigError(f"{setting}: {file} does not hold one key and nothing else")
    return found
