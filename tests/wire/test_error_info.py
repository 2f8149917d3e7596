import pytest

from eventmesh_trio.errors import (
    EventMeshError,
    FetchTimeout,
    HTTPStatusError,
    InternalError,
    PageError,
    RateLimited,
    StreamingError,
)
from eventmesh_trio.wire.errors import error_info

NOW = "2024-01-15T10:30:00.000Z"


def test_an_error_is_described_with_all_its_members() -> None:
    error = FetchTimeout("too slow", context={"attempt_number": 2}, retry_after_seconds=1.5)
    info = error_info(error, NOW)
    assert (info.type, info.error_type, info.category) == ("timeout", "timeout", "network")
    assert (info.message, info.error_code, info.timestamp) == ("too slow", "NET_TIMEOUT", NOW)
    assert (info.retryable, info.retry_after_seconds) == (True, 1.5)
    assert info.context == {"attempt_number": 2}


def test_an_http_status_decides_code_and_retry_advice() -> None:
    gone, busy = error_info(HTTPStatusError(410), NOW), error_info(HTTPStatusError(503), NOW)
    assert (gone.error_code, gone.retryable) == ("HTTP_410", False)
    assert (busy.error_code, busy.retryable) == ("HTTP_503", True)


def test_the_described_context_does_not_change_with_the_exception() -> None:
    error = RateLimited("later", context={"limit": 5})
    info = error_info(error, NOW)
    error.context["limit"] = 6
    assert info.context == {"limit": 5}


@pytest.mark.parametrize(
    "kind", [InternalError, *PageError.__subclasses__(), *StreamingError.__subclasses__()]
)
def test_whatever_a_stream_can_tell_of_comes_with_advice(kind: type[EventMeshError]) -> None:
    assert kind.suggestions
    assert all(advice[0].isupper() and advice[-1].isalpha() for advice in kind.suggestions)
