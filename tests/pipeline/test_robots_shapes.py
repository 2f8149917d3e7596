"""Files in the shapes that large sites have, and what they say to whom."""

from pathlib import Path

import pytest

from eventmesh_trio.pipeline.manners.robots_rules import parse_robots

FILES = Path(__file__).parent / "robots"
US = "eventmesh_trio/1.0"

VERDICTS = [
    ("search_engine", US, "/", True),
    ("search_engine", US, "/search?q=trio", False),
    ("search_engine", US, "/searching", False),
    ("search_engine", US, "/search/about", True),
    ("search_engine", US, "/search/about/us?x=1", True),
    ("search_engine", US, "/Search", True),
    ("search_engine", US, "/index.html", True),
    ("search_engine", US, "/index.html?x", False),
    ("search_engine", US, "/?q=x", False),
    ("search_engine", US, "/?hl=en", True),
    ("search_engine", US, "/?hl=en&q=x", False),
    ("search_engine", US, "/?hl=en&gws_rd=ssl", True),
    ("search_engine", US, "/?hl=en&gws_rd=ssl&x", False),
    ("search_engine", US, "/?hl=en&q=x&gws_rd=ssl", False),
    ("search_engine", US, "/?gws_rd=ssl", True),
    ("search_engine", US, "/?pt1=true", True),
    ("search_engine", US, "/?pt1=true1", False),
    ("search_engine", US, "/maps", True),
    ("search_engine", US, "/maps/", True),
    ("search_engine", US, "/maps?q=x", False),
    ("search_engine", US, "/maps?hl=de", True),
    ("search_engine", US, "/maps?hl=de&q=x", False),
    ("search_engine", US, "/maps?q=x&output=classic&y", True),
    ("search_engine", US, "/books?id=1&q=related:2", False),
    ("search_engine", US, "/books?id=1&q=related%3A2", False),
    ("search_engine", US, "/books?id=1&zoom=5", False),
    ("search_engine", US, "/books?id=1&zoom=1", True),
    ("search_engine", US, "/js/private/app.js", True),
    ("search_engine", US, "/js/private/app.js.map", False),
    ("search_engine", US, "/js/private/app.js.map?v=2", True),
    ("search_engine", US, "/finance", True),
    ("search_engine", US, "/finance?q=x", False),
    ("search_engine", "Wanderbot/2.1", "/search", False),
    ("search_engine", "wanderbot", "/groups/x", False),
    ("search_engine", "CardPreview", "/search?q=x&card=1", True),
    ("search_engine", "CardPreview", "/preferences", True),
    ("search_engine", "CardPreviewer", "/imgres", False),
    ("search_engine", "AdsChecker", "/maps/api/js?key=1", False),
    ("search_engine", "AdsChecker", "/maps/api/js", True),
    ("search_engine", "AdsChecker", "/search", True),
    ("encyclopedia", US, "/wiki/Trio", True),
    ("encyclopedia", US, "/w/index.php?title=Trio", False),
    ("encyclopedia", US, "/w/load.php?modules=x", True),
    ("encyclopedia", US, "/w/api.php?action=mobileview&page=x", True),
    ("encyclopedia", US, "/w/api.php?action=query", False),
    ("encyclopedia", US, "/api/rest_v1/?doc", True),
    ("encyclopedia", US, "/api/rest_v1/page", False),
    ("encyclopedia", US, "/wiki/Special:Random", False),
    ("encyclopedia", US, "/wiki/Special%3ARandom", False),
    ("encyclopedia", US, "/wiki/Specials", True),
    ("encyclopedia", US, "/wiki/%ED%8A%B9%EC%88%98:", False),
    ("encyclopedia", US, "/wiki/%ed%8a%b9%ec%88%98%3aX", False),
    ("encyclopedia", US, "/wiki/Wikipedia%3AArticles_for_deletion/X", False),
    ("encyclopedia", US, "/wiki/Wikipedia:Votes_for_deletion/X", False),
    ("encyclopedia", US, "/wiki/Wikipedia:Votes_for_deletion%2FX", True),
    ("encyclopedia", US, "/wiki/Diskussion:Alt", False),
    ("encyclopedia", US, "/wiki/Caf%c3%a9_bannis", False),
    ("encyclopedia", US, "/wiki/Caf%C3%A9", True),
    ("encyclopedia", "AdGrabber", "/wiki/Trio", False),
    ("encyclopedia", "Partnership-Bot", "/w/index.php", True),
    ("encyclopedia", "Partnership", "/w/index.php", False),
    ("encyclopedia", "SlowBot", "/wiki/Special:Random", True),
    ("encyclopedia", "OldBot/3", "/w/x", False),
    ("encyclopedia", "Fetchall", "/", False),
    ("encyclopedia", "FETCHALL/9", "/", False),
    ("encyclopedia", "Fetch", "/", True),
    ("encyclopedia", "Site", "/", False),
    ("encyclopedia", "Grub-Client/1.0", "/", False),
    ("encyclopedia", "grub", "/", True),
    ("encyclopedia", "Mozilla/5.0 (compatible; HTTPSnatcher/1.0)", "/", False),
    ("encyclopedia", "Mozilla/5.0 (X11; Linux x86_64)", "/w/", False),
    ("code_host", US, "/", True),
    ("code_host", US, "/python-trio/trio", True),
    ("code_host", US, "/python-trio/trio/pulse", False),
    ("code_host", US, "/python-trio/pulse", True),
    ("code_host", US, "/python-trio/trio/commits/main", False),
    ("code_host", US, "/python-trio/trio/tree/v1", False),
    ("code_host", US, "/python-trio/trio/tree/main", True),
    ("code_host", US, "/python-trio/trio/tree/master/docs", True),
    ("code_host", US, "/python-trio/trio/issues", True),
    ("code_host", US, "/python-trio/trio/issues/new", False),
    ("code_host", US, "/python-trio/raw/x", False),
    ("code_host", US, "/python-trio.atom", False),
    ("code_host", US, "/python-trio.atom?x", True),
    ("code_host", US, "/python-trio?tab=repositories", False),
    ("code_host", US, "/python-trio?page=1&tab=repositories", True),
    ("code_host", US, "/search?q=x", False),
    ("code_host", US, "/search", False),
    ("code_host", US, "/searches", True),
    ("code_host", US, "/python-trio/trio.git/info", False),
    ("code_host", US, "/explodingstuff/", True),
    ("code_host", "baidu", "/python-trio/trio/pulse", False),  # a delay does not end a group
    ("old_mac", "other", "/old/x", False),
    ("old_mac", "other", "/old/open", True),
    ("old_mac", US, "/old/x", False),
    ("old_mac", "eventmesh", "/old/x", True),
    ("old_mac", "eventmesh", "/caf%E9/x", False),
    ("old_mac", "eventmesh", "/caf%C3%A9/x", True),
    ("old_mac", "eventmesh", "/without-colon", False),
    ("old_mac", "eventmesh", "/misspelt", False),
    ("old_mac", "eventmesh", "/x", True),
    ("old_mac", "eventmesh", "/relative", True),
    ("old_mac", "eventmesh", "/a%20b", False),
    ("old_mac", "eventmesh", "/%85mark", False),
    ("old_mac", "eventmesh", "/nul", False),
    ("old_mac", "eventmesh", "/robots.txt", True),
    ("soft_404", US, "/anything", True),
]


@pytest.mark.parametrize(("name", "agent", "target", "verdict"), VERDICTS)
def test_a_file_in_the_shape_of_a_large_site_allows_what_the_rfc_makes_of_it(
    name: str, agent: str, target: str, verdict: bool
) -> None:
    rules = parse_robots((FILES / f"{name}.txt").read_bytes()).rules_for(agent)
    assert rules.allows(target) is verdict


@pytest.mark.parametrize(
    ("name", "agent", "seconds"),
    [
        ("search_engine", US, 0),
        ("encyclopedia", "SlowBot", 5),
        ("encyclopedia", "OldBot", 5),
        ("encyclopedia", US, 0),
        ("code_host", "baidu", 2),
        ("code_host", US, 2),
        ("old_mac", "eventmesh", 2.5),
    ],
)
def test_a_file_of_a_large_site_asks_for_its_delay(name: str, agent: str, seconds: float) -> None:
    rules = parse_robots((FILES / f"{name}.txt").read_bytes()).rules_for(agent)
    assert rules.delay_seconds == seconds
