"""``eventmesh explain`` as a user has it: the real command against a real origin."""

import gzip
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eventmesh_trio.app.explain import explain as explain_url
from eventmesh_trio.app.lifespan import open_mesh
from eventmesh_trio.app.loading import load_config
from eventmesh_trio.wire.events import PageResult, Result
from eventmesh_trio.wire.requests import CrawlOptions
from tests.helpers.clock import wait_until
from tests.helpers.commands import in_shell
from tests.helpers.origin import Origin, article, open_origin
from tests.helpers.programs import CHECKOUT
from tests.helpers.rendering import require_browser

pytestmark = pytest.mark.slow

EVENTMESH = [sys.executable, "-m", "eventmesh_trio"]
ALLOW = ["--allow-private", "127.0.0.0/8"]
HTML = [("Content-Type", "text/html; charset=utf-8")]
PAGE = article("1", 20)


@pytest.fixture
def site() -> Iterator[Origin]:
    with open_origin() as origin:
        origin.own["/robots.txt"] = (
            [("Content-Type", "text/plain")],
            b"User-agent: *\nDisallow: /private\nAllow: /private/open\nCrawl-delay: 0.05\n",
        )
        origin.own["/article"] = (HTML, PAGE)
        yield origin


@pytest.fixture(autouse=True)
def data_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The store of whoever runs the tests is left alone."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return tmp_path


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*EVENTMESH, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=CHECKOUT,
    )


def explain(*arguments: str, code: int = 0) -> dict[str, list[str]]:
    """The lines of each section, by its title."""
    done = run("explain", *ALLOW, *arguments)
    assert (done.returncode, done.stderr) == (code, "")
    sections: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        if title := line[:12].strip():
            sections[title] = []
        sections[list(sections)[-1]].append(line[12:])
    return sections


def explain_json(*arguments: str, code: int = 0) -> Any:
    done = run("explain", "--json", *ALLOW, *arguments)
    assert (done.returncode, done.stderr) == (code, "")
    return json.loads(done.stdout)


# --- What it tells --------------------------------------------------------------------------------


def test_every_step_is_told_in_the_order_in_which_it_happens(site: Origin) -> None:
    told = explain(site.url("/article"))
    assert list(told) == [
        "url",
        "guard",
        "robots.txt",
        "politeness",
        "cache",
        "fetch",
        "gate",
        "render",
        "extraction",
        "result",
        "time",
    ]
    assert told["url"] == [site.url("/article")]
    assert told["guard"] == ["allowed", "127.0.0.1: may be dialled"]
    assert told["robots.txt"][0] == "allowed: no rule matches (as eventmesh_trio)"
    assert told["robots.txt"][1] == "asks for 0.05 s between two requests"
    assert told["cache"][0] == "nothing kept (memory)"
    assert told["fetch"][0] == f"GET {site.url('/article')}"
    assert "HTTP/1.1 200, text/html; charset=utf-8" in told["fetch"][1]
    assert "first byte" in told["fetch"][2]
    assert told["gate"][0] == "raw"
    assert told["render"] == ["not wanted"]
    assert "main-content, quality" in told["extraction"][0]
    assert told["result"][0] == "a document: “Page 1”"
    assert told["result"][-1] == "stages: fetch > decode > parse > gate > extract"
    assert "all together" in told["time"][0]


def test_the_url_is_told_as_it_is_fetched_and_as_it_was_given(site: Origin) -> None:
    given = f"HTTP://LOCALHOST:{site.port}/a/../article#part"
    told = explain(given)
    assert told["url"] == [f"http://localhost:{site.port}/article", f"given as {given}"]
    assert "127.0.0.1: may be dialled" in told["guard"]


def test_a_url_without_a_scheme_is_https() -> None:
    told = explain_json("127.0.0.1:9/x", "--timeout", "1", code=1)
    assert told["url"] == "https://127.0.0.1:9/x"
    assert told["outcome"]["error"]["type"] == "blocked_address"  # by its port


def test_each_term_of_the_score_is_told_and_they_add_up(site: Origin) -> None:
    told = explain(site.url("/article"))
    *terms, total = [line for line in told["gate"][2:] if line[:16].strip() != "markers:"]
    assert len(terms) == 7
    points = [float(line.split()[-1]) for line in terms]
    assert float(total.split()[-1]) == pytest.approx(min(sum(points), 1.0), abs=5e-4)
    gate = explain_json(site.url("/article"))["gate"]
    assert gate["features"]["page_chars"] == len(PAGE.decode())
    assert gate["score"] == pytest.approx(min(sum(t["points"] for t in gate["terms"]), 1.0))


async def test_it_tells_what_a_crawl_with_the_same_settings_comes_to(site: Origin) -> None:
    site.own["/thin"] = (HTML, b"<title>Thin</title><p>Not much of a page, but <b>some</b> of it.")
    urls = [site.url(path) for path in ("/article", "/thin", "/script/1", "/redirect/2", "/gone")]
    config = load_config(overrides={"fetch.allow_private": ["127.0.0.0/8"]})
    results: dict[str, Result] = {}
    async with open_mesh(config) as mesh:
        told = {url: await explain_url(mesh, url, CrawlOptions()) for url in urls}
        assert all(explanation.cache.state == "none" for explanation in told.values())
        async with mesh.crawl(urls) as stream:
            async for event in stream:
                if isinstance(event, Result):
                    results[str(event.url)] = event
    assert set(results) == set(urls)
    for url, result in results.items():
        page, metadata, outcome = result.result, result.pipeline_metadata, told[url].outcome
        assert isinstance(page, PageResult)
        assert outcome.status == page.status
        assert outcome.gate_decision == page.gate_decision
        assert outcome.reason == metadata.gate_decision_reason
        assert outcome.method == metadata.extraction_method
        assert outcome.stages == metadata.processing_stages
        assert told[url].cache.key == page.cache_key
        if page.document is None:
            assert page.error is not None
            assert outcome.error is not None
            assert (outcome.error.type, outcome.document) == (page.error.type, None)
        else:
            gate = told[url].gate
            assert gate is not None
            assert gate.score == pytest.approx(page.quality_score, abs=1e-4)
            assert outcome.document is not None
            assert outcome.document.words == page.document.word_count
            assert outcome.document.quality_score == page.document.quality_score


def test_redirects_are_told_hop_by_hop(site: Origin) -> None:
    told = explain_json(site.url("/redirect/2"))
    assert [request["status"] for request in told["requests"]] == [302, 302, 200]
    assert [request["location"] for request in told["requests"]] == ["/redirect/1", "/page/1", None]
    assert told["outcome"]["final_url"] == site.url("/page/1")


def test_a_coded_body_is_told_in_both_its_sizes(site: Origin) -> None:
    packed = gzip.compress(PAGE)
    site.own["/packed"] = ([*HTML, ("Content-Encoding", "gzip")], packed)
    (request,) = explain_json(site.url("/packed"))["requests"]
    assert (request["wire_bytes"], request["decoded_bytes"]) == (len(packed), len(PAGE))
    assert request["content_encoding"] == "gzip"
    assert "on the wire in gzip" in explain(site.url("/packed"))["fetch"][1]


def test_the_phases_of_a_request_have_their_times(site: Origin) -> None:
    told = explain_json(site.url("/slow/1?ms=150"))
    (robots,) = told["robots"]["requests"]
    assert set(robots["seconds"]) == {"connect", "first_byte", "body"}
    (request,) = told["requests"]  # over the connection that robots.txt came by
    assert set(request["seconds"]) == {"first_byte", "body"}
    assert 0.15 <= request["seconds"]["first_byte"] < 5
    assert told["total_seconds"] > request["seconds"]["first_byte"]
    named = explain_json(f"http://localhost:{site.port}/article")["robots"]["requests"][0]
    assert {"dns", "connect"} < set(named["seconds"])


def test_a_page_that_wants_a_browser_says_that_there_is_none(site: Origin) -> None:
    told = explain(site.url("/script/1"))
    assert told["gate"][0] == "headless"
    assert "markers: empty mount point, application state, scripts but no text" in told["gate"]
    assert told["render"] == ["wanted, but no browser is configured"]
    assert explain(site.url("/script/1"), "--render-mode", "static")["render"] == ["not wanted"]


# --- What it tells of refusals --------------------------------------------------------------------


def test_a_forbidden_address_is_told_and_nobody_is_asked(site: Origin) -> None:
    done = run("explain", site.url("/article"))
    assert done.returncode == 1
    assert "guard       blocked_address" in done.stdout
    assert "robots.txt" not in done.stdout
    assert "\nresult      blocked_address" in done.stdout
    assert site.requests.total() == 0


def test_each_address_of_a_name_is_judged(site: Origin) -> None:
    told = json.loads(
        run("explain", "--json", "--set", 'fetch.allow_hosts=["localhost"]',
            f"http://localhost:{site.port}/article").stdout
    )  # fmt: skip
    assert told["guard"]["allowed"] is False
    assert ["127.0.0.1", False] in told["guard"]["addresses"]
    assert (told["robots"], told["requests"]) == (None, [])
    assert told["outcome"]["error"]["type"] == "blocked_address"


def test_robots_txt_is_told_with_the_line_that_decides(site: Origin) -> None:
    told = explain(site.url("/private/diary"), code=1)
    assert told["robots.txt"][0] == "not allowed by “Disallow: /private” (as eventmesh_trio)"
    assert told["result"][0].startswith("robots_denied (")
    assert "fetch" not in told
    assert set(site.requests) == {"/robots.txt"}
    site.own["/private/open"] = (HTML, PAGE)
    told = explain(site.url("/private/open"))
    assert told["robots.txt"][0] == "allowed by “Allow: /private/open” (as eventmesh_trio)"


def test_a_site_without_robots_txt_is_told_to_have_none(site: Origin) -> None:
    del site.own["/robots.txt"]
    told = explain(site.url("/article"))
    assert told["robots.txt"][0] == ("allowed: there is none (HTTP status 404) (as eventmesh_trio)")


def test_robots_txt_may_be_ignored_and_is_told_all_the_same(site: Origin) -> None:
    site.own["/private/diary"] = (HTML, PAGE)
    told = explain(site.url("/private/diary"), "--ignore-robots")
    assert told["robots.txt"][0].endswith("(as eventmesh_trio), which is not heeded")
    assert told["result"][0].startswith("a document")


def test_an_origin_that_is_not_there_is_told_with_its_error() -> None:
    with open_origin() as origin:
        gone = origin.url("/article")
    quick = ["politeness.robots.attempts=1", "crawl.retry.first_delay_seconds=0.01"]
    told = explain(gone, *(part for setting in quick for part in ("--set", setting)), code=1)
    assert told["result"][0].startswith("network_error (NET_FAILED): ")
    assert told["result"][0].endswith("; another time it may work")
    assert "gate" not in told


# --- The cache ------------------------------------------------------------------------------------


def test_what_the_cache_has_is_told_and_nothing_is_kept(site: Origin, tmp_path: Path) -> None:
    site.own["/article"] = (
        [*HTML, ("ETag", '"v1"'), ("Cache-Control", "max-age=600")],
        PAGE,
    )
    store = ["--set", f"cache.store=sqlite:{tmp_path / 'store.sqlite'}"]
    url = site.url("/article")
    assert explain_json(url, *store)["cache"]["state"] == "none"
    assert run("crawl", *ALLOW, url, *store).returncode == 0
    asked = site.requests["/article"]
    cached = explain_json(url, *store)["cache"]
    assert (cached["state"], cached["etag"], cached["store"]) == ("fresh", '"v1"', "sqlite")
    assert cached["stored_at"] < cached["fresh_until"]
    assert cached["gate_decision"] == "raw"
    assert site.requests["/article"] == asked + 1  # it goes the whole way all the same
    told = explain(url, *store)["cache"]
    assert told[0].startswith(f"fresh, until {cached['fresh_until']}: a crawl would take")


def test_the_store_that_serve_keeps_is_looked_at_and_none_is_made(
    site: Origin, data_home: Path
) -> None:
    url = site.url("/article")
    assert explain_json(url)["cache"]["store"] == "memory"
    assert list(data_home.iterdir()) == []
    store = data_home / "eventmesh" / "documents.sqlite"
    assert run("crawl", *ALLOW, url, "--set", f"cache.store=sqlite:{store}").returncode == 0
    cached = explain_json(url)["cache"]
    assert (cached["store"], cached["state"]) == ("sqlite", "fresh")
    assert explain_json(url, "--store", "memory:")["cache"]["state"] == "none"


def test_what_settings_forbid_is_not_said_to_come_from_the_cache(
    site: Origin, tmp_path: Path
) -> None:
    there = f"http://localhost:{site.port}/article"
    store = ["--set", f"cache.store=sqlite:{tmp_path / 'store.sqlite'}"]
    urls = [there, site.url(f"/away?to={there}")]
    assert run("crawl", *ALLOW, *urls, *store).returncode == 0
    for url in urls:
        assert explain_json(url, *store)["cache"]["state"] == "fresh"
        denied = explain_json(url, *store, "--set", "fetch.deny_hosts=localhost", code=1)
        assert denied["cache"]["state"] == "none"
        assert denied["cache"]["store"] == "sqlite"


def test_a_store_that_is_not_there_is_told_and_not_made(site: Origin, tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path}/new/store.sqlite"
    for flags in (["--store", store], ["--set", f"cache.store={store}"]):
        cache = explain_json(site.url("/article"), *flags)["cache"]
        assert (cache["store"], cache["state"]) == ("memory", "none")
        assert cache["trouble"] == f"there is no file {tmp_path}/new/store.sqlite"
        assert list(tmp_path.iterdir()) == []
    assert explain_json(site.url("/article"))["cache"]["trouble"] is None


def test_a_store_that_cannot_be_used_is_told(site: Origin, tmp_path: Path) -> None:
    (tmp_path / "broken").write_bytes(b"no database at all, but as long as a page of one" * 100)
    store = f"sqlite:{tmp_path}/broken/store"
    done = run("explain", "--json", *ALLOW, site.url("/article"), "--store", store)
    assert done.returncode == 0
    assert json.loads(done.stdout)["cache"]["trouble"]


# --- A browser ------------------------------------------------------------------------------------


def test_a_browser_that_is_configured_is_used_and_told_of(site: Origin) -> None:
    built = "<p>This sentence was written by a script, and is long enough to be read.</p>"
    script = f"document.getElementById('root').innerHTML = '{built}'.repeat(12)"
    site.own["/built"] = (HTML, f"<div id=root></div><script>{script}</script>".encode())
    browser = ["--browser", require_browser(), "--set"]
    browser.append(f"render.sandbox={str(os.geteuid() != 0).lower()}")
    told = explain(site.url("/built"), *browser)
    assert told["gate"][0] == "headless"
    assert told["render"][0] == "done, and its document is the one that is taken"
    assert "status 200" in told["render"][1]
    assert [line.split(",")[0] for line in told["extraction"] if not line.startswith(" ")] == [
        "the page as it came",
        "the rendered page",
    ]
    told = explain(site.url("/built"), *browser, "--render-mode", "dynamic")
    assert "fetch" not in told
    assert told["gate"][0].endswith("(of the rendered page, which did not depend on it)")
    assert told["result"][2].startswith("status 200, headless: render_mode is dynamic")


# --- The command ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["explain"],
        ["explain", "file:///etc/passwd"],
        ["explain", "http://e.org/", "http://e.org/"],
        ["explain", "http://e.org/", "--render-mode", "never"],
        ["explain", "http://e.org/", "--timeout", "0"],
        ["explain", "http://e.org/", "--allow-private", "nonsense"],
        ["explain", "http://e.org/", "--set", "cache.stores=1"],
    ],
)
def test_wrong_usage_is_exit_code_2_and_one_clear_line(arguments: list[str]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Error: " in done.stderr
    assert "Traceback" not in done.stderr


def test_what_a_page_says_cannot_command_the_terminal(site: Origin) -> None:
    site.own["/evil"] = (HTML, b"<title>\x1b[2Jgone\xc2\x9b31m\xe2\x80\xae</title>" + PAGE)
    done = run("explain", *ALLOW, site.url("/evil"))
    assert done.returncode == 0
    assert all(line.isprintable() for line in done.stdout.splitlines())


def test_a_terminal_gets_colours_and_the_same_words(site: Origin) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*EVENTMESH, "explain", *ALLOW, site.url("/article")],
        stdout=slave,
        stderr=subprocess.DEVNULL,
        cwd=CHECKOUT,
        env={**os.environ, "TERM": "xterm-256color"},
    )
    os.close(slave)
    shown = b""
    while True:
        try:
            shown += os.read(master, 65536)
        except OSError:  # its end
            break
    os.close(master)
    assert process.wait(30) == 0
    assert b"\x1b[32mallowed" in shown
    assert "a document: “Page 1”".encode() in shown


def test_a_reader_that_leaves_is_exit_code_141(site: Origin) -> None:
    process = subprocess.Popen(
        [*EVENTMESH, "explain", *ALLOW, site.url("/slow/1?ms=300")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=CHECKOUT,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait(60) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.parametrize("style", ["", "--json"])
def test_an_output_that_cannot_be_written_is_exit_code_1_and_one_clear_line(
    site: Origin, style: str
) -> None:
    command = f"explain {style} {' '.join(ALLOW)} {site.url('/article')}"
    for redirection, reason in (
        (">/dev/full", "No space left on device"),
        (">&-", "Bad file descriptor"),
    ):
        done = in_shell(f"{command} {redirection}")
        assert done.returncode == 1
        assert done.stderr == f"Error: cannot write to stdout: {reason}\n"


def test_a_terminal_of_few_characters_gets_the_others_escaped(
    site: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.own["/article"] = (HTML, "<title>Bäche – П</title>".encode() + PAGE)
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = run("explain", *ALLOW, site.url("/article"))
    assert (done.returncode, done.stderr) == (0, "")
    assert r"B\xe4che \u2013 \u041f" in done.stdout
    # JSON is UTF-8 whatever the terminal is (RFC 8259, section 8.1).
    told = subprocess.run(
        [*EVENTMESH, "explain", "--json", *ALLOW, site.url("/article")],
        capture_output=True,
        timeout=60,
        check=True,
        cwd=CHECKOUT,
    )
    assert json.loads(told.stdout.decode())["outcome"]["document"]["title"] == "Bäche – П"


def test_an_interrupt_ends_it_at_once_with_exit_code_130(site: Origin) -> None:
    process = subprocess.Popen(
        [*EVENTMESH, "explain", *ALLOW, site.url("/stall/1")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=CHECKOUT,
    )
    wait_until(lambda: site.requests["/stall/1"] > 0, 30, "the page is asked for")
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, b"", b"")
    assert time.monotonic() - began < 10
