"""RFC 9309, sentence by sentence: what a robots.txt says (section 2.2)."""

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protego import Protego

from eventmesh_trio.pipeline.manners.robots_rules import (
    Rules,
    canonical_pattern,
    canonical_target,
    parse_robots,
    product_token,
)

AGENT = "FooBot/1.0"


def rules(*lines: str, agent: str = AGENT) -> Rules:
    return parse_robots("\n".join(lines).encode()).rules_for(agent)


def for_all(*lines: str) -> Rules:
    return rules("User-agent: *", *lines)


# --- 2.2.1 The user-agent line ------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["foobot", "FOOBOT", "FooBot", "FooBot/2", "FooBot (x)", "FooBot*"]
)
def test_the_product_token_is_matched_whatever_its_case(name: str) -> None:
    assert not rules(f"User-agent: {name}", "Disallow: /").allows("/")


@pytest.mark.parametrize("name", ["foo", "bot", "foobots", "foobot-news", "foobot_x", "o"])
def test_a_product_token_is_matched_whole(name: str) -> None:
    assert rules(f"User-agent: {name}", "Disallow: /").allows("/")


def test_all_groups_that_match_are_one() -> None:
    both = rules(
        *("User-agent: foobot", "Disallow: /a", "User-agent: other", "Disallow: /c"),
        *("User-agent: FooBot", "Disallow: /b", "User-agent: *", "Disallow: /d"),
    )
    assert [both.allows(path) for path in ("/a", "/b", "/c", "/d")] == [False, False, True, True]


def test_without_a_group_of_its_own_a_crawler_obeys_that_of_the_asterisk() -> None:
    lines = ("User-agent: other", "Disallow: /a", "User-agent: *", "Disallow: /b")
    assert [rules(*lines).allows(path) for path in ("/a", "/b")] == [True, False]


def test_a_group_of_its_own_without_rules_allows_all() -> None:
    assert rules("User-agent: *", "Disallow: /", "User-agent: foobot", "Disallow:").allows("/x")


@pytest.mark.parametrize("lines", [(), ("User-agent: other", "Disallow: /"), ("# nothing",)])
def test_without_a_matching_group_no_rules_apply(lines: tuple[str, ...]) -> None:
    assert rules(*lines).allows("/x")


def test_a_group_may_have_several_user_agents_with_empty_lines_and_comments_between() -> None:
    lines = ("User-agent: a", "", "# and", "User-agent: foobot", "", "User-agent: b", "Disallow: /")
    for agent in ("a", "b", AGENT):
        assert not rules(*lines, agent=agent).allows("/")


@pytest.mark.parametrize(
    ("user_agent", "token"),
    [
        ("Mozilla/5.0 (compatible; Foo-bot/2.1; +http://foo.example)", "Foo-bot"),
        ("Foo_bot/2 (like Bar)", "Foo_bot"),
        ("360Spider", "360Spider"),
        ("", ""),
        ("*", ""),
    ],
)
def test_the_product_token_is_a_part_of_what_origins_are_told(user_agent: str, token: str) -> None:
    assert product_token(user_agent) == token


@pytest.mark.parametrize("line", ["User-agent:", "User-agent: ()", "User-agent: **"])
def test_a_name_that_is_none_is_nobodys(line: str) -> None:
    for agent in (AGENT, "", "()"):
        assert rules(line, "Disallow: /", agent=agent).allows("/x")


# --- 2.2.2 Allow and disallow lines -------------------------------------------------------------


def test_paths_are_matched_with_their_case() -> None:
    assert [for_all("Disallow: /Foo").allows(path) for path in ("/Foo", "/foo")] == [False, True]


def test_matching_starts_with_the_first_octet_of_the_path() -> None:
    found = for_all("Disallow: /b", "Disallow: c")
    assert [found.allows(path) for path in ("/a/b", "/b", "/bc", "/c")] == [
        True,
        False,
        False,
        True,
    ]


def test_the_match_with_most_octets_is_used_whatever_the_order() -> None:
    lines = ["Disallow: /", "Allow: /a", "Disallow: /a/b", "Allow: /a/b/c"]
    for _ in range(10):
        random.Random(_).shuffle(lines)
        found = for_all(*lines)
        verdicts = [found.allows(path) for path in ("/x", "/a", "/a/x", "/a/b", "/a/b/c/d")]
        assert verdicts == [False, True, True, False, True]


@pytest.mark.parametrize("lines", [("Allow: /p", "Disallow: /p"), ("Disallow: /p", "Allow: /p")])
def test_of_equals_allow_is_used(lines: tuple[str, str]) -> None:
    assert for_all(*lines).allows("/page")
    assert for_all(*lines, *lines).allows("/page")


def test_what_no_rule_matches_is_allowed() -> None:
    assert for_all("Disallow: /a", "Allow: /b").allows("/c")


def test_robots_txt_itself_is_allowed() -> None:
    everything = for_all("Disallow: /")
    assert everything.allows("/robots.txt")
    assert everything.allows("/robots.txt?x")
    assert not everything.allows("/robots.txt.html")


@pytest.mark.parametrize(
    ("rule", "target"),
    [
        # the table of the RFC
        ("/foo/bar?baz=quz", "/foo/bar?baz=quz"),
        ("/foo/bar?baz=https://foo.bar", "/foo/bar?baz=https%3A%2F%2Ffoo.bar"),
        ("/foo/bar/\u30c4", "/foo/bar/%E3%83%84"),
        ("/foo/bar/%E3%83%84", "/foo/bar/%E3%83%84"),
        ("/foo/bar/%62%61%7A", "/foo/bar/baz"),
        # and both ways round, in either case
        ("/foo/bar?baz=https%3a%2f%2ffoo.bar", "/foo/bar?baz=https://foo.bar"),
        ("/%e3%83%84", "/%E3%83%84"),
        ("/baz", "/%62%61%7a"),
        ("/~joe", "/%7Ejoe"),
        ("/%7ejoe", "/~joe"),
        ("/a:b", "/a%3Ab"),
        ("/a%3db", "/a=b"),
        ("/a b", "/a%20b"),
        ("/100%", "/100%"),
        ("/100%", "/100%25"),
        ("/a?b?c", "/a?b%3Fc"),
    ],
)
def test_two_spellings_of_the_same_octets_match(rule: str, target: str) -> None:
    assert not for_all(f"Disallow: {rule}").allows(target)


@pytest.mark.parametrize(
    ("rule", "target"),
    [
        ("/a/b", "/a%2Fb"),
        ("/a%2Fb", "/a/b"),
        ("/a%3Fb", "/a?b"),
        ("/a?b", "/a%3Fb"),
        ("/a%25b", "/a%b0"),
    ],
)
def test_what_divides_a_path_is_not_what_is_encoded_in_it(rule: str, target: str) -> None:
    assert for_all(f"Disallow: {rule}").allows(target)


def test_rules_before_the_first_user_agent_are_ignored() -> None:
    assert rules("Disallow: /", "Allow: /x", "User-agent: *", "Disallow: /a").allows("/b")


def test_a_file_that_is_not_utf_8_is_read_octet_by_octet() -> None:
    found = parse_robots(b"User-agent: *\nDisallow: /caf\xe9\nDisallow: /\xff\xfe").rules_for(AGENT)
    assert [found.allows(path) for path in ("/caf%E9", "/%FF%FE", "/caf")] == [False, False, True]


# --- 2.2.3 Special characters -------------------------------------------------------------------


def test_a_hash_begins_a_comment() -> None:
    found = rules("User-agent: * # all", "Disallow: /a#b", "#Disallow: /c", "Disallow: /d # e")
    assert [found.allows(path) for path in ("/a", "/c", "/d", "/x")] == [False, True, False, True]


@pytest.mark.parametrize(
    ("rule", "yes", "no"),
    [
        ("/this/path/exactly$", ["/this/path/exactly"], ["/this/path/exactly/", "/this/path"]),
        ("/this/*/exactly", ["/this/a/exactly", "/this/a/b/exactly1"], ["/this/exactly"]),
        ("/*.gif$", ["/a.gif", "/.gif", "/a.gif?b.gif"], ["/a.gif?b", "/a.gift", "/gif"]),
        ("*.gif", ["/a.gif", "/a.gift"], ["/a.png"]),
        ("/a*b*c", ["/abc", "/a/b/c", "/abbcc"], ["/acb", "/ab", "/xabc"]),
        ("/a*b*b$", ["/abb", "/a/b/b", "/abbb"], ["/ab", "/abbc"]),
        ("/a**b", ["/ab", "/axb"], ["/a"]),
        ("/a*", ["/a", "/ab"], ["/b"]),
        ("*", ["/", "/a"], []),
        ("/$", ["/"], ["/a", "/?a"]),
        ("/a$b", ["/a$b", "/a%24bc"], ["/a", "/ab"]),
        ("/*?*x=1&", ["/?x=1&y", "/a?b&x=1&y"], ["/x=1&", "/a?x=1"]),
        ("/*/x", ["/a/x", "/go?to=/a/x", "/go?to=%2Fa%2Fx"], ["/x"]),
    ],
)
def test_an_asterisk_is_any_characters_and_a_dollar_the_end(
    rule: str, yes: list[str], no: list[str]
) -> None:
    found = for_all(f"Disallow: {rule}")
    assert [path for path in yes if found.allows(path)] == []
    assert [path for path in no if not found.allows(path)] == []


def test_special_characters_are_matched_verbatim_where_they_are_encoded() -> None:
    found = for_all("Disallow: /path/file-with-a-%2A.html", "Disallow: /path/foo-%24", "Allow: /x")
    assert not found.allows("/path/file-with-a-*.html")
    assert not found.allows("/path/file-with-a-%2a.html")
    assert found.allows("/path/file-with-a-b.html")
    assert not found.allows("/path/foo-$")
    assert found.allows("/path/foo-")


# --- 2.2.4 Other records ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other", ["Sitemap: http://x.example/s.xml", "Crawl-delay: 5", "Host: x", "Clean-param: a /b"]
)
def test_other_records_end_no_group(other: str) -> None:
    among_agents = ("User-agent: foobot", other, "User-agent: b", "Disallow: /a")
    among_rules = ("User-agent: foobot", "Disallow: /b", other, "Disallow: /a")
    for lines in (among_agents, among_rules):
        assert not rules(*lines).allows("/a")


@pytest.mark.parametrize(
    ("lines", "seconds"),
    [
        (("Crawl-delay: 2",), 2),
        (("crawl-delay:0.5",), 0.5),
        (("Crawl-delay: -1",), 0),
        (("Crawl-delay: nan",), 0),
        (("Crawl-delay: inf",), 0),
        (("Crawl-delay: 2s",), 0),
        (("Crawl-delay: 2", "Crawl-delay: 3", "Crawl-delay: 1"), 3),
        (("Request-rate: 1/5",), 5),
        (("Request-rate: 30/1m",), 2),
        (("Request-rate: 2/1h 0900-1700",), 1800),
        (("Request-rate: 0/5",), 0),
        (("Request-rate: 1",), 0),
        (("Crawl-delay: 1", "Request-rate: 1/4s"), 4),
    ],
)
def test_a_delay_is_read_where_it_is_one(lines: tuple[str, ...], seconds: float) -> None:
    assert for_all(*lines).delay_seconds == seconds


def test_a_delay_is_for_the_agents_named_so_far() -> None:
    lines = ("User-agent: foobot", "Crawl-delay: 5", "User-agent: b", "Disallow: /a")
    assert (rules(*lines).delay_seconds, rules(*lines, agent="b").delay_seconds) == (5, 0)


# --- 2.3.1.5 Parsing errors, and the lines ------------------------------------------------------


@pytest.mark.parametrize("eol", ["\n", "\r", "\r\n", "\n\r", " \t\n"])
def test_a_line_ends_in_any_of_the_three_ways(eol: str) -> None:
    found = parse_robots(eol.join(["User-agent: *", "Disallow: /a", "Disallow: /b"]).encode())
    assert not found.rules_for(AGENT).allows("/a")
    assert not found.rules_for(AGENT).allows("/b")


@pytest.mark.parametrize("character", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028"])
def test_nothing_else_ends_a_line(character: str) -> None:
    assert for_all(f"Disallow: /a{character}Disallow: /").allows("/b")


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    assert not parse_robots(b"\xef\xbb\xbfUser-agent: *\nDisallow: /").rules_for(AGENT).allows("/")


def test_white_space_around_name_and_value_does_not_count() -> None:
    assert not rules("\t User-Agent \t:\t * ", "  DISALLOW\t:/a\t ").allows("/a")


def test_every_line_that_can_be_read_counts() -> None:
    found = for_all(
        "Disallow: /a", "<p>", ":", "\0\xff", "Disallow", "Dissallow: /b", "Disallow /c"
    )
    assert [found.allows(path) for path in ("/a", "/b", "/c", "/d")] == [False, False, False, True]


@given(st.binary(max_size=300), st.text(max_size=20), st.text(max_size=40))
def test_no_bytes_make_it_fail(body: bytes, agent: str, path: str) -> None:
    found = parse_robots(b"User-agent: *\nDisallow:" + body).rules_for(agent)
    assert found.allows("/" + path) in (True, False)
    assert found.delay_seconds >= 0


@given(st.text("abAB/?%2fF3*$:é ", max_size=30))
def test_there_is_one_spelling(text: str) -> None:
    once = canonical_target("/" + text)
    assert canonical_target(once) == once
    assert once.isascii()
    pattern = canonical_pattern(("/" + text).encode())
    assert canonical_pattern(pattern.encode()) == pattern


LINE = st.tuples(
    st.sampled_from(["Allow", "Disallow"]), st.text("ab/*", max_size=6).map(lambda text: "/" + text)
)


@given(st.lists(LINE, max_size=8), st.lists(st.text("ab/", max_size=8), max_size=8))
def test_verdicts_are_those_of_protego_where_it_keeps_to_the_rfc(
    lines: list[tuple[str, str]], paths: list[str]
) -> None:
    text = "\n".join(["User-agent: *", *(f"{name}: {pattern}" for name, pattern in lines)])
    ours = parse_robots(text.encode()).rules_for(AGENT)
    theirs = Protego.parse(text)
    for path in paths:
        url = f"http://a.example/{path}"
        assert ours.allows("/" + path) == theirs.can_fetch(url, AGENT), (text, path)


# --- 2.5 Limits, and files that mean harm -------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"User-agent: *\nDisallow: /" + b"*a" * 250_000,
        b"User-agent: *\n" + b"Disallow: /*a*b*c*d$\n" * 24_000,
        b"User-agent: *\nUser-agent: b\n" * 8_000 + b"Crawl-delay: 1\n" * 18_000,
        b"".join(b"User-agent: %x\nDisallow: /\n" % number for number in range(16_000)),
        b"#" * 500_000,
        b"\r" * 500_000,
        b"a" + b" " * 499_000,
        b"User-agent: *\nDisallow: /" + b"%" * 499_000,
    ],
)
def test_no_half_megabyte_takes_long(body: bytes) -> None:
    began = time.thread_time()
    found = parse_robots(body).rules_for(AGENT)
    found.allows("/" + "a" * 2000)
    assert time.thread_time() - began < 2  # a quadratic step takes a minute


def test_the_weight_of_a_file_grows_with_what_is_in_it() -> None:
    one = parse_robots(b"User-agent: *\nDisallow: /a").weight
    many = parse_robots(b"User-agent: *\n" + b"Disallow: /a\n" * 1000).weight
    assert many > 200 * 1000 > one


def test_forty_thousand_plain_rules_are_looked_up_and_not_tried() -> None:
    letters = "abcdefghijklmnopqrst"
    paths = [f"/{a}{b}{c}{d}" for a in letters for b in letters for c in letters for d in "abcde"]
    many = rules("User-agent: *", "Allow: /", *[f"Disallow: {path}" for path in paths])
    assert (many.allows("/zzzz"), many.allows("/abcd/more"), many.allows("/abcz")) == (1, 0, 1)
    began = time.process_time()
    for _ in range(1000):
        many.allows("/zzzz/some/page?of=it")
    assert time.process_time() - began < 1.0  # tried one by one they take 14 s


_PATTERNS = st.lists(
    st.builds(
        "{}: /{}".format, st.sampled_from(("Allow", "Disallow")), st.text("ab*$/", max_size=5)
    ),
    max_size=8,
)


@given(_PATTERNS, st.text("ab/", max_size=6))
def test_the_rule_that_decides_is_the_first_that_matches(lines: list[str], path: str) -> None:
    group = rules("User-agent: *", *lines)
    first = next((rule for rule in group._rules if rule.matches(f"/{path}")), None)
    assert group.allows(f"/{path}") is (first is None or first.allows)
