"""One tree of settings: where values come from, how people write them, and what is refused."""

import json
import math
import tomllib
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from eventmesh_trio.app.cli import main
from eventmesh_trio.app.config import Config
from eventmesh_trio.app.config_command import as_toml
from eventmesh_trio.app.loading import load_config, settle
from eventmesh_trio.app.meanings import meaning
from eventmesh_trio.app.profiles import PROFILES
from eventmesh_trio.app.quantities import Unit, read_quantity, show_quantity, unit_of
from eventmesh_trio.app.settings import DOCUMENTED, settings
from eventmesh_trio.errors import ConfigError


def value_of(config: Config, path: str) -> Any:
    return settings()[path].value_in(config)


def problems_of(**sources: Any) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load_config(**sources)
    found = raised.value.context["problems"]
    assert raised.value.message.splitlines() == found
    return found


# --- Sources -------------------------------------------------------------------------------------


def test_nothing_said_is_all_defaults():
    assert load_config() == Config()


def test_flags_win_over_assignments_over_environment_over_file_over_profile(tmp_path: Path):
    file = tmp_path / "eventmesh.toml"
    file.write_text(
        'profile = "high_throughput"\n'
        "[mesh]\nlinger_seconds = 1\nstall_seconds = 1\nreplay_bytes = 1\n"
        "[stream.buffer]\ndefault_size = 500\n"
    )
    settled = settle(
        file=file,
        environ={"EVENTMESH_MESH__STALL_SECONDS": "2", "EVENTMESH_MESH__REPLAY_BYTES": "2"},
        assignments=["mesh.replay_bytes=3", "server.bind=127.0.0.1:8"],
        overrides={"server.bind": ["127.0.0.1:9"]},
    )
    config = settled.config
    assert (config.mesh.linger_seconds, config.mesh.stall_seconds) == (1, 2)
    assert config.mesh.replay_bytes == 3
    assert config.server.bind == ("127.0.0.1:9",)
    assert config.stream.buffer.max_events == 4096
    assert config.stream.buffer.default_events == 500
    assert settled.origins["mesh.linger_seconds"] == str(file)
    assert settled.origins["mesh.stall_seconds"] == "EVENTMESH_MESH__STALL_SECONDS"
    assert settled.origins["mesh.replay_bytes"] == "--set mesh.replay_bytes"
    assert settled.origins["server.bind"] == "a flag"
    assert settled.origins["stream.buffer.max_size"] == "profile high_throughput"
    assert "mesh.window_bytes" not in settled.origins


def test_a_variable_of_the_environment_reaches_a_setting_however_deep():
    environ = {"EVENTMESH_STREAM__BUFFER__MAX_SIZE": "4096"}
    assert load_config(environ=environ).stream.buffer.max_events == 4096


def test_a_profile_is_named_by_a_flag_before_the_environment_before_the_file(tmp_path: Path):
    file = tmp_path / "c.toml"
    file.write_text('profile = "high_throughput"\n')
    environ = {"EVENTMESH_PROFILE": "low_latency"}
    assert settle(file=file).profile == "high_throughput"
    assert settle(file=file, environ=environ).profile == "low_latency"
    last = settle(file=file, environ=environ, profile="memory_optimized")
    assert last.profile == "memory_optimized"
    # Nothing of those that were not chosen is left.
    assert last.config.stream.buffer.growth_factor == Config().stream.buffer.growth_factor
    assert settle(assignments=["profile=low_latency"]).profile == "low_latency"


def test_variables_of_others_that_share_the_prefix_are_left_alone():
    environ = {
        "EVENTMESH_HOME": "/srv",
        "EVENTMESH_PORT": "tcp://10.0.0.1:80",
        "EVENTMESH_SERVICE_HOST": "10.0.0.1",
        "EVENTMESH_CONFIG": "read by who names the file",
    }
    assert load_config(environ=environ) == Config()


# --- Profiles ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        (
            "high_throughput",
            {
                "stream.buffer.default_size": 2048,
                "stream.buffer.max_size": 4096,
                "stream.buffer.growth_factor": 2.0,
                "stream.buffer.memory_limit_per_connection": 131_072,
                "stream.ndjson.flush_interval": 0.025,
                "stream.sse.max_buffered_events": 4096,
                "stream.ndjson.max_line_length": 1024 * 1024,
                "crawl.concurrency": 8,
            },
        ),
        (
            "low_latency",
            {
                "stream.buffer.default_size": 64,
                "stream.buffer.max_size": 256,
                "stream.buffer.growth_factor": 1.2,
                "stream.buffer.memory_limit_per_connection": 32_768,
                "stream.ndjson.flush_interval": 0.01,
                "stream.websocket.ping_interval": 15.0,
                "stream.websocket.backpressure_threshold": 32,
                "crawl.concurrency": 3,
            },
        ),
        (
            "memory_optimized",
            {
                "stream.buffer.default_size": 64,
                "stream.buffer.memory_limit_per_connection": 16 * 1024,
                "stream.buffer.global_memory_limit": 10 * 1024 * 1024,
                "stream.general.max_concurrent_streams": 100,
                "stream.general.enable_compression": True,
                "transport.max_connections": 100,
            },
        ),
    ],
)
def test_a_profile_is_what_the_streaming_api_document_says(profile: str, said: dict[str, Any]):
    config = load_config(profile=profile)
    assert {path: value_of(config, path) for path in said} == said
    # And nothing but that, but for the flush interval, which is that of all three protocols.
    more = {path for path in PROFILES[profile] if path not in said}
    assert more <= {"stream.sse.flush_interval", "stream.websocket.flush_interval"}
    for path in more:
        assert value_of(config, path) == said["stream.ndjson.flush_interval"]


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_changes_each_setting_that_it_names(profile: str):
    settled = settle(profile=profile)
    for path in PROFILES[profile]:
        assert value_of(settled.config, path) != settings()[path].default, path
        assert settled.origins[path] == f"profile {profile}"


# --- Values as people write them -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("mesh.window_bytes=64KB", 65_536),
        ("mesh.window_bytes=2 MiB", 2 * 1024 * 1024),
        ("mesh.window_bytes=1.5MB", 1_572_864),
        ("mesh.window_bytes=10_000", 10_000),
        ("mesh.linger_seconds=500ms", 0.5),
        ("mesh.linger_seconds=2m", 120.0),
        ("mesh.linger_seconds=1h30m", 5400.0),
        ("mesh.linger_seconds=2 minutes 5 s", 125.0),
        ("mesh.linger_seconds=10", 10.0),
        ("mesh.linger_seconds=1e1", 10.0),
        ("mesh.ttfb_target_ms=1s", 1000),
        ("stream.ndjson.flush_interval=25ms", 0.025),
        ("stream.ndjson.flush_interval=0", 0.0),
        ("stream.ndjson.keep_alive_interval=inf", math.inf),
        ("stream.ndjson.max_line_length=1048576", 1024 * 1024),
        ("stream.buffer.slow_send_threshold=0.2s", 200),
        ("server.enable_cors=false", False),
        ("server.enable_cors=No", False),
        ("server.insecure_bind=on", True),
        ("server.cors_origins=http://a, http://b", ("http://a", "http://b")),
        ('fetch.allow_private=["10.0.0.0/8"]', (ip_network("10.0.0.0/8"),)),
        ("fetch.allow_private=::1/128", (ip_network("::1/128"),)),
        ("fetch.allow_private=", ()),
        ("stream.sse.custom_headers=X-Powered-By: trio", (("X-Powered-By", "trio"),)),
        ('stream.sse.custom_headers={"X-A": "1", "X-B": "2"}', (("X-A", "1"), ("X-B", "2"))),
        ("stream.sse.custom_headers=", ()),
    ],
)
def test_values_are_read_as_people_write_them(assignment: str, value: object):
    path = assignment.partition("=")[0]
    read = value_of(load_config(assignments=[assignment]), path)
    assert (read, type(read)) == (value, type(value))


def test_response_fields_are_a_table_in_a_file(tmp_path: Path):
    file = tmp_path / "c.toml"
    file.write_text('[stream.sse.custom_headers]\nX-A = "1"\n"X-B" = "2, 3"\n')
    fields = load_config(file=file).stream.sse.custom_headers
    assert fields == (("X-A", "1"), ("X-B", "2, 3"))


UNITS: tuple[Unit, ...] = ("bytes", "seconds", "milliseconds")


@given(st.sampled_from(UNITS), st.integers(min_value=0, max_value=10**12))
def test_a_quantity_that_is_shown_is_read_as_the_same(unit: Unit, value: int):
    shown = show_quantity(value, unit)
    if not (unit == "bytes" and shown.isdecimal()):  # a bare number is read before units are
        assert read_quantity(shown, unit) == pytest.approx(value, rel=1e-12)


@given(st.floats(min_value=1e-6, max_value=1e6))
def test_any_duration_that_is_shown_is_read_as_the_same(seconds: float):
    shown = show_quantity(seconds, "seconds")
    if "e" not in shown:
        assert read_quantity(shown, "seconds") == pytest.approx(seconds, rel=1e-12)


@given(st.sampled_from(UNITS), st.text())
def test_any_text_is_a_quantity_or_a_value_error(unit: Unit, text: str):
    try:
        assert read_quantity(text, unit) >= 0
    except ValueError as error:
        assert repr(text)[:4] in str(error)


# --- What is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("mesh.linger_second=1", "did you mean mesh.linger_seconds"),
        ("nonsense=1", "no setting nonsense"),
        ("mesh=1", "no setting mesh: it is a table, with mesh.linger_seconds"),
        ("mesh.linger_seconds", "KEY=VALUE"),
        ("mesh.linger_seconds=soon", "'soon' is no duration"),
        ("mesh.linger_seconds=5 parsecs", "parsecs is none"),
        ("mesh.linger_seconds=", "no duration"),
        ("mesh.linger_seconds=-1", "must not be negative"),
        ("mesh.linger_seconds=nan", "must not be negative"),
        ("mesh.window_bytes=3s", "'3s' is no size such as 512, 64KB"),
        ("mesh.window_bytes=1.5B", "no whole number of bytes"),
        ("mesh.window_bytes=1.5", "int"),
        ("mesh.stall_seconds=0", "stall_seconds must be greater than 0"),
        ("stream.ndjson.flush_interval=25", "write 25ms or 25s"),
        ("stream.ndjson.flush_interval=0.5", "write 0.5ms or 0.5s"),
        ("stream.buffer.growth_factor=1", "growth_factor"),
        ("stream.buffer.max_size=64KB", "int"),
        ("stream.buffer.max_size=100", "default_size (256) is not between"),
        ("fetch.allow_private=10.0.0.0/99", "10.0.0.0/99"),
        ("server.enable_cors=perhaps", "bool"),
        ("crawl.concurrency=65", "from 1 to 64"),
        ("server.bind=", "no address to listen on"),
        ("server.bind=127.0.0.1:99999", "99999"),
        ("server.max_urls=0", "max_urls"),
        ("server.cors_origins=http://a.example/", "is no origin such as"),
        ("fetch.user_agent=a\r\nX: 1", "user_agent"),
        ("mesh.linger_seconds=" + "9" * 5000 + "s", "too large"),
        ("mesh.window_bytes=" + "9" * 5000 + "KB", "too large"),
        ("mesh.window_bytes=" + "9" * 5000, "mesh.window_bytes"),
        ("stream.sse.retry_interval=inf", "retry_interval"),
        ("stream.sse.custom_headers=X-Session-ID: s", "the server's own"),
        ("stream.sse.custom_headers=X-A", "Name: value"),
        ("stream.sse.custom_headers=Content-Type: text/plain", "the server's own"),
        ("stream.sse.custom_headers=X A: 1", "not the name of a response field"),
        ('stream.sse.custom_headers={"X-A": "1\\r\\nX-B: 2"}', "no response field may have"),
        ('stream.sse.custom_headers={"X-A": 1}', "no pair of texts"),
        ("stream.sse.custom_headers={", "no JSON"),
        ("stream.sse.custom_headers=[1]", "1 is no pair of texts"),
        ('stream.sse.custom_headers=["X-A: 1", {"a": 1, "b": 2}]', "no pair of texts"),
        ("mesh.ttfb_target_ms=" + "9" * 400, "too large"),
        # By its place in the tree, or by the unit that its name could have.
        ("transport.ping_idle_seconds=3", "did you mean stream.websocket.ping_interval"),
        ("stream.ndjson.flush_interval_ms=3", "did you mean stream.ndjson.flush_interval"),
        ("profile=fast", "no profile fast; there are high_throughput, low_latency"),
    ],
)
def test_what_cannot_be_is_refused_with_the_name_of_the_setting(assignment: str, said: str):
    (problem,) = problems_of(assignments=[assignment])
    assert said in problem
    assert problem.startswith(f"--set {assignment.partition('=')[0]}")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("EVENTMESH_MESH__LINGER", "did you mean EVENTMESH_MESH__LINGER_SECONDS"),
        ("EVENTMESH_PROFIL", "did you mean EVENTMESH_PROFILE"),
        ("EVENTMESH_CONFIGS", "did you mean EVENTMESH_CONFIG"),
        ("EVENTMESH_STREAM__BUFER__MAX_SIZE", "did you mean EVENTMESH_STREAM__BUFFER__MAX_SIZE"),
        ("EVENTMESH_STREAM_BUFFER_MAX_SIZE", "did you mean EVENTMESH_STREAM__BUFFER__MAX_SIZE"),
        ("EVENTMESH_MESH_LINGER_SECOND", "did you mean EVENTMESH_MESH__LINGER_SECONDS"),
        ("EVENTMESH_SERVER__CORS", "no setting server.cors"),
    ],
)
def test_a_variable_that_is_nearly_a_setting_is_refused_with_the_one_that_is(name: str, said: str):
    (problem,) = problems_of(environ={name: "1"})
    assert problem.startswith(f"{name}: ")
    assert said in problem


def test_the_message_tells_where_a_bad_value_was(tmp_path: Path):
    file = tmp_path / "c.toml"
    file.write_text("[mesh]\nlinger = 1\n")
    assert problems_of(file=file)[0].startswith(f"{file}: ")
    file.write_text("[mesh\n")
    assert problems_of(file=file)[0].startswith(f"{file}: ")
    file.write_bytes(b"\xff")
    assert problems_of(file=file)[0].startswith(f"{file}: ")
    assert "absent.toml: No such file" in problems_of(file=tmp_path / "absent.toml")[0]
    assert "Is a directory" in problems_of(file=tmp_path)[0]


@pytest.mark.parametrize("digits", [400, 5000])
@pytest.mark.parametrize(
    "path",
    [
        *("mesh.linger_seconds", "mesh.ttfb_target_ms", "mesh.window_bytes", "server.max_urls"),
        *("stream.ndjson.flush_interval", "stream.buffer.slow_send_threshold"),
    ],
)
def test_an_integer_of_a_file_that_is_too_large_is_refused_with_its_setting(
    tmp_path: Path, path: str, digits: int
):
    table, _, name = path.rpartition(".")
    file = tmp_path / "c.toml"
    file.write_text(f"[{table}]\n{name} = {'9' * digits}\n")
    (problem,) = problems_of(file=file)
    assert problem.startswith(f"{file}: {path}: ")
    assert "too large" in problem
    assert len(problem) < 1000


@pytest.mark.parametrize("value", ["5", "[5]", '[["X-A", 1]]', "2026-01-01"])
def test_response_fields_of_a_file_that_are_no_texts_are_refused(tmp_path: Path, value: str):
    file = tmp_path / "c.toml"
    file.write_text(f"[stream.sse]\ncustom_headers = {value}\n")
    (problem,) = problems_of(file=file)
    assert problem.startswith(f"{file}: stream.sse.custom_headers: ")
    assert problem.endswith("no pair of texts")


def test_a_value_that_is_none_of_those_allowed_is_told_in_words():
    (problem,) = problems_of(assignments=["fetch.resolver=doh"])
    assert problem == (
        "--set fetch.resolver: fetch.resolver: 'resolver' must be in ('dns', 'system') (got 'doh')"
    )


def test_values_that_contradict_each_other_are_told_with_who_said_each():
    (problem,) = problems_of(
        profile="low_latency", environ={"EVENTMESH_STREAM__BUFFER__DEFAULT_SIZE": "1024"}
    )
    assert problem.startswith("EVENTMESH_STREAM__BUFFER__DEFAULT_SIZE: stream.buffer.default_size:")
    assert "default_size (1024) is not between min_size (64) and max_size (256)" in problem
    assert "stream.buffer.max_size is that of profile low_latency" in problem


def test_values_that_only_together_make_sense_are_taken_together():
    config = load_config(
        assignments=[
            "stream.buffer.min_size=3000",
            "stream.buffer.default_size=4000",
            "stream.buffer.max_size=5000",
        ]
    )
    assert config.stream.buffer.min_events == 3000


def test_all_mistakes_are_told_at_once(tmp_path: Path):
    file = tmp_path / "c.toml"
    file.write_text(
        'profile = "fast"\n[mesh]\nlinger = 1\n[transport]\nheader_seconds = 0\nbody_seconds = 0\n'
    )
    problems = problems_of(
        file=file,
        environ={"EVENTMESH_MESH__WINDOW_BYTES": "3s"},
        assignments=["mesh.replay_bytes", "cache.cache_bytes=soon"],
    )
    assert len(problems) == 7
    for name in ("fast", "mesh.linger", "header_seconds", "body_seconds", "WINDOW", "=VALUE"):
        assert any(name in problem for problem in problems), name


# --- The list of settings ------------------------------------------------------------------------


def test_every_setting_has_a_default_a_meaning_and_a_name_in_the_environment():
    assert len(settings()) > 100
    names = {setting.environment for setting in settings().values()}
    assert len(names) == len(settings())
    for setting in settings().values():
        assert meaning(setting).endswith("."), setting.path
        assert setting.value_in(Config()) == setting.default


def test_a_name_tells_its_unit_but_where_the_document_names_it():
    for path, setting in settings().items():
        if setting.unit is not None and not path.startswith("stream."):
            assert unit_of(path) == setting.unit
        if path.startswith("stream."):
            assert unit_of(path) is None, path


def test_every_documented_name_is_that_of_a_place_in_the_tree():
    places = {".".join(setting.place): path for path, setting in settings().items()}
    for place, path in DOCUMENTED.items():
        assert places[place] == path
    assert not set(places) & (set(DOCUMENTED.values()) - set(DOCUMENTED))


@pytest.mark.parametrize("profile", [None, *PROFILES])
def test_the_settings_that_are_shown_are_read_back_as_they_were(
    tmp_path: Path, profile: str | None
):
    file = tmp_path / "shown.toml"
    settled = settle(
        profile=profile,
        assignments=[
            'stream.sse.custom_headers={"X-A": "", "X-Q": "say \\"it\\""}',
            "fetch.allow_private=10.0.0.0/8,fd00::/8",
            "mesh.linger_seconds=0.1",
            "transport.max_delivery_seconds=inf",
            "stream.sse.retry_interval=1.0005s",
        ],
    )
    for origin in (False, True):
        file.write_text(as_toml(settled, origin=origin))
        assert load_config(file=file) == settled.config


# --- The commands --------------------------------------------------------------------------------


def run(*arguments: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    done = CliRunner().invoke(main, ["config", *arguments], env=env)
    return done.exit_code, done.stdout, done.stderr


def test_check_exits_with_0_or_with_2_and_all_that_is_wrong(tmp_path: Path):
    file = tmp_path / "c.toml"
    file.write_text('profile = "low_latency"\n[mesh]\nlinger_seconds = "5m"\n')
    code, out, err = run("check", "--config", str(file))
    assert (code, err) == (0, "")
    assert "profile low_latency" in out
    file.write_text("[mesh]\nlinger = 1\nstall_seconds = 0\n")
    code, out, err = run("check", "--config", str(file))
    assert (code, out) == (2, "")
    lines = err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"{file}: ") for line in lines)
    assert run("check", env={"EVENTMESH_CONFIG": str(file)})[0] == 2
    assert run("check", "--config", str(tmp_path / "absent"))[0] == 2


def test_show_tells_the_effective_tree_and_who_said_what(tmp_path: Path):
    env = {"EVENTMESH_MESH__LINGER_SECONDS": "7"}
    code, out, err = run("show", "--origin", "--profile", "low_latency", env=env)
    assert (code, err) == (0, "")
    assert "linger_seconds = 7.0  # EVENTMESH_MESH__LINGER_SECONDS\n" in out
    assert 'ping_interval = "15s"  # profile low_latency\n' in out
    assert "retention_seconds = 300.0  # default\n" in out
    plain = tomllib.loads(run("show", "--profile", "low_latency", env=env)[1])
    assert plain == tomllib.loads(out)
    shown = json.loads(run("show", "--format", "json", "--profile", "low_latency", env=env)[1])
    assert shown == plain
    told = json.loads(run("show", "--format", "json", "--origin", env=env)[1])
    assert told["mesh"]["linger_seconds"] == {
        "value": 7.0,
        "origin": "EVENTMESH_MESH__LINGER_SECONDS",
    }


def test_show_refuses_what_check_refuses():
    code, out, err = run("show", "--set", "mesh.linger=1")
    assert (code, out) == (2, "")
    assert "did you mean mesh.linger_seconds" in err


@pytest.mark.parametrize("command", [("serve",), ("crawl", "http://e.org/")])
def test_every_command_takes_a_file_a_profile_and_settings(
    command: tuple[str, ...], tmp_path: Path
):
    file = tmp_path / "c.toml"
    file.write_text("[mesh]\nlinger = 1\n")
    arguments = [*command, "--config", str(file), "--profile", "fast", "--set", "nonsense=1"]
    done = CliRunner().invoke(main, arguments, env={"EVENTMESH_MESH__STALL": "1"})
    assert done.exit_code == 2
    for said in ("mesh.linger;", "no profile fast", "nonsense", "EVENTMESH_MESH__STALL:"):
        assert said in done.stderr


def test_docs_tell_of_every_setting():
    _, out, _ = run("docs")
    listed = json.loads(run("docs", "--format", "json")[1])
    assert [one["path"] for one in listed] == list(settings())
    for one in listed:
        assert set(one) == {"path", "type", "unit", "default", "description", "environment"}
        assert f"\n{one['path']}\n" in f"\n{out}"
        assert one["environment"] in out
