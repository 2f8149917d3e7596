"""The real server in a network where every address answers: what it dials, and what it never does.

``tests/pipeline/test_guard.py`` judges the same table without a network.
"""

import json
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from itertools import cycle
from pathlib import Path
from urllib.parse import quote

import pytest

from eventmesh_trio.wire.urls import URL, parse_url
from tests.helpers.guard_tables import ALLOWED_URLS, REFUSED_URLS
from tests.helpers.island import Island, Voyage, open_island
from tests.helpers.island_names import OWN_DOMAIN, SLOW_SECONDS, ZONE, public_address
from tests.helpers.programs import require_program

pytestmark = pytest.mark.slow


def parsed(texts: Sequence[str]) -> dict[str, URL]:
    """Those of these that are URLs at all."""
    found = {}
    for text in texts:
        try:
            found[text] = parse_url(text)
        except ValueError:
            continue
    return found


def inside() -> list[str]:
    """The addresses that the table speaks of, in hexadecimal as names of the island have them."""
    found = set()
    for url in REFUSED.values():
        try:
            address = ip_address(url.host)
        except ValueError:
            continue
        if url.port in (80, 8080):  # not one that is refused for its port
            found.add(address.packed.hex())
    return sorted(found)


def family(digits: str) -> str:
    return "v4" if len(digits) == 8 else "v6"


REFUSED = parsed(REFUSED_URLS)
ALLOWED = parsed(ALLOWED_URLS)
PORTS = {url.port for url in (*REFUSED.values(), *ALLOWED.values())} - {0}
INSIDE = inside()
UNGUARDED = {
    "EVENTMESH_FETCH__ALLOW_PRIVATE": "0.0.0.0/0, ::/0",
    "EVENTMESH_FETCH__DENY_PORTS": "",
}


@pytest.fixture(scope="module")
def island() -> Iterator[Island]:
    with open_island(PORTS) as one:
        yield one


def where(url: URL) -> tuple[str, int]:
    """Where an allowed URL has to be dialled."""
    try:
        address = ip_address(url.host)
    except ValueError:
        return public_address(url.host), url.port
    return str(getattr(address, "ipv4_mapped", None) or address), url.port


def assert_nothing_inside(voyage: Voyage) -> None:
    """All are refused in one voice, and nothing was dialled."""
    assert set(voyage.kinds) == {"blocked_address"}
    assert voyage.dialled == []
    voices = {
        json.dumps({**error, "timestamp": None}, sort_keys=True)
        for error in voyage.results
        if error is not None
    }
    assert len(voices) == 1, "what is refused can be told apart"


def test_the_tables_are_long_enough_here_too() -> None:
    assert len(REFUSED) >= 200
    assert len(ALLOWED) >= 60
    assert len(INSIDE) >= 100


def test_none_of_the_forbidden_is_dialled(island: Island) -> None:
    voyage = island.crawl(list(REFUSED))
    assert len(voyage.results) == len(REFUSED)
    assert set(voyage.kinds) == {"blocked_address"}
    assert voyage.dialled == []
    assert voyage.asked == []


def test_nothing_tells_one_address_inside_from_another(island: Island) -> None:
    urls = [text for text, url in REFUSED.items() if url.port in (80, 8080)]
    assert len(urls) > 150
    assert_nothing_inside(island.crawl(urls))


def test_what_is_no_url_is_refused_as_a_request(island: Island) -> None:
    broken = [text for text in REFUSED_URLS if text not in REFUSED]
    assert 0 < len(broken) < 20
    for text in broken:
        voyage = island.crawl([text])
        assert (voyage.refused, voyage.dialled, voyage.asked) == (400, [], [])


def test_all_of_the_allowed_are_dialled(island: Island) -> None:
    voyage = island.crawl(list(ALLOWED))
    for text, kind in zip(ALLOWED, voyage.kinds, strict=True):
        # Behind port 443 nobody speaks TLS; that it was dialled is what counts.
        assert kind is None or text.startswith("https:"), (text, kind)
    assert {where(url) for url in ALLOWED.values()} - set(voyage.dialled) == set()
    assert set(voyage.dialled) - {where(url) for url in ALLOWED.values()} == set()


def test_no_redirect_leads_inside(island: Island) -> None:
    statuses = cycle((301, 302, 303, 307, 308))
    urls = [
        f"http://hop-{number}{ZONE}/go/{next(statuses)}?to={quote(text, safe='')}"
        for number, text in enumerate(REFUSED_URLS)
        # "http:127.0.0.1" is relative to a base of the same scheme; no URL at all is another test.
        if text in REFUSED and not text.startswith(("http:1", "http:/1"))
    ]
    voyage = island.crawl(urls)
    assert set(voyage.kinds) == {"blocked_address"}
    hops = {(public_address(f"hop-{number}{ZONE}"), 80) for number in range(len(REFUSED_URLS))}
    assert len(voyage.dialled) == len(urls)
    assert set(voyage.dialled) <= hops


def test_a_redirect_to_look_alikes_is_followed(island: Island) -> None:
    targets = [text for text in ALLOWED if not text.startswith("https:")]
    urls = [
        f"http://hop-{number}{ZONE}/go/302?to={quote(text, safe='')}"
        for number, text in enumerate(targets)
    ]
    voyage = island.crawl(urls)
    assert set(voyage.kinds) == {None}
    assert {where(ALLOWED[text]) for text in targets} <= set(voyage.dialled)


def test_a_page_that_refreshes_itself_inwards_is_read_and_not_followed(island: Island) -> None:
    url = f"http://a{ZONE}/refresh?to={quote('http://169.254.169.254/')}"
    voyage = island.crawl([url])
    assert voyage.kinds == [None]
    assert voyage.dialled == [(public_address(f"a{ZONE}"), 80)]


def test_no_robots_txt_leads_inside(island: Island) -> None:
    hosts = [f"robots-{_in_labels(url.href)}.example" for url in REFUSED.values()]
    hosts = [host for host in dict.fromkeys(hosts) if len(host) < 250]
    assert len(hosts) > 120
    voyage = island.crawl([f"http://{host}/page" for host in hosts], respect_robots=True)
    assert set(voyage.kinds) == {"blocked_address"}
    assert set(voyage.dialled) == {(public_address(host), 80) for host in hosts}


def _in_labels(text: str) -> str:
    """The text in hexadecimal, in labels that are no longer than labels may be."""
    digits = text.encode().hex()
    return ".".join(digits[start : start + 50] for start in range(0, len(digits), 50))


@pytest.mark.parametrize("prefix", ["", "alias-", "slow-"])
def test_no_name_leads_inside(prefix: str, island: Island) -> None:
    addresses = {"": INSIDE, "alias-": INSIDE[::4], "slow-": INSIDE[::20]}[prefix]
    hosts = [f"{prefix}{family(digits)}-{digits}{ZONE}" for digits in addresses]
    voyage = island.crawl([f"http://{host}/" for host in hosts])
    assert_nothing_inside(voyage)
    assert set(hosts) <= set(voyage.asked)


def test_a_name_with_one_address_inside_among_public_ones_is_refused(island: Island) -> None:
    voyage = island.crawl([f"http://both-{digits}{ZONE}/" for digits in INSIDE])
    assert_nothing_inside(voyage)


def test_of_a_name_that_is_public_in_one_family_only_the_other_is_never_dialled(
    island: Island,
) -> None:
    hosts = [f"mixed-{digits}{ZONE}" for digits in INSIDE if family(digits) == "v6"]
    voyage = island.crawl([f"http://{host}/" for host in hosts])
    # The answer that names the inside may be so late that it is not waited for any more.
    assert set(voyage.kinds) <= {"blocked_address", None}
    assert set(voyage.dialled) <= {(public_address(host), 80) for host in hosts}


def test_a_public_name_behind_aliases_and_a_slow_one_are_dialled(island: Island) -> None:
    hosts = [f"{prefix}v4-08080808{ZONE}" for prefix in ("alias-", "slow-")]
    voyage = island.crawl([f"http://{host}/" for host in hosts])
    assert voyage.kinds == [None, None]
    assert voyage.dialled == [("8.8.8.8", 80)] * 2
    assert SLOW_SECONDS < 5  # the limit of a lookup


def test_a_name_that_turns_inwards_after_its_first_answer_is_dialled_once(island: Island) -> None:
    hosts = [f"turn-{digits}{ZONE}" for digits in INSIDE if family(digits) == "v4"]
    public = sorted((public_address(host), 80) for host in hosts)
    first = island.crawl([f"http://{host}/" for host in hosts])
    assert set(first.kinds) == {None}
    assert sorted(first.dialled) == public
    assert_nothing_inside(island.crawl([f"http://{host}/again" for host in hosts]))


def test_a_name_that_turns_inwards_between_two_hops_is_dialled_once(island: Island) -> None:
    hosts = [f"turn-{digits}-hop{ZONE}" for digits in INSIDE if family(digits) == "v4"]
    urls = [f"http://{host}/go/307?to={quote(f'http://{host}/page')}" for host in hosts]
    voyage = island.crawl(urls)
    assert set(voyage.kinds) == {"blocked_address"}
    assert sorted(voyage.dialled) == sorted((public_address(host), 80) for host in hosts)


def test_no_name_is_completed_by_the_domains_of_the_machine(island: Island) -> None:
    voyage = island.crawl(["http://www.example.org/", "http://wiki.intern/"])
    assert set(voyage.kinds) == {None}
    assert set(voyage.asked) == {"www.example.org", "wiki.intern"}


def test_what_was_read_inside_when_that_was_allowed_is_not_shown_any_more(tmp_path: Path) -> None:
    store = {"EVENTMESH_CACHE__STORE": f"sqlite:{tmp_path / 'store.db'}"}
    urls = [
        "http://10.0.0.1/a",
        f"http://hop{ZONE}/go/302?to={quote('http://10.0.0.1/b')}",
        "http://8.8.8.8/a",
    ]
    with open_island(PORTS, UNGUARDED | store) as island:
        assert island.crawl(urls, cache_mode="read_write").kinds == [None] * 3
        assert island.crawl(urls, cache_mode="read_write").dialled == []
    with open_island(PORTS, store) as island:
        voyage = island.crawl(urls, cache_mode="read_write")
    assert voyage.kinds == ["blocked_address", "blocked_address", None]
    assert {address for address, _ in voyage.dialled} == {public_address(f"hop{ZONE}")}


# --- The browser ----------------------------------------------------------------------------------


def browse(island: Island, host: str, public: str) -> set[tuple[str, int]]:
    """Render a page at ``host`` whose script tries what is inside, and ``public``: what is dialled
    but by us and the browser to each other, on other ports of loopback."""
    targets = [f"http://{_bracketed(digits)}" for digits in INSIDE[::9]]
    targets += [f"http://{family(digits)}-{digits}{ZONE}" for digits in INSIDE[4::9]]
    targets += [f"http://{host}" for host in ("127.0.0.1", "localhost", "[::1]", "169.254.169.254")]
    targets += ["http://8.8.8.8:22", f"http://{public}"]
    voyage = island.crawl(
        [f"http://{host}/script?to={quote(' '.join(targets))}"],
        render_mode="dynamic",
        dynamic_wait_for="#said",
        timeout_seconds=60,
    )
    assert voyage.kinds == [None]
    assert "The script has tried every target" in voyage.texts[0], voyage.how
    return {
        (address, port)
        for address, port in voyage.dialled
        if address != "127.0.0.1" or port in PORTS
    }


@pytest.mark.parametrize("guarded", [True, False])
def test_nothing_that_a_page_does_in_the_browser_is_dialled_inside(guarded: bool) -> None:
    require_program("chromium-headless-shell", "apt-get install --yes chromium-headless-shell")
    settings = {
        "EVENTMESH_RENDER__BROWSER": "auto",
        "EVENTMESH_RENDER__SANDBOX": "no",
        "EVENTMESH_RENDER__SELECTOR_SECONDS": "25",
    }
    page, public = f"page{ZONE}", f"outside{ZONE}"
    with open_island(PORTS, settings | ({} if guarded else UNGUARDED)) as island:
        dialled = browse(island, page, public)
    expected = {(public_address(page), 80), (public_address(public), 80)}
    if guarded:
        assert dialled == expected
    else:  # the same page, where everything is allowed
        inside = {("127.0.0.1", 80), ("::1", 80), ("169.254.169.254", 80)}
        assert inside <= dialled
        assert len(dialled) > 15


def _bracketed(digits: str) -> str:
    address = ip_address(bytes.fromhex(digits))
    return f"[{address}]" if address.version == 6 else str(address)


# --- Without the guard ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unguarded() -> Iterator[Island]:
    with open_island(PORTS, UNGUARDED) as one:
        yield one


def test_where_something_inside_is_allowed_names_are_completed(unguarded: Island) -> None:
    voyage = unguarded.crawl(["http://wiki/"])
    assert voyage.kinds == [None]
    assert f"wiki.{OWN_DOMAIN}" in voyage.asked


def test_without_the_guard_nearly_all_of_it_would_have_been_dialled(unguarded: Island) -> None:
    voyage = unguarded.crawl(list(REFUSED))
    targets = {where(url) for url in REFUSED.values() if _is_dialled_as_it_is(url)}
    assert len(targets) >= 90
    missed = targets - set(voyage.dialled)
    assert missed == set()


def _is_dialled_as_it_is(url: URL) -> bool:
    """Whether the system would connect to it, and to that very address."""
    try:
        address = ip_address(url.host)
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return not (
        address.is_multicast
        or (address.is_link_local and address.version == 6)
        or address.is_unspecified
        or str(address) in ("255.255.255.255",)
        or url.port == 0
    )
