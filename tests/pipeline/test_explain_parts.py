"""What guard and robots.txt tell of themselves, without anything being fetched."""

from ipaddress import ip_address

import attrs
import pytest

from eventmesh_trio.abc import Page
from eventmesh_trio.errors import BlockedAddress, DNSError, NetworkFailure, PageError
from eventmesh_trio.pipeline.manners.politeness import Politeness, PolitenessLimits
from eventmesh_trio.pipeline.manners.robots_rules import parse_robots
from eventmesh_trio.pipeline.network.dial import GuardedBackend
from eventmesh_trio.pipeline.network.guard import AddressPolicy, IPAddress
from eventmesh_trio.pipeline.network.limits import FetchLimits
from eventmesh_trio.testing import make_page
from eventmesh_trio.wire.requests import CrawlOptions
from eventmesh_trio.wire.urls import parse_url


@attrs.define(eq=False)
class Names:
    """A resolver with these answers; it remembers who was asked for."""

    answers: dict[str, tuple[str, ...]]
    asked: list[str] = attrs.field(factory=list)

    async def resolve(self, name: str) -> tuple[IPAddress, ...]:
        self.asked.append(name)
        return tuple(map(ip_address, self.answers.get(name, ())))


async def nobody(address: IPAddress, port: int) -> None:
    raise AssertionError(f"{address} was dialled")


def backend(names: Names, policy: AddressPolicy | None = None) -> GuardedBackend:
    return GuardedBackend(FetchLimits(), policy or AddressPolicy(), names, nobody)  # type: ignore[arg-type]


async def test_a_survey_judges_every_address_and_dials_none() -> None:
    names = Names({"e.org": ("93.184.216.34", "10.0.0.1", "::1")})
    assert await backend(names).survey("e.org", 443) == (
        (ip_address("93.184.216.34"), True),
        (ip_address("10.0.0.1"), False),
        (ip_address("::1"), False),
    )


async def test_a_survey_of_what_is_refused_by_name_or_port_asks_nobody() -> None:
    names = Names({"e.org": ("93.184.216.34",)})
    refusing = backend(names, AddressPolicy(deny_hosts=("e.org",)))
    for looked_into, host, port in ((refusing, "e.org", 443), (backend(names), "e.org", 25)):
        with pytest.raises(BlockedAddress):
            await looked_into.survey(host, port)
    assert names.asked == []


async def test_a_survey_of_a_name_without_addresses_says_so() -> None:
    with pytest.raises(DNSError):
        await backend(Names({})).survey("e.org", 443)


ROBOTS = b"""
User-agent: *
Disallow: /private
Allow: /private/*/open$
Disallow: /*.pdf
Crawl-delay: 3

User-agent: eventmesh
Disallow: /
"""


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("/", None),
        ("/private/a", "Disallow: /private"),
        ("/private/a/open", "Allow: /private/*/open$"),
        ("/a.pdf?x", "Disallow: /*.pdf"),
        ("/robots.txt", None),
    ],
)
def test_the_line_that_decides_is_the_one_by_which_it_is_allowed_or_not(
    target: str, line: str | None
) -> None:
    rules = parse_robots(ROBOTS).rules_for("another/1.0")
    assert rules.decisive(target) == line
    assert rules.allows(target) is not (line or "").startswith("Disallow")


@attrs.define(eq=False)
class Source:
    answer: bytes | PageError
    user_agent: str = "another/1.0"
    fetches: int = 0

    async def fetch_file(self, url: str, *, max_bytes: int) -> Page:
        self.fetches += 1
        if isinstance(self.answer, PageError):
            raise self.answer
        return make_page(url, self.answer, content_type="text/plain")


async def test_the_verdict_names_the_product_the_line_and_the_delay_that_was_asked_for() -> None:
    source = Source(ROBOTS)
    politeness = Politeness(source)
    url = parse_url("https://e.org/private/a")
    verdict = await politeness.explain_robots(url, CrawlOptions())
    assert (verdict.allowed, verdict.product, verdict.line, verdict.asked_delay_seconds) == (
        False,
        "another",
        "Disallow: /private",
        3.0,
    )
    assert verdict.reason == "the site's robots.txt does not allow this URL"
    options = CrawlOptions(user_agent="EventMesh/2 (+https://e.org)", respect_robots=False)
    verdict = await politeness.explain_robots(parse_url("https://e.org/a"), options)
    assert (verdict.allowed, verdict.product, verdict.line) == (False, "EventMesh", "Disallow: /")
    assert source.fetches == 1


async def test_without_a_robots_txt_to_be_had_no_line_decides() -> None:
    limits = PolitenessLimits()
    limits = attrs.evolve(limits, robots=attrs.evolve(limits.robots, attempts=1))
    politeness = Politeness(Source(NetworkFailure("refused")), limits)
    verdict = await politeness.explain_robots(parse_url("https://e.org/a"), CrawlOptions())
    assert (verdict.allowed, verdict.line, verdict.reason) == (False, None, "refused")
