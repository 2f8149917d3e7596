"""What clients ask for: accepted spellings, defaults, and errors that name the member."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventmesh_trio.errors import ValidationError
from eventmesh_trio.wire.requests import (
    CrawlOptions,
    parse_crawl_request,
    parse_deepsearch_request,
    parse_options,
)

URL = "http://example.org/"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def test_a_request_with_nothing_but_urls_gets_every_default():
    request = parse_crawl_request({"urls": [URL]}, max_urls=10)
    assert request.urls == (URL,)
    assert request.options == CrawlOptions()
    assert (request.options.concurrency, request.options.timeout_seconds) == (5, 30.0)
    assert (request.options.cache_mode, request.options.max_retries) == ("read_write", 3)


@pytest.mark.parametrize(
    ("spelling", "mode"),
    [
        ("enabled", "read_write"),
        ("read_through", "read_write"),
        ("read", "read_only"),
        ("write", "write_only"),
        ("write_through", "write_only"),
        ("refresh", "write_only"),
        ("none", "disabled"),
        ("OFF", "disabled"),
        ("bypass", "disabled"),
    ],
)
def test_cache_modes_have_the_spellings_that_clients_use(spelling, mode):
    assert parse_options({"cache_mode": spelling}, "options").cache_mode == mode


@pytest.mark.parametrize(
    "options", [{"timeout": 5}, {"timeout_secs": 5.0}, {"timeout_ms": 5000}, {"timeout_seconds": 5}]
)
def test_a_timeout_is_read_in_each_of_its_units(options):
    assert parse_options(options, "options").timeout_seconds == 5.0


def test_two_timeouts_that_agree_are_one_and_two_that_differ_are_refused():
    assert parse_options({"timeout": 5, "timeout_ms": 5000}, "o").timeout_seconds == 5
    with pytest.raises(ValidationError, match="differ"):
        parse_options({"timeout": 5, "timeout_ms": 6000}, "o")


def test_modes_are_read_in_any_case_and_skip_extraction_means_raw():
    options = parse_options({"render_mode": "Static", "skip_extraction": True}, "options")
    assert (options.render_mode, options.extract_mode) == ("static", "raw")


def test_unknown_members_are_ignored():
    body = {"urls": [URL], "options": {"stream": True, "priority": 9}, "session": "x"}
    assert parse_crawl_request(body, max_urls=1).options == CrawlOptions()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ([], None),
        ({}, "urls"),
        ({"urls": URL}, "urls"),
        ({"urls": []}, "urls"),
        ({"urls": [URL] * 11}, "urls"),
        ({"urls": [URL, 7]}, "urls[1]"),
        ({"urls": [URL, "example.org"]}, "urls[1]"),
        ({"urls": ["file:///etc/passwd"]}, "urls[0]"),
        ({"urls": ["javascript:alert(1)"]}, "urls[0]"),
        ({"urls": ["http://example.org/" + "a" * 3000]}, "urls[0]"),
        ({"urls": ["http://\ud800/"]}, "urls[0]"),
        ({"urls": [URL], "options": 3}, "options"),
        ({"urls": [URL], "options": {"concurrency": 0}}, "options.concurrency"),
        ({"urls": [URL], "options": {"concurrency": 65}}, "options.concurrency"),
        ({"urls": [URL], "options": {"concurrency": -1}}, "options.concurrency"),
        ({"urls": [URL], "options": {"concurrency": True}}, "options.concurrency"),
        ({"urls": [URL], "options": {"concurrency": "3"}}, "options.concurrency"),
        ({"urls": [URL], "options": {"timeout_seconds": 0}}, "options.timeout_seconds"),
        ({"urls": [URL], "options": {"timeout_ms": float("nan")}}, "options.timeout_ms"),
        ({"urls": [URL], "options": {"timeout": "5"}}, "options.timeout"),
        ({"urls": [URL], "options": {"timeout": 10**400}}, "options.timeout"),
        ({"urls": [URL], "options": {"run_timeout_seconds": 0.5}}, "options.run_timeout_seconds"),
        ({"urls": [URL], "options": {"max_retries": 11}}, "options.max_retries"),
        ({"urls": [URL], "options": {"cache_mode": "sometimes"}}, "options.cache_mode"),
        ({"urls": [URL], "options": {"extract_mode": []}}, "options.extract_mode"),
        ({"urls": [URL], "options": {"scroll_steps": 101}}, "options.scroll_steps"),
        ({"urls": [URL], "options": {"respect_robots": 1}}, "options.respect_robots"),
        ({"urls": [URL], "options": {"user_agent": "a\r\nHost: b"}}, "options.user_agent"),
        ({"urls": [URL], "options": {"user_agent": "a\n"}}, "options.user_agent"),
        ({"urls": [URL], "options": {"user_agent": "ä"}}, "options.user_agent"),
        ({"urls": [URL], "options": {"user_agent": " a"}}, "options.user_agent"),
        ({"urls": [URL], "options": {"user_agent": "a "}}, "options.user_agent"),
        ({"urls": [URL], "options": {"max_text_chars": 2**64}}, "options.max_text_chars"),
        ({"urls": [URL], "options": {"skip_extraction": "yes"}}, "options.skip_extraction"),
    ],
)
def test_what_cannot_be_is_refused_with_the_name_of_its_member(body, field):
    with pytest.raises(ValidationError) as caught:
        parse_crawl_request(body, max_urls=10)
    assert caught.value.field == field
    assert field is None or field in caught.value.message


def test_options_that_differ_have_different_keys():
    options = [
        {},
        {"user_agent": "None"},
        {"user_agent": "U|0|None|None"},
        {"dynamic_wait_for": "a|0|None|U"},
        {"dynamic_wait_for": "a", "user_agent": "U|0|None|None"},
        {"max_text_chars": 5},
        {"user_agent": "5"},
    ]
    keys = [parse_options(members, "options").extraction_key for members in options]
    assert len(set(keys)) == len(keys)


def test_a_user_agent_that_is_refused_is_told_in_words():
    with pytest.raises(ValidationError, match="only printable ASCII") as caught:
        parse_options({"user_agent": "ä"}, "options")
    assert "\\" not in caught.value.message


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "query"),
        ({"query": ""}, "query"),
        ({"query": "x" * 1001}, "query"),
        ({"query": "x", "limit": 51}, "limit"),
        ({"query": "x", "include_content": "no"}, "include_content"),
        ({"query": "x", "crawl_options": {"concurrency": 0}}, "crawl_options.concurrency"),
    ],
)
def test_a_deep_search_names_the_member_that_cannot_be(body, field):
    with pytest.raises(ValidationError) as caught:
        parse_deepsearch_request(body)
    assert caught.value.field == field


@given(JSON)
def test_any_json_is_a_request_or_a_validation_error(body):
    for read in (
        lambda: parse_crawl_request(body, max_urls=5),
        lambda: parse_deepsearch_request(body),
    ):
        try:
            read()
        except ValidationError as error:
            assert error.message


@given(st.dictionaries(st.sampled_from(list(CrawlOptions.__struct_fields__)), JSON))
def test_any_options_are_options_or_a_validation_error(options):
    try:
        parse_options(options, "options")
    except ValidationError as error:
        assert error.field is not None
