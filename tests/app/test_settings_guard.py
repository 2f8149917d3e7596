"""Each setting of ``fetch`` that says what may be dialled, on the whole way of a URL."""

from collections.abc import Sequence
from ipaddress import ip_address

import pytest
import trio
from trio.testing import memory_stream_pair

from eventmesh_trio.errors import BlockedAddress, ConfigError
from eventmesh_trio.pipeline.fetching.fetch import open_fetcher
from eventmesh_trio.pipeline.network.guard import IPAddress
from eventmesh_trio.wire.requests import CrawlOptions
from tests.helpers.settled import certificates, settled, shows

PAGE = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\npage"


async def fetched(assignment: str, *hosts: str) -> list[str]:
    """Which of these hosts a fetcher with this setting dials; every name is 93.184.216.34."""
    dialled: list[str] = []

    class Names:
        async def resolve(self, name: str) -> Sequence[IPAddress]:
            await trio.lowlevel.checkpoint()
            return [ip_address("93.184.216.34")]

    async def connect(address: IPAddress, port: int) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        ours, theirs = memory_stream_pair()
        await theirs.send_all(PAGE)
        dialled.append(host)
        return ours

    config = settled(assignment).fetch
    async with open_fetcher(
        config, config.policy(), resolver=Names(), connect=connect, ssl_context=certificates()
    ) as fetcher:
        for host in hosts:
            try:
                assert (await fetcher.fetch(f"http://{host}/", CrawlOptions())).body == b"page"
            except BlockedAddress:
                assert host not in dialled
    return dialled


@shows("fetch.deny_networks")
async def test_deny_networks_are_not_dialled_under_any_name():
    hosts = ("8.8.8.8", "a.example", "93.184.216.34")
    assert await fetched("fetch.deny_networks=93.184.0.0/16,2606::/16", *hosts) == ["8.8.8.8"]
    assert await fetched("fetch.deny_networks=", *hosts) == list(hosts)


@shows("fetch.allow_hosts")
async def test_allow_hosts_are_all_that_is_fetched_from():
    hosts = ("a.example", "b.a.example", "c.example", "8.8.8.8")
    assert await fetched("fetch.allow_hosts=*.a.example,8.8.8.8", *hosts) == [
        "b.a.example",
        "8.8.8.8",
    ]


@shows("fetch.deny_hosts")
async def test_deny_hosts_are_not_fetched_from():
    hosts = ("a.example", "b.a.example", "c.example")
    assert await fetched("fetch.deny_hosts=.a.example", *hosts) == ["c.example"]


@shows("fetch.allow_ports")
async def test_allow_ports_are_all_that_is_fetched_from():
    hosts = ("a.example", "a.example:8080", "a.example:8443")
    assert await fetched("fetch.allow_ports=80,8443", *hosts) == ["a.example", "a.example:8443"]


@shows("fetch.deny_ports")
async def test_deny_ports_are_not_fetched_from():
    hosts = ("a.example", "a.example:25", "a.example:8080")
    assert await fetched("fetch.deny_ports=8080", *hosts) == ["a.example", "a.example:25"]
    assert await fetched("fetch.deny_ports=", *hosts) == list(hosts)


@pytest.mark.parametrize(
    ("assignment", "reason"),
    [
        ("fetch.deny_hosts=10.0.0.1", "deny_networks denies it"),
        ("fetch.allow_hosts=http://a.example/", "is no host"),
        ("fetch.allow_hosts=a.example:80:", "is no host"),
        ("fetch.deny_ports=80,http", "int"),
        ("fetch.allow_ports=65536", "65536 is no port"),
        ("fetch.deny_networks=a.example", "a.example"),
    ],
)
def test_an_entry_that_cannot_be_is_refused_with_its_reason(assignment: str, reason: str):
    with pytest.raises(ConfigError) as caught:
        settled(assignment)
    assert reason in caught.value.message
    assert assignment.partition("=")[0] in caught.value.message
