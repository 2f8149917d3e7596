"""What travels over the DevTools protocol, as bytes and as objects, and what goes wrong with it."""

import json
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import attrs
import msgspec

__all__ = [
    "AnswerTooLarge",
    "CDPError",
    "CDPEvent",
    "CommandFailed",
    "CommandTimeout",
    "ConnectionLost",
    "Message",
    "Result",
    "SessionClosed",
    "decode",
    "encode",
    "parse",
]

Result: TypeAlias = Mapping[str, Any]
"""What a command brought, or an event's parameters."""


class CDPError(Exception):
    """The root: something with the browser, not with the page's content."""


class CommandFailed(CDPError):
    """The browser refused a command; ``code`` is JSON-RPC's."""

    def __init__(self, method: str, code: int, message: str) -> None:
        super().__init__(f"{method}: {message}")
        self.code = code
        self.reason = message


class CommandTimeout(CDPError):
    """A command had no answer in time."""


class AnswerTooLarge(CDPError):
    """The answer to a command was over the message limit, and was skipped."""


class SessionClosed(CDPError):
    """The session's target is gone, or its events outran their reader."""


class ConnectionLost(SessionClosed):
    """The browser is gone."""


@attrs.frozen
class CDPEvent:
    method: str
    params: Result


class _Failure(msgspec.Struct):
    code: int = 0
    message: str = ""


class Message(msgspec.Struct, rename="camel"):
    """What every message may have; what is in an event nobody wants is never decoded."""

    id: int | None = None
    method: str | None = None
    params: msgspec.Raw = msgspec.Raw(b"{}")
    result: msgspec.Raw = msgspec.Raw(b"{}")
    error: _Failure | None = None
    session_id: str | None = None


_messages: Final = msgspec.json.Decoder(Message)


def parse(data: bytes) -> Message:
    """A message as it was received.

    Raises: ValueError (of which those of msgspec are), RecursionError.
    """
    try:
        return _messages.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # Half of a surrogate pair, which a page may name things with, is JSON and no Unicode.
        text = json.dumps(json.loads(data), ensure_ascii=False)
        return _messages.decode(text.encode("utf-8", "replace"))


def decode(raw: msgspec.Raw) -> Result:
    """The object in a part of a parsed message; empty where it is none."""
    value = msgspec.json.decode(raw)
    return value if isinstance(value, dict) else {}


def encode(ident: int, method: str, params: Result, session_id: str | None) -> bytes:
    """A command, as it is sent."""
    message: dict[str, Any] = {"id": ident, "method": method, "params": params}
    if session_id is not None:
        message["sessionId"] = session_id
    return msgspec.json.encode(message)
