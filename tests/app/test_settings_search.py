"""Each setting under ``search`` and what it changes, against engines of ours over real sockets."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
from click.testing import CliRunner
from trio.testing import MockClock

from eventmesh_trio.app.cli import main
from eventmesh_trio.app.lifespan import Mesh, open_mesh
from eventmesh_trio.app.loading import load_config, settle
from eventmesh_trio.errors import ConfigError, DependencyError
from eventmesh_trio.wire.events import SearchHit
from tests.helpers.search_site import KEY, SearchSite, open_search_site
from tests.helpers.settled import open_world, settled, shows


@pytest.fixture(scope="module")
def site() -> Iterator[SearchSite]:
    with open_search_site([f"http://e.org/{number}" for number in range(30)]) as site:
        yield site


def engine(site: SearchSite, provider: str = "searxng") -> list[str]:
    """The settings of a server that asks this engine."""
    found = [f"search.provider={provider}", f"search.{provider}_url={getattr(site, provider)}"]
    return found if provider == "searxng" else [*found, f"search.{provider}_key={KEY}"]


@asynccontextmanager
async def open_asking(*assignments: str) -> AsyncIterator[Mesh]:
    with trio.fail_after(30):
        async with open_mesh(settled("workers.workers=1", *assignments)) as mesh:
            yield mesh


async def search(mesh: Mesh, query: str = "trio", limit: int = 10) -> Sequence[SearchHit]:
    return await mesh.search.search(query, limit, country=None, locale=None)


async def reason_of(mesh: Mesh, query: str) -> object:
    with pytest.raises(DependencyError) as caught:
        await search(mesh, query)
    return caught.value.context["reason"]


# --- Who is asked --------------------------------------------------------------------------------


@shows("search.provider")
async def test_the_provider_of_the_settings_is_asked_and_no_other(site: SearchSite):
    async with open_asking() as mesh:
        assert mesh.search.name == "local"
    for provider in ("searxng", "serper", "brave"):
        async with open_asking(*engine(site, provider)) as mesh:
            await search(mesh)
            assert site.asked[-1].provider == mesh.search.name == provider
    with pytest.raises(ConfigError, match=r"search\.provider: there is no provider 'google'"):
        settled("search.provider=google")


@shows("search.searxng_url")
async def test_searxng_is_asked_below_its_base_url(site: SearchSite):
    for end in ("", "/", "/search"):
        url = f"search.searxng_url={site.searxng}{end}"
        async with open_asking("search.provider=searxng", url) as mesh:
            await search(mesh)
            assert site.asked[-1].path == "/searxng/search"
    with pytest.raises(ConfigError, match=r"the provider searxng needs searxng_url"):
        settled("search.provider=searxng")
    for bad in ("ftp://e.org", "e.org", "http://e.org/?q=1", "http://u:p@e.org/"):
        with pytest.raises(ConfigError, match="searxng_url"):
            settled("search.provider=searxng", f"search.searxng_url={bad}")


@shows("search.serper_url")
async def test_serper_is_asked_at_its_url(site: SearchSite):
    async with open_asking(*engine(site, "serper")) as mesh:
        await search(mesh)
        assert site.asked[-1].path == "/serper/search"
    with pytest.raises(ConfigError, match="serper_url"):
        settled("search.serper_url=")


@shows("search.brave_url")
async def test_brave_is_asked_at_its_url(site: SearchSite):
    async with open_asking(*engine(site, "brave")) as mesh:
        await search(mesh)
        assert site.asked[-1].path == "/brave/res/v1/web/search"
    with pytest.raises(ConfigError, match="brave_url"):
        settled("search.brave_url=")


@shows("search.serper_key")
async def test_serper_is_sent_its_key(site: SearchSite):
    await shows_its_key(site, "serper", "x-api-key")


@shows("search.brave_key")
async def test_brave_is_sent_its_token(site: SearchSite):
    await shows_its_key(site, "brave", "x-subscription-token")


async def shows_its_key(site: SearchSite, provider: str, field: str) -> None:
    *others, key = engine(site, provider)
    async with open_asking(*others, key) as mesh:
        await search(mesh)
        assert site.asked[-1].fields[field] == KEY
    async with open_asking(*others, f"search.{provider}_key=another") as mesh:
        assert await reason_of(mesh, "trio") == "unauthorized"
    with pytest.raises(ConfigError, match=f"needs {provider}_key or {provider}_key_file"):
        settled(*others)


@shows("search.serper_key_file")
async def test_serper_is_sent_the_key_of_its_file(site: SearchSite, tmp_path: Path):
    await shows_its_file(site, "serper", "x-api-key", tmp_path)


@shows("search.brave_key_file")
async def test_brave_is_sent_the_token_of_its_file(site: SearchSite, tmp_path: Path):
    await shows_its_file(site, "brave", "x-subscription-token", tmp_path)


async def shows_its_file(site: SearchSite, provider: str, field: str, folder: Path) -> None:
    *others, key = engine(site, provider)
    file = folder / "key"
    file.write_text(f"{KEY}\n")
    async with open_asking(*others, f"search.{provider}_key_file={file}") as mesh:
        await search(mesh)
        assert site.asked[-1].fields[field] == KEY
    with pytest.raises(ConfigError, match="are both set"):
        settled(*others, key, f"search.{provider}_key_file={file}")
    missing = f"search.{provider}_key_file={folder / 'missing'}"
    with pytest.RaisesGroup(ConfigError, flatten_subgroups=True, allow_unwrapped=True):
        async with open_asking(*others, missing):
            pass


# --- Limits --------------------------------------------------------------------------------------


@shows("search.timeout_seconds")
async def test_a_search_may_take_timeout_seconds(site: SearchSite):
    async with open_asking(*engine(site), "search.timeout_seconds=0.2s") as mesh:
        assert await reason_of(mesh, "slow answer") == "timeout"
    async with open_asking(*engine(site), "search.timeout_seconds=5s") as mesh:
        assert await search(mesh, "slow answer")


@attrs.define(eq=False)
class Slow:
    """A provider that fails after ``seconds``."""

    seconds: float
    name: str = "slow"

    def check(self, query: str) -> None:
        pass

    async def search(
        self, query: str, limit: int, *, country: str | None, locale: str | None
    ) -> Sequence[SearchHit]:
        await trio.sleep(self.seconds)
        raise DependencyError("no", context={"provider": self.name, "reason": "timeout"})


@shows("search.answer_wait_seconds")
@pytest.mark.parametrize(("wait", "status", "at"), [(20, 503, 8.0), (5, 200, 8.0)])
async def test_a_response_waits_answer_wait_seconds_for_the_provider(
    wait: int, status: int, at: float, autojump_clock: MockClock
):
    async with open_world(f"search.answer_wait_seconds={wait}") as world:
        world.mesh.search = Slow(8.0)
        answer = await world.request("POST", "/deepsearch/stream", body={"query": "trio"})
        assert answer.status == status
        assert trio.current_time() == pytest.approx(at, abs=0.2)
        assert (b'"event":"summary"' in answer.body) == (status == 200)
        assert answer.body.count(b"dependency_error") >= 1


@shows("search.max_answer_bytes")
async def test_an_answer_may_have_max_answer_bytes(site: SearchSite):
    async with open_asking(*engine(site), "search.max_answer_bytes=500") as mesh:
        assert await reason_of(mesh, "trio") == "too_large"
    async with open_asking(*engine(site), "search.max_answer_bytes=50KB") as mesh:
        assert await search(mesh)


@shows("search.max_searches")
async def test_max_searches_ask_the_provider_at_once(site: SearchSite):
    for most in (1, 3):
        site.most_at_once = 0
        async with open_asking(*engine(site), f"search.max_searches={most}") as mesh:
            async with trio.open_nursery() as nursery:
                for number in range(4):  # 0.4 seconds each
                    nursery.start_soon(search, mesh, f"slow {number}")
            assert site.most_at_once == most


@shows("search.max_retries")
async def test_a_failing_provider_is_asked_max_retries_times_more(site: SearchSite):
    for retries in (0, 3):
        before = len(site.asked)
        settings = [f"search.max_retries={retries}", "search.first_delay_seconds=0"]
        async with open_asking(*engine(site), *settings) as mesh:
            assert await reason_of(mesh, "down") == "http_error"
        assert len(site.asked) == before + 1 + retries


@shows("search.first_delay_seconds")
async def test_the_second_attempt_comes_within_first_delay_seconds(site: SearchSite):
    settings = ["search.max_retries=12", "search.first_delay_seconds=0.01s"]
    async with open_asking(*engine(site), *settings, "search.timeout_seconds=1s") as mesh:
        # Doubled each time: twelve waits within the deadline are not even possible on average.
        before = len(site.asked)
        await reason_of(mesh, "down")
        assert 4 <= len(site.asked) - before <= 13
    async with open_asking(
        *engine(site), "search.first_delay_seconds=1000s", "search.timeout_seconds=0.4s"
    ) as mesh:
        before = len(site.asked)
        assert await reason_of(mesh, "down") == "timeout"
        assert len(site.asked) - before == 1


@shows("search.max_retry_after_seconds")
async def test_a_provider_that_wants_a_pause_gets_it_up_to_max_retry_after_seconds(
    site: SearchSite,
):
    async with open_asking(*engine(site), "search.max_retry_after_seconds=0.5s") as mesh:
        assert await reason_of(mesh, "busy 1 setting") == "rate_limited"
    async with open_asking(*engine(site), "search.max_retry_after_seconds=1s") as mesh:
        assert await search(mesh, "busy 1 another")


# --- Keys are not shown --------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["toml", "json"])
def test_config_show_tells_that_there_is_a_key_and_not_which(style: str, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(f'[search]\nprovider = "serper"\nserper_key = "{KEY}"\n')
    command = ["config", "show", "--origin", "--format", style, "--config", str(file)]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    text = result.output
    assert KEY not in text
    assert "(secret)" in text
    assert text.count("(secret)") == 1
    assert str(file) in text


def test_what_is_shown_for_a_key_is_not_taken_for_one() -> None:
    with pytest.raises(ConfigError, match="not shown"):
        settle(overrides={"search.provider": "brave", "search.brave_key": "(secret)"})


def test_a_key_in_the_environment_is_read_and_shown_nowhere() -> None:
    config = load_config(
        environ={"EVENTMESH_SEARCH__PROVIDER": "brave", "EVENTMESH_SEARCH__BRAVE_KEY": f" {KEY}\n"}
    )
    assert config.search.brave_key.reveal() == KEY
    assert KEY not in repr(config)


@pytest.mark.parametrize(
    "bad", ["two words-s3cret", "schlüssel-s3cret", 's3cret"\x00', ["s3cret"], 53]
)
def test_a_key_that_cannot_be_one_is_refused_without_being_repeated(bad: object) -> None:
    with pytest.raises(ConfigError) as caught:
        settle(overrides={"search.provider": "brave", "search.brave_key": bad})
    assert "search.brave_key" in caught.value.message
    assert "s3cret" not in f"{caught.value.message} {caught.value.context}"
