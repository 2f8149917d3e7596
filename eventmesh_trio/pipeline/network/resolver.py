"""Names to addresses: what a resolver is, and the system's, in threads that one slow name server
cannot use up. That of `eventmesh_trio.pipeline.network.stub_resolver` needs none."""

import socket
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cache, partial
from typing import Protocol

import attrs
import trio
from publicsuffixlist import PublicSuffixList  # type: ignore[import-untyped, unused-ignore]

from eventmesh_trio.errors import DNSError
from eventmesh_trio.pipeline.network.guard import IPAddress, parse_address
from eventmesh_trio.pipeline.network.limits import FetchLimits
from eventmesh_trio.pipeline.network.stub_resolver import open_stub_resolver

__all__ = ["Resolver", "SystemResolver", "open_resolver"]


@cache
def _suffixes() -> PublicSuffixList:
    return PublicSuffixList()  # 40 ms: not at import


@asynccontextmanager
async def open_resolver(
    limits: FetchLimits, *, completes_names: bool = True
) -> AsyncIterator["Resolver"]:
    """Open the resolver that ``limits.resolver`` names.

    Args:
      completes_names: look names up below the machine's own domains, too. The system's always does.
    """
    if limits.resolver == "system":
        yield SystemResolver(limits)
        return
    async with open_stub_resolver(
        resolve_seconds=limits.resolve_seconds,
        max_lookups=limits.max_lookups,
        completes_names=completes_names,
    ) as resolver:
        yield resolver


class Resolver(Protocol):
    async def resolve(self, name: str) -> Sequence[IPAddress]:
        """The addresses of a name, best first. Sets no deadline: the caller does.

        Cancellable at once. Raises: DNSError.
        """
        ...


class SystemResolver:
    """``getaddrinfo``, as the system is set up: hosts file, search order, address selection.

    It cannot be cancelled, only abandoned, and holds its thread until the system's resolver gives
    up (typically 10 s or more, see `resolv.conf(5)`). So lookups have their own threads, and names
    of one registrable domain get a share of them only.
    """

    def __init__(self, limits: FetchLimits | None = None) -> None:
        limits = limits or FetchLimits()
        self._threads = trio.CapacityLimiter(limits.resolver_threads)
        self._per_domain = limits.resolver_threads_per_domain
        self._domains: dict[str, trio.CapacityLimiter] = {}
        self._users: Counter[str] = Counter()

    @property
    def busy_threads(self) -> int:
        """Threads in use, those included whose caller has left."""
        return int(self._threads.borrowed_tokens)

    async def resolve(self, name: str) -> Sequence[IPAddress]:
        lookup = partial(
            # As bytes: Python's own IDNA step would refuse names that the URL standard allows.
            socket.getaddrinfo,
            name.encode("ascii"),
            None,
            type=socket.SOCK_STREAM,
        )
        share = _Share(self, _suffixes().privatesuffix(name.rstrip(".")) or name)
        try:
            found = await trio.to_thread.run_sync(
                lookup,
                abandon_on_cancel=True,
                limiter=share,  # type: ignore[arg-type]  # trio takes anything with these two methods
            )
        except socket.gaierror as error:
            if error.errno == socket.EAI_AGAIN:
                raise DNSError("the name server did not answer for this host name") from None
            raise DNSError("the host name has no address") from None
        except UnicodeError:
            raise DNSError("the host name is not one that can be looked up") from None
        texts = dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found)
        return [address for text in texts if (address := parse_address(text)) is not None]


@attrs.define(eq=False)
class _Share:
    """A thread limiter that takes a place of the domain first, then one of all.

    trio gives the place back when the thread ends, not when its caller leaves; that is what keeps
    abandoned lookups counted.
    """

    _resolver: SystemResolver
    _domain: str

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        domains, users = self._resolver._domains, self._resolver._users
        share = domains.get(self._domain)
        if share is None:
            share = domains[self._domain] = trio.CapacityLimiter(self._resolver._per_domain)
        users[self._domain] += 1
        try:
            await share.acquire_on_behalf_of(borrower)
            try:
                await self._resolver._threads.acquire_on_behalf_of(borrower)
            except BaseException:
                share.release_on_behalf_of(borrower)
                raise
        except BaseException:
            self._forget()
            raise

    def release_on_behalf_of(self, borrower: object) -> None:
        self._resolver._threads.release_on_behalf_of(borrower)
        self._resolver._domains[self._domain].release_on_behalf_of(borrower)
        self._forget()

    def _forget(self) -> None:
        users = self._resolver._users
        users[self._domain] -= 1
        if not users[self._domain]:
            del users[self._domain], self._resolver._domains[self._domain]
