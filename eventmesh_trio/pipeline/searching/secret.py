"""A text that must not be shown: an access key."""

from typing import Final

__all__ = ["Secret"]

_HIDDEN: Final = "(secret)"


class Secret:
    """Holds a text; whatever prints it prints ``(secret)``, or nothing where there is none.

    Raises:
      ValueError: it could not stand in a header field; the message does not repeat it.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str = "") -> None:
        if not (text.isascii() and text.isprintable()) or " " in text:
            raise ValueError("a key is made of printable ASCII characters, without blanks")
        self._text = text

    def reveal(self) -> str:
        """The text itself, for the one place that sends it."""
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return _HIDDEN if self._text else ""

    def __reduce__(self) -> str:
        raise TypeError("a secret is not written down")
