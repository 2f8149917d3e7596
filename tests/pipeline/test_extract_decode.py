"""Which encoding a page is in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventmesh_trio.pipeline.extract.decode import decode, sniff_binary

RUSSIAN = "Вчера открылся новый музей, и первые посетители хвалили собрание. "
GERMAN = "Gäste “schöne” Grüße – 5 €"


def test_a_byte_order_mark_beats_the_header_and_the_page() -> None:
    text = '<meta charset="windows-1252">' + RUSSIAN
    body = b"\xff\xfe" + text.encode("utf-16-le")
    assert decode(body, "utf-8") == (text, "utf-16-le")


def test_the_header_beats_the_page() -> None:
    assert decode(b"<meta charset=iso-8859-1>" + GERMAN.encode(), "UTF-8")[0].endswith(GERMAN)


@pytest.mark.parametrize("label", ["iso-8859-1", "latin1", "US-ASCII", "windows-1252", "cp1252"])
def test_latin_labels_mean_windows_1252(label: str) -> None:
    assert decode(GERMAN.encode("cp1252"), label)[0] == GERMAN


@pytest.mark.parametrize(
    "declaration",
    [
        b'<meta charset="windows-1251">',
        b"<META HTTP-EQUIV=Content-Type CONTENT='text/html; charset=windows-1251'>",
        b'<?xml version="1.0" encoding="windows-1251"?>',
        b"<!-- <meta charset=utf-8> -->" + b" " * 3000 + b"<meta charset=cp1251>",
    ],
)
def test_a_declaration_in_the_page_is_found(declaration: bytes) -> None:
    assert RUSSIAN in decode(declaration + RUSSIAN.encode("cp1251"))[0]


def test_a_meta_that_says_utf_16_means_utf_8() -> None:
    assert RUSSIAN in decode(b"<meta charset=utf-16>" + RUSSIAN.encode())[0]


def test_a_declaration_that_the_bytes_contradict_is_passed_over() -> None:
    assert decode(RUSSIAN.encode("cp1251") * 5, "utf-8")[0] == RUSSIAN * 5


def test_undeclared_utf_8_with_a_few_bad_bytes_stays_utf_8() -> None:
    text, name = decode(RUSSIAN.encode() + b"\xff\xfe" + RUSSIAN.encode())
    assert name == "utf-8"
    assert text.count("\ufffd") == 2


def test_undeclared_legacy_text_is_detected_or_taken_as_windows_1252() -> None:
    assert decode(RUSSIAN.encode("koi8-r") * 8)[0] == RUSSIAN * 8
    assert "schöne" in decode(b"<p>" + "Das ist eine schöne Straße".encode("cp1252"))[0]


@pytest.mark.parametrize("label", ["utf-7", "nonsense", "hex", "", '"'])
def test_labels_that_no_browser_knows_are_ignored(label: str) -> None:
    assert decode(RUSSIAN.encode(), label) == (RUSSIAN, "utf-8")


def test_control_characters_are_taken_out() -> None:
    assert decode(b"a\x00b\x1bc\x7fd\n\te") == ("abcd\n\te", "utf-8")


@given(st.binary(max_size=300), st.one_of(st.none(), st.text(max_size=12)))
def test_any_bytes_decode(body: bytes, charset: str | None) -> None:
    text, _ = decode(body, charset)
    text.encode()


@given(st.text(max_size=200))
def test_utf_8_survives(text: str) -> None:
    visible = "".join(c for c in text if c >= " " and not "\x7f" <= c <= "\x9f" and c != "\ufeff")
    assert decode(("é" + visible).encode())[0] == "é" + visible


@pytest.mark.parametrize(
    ("body", "binary"),
    [
        (b"%PDF-1.4", True),
        (b"GIF89a\x01", True),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", True),
        (bytes(100), True),
        (b"<p>a stray \x00 in a page of text, which happens</p>", False),
        ("<html>ä".encode("utf-16"), False),
        ("<html>ä".encode("utf-16-le"), False),
        (b"", False),
    ],
)
def test_binary_bodies_are_told_from_text(body: bytes, binary: bool) -> None:
    assert sniff_binary(body) is binary
