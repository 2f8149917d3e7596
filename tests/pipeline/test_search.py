"""Search providers over real sockets: what is asked, how failures are told, what is tried again."""

import logging
import random
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, get_args

import attrs
import pytest
import structlog
import trio
import trustme
from structlog.testing import capture_logs

from eventmesh_trio.errors import ConfigError, DependencyError, ValidationError
from eventmesh_trio.pipeline.network.guard import AddressPolicy
from eventmesh_trio.pipeline.network.limits import FetchLimits
from eventmesh_trio.pipeline.searching.limits import PROVIDERS, ProviderName, SearchLimits
from eventmesh_trio.pipeline.searching.opening import open_search
from eventmesh_trio.pipeline.searching.search import OUTCOMES, LocalProvider, WebProvider
from eventmesh_trio.pipeline.searching.secret import Secret
from eventmesh_trio.wire.events import SearchHit
from tests.helpers.search_site import KEY, SearchSite, open_search_site

WEB = ("searxng", "serper", "brave")
FOUND = [f"http://e.org/{number}" for number in range(45)]


@pytest.fixture(scope="module")
def site() -> Iterator[SearchSite]:
    with open_search_site(FOUND) as site:
        yield site


@attrs.define(eq=False)
class Shelf:
    """A store with these documents, found after ``seconds`` or not at all."""

    hits: Sequence[SearchHit] = ()
    seconds: float = 0.0
    failure: Exception | None = None
    asked: list[tuple[str, int]] = attrs.field(factory=list)

    async def search(self, query: str, limit: int) -> Sequence[SearchHit]:
        self.asked.append((query, limit))
        await trio.sleep(self.seconds)
        if self.failure is not None:
            raise self.failure
        return self.hits[:limit]


@attrs.define(eq=False)
class Tally:
    """A `SearchMeter` that remembers."""

    told: list[tuple[str, str]] = attrs.field(factory=list)
    seconds: list[float] = attrs.field(factory=list)

    def searched(self, provider: str, outcome: str, seconds: float) -> None:
        self.told.append((provider, outcome))
        self.seconds.append(seconds)


def limits_for(site: SearchSite, provider: str, **more: Any) -> SearchLimits:
    values: dict[str, Any] = {
        "provider": provider,
        f"{provider}_url": getattr(site, provider),
        "timeout_seconds": 5.0,
        "first_delay_seconds": 0.01,
    }
    if provider != "searxng":
        values[f"{provider}_key"] = Secret(KEY)
    return SearchLimits(**{**values, **more})


@asynccontextmanager
async def open_web(
    site: SearchSite, provider: str = "searxng", **more: Any
) -> AsyncIterator[tuple[WebProvider, Tally]]:
    tally = Tally()
    limits = limits_for(site, provider, **more)
    with trio.fail_after(20):
        async with open_search(limits, Shelf(), user_agent="tests/1") as search:
            assert isinstance(search, WebProvider)
            search.meter = tally
            yield search, tally


async def search(
    provider: WebProvider | LocalProvider, query: str, limit: int = 10, **more: str
) -> Sequence[SearchHit]:
    where = {"country": None, "locale": None, **more}
    return await provider.search(query, limit, **where)


async def failure_of(site: SearchSite, query: str, provider: str = "searxng", **more: Any) -> Any:
    """The error of a search, and what was counted."""
    async with open_web(site, provider, **more) as (web, tally):
        with pytest.raises(DependencyError) as caught:
            await search(web, query)
        error = caught.value
        assert error.context["provider"] == provider
        assert error.status == 503
        assert error.retry_after_seconds is not None
        assert error.__cause__ is None
        assert "127.0.0.1" not in error.message
        return error, tally


# --- Well behaved --------------------------------------------------------------------------------


def test_there_is_a_test_for_each_provider() -> None:
    assert set(PROVIDERS) == set(get_args(ProviderName)) == {"local", *WEB}


@pytest.mark.parametrize("provider", WEB)
async def test_a_search_brings_hits_in_the_order_of_the_provider(
    site: SearchSite, provider: str
) -> None:
    async with open_web(site, provider) as (web, tally):
        hits = await search(web, "structured concurrency", 7)
    assert web.name == provider
    assert [(hit.rank, hit.url) for hit in hits] == [(n + 1, FOUND[n]) for n in range(7)]
    assert (hits[0].search_title, hits[0].search_snippet[:9]) == ("Title 1", "Snippet 1")
    assert tally.told == [(provider, "ok")]


@pytest.mark.parametrize(("provider", "size"), [("searxng", 10), ("serper", 10), ("brave", 20)])
async def test_more_pages_are_asked_for_while_there_are_more_and_they_are_wanted(
    site: SearchSite, provider: str, size: int
) -> None:
    async with open_web(site, provider) as (web, tally):
        assert len(await search(web, "many", 50)) == len(FOUND) == 45
        assert len(tally.told) == -(-50 // size)
        assert len(await search(web, "some", size + 1)) == size + 1
        assert len(tally.told) == -(-50 // size) + 2
        assert await search(web, "nothing at all", 50) == ()
        assert len(tally.told) == -(-50 // size) + 3


@pytest.mark.parametrize("provider", WEB)
async def test_a_request_is_what_the_provider_documents(site: SearchSite, provider: str) -> None:
    async with open_web(site, provider) as (web, _):
        await search(web, "größe & more", country="DE", locale="de")
    asked = site.asked[-1]
    assert asked.text == "größe & more"
    assert (asked.fields["user-agent"], asked.fields["accept"]) == ("tests/1", "application/json")
    assert asked.fields["host"] == f"127.0.0.1:{site.port}"
    expected: dict[str, Any] = {
        "searxng": ("GET", "/searxng/search", None, None),
        "serper": ("POST", "/serper/search", "x-api-key", "gl"),
        "brave": ("GET", "/brave/res/v1/web/search", "x-subscription-token", "country"),
    }
    method, path, field, country = expected[provider]
    assert (asked.method, asked.path) == (method, path)
    assert field is None or asked.fields[field] == KEY
    assert country is None or (asked.body or asked.query)[country].upper() == "DE"


async def test_connections_are_kept_for_the_next_search_and_closed_in_the_end(
    site: SearchSite,
) -> None:
    before = site.connections
    async with open_web(site) as (web, _):
        for number in range(5):
            await search(web, f"one after the other {number}")
        assert site.connections == before + 1
    with trio.fail_after(5):
        while site.open_connections:
            await trio.sleep(0.01)


async def test_a_key_may_stand_in_a_file(site: SearchSite, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    more = {"serper_key": Secret(), "serper_key_file": str(file)}
    async with open_web(site, "serper", **more) as (web, _):
        assert await search(web, "trio")


@pytest.mark.parametrize("content", [None, "", "two keys", "ключ", "x" * 5000])
async def test_a_key_file_that_holds_no_key_is_refused_without_showing_it(
    site: SearchSite, tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError) as caught:
        async with open_web(site, "brave", brave_key=Secret(), brave_key_file=str(file)):
            pass
    assert str(file) in caught.value.message
    assert not content or content not in caught.value.message


async def test_a_key_travels_over_tls_and_the_request_has_its_body_whatever_fetches_speak(
    site: SearchSite,
) -> None:
    authority = trustme.CA()
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(theirs)
    theirs.set_alpn_protocols(["h2", "http/1.1"])
    ours = ssl.create_default_context()
    authority.configure_trust(ours)
    spoken: list[str | None] = []

    async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError:  # it does not trust us
            await trio.aclose_forcefully(stream)
            return
        spoken.append(stream.selected_alpn_protocol())
        await site._serve(stream)  # type: ignore[arg-type]

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_ssl_over_tcp_listeners(0, theirs, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, serve, [listener])
            port = listener.transport_listener.socket.getsockname()[1]
            url = f"https://localhost:{port}/serper/search"
            limits = limits_for(site, "serper", serper_url=url, max_retries=0)
            fetch = FetchLimits(http2=True)
            async with open_search(
                limits, Shelf(), fetch=fetch, user_agent="t/1", ssl_context=ours
            ) as web:
                assert await search(web, "over tls")
            # Another authority's certificate: the key is not sent at all.
            before = len(site.asked)
            stranger = ssl.create_default_context()
            async with open_search(limits, Shelf(), user_agent="t/1", ssl_context=stranger) as web:
                with pytest.raises(DependencyError) as caught:
                    await search(web, "trio")
            nursery.cancel_scope.cancel()
    assert spoken == ["http/1.1"]
    assert caught.value.context["reason"] == "unreachable"
    assert len(site.asked) == before
    assert site.asked[-1].body["q"] == "over tls"


# --- Misbehaving ---------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", WEB)
@pytest.mark.parametrize(
    ("query", "reason", "attempts"),
    [
        ("html", "bad_answer", 1),
        ("badjson", "bad_answer", 1),
        ("shape", "bad_answer", 1),
        ("deep", "bad_answer", 1),
        ("huge", "too_large", 1),
        ("bomb", "too_large", 1),
        ("redirect", "redirected", 1),
        ("forbidden", "unauthorized", 1),
        ("teapot", "http_error", 1),
        ("down", "http_error", 3),
        ("reset", "unreachable", 3),
        ("cut", "unreachable", 3),
    ],
)
async def test_a_provider_that_cannot_serve_is_an_error_that_says_why(
    site: SearchSite, provider: str, query: str, reason: str, attempts: int
) -> None:
    error, tally = await failure_of(site, query, provider)
    assert error.context["reason"] == reason
    assert reason in OUTCOMES
    assert tally.told == [(provider, reason)] * attempts
    assert KEY not in f"{error!r} {error.context}"


async def test_searxng_without_an_engine_that_answers_cannot_serve(site: SearchSite) -> None:
    error, _ = await failure_of(site, "engines")
    assert error.context["reason"] == "bad_answer"
    assert "engines" in error.message


@pytest.mark.parametrize("query", ["stall", "drip"])
async def test_a_provider_that_takes_too_long_is_left_at_the_searchs_deadline(
    site: SearchSite, query: str
) -> None:
    began = trio.current_time()
    error, tally = await failure_of(site, query, timeout_seconds=0.3)
    assert 0.25 < trio.current_time() - began < 3
    assert error.context["reason"] == "timeout"
    assert tally.told == [("searxng", "timeout")]
    with trio.fail_after(5):
        while site.open_connections:
            await trio.sleep(0.01)


async def test_a_provider_that_is_not_there_is_unreachable(site: SearchSite) -> None:
    limits = attrs.evolve(
        limits_for(site, "searxng"), searxng_url="http://127.0.0.1:9/", max_retries=1
    )
    async with open_search(limits, Shelf(), user_agent="tests/1") as web:
        with pytest.raises(DependencyError) as caught:
            await search(web, "trio")
    assert caught.value.context["reason"] == "unreachable"


async def test_a_provider_without_headers_in_time_is_tried_again(site: SearchSite) -> None:
    tally = Tally()
    fetch = FetchLimits(response_head_seconds=0.1)
    limits = limits_for(site, "searxng", max_retries=1)
    async with open_search(limits, Shelf(), fetch=fetch, user_agent="tests/1") as web:
        web.meter = tally
        with pytest.raises(DependencyError):
            await search(web, "stall")
    assert tally.told == [("searxng", "timeout")] * 2


async def test_a_redirect_into_the_inside_is_not_followed(site: SearchSite) -> None:
    before = len(site.asked)
    error, _ = await failure_of(site, "redirect")
    assert "169.254" not in error.message
    assert len(site.asked) == before + 1


@pytest.mark.parametrize(
    ("query", "seconds"), [("busy 1 a", 1.0), ("flaky a", 0.0)], ids=["busy", "flaky"]
)
async def test_a_provider_that_is_busy_for_a_moment_is_asked_again(
    site: SearchSite, query: str, seconds: float
) -> None:
    began = trio.current_time()
    async with open_web(site) as (web, tally):
        assert await search(web, query)
    assert seconds <= trio.current_time() - began < seconds + 2
    assert [outcome for _, outcome in tally.told][1:] == ["ok"]


async def test_a_provider_that_wants_a_longer_pause_is_not_asked_again_and_the_client_is_told(
    site: SearchSite,
) -> None:
    error, tally = await failure_of(site, "busy 60 b")
    assert error.context["reason"] == "rate_limited"
    assert error.retry_after_seconds == 60
    assert tally.told == [("searxng", "rate_limited")]


async def test_what_the_first_pages_brought_is_kept_when_a_later_one_fails(
    site: SearchSite,
) -> None:
    with capture_logs() as logs:
        async with open_web(site) as (web, tally):
            assert len(await search(web, "second page fails", 30)) == 10
    assert tally.told == [("searxng", "ok"), ("searxng", "http_error")]
    assert [entry["reason"] for entry in logs] == ["http_error"]


async def test_a_cancelled_search_leaves_no_connection_in_use(site: SearchSite) -> None:
    async with open_web(site) as (web, _):
        for number in range(10):
            with trio.move_on_after(random.Random(number).uniform(0, 0.05)):
                await search(web, f"slow {number}")
        assert await search(web, "trio")
    with trio.fail_after(5):
        while site.open_connections:
            await trio.sleep(0.01)


async def test_a_search_that_is_given_up_does_not_count_as_the_providers_timeout(
    site: SearchSite,
) -> None:
    async with open_web(site) as (web, tally):
        with trio.move_on_after(60) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(search, web, "stall")
                while not site.in_flight:
                    await trio.sleep(0.01)
                scope.cancel()
    assert scope.cancelled_caught
    assert tally.told == []


async def test_no_more_than_max_searches_ask_at_once_and_waiting_counts(site: SearchSite) -> None:
    site.most_at_once = 0
    async with open_web(site, max_searches=1, timeout_seconds=1.0) as (web, _):
        outcomes: list[str] = []

        async def one(query: str) -> None:
            try:
                await search(web, query)
            except DependencyError as error:
                outcomes.append(str(error.context["reason"]))
            else:
                outcomes.append("ok")

        async with trio.open_nursery() as nursery:
            for number in range(5):  # 0.4 seconds each
                nursery.start_soon(one, f"slow {number}")
    assert outcomes.count("ok") in (1, 2)
    assert outcomes.count("ok") + outcomes.count("timeout") == 5
    assert site.most_at_once == 1


async def test_a_query_that_the_provider_cannot_take_is_refused_without_asking(
    site: SearchSite,
) -> None:
    async with open_web(site, "brave") as (web, tally):
        with pytest.raises(ValidationError):
            web.check("word " * 60)
        web.check("word " * 50)
    assert tally.told == []


# --- The guard -----------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", ["serper", "brave"])
async def test_an_endpoint_that_the_operator_did_not_name_has_to_be_public(
    site: SearchSite, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if the public name led into the inside.
    constant = f"eventmesh_trio.pipeline.searching.opening.{provider.upper()}_URL"
    monkeypatch.setattr(constant, getattr(site, provider))
    before = site.connections
    error, tally = await failure_of(site, "trio", provider)
    assert error.context["reason"] == "blocked_address"
    assert tally.told == [(provider, "blocked_address")]
    assert site.connections == before


async def test_a_name_of_this_machine_may_be_an_endpoint(site: SearchSite) -> None:
    limits = attrs.evolve(
        limits_for(site, "searxng"), searxng_url=f"http://localhost:{site.port}/searxng"
    )
    async with open_search(limits, Shelf(), user_agent="tests/1") as web:
        assert await search(web, "trio")


@asynccontextmanager
async def open_way_out(site: SearchSite) -> AsyncIterator[tuple[str, list[bytes]]]:
    """An outgoing proxy that leads to the site, wherever one wants to go; what it was asked."""
    asked: list[bytes] = []

    async def serve(client: trio.SocketStream) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += await client.receive_some()
        asked.append(head.split(b"\r\n")[0])
        await client.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        server = await trio.open_tcp_stream("127.0.0.1", site.port)

        async def pump(source: trio.SocketStream, sink: trio.SocketStream) -> None:
            while data := await source.receive_some():
                await sink.send_all(data)
            nursery.cancel_scope.cancel()

        async with server, client, trio.open_nursery() as nursery:
            nursery.start_soon(pump, client, server)
            nursery.start_soon(pump, server, client)

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}", asked
        nursery.cancel_scope.cancel()


async def test_an_outgoing_proxy_leads_to_public_endpoints_and_not_to_those_inside(
    site: SearchSite,
) -> None:
    outside = {"serper_url": "http://93.184.215.14:8000/serper/search"}
    with trio.fail_after(20):
        async with open_way_out(site) as (address, asked):
            for limits, seen in (
                (limits_for(site, "serper"), []),
                (limits_for(site, "serper", **outside), [b"CONNECT 93.184.215.14:8000 HTTP/1.1"]),
            ):
                fetch = FetchLimits(proxy=address)
                async with open_search(limits, Shelf(), fetch=fetch, user_agent="t/1") as web:
                    assert await search(web, "trio")
                assert asked == seen


# --- Keys ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", ["serper", "brave"])
async def test_no_key_is_ever_logged(
    site: SearchSite, provider: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with capture_logs() as logs:
        for query in ("trio", "forbidden", "down", "html", "reset", "cut"):
            async with open_web(site, provider) as (web, _):
                try:
                    await search(web, query)
                except DependencyError as error:
                    structlog.get_logger().warning("told", error=error, web=web)
    assert len(logs) >= 5
    assert [entry["hint"] for entry in logs if "hint" in entry]
    assert KEY not in f"{logs!r} {caplog.text}"
    assert all(asked.fields for asked in site.asked)  # and it was sent


# --- Local ---------------------------------------------------------------------------------------


def hit(url: str, rank: int = 1) -> SearchHit:
    return SearchHit(url=url, rank=rank, search_title="T", search_snippet="a <b> c")


async def test_local_searches_the_store_and_shows_its_texts_as_they_are(
    autojump_clock: trio.testing.MockClock,
) -> None:
    shelf = Shelf([hit("http://a/", 9), hit("http://a:80/", 10), hit("http://b/", 11)])
    local = LocalProvider(shelf, SearchLimits(), Tally())
    hits = await search(local, "trio", 5, country="DE")
    assert shelf.asked == [("trio", 5)]
    assert [(one.rank, one.url) for one in hits] == [(1, "http://a/"), (2, "http://b/")]
    assert hits[0].search_snippet == "a <b> c"


async def test_local_does_not_find_what_may_not_be_fetched_any_more(
    autojump_clock: trio.testing.MockClock,
) -> None:
    shelf = Shelf(
        [hit("http://10.0.0.1/", 9), hit("http://a.example/", 10), hit("http://wiki/", 11)]
    )
    local = LocalProvider(shelf, SearchLimits(), Tally(), policy=AddressPolicy())
    assert [one.url for one in await search(local, "trio", 5)] == ["http://a.example/"]


async def test_what_may_not_be_shown_takes_no_place_of_what_may(
    autojump_clock: trio.testing.MockClock,
) -> None:
    denied = [hit(f"http://denied.example/{number}", number) for number in range(30)]
    allowed = [hit(f"http://ok.example/{number}", 30 + number) for number in range(10)]
    policy = AddressPolicy(deny_hosts=("denied.example",))
    local = LocalProvider(Shelf([*denied, *allowed]), SearchLimits(), Tally(), policy=policy)
    found = await search(local, "trio", 5)
    assert [one.url for one in found] == [f"http://ok.example/{number}" for number in range(5)]


@pytest.mark.parametrize(
    ("shelf", "reason"),
    [(Shelf(seconds=11), "timeout"), (Shelf(failure=OSError("disk")), "store_error")],
    ids=["slow", "broken"],
)
async def test_a_store_that_cannot_be_searched_is_an_error_with_its_reason(
    shelf: Shelf, reason: str, autojump_clock: trio.testing.MockClock
) -> None:
    tally = Tally()
    with capture_logs() as logs, pytest.raises(DependencyError) as caught:
        await search(LocalProvider(shelf, SearchLimits(), tally), "trio")
    assert caught.value.context == {"provider": "local", "reason": reason}
    assert "disk" not in caught.value.message
    assert tally.told == [("local", reason)]
    assert len(logs) == (reason == "store_error")
