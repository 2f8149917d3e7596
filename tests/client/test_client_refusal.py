from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventmesh_trio import errors
from eventmesh_trio.client.refusal import error_from_response
from eventmesh_trio.errors import EventMeshError, RequestError
from eventmesh_trio.wire.problem import error_body, error_status


def round_trip(error: EventMeshError) -> EventMeshError:
    return error_from_response(error_status(error), error_body(error, "req-1"))


@pytest.mark.parametrize(
    "error",
    [
        errors.ValidationError("urls[3] is bad", field="urls[3]"),
        errors.AuthenticationError("who?"),
        errors.ForbiddenError("no"),
        errors.NotFoundError("gone", context={"a": 1}),
        errors.ConflictError("live", context={"live_request_id": "r"}),
        errors.PayloadTooLarge("big"),
        errors.UnsupportedMediaType("xml"),
        errors.UpgradeRequired("ws"),
        errors.RateLimited("slow"),
        errors.OverloadedError("full"),
        errors.DependencyError("search"),
        errors.InternalError("bug"),
    ],
)
def test_an_error_comes_back_as_its_own_class(error: EventMeshError) -> None:
    received = round_trip(error)
    assert type(received) is type(error)
    assert received.can_retry == error.can_retry
    assert (
        error.context.items()
        <= {**received.context, "field": getattr(received, "field", None)}.items()
    )
    assert received.context["request_id"] == "req-1"
    if not isinstance(error, errors.InternalError):
        assert received.message == error.message


def test_an_error_of_a_newer_server_is_a_request_error_that_names_its_type() -> None:
    body = b'{"error":{"type":"comet","message":"m","retryable":false}}'
    error = error_from_response(418, body)
    assert type(error) is RequestError
    assert (error.message, error.context["type"], error.context["status"]) == ("m", "comet", 418)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, RequestError),
        (405, RequestError),
        (429, errors.RateLimited),
        (500, errors.InternalError),
        (502, errors.OverloadedError),
        (503, errors.OverloadedError),
        (504, errors.OverloadedError),
    ],
)
@pytest.mark.parametrize("body", [b"", b"<html>Bad gateway</html>", b"[]", b'{"error":1}'])
def test_a_page_of_a_proxy_is_told_by_its_status(
    status: int, expected: type[EventMeshError], body: bytes
) -> None:
    error = error_from_response(status, body, retry_after=b"7")
    assert type(error) is expected
    assert str(status) in error.message
    if error.can_retry:
        assert error.retry_after_seconds == 7


@given(
    st.integers(300, 599), st.binary() | st.sampled_from([b'{"error":{"type":[],"message":{}}}'])
)
def test_any_response_becomes_an_exception(status: int, body: bytes) -> None:
    assert isinstance(error_from_response(status, body), EventMeshError)


def test_a_date_to_come_back_at_is_told_in_seconds_from_now() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    seconds = error_from_response(503, b"", retry_after=soon.encode()).retry_after_seconds
    assert seconds is not None
    assert 55 < seconds <= 60
