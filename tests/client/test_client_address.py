import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventmesh_trio.client.address import Address, parse_base_url
from eventmesh_trio.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "expected", "authority"),
    [
        ("http://localhost:8080", Address("http", "localhost", 8080), "localhost:8080"),
        ("http://Example.ORG/", Address("http", "example.org", 80), "example.org"),
        ("https://h.test:443", Address("https", "h.test", 443), "h.test"),
        ("https://h.test/a/b/", Address("https", "h.test", 443, "/a/b"), "h.test"),
        ("http://[::1]:8080", Address("http", "::1", 8080), "[::1]:8080"),
        ("unix:/run/a b.sock", Address("http", "localhost", 80, "", "/run/a b.sock"), "localhost"),
        (
            "http+unix://%2Frun%2Fx.sock/api/",
            Address("http", "localhost", 80, "/api", "/run/x.sock"),
            "localhost",
        ),
    ],
)
def test_base_urls_are_read(text: str, expected: Address, authority: str) -> None:
    address = parse_base_url(text)
    assert address == expected
    assert address.authority == authority


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost:8080",
        "ftp://h.test",
        "http://",
        "http://h.test/?a=1",
        "http://user:secret@h.test",
        "unix:",
        "http+unix://",
        "http+unix://%2Fx.sock?a=1",
        "http+unix://[",
        "http+unix://%2Fx.sock/\udc80",
    ],
)
def test_what_is_no_base_url_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="base URL"):
        parse_base_url(text)


def test_a_refused_base_url_does_not_show_its_password() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_base_url("http://user:secret@h.test")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["", "http://", "http+unix://", "unix:"])
@given(text=st.text())
def test_any_text_is_read_or_refused(scheme: str, text: str) -> None:
    with contextlib.suppress(ConfigError):
        address = parse_base_url(scheme + text)
        assert address.authority.isascii()
        assert address.target("healthz").isascii()


def test_targets_are_encoded() -> None:
    address = parse_base_url("https://h.test/api")
    assert address.target("sessions", "a/b ?ü:1") == "/api/sessions/a%2Fb%20%3F%C3%BC:1"
    assert address.target("crawl", session_id="a&b", after=None) == "/api/crawl?session_id=a%26b"
