"""URLs are judged as a browser reads them."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from w3lib.url import canonicalize_url

from eventmesh_trio.wire.urls import _canonical, cache_key, parse_url


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("http://2130706433/", "127.0.0.1"),
        ("http://0x7f.1/", "127.0.0.1"),
        ("http:\\\\evil.example\\a", "evil.example"),
        ("HTTPS://EXAMPLE.org", "example.org"),
        ("http://[::1]:8080/", "::1"),
        ("http://bücher.example/", "xn--bcher-kva.example"),
        ("http://user:secret@example.org/", "example.org"),
    ],
)
def test_a_host_is_what_would_be_dialled(text, host):
    assert parse_url(text).host == host


def test_credentials_and_fragments_do_not_travel():
    assert parse_url("http://u:p@example.org/a?b#c").href == "http://example.org/a?b"


def test_ports_default_by_scheme():
    assert parse_url("http://e.org/").port == 80
    assert parse_url("https://e.org/").port == 443
    assert parse_url("https://e.org:8443/").port == 8443


@pytest.mark.parametrize(
    "text",
    ["", "/a", "example.org", "ftp://e.org/", "http://", "data:text/html,x", "http://a b/", "\x00"],
)
def test_what_is_no_absolute_http_url_is_refused(text):
    with pytest.raises(ValueError, match=r"^(is|has) "):
        parse_url(text)


def test_a_reference_is_resolved_against_its_base():
    base = "http://e.org/a/b?c"
    assert parse_url("../d?e", base).href == "http://e.org/d?e"
    assert parse_url("//f.org/x", base).host == "f.org"
    assert parse_url("\\\\f.org/x", base).host == "f.org"


@pytest.mark.parametrize(
    ("text", "href"),
    [
        ("http:///127.0.0.1/", "http://127.0.0.1/"),
        ("///127.0.0.1/a", "http://127.0.0.1/a"),
        ("////127.0.0.1", "http://127.0.0.1/"),
        ("/\\127.0.0.1", "http://127.0.0.1/"),
        ("\\/127.0.0.1", "http://127.0.0.1/"),
        ("/\t/127.0.0.1", "http://127.0.0.1/"),
        (" \n//127.0.0.1 ", "http://127.0.0.1/"),
        ("HTTPS:\\\\\\127.0.0.1", "https://127.0.0.1/"),
        ("https:127.0.0.1", "https://127.0.0.1/"),
        ("http:127.0.0.1", "http://e.org/a/127.0.0.1"),  # of the base's scheme: relative
        ("http:/127.0.0.1", "http://e.org/127.0.0.1"),
        ("..\\d?e=\\f", "http://e.org/d?e=\\f"),
        ("@127.0.0.1", "http://e.org/a/@127.0.0.1"),
        (".//127.0.0.1", "http://e.org/a//127.0.0.1"),
        ("?//127.0.0.1", "http://e.org/a/b?//127.0.0.1"),
        ("", "http://e.org/a/b?c"),
        ("#d", "http://e.org/a/b?c"),
        ("?d", "http://e.org/a/b?d"),
        ("../../../d/./e/..", "http://e.org/d/"),
        ("d:e", None),
        ("./d:e", "http://e.org/a/d:e"),
        ("mailto:a@e.org", None),
    ],
)
def test_a_reference_leads_where_a_browser_would_go(text, href):
    if href is None:
        with pytest.raises(ValueError, match="has the scheme"):
            parse_url(text, "http://e.org/a/b?c")
    else:
        assert parse_url(text, "http://e.org/a/b?c").href == href


def test_cache_keys_differ_by_url_and_options_and_have_their_documented_form():
    url = parse_url("https://Example.com/Some/Page-1?x=1")
    key = cache_key(url, "article")
    assert key.startswith("crawl:v1:example.com:some-page-1:")
    assert len(key.rpartition(":")[2]) == 8
    assert key != cache_key(url, "full")
    assert key != cache_key(parse_url("https://example.com/Some/Page-1?x=2"), "article")
    assert key == cache_key(parse_url("https://EXAMPLE.com:443/Some/Page-1?x=1#top"), "article")


@given(
    st.text("aZ0.-_~/:%;,= @x", max_size=20),
    st.text("aZ0.-_~/;,=%@?&+ #:", max_size=30),
)
@example("xn--a", "")
@example("a" * 64, "b")
@example("e.org:0", "a/.b")
@example("e.org", "A_b/c-d~1.html")
def test_what_is_plain_is_canonical_as_it_is(host, path):
    try:
        url = parse_url(f"http://{host}/{path}")
    except ValueError:
        return
    assert _canonical(url) == canonicalize_url(url.href)


@given(st.text(max_size=60))
def test_any_text_is_a_url_or_a_value_error(text):
    for candidate in (text, f"http://{text}", f"http://e.org/{text}"):
        try:
            url = parse_url(candidate)
        except ValueError:
            continue
        assert url.scheme in ("http", "https")
        assert parse_url(url.href).href == url.href


@pytest.mark.parametrize("letter", ["字", "é", '"', " "])
def test_what_is_too_long_as_it_is_sent_is_refused_at_once_and_not_when_it_is_read_again(letter):
    with pytest.raises(ValueError, match="as it is sent"):
        parse_url("http://e.org/" + letter * 1000 + "x")
