"""`eventmesh_trio.wire.problem`: errors as responses, as the documentation lists them."""

import json

import pytest

from eventmesh_trio import errors
from eventmesh_trio.wire.problem import error_body, error_fields, error_status


@pytest.mark.parametrize(
    ("error", "status", "type_"),
    [
        (errors.ValidationError("no", field="urls[3]"), 400, "validation_error"),
        (errors.AuthenticationError("no"), 401, "authentication_error"),
        (errors.ForbiddenError("no"), 403, "forbidden"),
        (errors.NotFoundError("no"), 404, "not_found"),
        (errors.MethodNotAllowed("PUT", "GET, POST"), 405, "method_not_allowed"),
        (errors.ConflictError("no"), 409, "conflict"),
        (errors.PayloadTooLarge("no"), 413, "payload_too_large"),
        (errors.UnsupportedMediaType("no"), 415, "unsupported_media_type"),
        (errors.UpgradeRequired("no"), 426, "upgrade_required"),
        (errors.RateLimited("no"), 429, "rate_limited"),
        (errors.OverloadedError("no"), 503, "overloaded"),
        (errors.DependencyError("no"), 503, "dependency_error"),
        (errors.InternalError("secret"), 500, "internal_error"),
        (errors.RemoteProtocolError("no", status_hint=431), 431, "protocol_error"),
    ],
)
def test_every_error_has_its_documented_shape(
    error: errors.EventMeshError, status: int, type_: str
) -> None:
    assert error_status(error) == status
    shown = json.loads(error_body(error, "req-1"))["error"]
    assert shown["type"] == type_
    assert shown["status"] == status
    assert shown["request_id"] == "req-1"
    assert shown["message"]
    words = ("TemporaryFailure", "NetworkError", "TimeoutError", "ConnectionError")
    text = json.dumps(shown)
    assert shown["retryable"] == any(word in text for word in words) == (status in (429, 503))


def test_the_field_that_was_wrong_is_named_in_the_details() -> None:
    error = errors.ValidationError("urls[3] has no host", field="urls[3]")
    assert json.loads(error_body(error, None))["error"]["details"] == {"field": "urls[3]"}


@pytest.mark.parametrize(
    "error", [errors.InternalError("secret"), errors.LocalProtocolError("secret state of ours")]
)
def test_nothing_of_the_inside_is_told(error: errors.EventMeshError) -> None:
    body = error_body(error, None)
    assert b"secret" not in body
    assert json.loads(body)["error"]["type"] == "internal_error"


def test_the_fields_say_when_to_retry_and_what_is_allowed() -> None:
    def fields(error: errors.EventMeshError) -> dict[bytes, bytes]:
        return dict(error_fields(error))

    assert fields(errors.OverloadedError("full", retry_after_seconds=2.2))[b"retry-after"] == b"3"
    assert fields(errors.RateLimited("slow down"))[b"retry-after"] == b"1"
    assert fields(errors.MethodNotAllowed("PUT", "GET, POST"))[b"allow"] == b"GET, POST"
    coded = errors.UnsupportedMediaType("no gzip", accept_encoding="identity")
    assert fields(coded)[b"accept-encoding"] == b"identity"
    # RFC 9110, 15.5.16: not for other reasons, which it would be confused with.
    assert b"accept-encoding" not in fields(errors.UnsupportedMediaType("no XML"))
    old = errors.RemoteProtocolError("old", status_hint=426)
    assert fields(old)[b"sec-websocket-version"] == b"13"
    assert b"retry-after" not in fields(errors.NotFoundError("no"))
