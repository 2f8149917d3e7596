"""The whole configuration as one tree; its leaves are the limits of each floor.

So a limit and its setting are one thing. `eventmesh_trio.app.settings` knows the settings by name,
`eventmesh_trio.app.loading` reads them from where people write them.
"""

import re
from ipaddress import IPv4Network, IPv6Network
from typing import Final

import attrs
from attrs import validators

from eventmesh_trio import __version__
from eventmesh_trio.app.stream_config import StreamConfig
from eventmesh_trio.errors import ConfigError
from eventmesh_trio.mesh.limits import MeshLimits
from eventmesh_trio.pipeline.caching.cache import CacheLimits
from eventmesh_trio.pipeline.crawl import CrawlLimits
from eventmesh_trio.pipeline.manners.politeness import PolitenessLimits
from eventmesh_trio.pipeline.network.guard import BAD_PORTS, AddressPolicy
from eventmesh_trio.pipeline.network.limits import FetchLimits
from eventmesh_trio.pipeline.network.passage import ProxyLimits
from eventmesh_trio.pipeline.rendering.limits import RenderLimits
from eventmesh_trio.pipeline.searching.limits import SearchLimits
from eventmesh_trio.pipeline.workers.pool import WorkerLimits
from eventmesh_trio.transport.limits import TransportLimits
from eventmesh_trio.transport.listeners import parse_bind

__all__ = ["Config", "CrawlConfig", "FetchConfig", "ServerConfig"]

_ORIGIN: Final = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/?#\s@]+")  # as browsers send it


def _concurrency(_: object, attribute: "attrs.Attribute[int]", value: int) -> None:
    if not 1 <= value <= 64:
        raise ValueError(f"{attribute.name} is {value}; it must be from 1 to 64")


def _addresses(_: object, __: object, binds: tuple[str, ...]) -> None:
    if not binds:
        raise ValueError("bind names no address to listen on")
    for bind in binds:
        try:
            parse_bind(bind)
        except ConfigError as error:
            raise ValueError(error.message) from None


def _origins(_: object, __: object, origins: tuple[str, ...]) -> None:
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise ValueError(f"{origin!r} is no origin such as https://example.org:8443, nor *")


@attrs.frozen
class ServerConfig:
    """The server as a whole.

    Attributes:
      bind: addresses to listen on, ``HOST:PORT`` or ``unix:PATH``.
      insecure_bind: allow addresses that other machines can reach, although there is no
        authentication yet.
      max_urls: how many URLs one crawl may have.
      finish_seconds: how long live runs may go on after SIGTERM, before they are cancelled.
      drain_seconds: how long streams may take to end after that, before they are cut.
      trusted_proxies: networks whose word is taken (``X-Forwarded-For``) for who their client is,
        and whose own connections no limit by address holds for. Unix sockets always count so.
      enable_cors: answer pages of other origins at all.
      cors_origins: which origins; ``*`` is every one, without credentials. Those that are not
        allowed may neither read answers nor have something done, but for the one of ``Host``.
    """

    bind: tuple[str, ...] = attrs.field(default=("127.0.0.1:8080",), validator=_addresses)
    insecure_bind: bool = False
    max_urls: int = attrs.field(default=10_000, validator=validators.gt(0))
    finish_seconds: float = attrs.field(default=0.0, validator=validators.ge(0))
    drain_seconds: float = attrs.field(default=30.0, validator=validators.ge(0))
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = (
        IPv4Network("127.0.0.0/8"),
        IPv6Network("::1/128"),
    )
    enable_cors: bool = True
    cors_origins: tuple[str, ...] = attrs.field(default=("*",), validator=_origins)


@attrs.frozen(kw_only=True)
class FetchConfig(FetchLimits):
    """What is fetched, and as whom; with the limits of one fetch and of all together.

    Attributes:
      allow_private: networks that are fetched although they are not public.
      deny_networks: networks that are never fetched from, whatever name leads there; for public
        addresses that answer this machine otherwise than the world.
      allow_hosts: where not empty, only these hosts are fetched from: ``example.org`` alone,
        ``*.example.org`` all names below it, ``.example.org`` both, or an address. It has to be
        public all the same.
      deny_hosts: names that are never fetched from, written as in ``allow_hosts``.
      allow_ports: where not empty, only these ports are fetched from.
      deny_ports: ports that are never fetched from. The default is what browsers deny: the "bad
        ports" of the Fetch standard, those of mail, shells and name servers.
      user_agent: what origins are told, where a request names none.

    Raises:
      ValueError: as `AddressPolicy`, or a limit that makes no sense.
    """

    allow_private: tuple[IPv4Network | IPv6Network, ...] = ()
    deny_networks: tuple[IPv4Network | IPv6Network, ...] = ()
    allow_hosts: tuple[str, ...] = ()
    deny_hosts: tuple[str, ...] = ()
    allow_ports: tuple[int, ...] = ()
    deny_ports: tuple[int, ...] = tuple(sorted(BAD_PORTS))
    user_agent: str = attrs.field(
        default=f"eventmesh_trio/{__version__}",
        validator=validators.and_(
            validators.max_len(512), validators.matches_re(r"[!-~](?:[ -~]*[!-~])?")
        ),
    )

    def __attrs_post_init__(self) -> None:
        self.policy()

    def policy(self) -> AddressPolicy:
        """What these settings let be dialled."""
        return AddressPolicy(
            allow_private=self.allow_private,
            deny_networks=self.deny_networks,
            allow_hosts=self.allow_hosts,
            deny_hosts=self.deny_hosts,
            allow_ports=self.allow_ports,
            deny_ports=self.deny_ports,
        )


@attrs.frozen(kw_only=True)
class CrawlConfig(CrawlLimits):
    """How runs crawl."""

    concurrency: int = attrs.field(default=5, validator=_concurrency)
    """Fetches at once of a run that does not say; 1 to 64."""


@attrs.frozen
class Config:
    """The whole tree; each part's own docstring tells of its settings."""

    server: ServerConfig = attrs.field(factory=ServerConfig)
    transport: TransportLimits = attrs.field(factory=TransportLimits)
    stream: StreamConfig = attrs.field(factory=StreamConfig)
    mesh: MeshLimits = attrs.field(factory=MeshLimits)
    crawl: CrawlConfig = attrs.field(factory=CrawlConfig)
    fetch: FetchConfig = attrs.field(factory=FetchConfig)
    render: RenderLimits = attrs.field(factory=RenderLimits)
    proxy: ProxyLimits = attrs.field(factory=ProxyLimits)
    politeness: PolitenessLimits = attrs.field(factory=PolitenessLimits)
    workers: WorkerLimits = attrs.field(factory=WorkerLimits)
    cache: CacheLimits = attrs.field(factory=CacheLimits)
    search: SearchLimits = attrs.field(factory=SearchLimits)
