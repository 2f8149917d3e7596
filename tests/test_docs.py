"""The documentation against the code: examples run, tables are complete, links lead somewhere."""

import ast
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import attrs
import docutils.core
import msgspec
import pytest
import requests

from eventmesh_trio.app.dispatch import ROUTES
from eventmesh_trio.app.routes import API_PREFIX
from eventmesh_trio.app.settings import settings
from eventmesh_trio.errors import CancelledByClient, HTTPStatusError, InternalError, PageError
from eventmesh_trio.mesh.lifecycle_events import LifecycleEvent
from eventmesh_trio.wire import events
from eventmesh_trio.wire.events import LOGGED, PERSONAL
from eventmesh_trio.wire.headers import ReaderWishes, preflight_fields
from eventmesh_trio.wire.requests import CrawlOptions
from tests.helpers.origin import Origin, open_origin
from tests.helpers.programs import CHECKOUT, require_program
from tests.helpers.servers import ServerProcess, open_server

PAGES = sorted(
    [CHECKOUT / "README.rst", CHECKOUT / "CHANGELOG.rst", *(CHECKOUT / "docs").glob("*.rst")]
)
_LITERAL = re.compile(r"``([^`\n]+)``")


def text_of(name: str) -> str:
    return (CHECKOUT / name).read_text("utf-8")


def code_blocks(path: Path, language: str) -> Iterator[str]:
    """The bodies of the ``code-block`` directives of a language, dedented."""
    found = re.findall(
        rf"^\.\. code-block:: {language}\n\n((?: {{4}}.*\n|\n)+)", path.read_text("utf-8"), re.M
    )
    for body in found:
        yield re.sub(r"^ {4}", "", body, flags=re.M).strip()


def shell_commands() -> Iterator[tuple[str, str]]:
    """Each command of each ``sh`` block, its continuation lines joined, comments cut."""
    for path in PAGES:
        for block in code_blocks(path, "sh"):
            command = ""
            for line in block.splitlines():
                command += re.sub(r"\s+# .*$", "", line)
                if command.endswith("\\"):
                    command = command[:-1]
                elif command.count("'") % 2:
                    command += "\n"
                else:
                    yield path.name, command
                    command = ""
            assert not command, f"{path.name}: {command!r} does not end"


COMMANDS = list(shell_commands())
PROGRAMS = [(path.name, body) for path in PAGES for body in code_blocks(path, "python")]


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with open_origin() as site:
        yield site


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with open_server("native") as process:
        yield process


def made_local(text: str, origin: Origin, server: ServerProcess) -> str:
    """An example with its addresses replaced by those of the test."""
    text = text.replace("http://127.0.0.1:8080", server.base_url)
    text = text.replace("https://example.org/about", origin.url("/page/about"))
    return text.replace("https://example.org/", origin.url("/page/home"))


def environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("EVENTMESH_")}
    return {**kept, "EVENTMESH_FETCH__ALLOW_PRIVATE": "127.0.0.0/8", "PYTHONPATH": str(CHECKOUT)}


# --- examples -------------------------------------------------------------------------------------


def test_there_are_examples_to_run() -> None:
    assert len(COMMANDS) >= 12
    assert len(PROGRAMS) >= 2


def test_every_command_is_one_that_a_test_runs() -> None:
    for name, command in COMMANDS:
        assert shlex.split(command)[0] in ("curl", "eventmesh", "hypercorn", "python3"), (
            name,
            command,
        )


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for _, c in COMMANDS if c.startswith("eventmesh config")])
def test_config_examples_say_something_and_succeed(command: str, tmp_path: Path) -> None:
    (tmp_path / "eventmesh.toml").write_text('profile = "low_latency"\n')
    done = subprocess.run(
        [sys.executable, "-m", "eventmesh_trio", *shlex.split(command)[1:]],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.parametrize(("name", "command"), [c for c in COMMANDS if c[1].startswith("curl")])
def test_curl_examples_answer_with_events_or_documents(
    name: str, command: str, origin: Origin, server: ServerProcess
) -> None:
    require_program("curl", "apt-get install curl")
    arguments = [*shlex.split(made_local(command, origin, server)), "--max-time", "20"]
    if "/sessions/mine/" in command or "session_id=" in command:
        session = re.findall(r"mine|reading-list", command)[0]
        body = {"urls": [origin.url("/page/home")]}
        requests.post(
            f"{server.base_url}/crawl/stream",
            json=body,
            headers={"X-Session-ID": session},
            timeout=20,
        ).raise_for_status()
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    if "/crawl/sse" in command:
        assert done.stdout.count("event: result\n") == 1
        assert done.stdout.count("event: summary\n") == 1
    else:
        documents = [json.loads(line) for line in done.stdout.splitlines()]
        assert documents
        assert not any("error" in document for document in documents if "event" not in document)
        if "/crawl/stream" in command:
            assert documents[-1]["event"] == "summary"
            assert documents[-1]["failed"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "command"), [c for c in COMMANDS if c[1].startswith("eventmesh crawl")]
)
def test_crawl_examples_write_documents(
    name: str, command: str, origin: Origin, server: ServerProcess
) -> None:
    arguments = shlex.split(made_local(command, origin, server))
    done = subprocess.run(
        [sys.executable, "-m", "eventmesh_trio", *arguments[1:]],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Page home" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for _, c in COMMANDS if c.startswith("eventmesh search")])
def test_search_examples_find_what_the_server_has_crawled(
    command: str, origin: Origin, server: ServerProcess
) -> None:
    body = {"urls": [origin.url("/page/home")]}
    requests.post(f"{server.base_url}/crawl/stream", json=body, timeout=20).raise_for_status()
    local = made_local(command, origin, server).replace("structured concurrency", "page home")
    done = subprocess.run(
        [sys.executable, "-m", "eventmesh_trio", *shlex.split(local)[1:]],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"1. <{origin.url('/page/home')}>" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for _, c in COMMANDS if c.startswith("eventmesh explain")])
def test_explain_examples_tell_of_a_document(
    command: str, origin: Origin, server: ServerProcess
) -> None:
    arguments = shlex.split(made_local(command, origin, server))
    done = subprocess.run(
        [sys.executable, "-m", "eventmesh_trio", *arguments[1:]],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Page " in done.stdout


def test_the_serve_example_is_what_serves_in_the_tests(server: ServerProcess) -> None:
    (example,) = {c for _, c in COMMANDS if c.startswith("eventmesh serve")}
    assert example == "eventmesh serve --bind 127.0.0.1:8080"
    assert requests.get(f"{server.base_url}/readyz", timeout=10).status_code == 200


@pytest.mark.slow
def test_the_hypercorn_example_serves(origin: Origin) -> None:
    (example,) = {c for _, c in COMMANDS if c.startswith("hypercorn")}
    arguments = [*shlex.split(example)[1:], "--bind", "127.0.0.1:0"]
    with subprocess.Popen(
        [sys.executable, "-m", "hypercorn", *arguments],
        cwd=CHECKOUT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if found := re.search(r"Running on (http://\S+)", line):
                    break
            else:
                pytest.fail("it ended without serving")
            with requests.Session() as session:
                for _ in range(2):  # the second on the same connection
                    body = {"urls": [origin.url("/page/home")]}
                    answer = session.post(f"{found[1]}/crawl/stream", json=body, timeout=20)
                    assert '"event":"summary"' in answer.text
                # A kept connection that is idle must not hold up the shutdown for its 30 seconds.
                process.terminate()
                process.communicate(timeout=10)
        finally:
            process.kill()


@pytest.mark.parametrize("command", sorted({c for _, c in COMMANDS if "start.py" in c}))
def test_start_examples_are_commands_of_start_py(command: str) -> None:
    _, script, name, *_ = shlex.split(command)
    assert script == "start.py"
    spec = importlib.util.spec_from_file_location("start", CHECKOUT / "start.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert name in module.LOCKS


def test_the_example_programs_are_those_that_tests_run() -> None:
    named = {shlex.split(c)[1] for _, c in COMMANDS if c.startswith("python3 examples/")}
    assert named == {f"examples/{path.name}" for path in (CHECKOUT / "examples").glob("*.py")}
    for program in named:  # tests/app/test_embed.py, tests/transport/test_echo_server.py
        tests = (CHECKOUT / "tests").glob("*/test_*.py")
        assert any(Path(program).name in path.read_text("utf-8") for path in tests), program


@pytest.mark.slow
@pytest.mark.parametrize(("name", "program"), PROGRAMS)
def test_python_examples_print_what_they_crawled(
    name: str, program: str, origin: Origin, server: ServerProcess
) -> None:
    if "open_mesh() " in program:  # an embedded mesh reads no environment
        program = program.replace(
            "open_mesh() ", "open_mesh(load_config(environ=os.environ)) "
        ).replace("open_mesh\n", "load_config, open_mesh\nimport os\n")
    done = subprocess.run(
        [sys.executable, "-c", made_local(program, origin, server)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "home" in done.stdout


# --- tables against the code ----------------------------------------------------------------------


def test_the_settings_page_is_what_the_code_says() -> None:
    spec = importlib.util.spec_from_file_location(
        "settings_page", CHECKOUT / "tools/settings_page.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = module.PAGE.read_text("utf-8")
    assert all(f"``{path}``" in page for path in settings())
    assert module.with_tables(page) == page, "renew it with: tools/settings_page.py"


def test_the_metrics_page_names_exactly_the_metrics_there_are(server: ServerProcess) -> None:
    rows = re.findall(r"^``(\w+)``\s+(\w+)\s", text_of("docs/metrics.rst"), re.M)
    served = requests.get(f"{server.base_url}/metrics", timeout=10).text
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", served, re.M))
    created = {name for name in kinds if name.endswith("_created")}
    assert dict(rows) == {name: kind for name, kind in kinds.items() if name not in created}


def test_the_wire_page_names_exactly_the_routes_there_are() -> None:
    _, _, table = text_of("docs/wire.rst").partition("Path  ")
    documented = {}
    for line in table.partition("\n\n")[0].splitlines():
        found = re.match(r"``(/.*?)``(?:, ``(/.*?)``)?\s+([A-Z, ]+?)\s{2}", line)
        if found:
            for path in filter(None, found.groups()[:2]):
                documented[path] = set(found[3].split(", "))
    existing = {
        path: set(route.methods)
        for route in ROUTES.routes
        for path in route.paths
        if not path.startswith(API_PREFIX)
    }
    assert documented == existing


def test_the_wire_page_names_exactly_the_options_with_their_defaults() -> None:
    _, _, table = text_of("docs/wire.rst").partition("Option  ")
    table = table.partition("Events\n------")[0]
    rows = re.findall(r"^``(\w+)``\s{2,}(\S.*?)\s{2,}|^``(\w+)``\s{2,}(\S+)$", table, re.M)
    documented = {a or c: (b or d).strip("`") for a, b, c, d in rows}
    for field in msgspec.structs.fields(CrawlOptions):
        default = field.default
        if default is None:
            expected = "none"
        elif isinstance(default, bool):
            expected = str(default).lower()
        else:
            expected = f"{default:g}" if isinstance(default, float) else str(default)
        if field.name == "user_agent":
            expected = "the server's"
        assert documented.pop(field.name) == expected, field.name
    assert not documented


def test_the_wire_page_names_exactly_the_fields_that_are_read_with_their_defaults() -> None:
    _, _, table = text_of("docs/wire.rst").partition("Field  ")
    documented = dict(
        re.findall(r"^``([\w-]+)``\s+(\S+)", table.partition("Events\n------")[0], re.M)
    )
    allowed = dict(preflight_fields(b"https://example.org", ("*",), ("POST",)))
    names = allowed[b"access-control-allow-headers"].decode().split(", ")
    assert set(documented) == set(names) - {"Content-Type", "Accept"}
    defaults = ReaderWishes()
    assert {name: documented[name] for name in documented if documented[name] != "none"} == {
        "X-Session-ID": "made",
        "X-Request-ID": "made",
        "X-Buffer-Size": str(defaults.buffer_size),
        "X-Buffer-Timeout": str(defaults.buffer_timeout_ms),
        "X-Enable-Backpressure": str(defaults.enable_backpressure).lower(),
        "X-Slow-Client-Threshold": str(defaults.slow_client_threshold_ms),
        "X-Max-Memory-Per-Connection": str(defaults.max_memory_bytes),
    }


def test_the_wire_page_names_exactly_the_errors_of_a_url_with_their_codes() -> None:
    _, _, table = text_of("docs/wire.rst").partition("Type                    ``error_code``")
    documented = dict(
        re.findall(r"^``(\w+)``\s+``(\w+)``\s", table.partition("Compression\n")[0], re.M)
    )
    kinds = {kind.type: kind.code for kind in (*PageError.__subclasses__(), InternalError)}
    del kinds[CancelledByClient.type]  # such a URL has no result
    assert documented == {**kinds, "http_error": HTTPStatusError(404).error_code}


def test_the_wire_page_speaks_of_every_event_of_a_crawl() -> None:
    page = text_of("docs/wire.rst")
    for event in {*LOGGED, *PERSONAL}:
        tag = event.__struct_config__.tag
        if not str(tag).startswith("search") and tag != "crawl_start":
            assert f"``{tag}``" in page, tag


def test_the_wire_page_names_exactly_the_measured_members() -> None:
    parts = {
        "buffer_info": events.BufferInfo,
        "performance_metrics": events.PerformanceMetrics,
        "connection_health": events.ConnectionHealth,
        "performance_summary": events.PerformanceSummary,
        "buffer_statistics": events.BufferStatistics,
        "error_analysis": events.ErrorAnalysis,
        "warning": events.PressureWarning,
        "current_metrics": events.CurrentMetrics,
        "server_health": events.ServerHealth,
        "connection_stats": events.ConnectionStats,
        "streaming_health": events.StreamingHealth,
        "global_metrics": events.GlobalMetrics,
    }
    _, _, section = text_of("docs/wire.rst").partition("Measured members\n")
    _, *tables = re.split(r"^``(\w+)`` in ", section.partition("Resuming\n")[0], flags=re.M)
    documented = {
        name: re.findall(r"^``(\w+)``\s", table, re.M)
        for name, table in zip(tables[::2], tables[1::2], strict=True)
    }
    assert {name: sorted(members) for name, members in documented.items()} == {
        name: sorted(field.name for field in msgspec.structs.fields(part))
        for name, part in parts.items()
    }


def test_the_embedding_page_names_exactly_the_lifecycle_events_and_what_they_hold() -> None:
    page = text_of("docs/embedding.rst")
    rows = re.findall(r"^``([A-Z]\w+)``(.*(?:\n {10,}.*)*)", page, re.M)
    known = {event.__name__: event for event in get_args(LifecycleEvent)}
    assert [name for name, _ in rows] == [
        *("ConnectionEstablished", "StreamStarted", "ProgressUpdate", "StreamError"),
        *("StreamCompleted", "ConnectionClosed"),
    ]
    assert {name for name, _ in rows} == set(known)
    for name, text in rows:
        members = {attribute.name for attribute in attrs.fields(known[name])}
        assert set(_LITERAL.findall(text)) <= members, name


def test_environment_names_in_the_documentation_are_settings() -> None:
    known = {setting.environment for setting in settings().values()}
    for path in PAGES:
        for name in re.findall(r"EVENTMESH_\w+__\w+", path.read_text("utf-8")):
            assert name in known


# --- the pages themselves -------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_is_valid_restructuredtext(path: Path) -> None:
    docutils.core.publish_string(
        path.read_text("utf-8"),
        source_path=str(path),
        writer="html",
        settings_overrides={"halt_level": 2, "report_level": 2},
    )


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_and_named_files_lead_somewhere(path: Path) -> None:
    text = path.read_text("utf-8")
    for target in re.findall(r"<([^>\s]+)>`_", text):
        if "://" not in target:
            assert (path.parent / target).exists(), target
    for literal in _LITERAL.findall(text):
        if re.fullmatch(
            r"(docs|examples|tests|tools|eventmesh_trio|changelog\.d)/[a-z][\w./-]+", literal
        ):
            assert (CHECKOUT / literal).exists(), literal


def test_every_page_is_in_the_index_and_every_fragment_is_named_as_it_should() -> None:
    index = text_of("docs/index.rst")
    for path in (CHECKOUT / "docs").glob("*.rst"):
        assert path.name == "index.rst" or f"<{path.name}>" in index
    for path in (CHECKOUT / "changelog.d").iterdir():
        assert re.fullmatch(r"\d+\.(feature|bugfix|removal|doc|misc)(\.\d+)?\.rst", path.name)


def test_the_glossary_is_in_order() -> None:
    terms = re.findall(r"^(\w[\w ]*)\n {4}\S", text_of("docs/glossary.rst"), re.M)
    assert len(terms) > 10
    assert terms == sorted(terms)


def test_a_word_is_defined_once() -> None:
    terms = re.findall(r"^(\w[\w ]*)\n {4}\S", text_of("docs/glossary.rst"), re.M)
    assert len(terms) == len(set(terms))


def names_in(path: Path) -> set[str]:
    """The names of the test functions of a file that is not imported."""
    tree = ast.parse(path.read_text("utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in tree.body if isinstance(node, functions)}


def test_every_promise_names_tests_and_every_named_test_exists() -> None:
    _, *promises = re.split(r"^- ", text_of("docs/guarantees.rst"), flags=re.M)
    assert len(promises) > 50
    for promise in promises:
        sentence, *proofs = re.split(r"^  - ", promise, flags=re.M)
        assert sentence.strip().endswith("."), sentence
        assert proofs, f"nothing proves it: {sentence}"
        for proof in proofs:
            found = re.match(r"``(tests/\S+\.py)::(test_\w+)``\n", proof)
            assert found, proof
            assert found[2] in names_in(CHECKOUT / found[1]), proof


def test_no_duration_is_without_its_unit() -> None:
    for path, setting in settings().items():
        if setting.attribute.type is float:
            assert setting.unit is not None or re.search(r"_(ratio|factor)$", path), path
