"""Commands in every shape of the documents, and replies in the dialect of each."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventmesh_trio.errors import ConflictError, InvalidRequest
from eventmesh_trio.wire.commands import Reply, parse_command
from eventmesh_trio.wire.errors import error_info

NOW = "2024-01-15T10:30:00.000Z"


@pytest.mark.parametrize(
    ("message", "operation", "request_id", "dialect"),
    [
        ({"request_type": "ping"}, "ping", None, "envelope"),
        ({"request_type": "crawl", "data": {"urls": []}}, "crawl", None, "envelope"),
        ({"action": "pause", "request_id": "a", "data": {}}, "pause", "a", "envelope"),
        ({"action": "cancel", "data": {"request_id": "b"}}, "cancel", "b", "envelope"),
        ({"action": "crawl", "requestId": "c", "urls": []}, "crawl", "c", "flat"),
        ({"action": "crawl", "urls": []}, "crawl", None, "flat"),
        ({"action": "status"}, "status", None, None),
        ({"action": "resume", "request_id": "d"}, "resume", "d", None),
    ],
)
def test_each_documented_shape_is_understood(message, operation, request_id, dialect):
    for sent in (json.dumps(message), json.dumps(message).encode()):
        command = parse_command(sent)
        assert (command.operation, command.request_id) == (operation, request_id)
        assert command.dialect == dialect


def test_arguments_are_data_where_it_is_an_object_and_else_the_top():
    assert parse_command('{"action":"crawl","data":{"urls":[1]}}').arguments == {"urls": [1]}
    top = parse_command('{"action":"crawl","urls":[1],"data":null}')
    assert top.arguments["urls"] == [1]


@pytest.mark.parametrize(
    "message",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"action":"explode"}',
        '{"action":7}',
        '{"action":"crawl","request_id":7}',
        '{"action":"crawl","request_id":"a b"}',
        b"\xff\xfe",
        "[" * 5000,
    ],
)
def test_what_is_no_command_is_an_invalid_request(message):
    with pytest.raises(InvalidRequest):
        parse_command(message)


@pytest.mark.parametrize(
    "message",
    ['{"action":"explode","urls":[]}', '{"requestId":"a b","action":"ping"}', '{"request_id":5}'],
)
def test_a_refusal_tells_nothing_of_how_the_message_was_parsed(message):
    with pytest.raises(InvalidRequest) as caught:
        parse_command(message)
    assert set(caught.value.context) <= {"request_id"}


def test_an_operation_that_is_null_is_not_said():
    assert parse_command('{"request_type":null,"action":"ping"}').operation == "ping"


def test_an_unknown_operation_keeps_its_id_for_the_reply():
    with pytest.raises(InvalidRequest) as caught:
        parse_command('{"action":"explode","request_id":"r"}')
    assert caught.value.context["request_id"] == "r"


@given(st.binary(max_size=80) | st.text(max_size=80))
def test_any_message_is_a_command_or_an_invalid_request(message):
    try:
        parse_command(message)
    except InvalidRequest as error:
        assert error.message


def test_replies_are_in_the_dialect_of_their_request():
    reply = Reply("paused", {}, "s", NOW, "r")
    envelope = json.loads(reply.encode("envelope"))
    assert envelope["message_type"] == "paused"
    assert envelope["data"] == {"session_id": "s", "timestamp": NOW, "request_id": "r"}
    flat = json.loads(reply.encode("flat"))
    assert flat == {"event": "paused", "requestId": "r", "sessionId": "s", "timestamp": NOW}


def test_a_reply_without_a_dialect_can_be_read_in_both():
    both = json.loads(Reply("welcome", {"protocol_version": "1.0"}, "s", NOW).encode(None))
    assert both["message_type"] == both["event"] == "welcome"
    assert both["data"]["session_id"] == both["sessionId"] == "s"
    assert both["data"]["protocol_version"] == "1.0"


@pytest.mark.parametrize("dialect", ["flat", "envelope", None])
def test_an_error_reply_has_its_message_where_every_client_looks(dialect):
    info = error_info(ConflictError("that run is live"), NOW)
    reply = Reply.error(info, session_id="s", request_id=None, details={"request_id": "r"})
    body = json.loads(reply.encode(dialect))
    assert body["data"]["message"] == body["error"]["message"] == "that run is live"
    assert "request_id" not in body["data"]
    assert "requestId" not in body
    assert body["details"] == {"request_id": "r"}
