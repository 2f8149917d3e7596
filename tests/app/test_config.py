"""One tree of settings: where values come from, how people write them, and what is refused."""

from ipaddress import ip_network

import pytest

from eventmesh_trio.app.config import Config, load_config, settings
from eventmesh_trio.errors import ConfigError


def test_nothing_said_is_all_defaults():
    assert load_config() == Config()


def test_flags_win_over_assignments_over_environment_over_file(tmp_path):
    file = tmp_path / "eventmesh.toml"
    file.write_text("[mesh]\nlinger_seconds = 1\nstall_seconds = 1\nreplay_bytes = 1\n")
    config = load_config(
        file=file,
        environ={"EVENTMESH_MESH__STALL_SECONDS": "2", "EVENTMESH_MESH__REPLAY_BYTES": "2"},
        assignments=["mesh.replay_bytes=3"],
        overrides={"server.bind": ["127.0.0.1:9"]},
    )
    assert (config.mesh.linger_seconds, config.mesh.stall_seconds) == (1, 2)
    assert config.mesh.replay_bytes == 3
    assert config.server.bind == ("127.0.0.1:9",)


@pytest.mark.parametrize(
    ("assignment", "section", "name", "value"),
    [
        ("mesh.window_bytes=64KB", "mesh", "window_bytes", 65_536),
        ("mesh.window_bytes=2 MiB", "mesh", "window_bytes", 2 * 1024 * 1024),
        ("mesh.linger_seconds=500ms", "mesh", "linger_seconds", 0.5),
        ("mesh.linger_seconds=2m", "mesh", "linger_seconds", 120.0),
        ("stream.flush_interval_milliseconds=1s", "stream", "flush_interval_milliseconds", 1000),
        ("server.enable_cors=false", "server", "enable_cors", False),
        (
            "server.cors_origins=http://a, http://b",
            "server",
            "cors_origins",
            ("http://a", "http://b"),
        ),
        (
            'fetch.allow_private=["10.0.0.0/8"]',
            "fetch",
            "allow_private",
            (ip_network("10.0.0.0/8"),),
        ),
        ("fetch.allow_private=::1/128", "fetch", "allow_private", (ip_network("::1/128"),)),
    ],
)
def test_values_are_read_as_people_write_them(assignment, section, name, value):
    assert getattr(getattr(load_config(assignments=[assignment]), section), name) == value


def test_a_nested_setting_is_reached_by_its_path():
    environ = {"EVENTMESH_STREAM__WINDOW__MAX_EVENTS": "4096", "EVENTMESH_HOME": "ignored"}
    assert load_config(environ=environ).stream.window.max_events == 4096


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("mesh.linger_second=1", "did you mean mesh.linger_seconds"),
        ("nonsense=1", "no setting nonsense"),
        ("mesh=1", "no setting mesh"),
        ("mesh.linger_seconds", "KEY=VALUE"),
        ("mesh.linger_seconds=soon", "mesh.linger_seconds"),
        ("mesh.linger_seconds=-1", "mesh.linger_seconds"),
        ("mesh.linger_seconds=nan", "mesh.linger_seconds"),
        ("mesh.window_bytes=3s", "mesh.window_bytes"),
        ("mesh.stall_seconds=0", "stall_seconds"),
        ("fetch.allow_private=10.0.0.0/99", "fetch.allow_private"),
        ("server.enable_cors=perhaps", "server.enable_cors"),
    ],
)
def test_what_cannot_be_is_refused_with_the_name_of_the_setting(assignment, said):
    with pytest.raises(ConfigError, match=said):
        load_config(assignments=[assignment])


def test_the_message_tells_where_a_bad_value_was(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text("[mesh]\nlinger = 1\n")
    with pytest.raises(ConfigError, match=r"c\.toml"):
        load_config(file=file)
    with pytest.raises(ConfigError, match="EVENTMESH_MESH__LINGER"):
        load_config(environ={"EVENTMESH_MESH__LINGER": "1"})
    file.write_text("[mesh\n")
    with pytest.raises(ConfigError, match=r"c\.toml"):
        load_config(file=file)
    with pytest.raises(ConfigError, match="absent"):
        load_config(file=tmp_path / "absent.toml")


def test_every_setting_has_a_default_and_a_unit_where_it_counts_time_or_bytes():
    paths = dict(settings())
    assert len(paths) > 40
    for path in paths:
        assert (
            not path.endswith(("_timeout", "_size", "_time", "_ms"))
            or path == "mesh.ttfb_target_ms"
        )
