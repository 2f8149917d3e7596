import math

import attrs
import pytest

from eventmesh_trio.mesh.limits import MeshLimits


def test_the_defaults_are_those_of_the_wire_contract() -> None:
    limits = MeshLimits()
    assert limits.linger_seconds == 30
    assert limits.retention_seconds == 300
    assert limits.replay_bytes == 16 * 1024 * 1024
    assert limits.window_bytes == 1024 * 1024
    assert limits.stall_seconds == 30
    assert limits.warning_seconds == 5
    assert limits.attach_wait_seconds == 5
    assert limits.ttfb_target_ms == 500


@pytest.mark.parametrize("field", attrs.fields(MeshLimits), ids=lambda field: field.name)
def test_no_limit_may_be_negative_or_not_a_number(field: "attrs.Attribute[float]") -> None:
    for value in (-1, math.nan):
        with pytest.raises(ValueError, match=field.name):
            MeshLimits(**{field.name: value})


def test_only_times_and_bytes_to_keep_may_be_zero() -> None:
    allowed = set()
    for field in attrs.fields(MeshLimits):
        try:
            MeshLimits(**{field.name: 0})
            allowed.add(field.name)
        except ValueError:
            pass
    assert allowed == {
        "linger_seconds",
        "retention_seconds",
        "replay_bytes",
        "max_retained_bytes",
        "warning_seconds",
        "attach_wait_seconds",
    }


def test_every_limit_is_documented() -> None:
    import inspect

    source = inspect.getsource(MeshLimits)
    assert source.count('"""') == 2 * (len(attrs.fields(MeshLimits)) + 1)
