"""Which encoding a page is in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventmesh_trio.pipeline.extract.source.decode import decode, sniff_binary
from eventmesh_trio.pipeline.extract.source.labels import codec_of

RUSSIAN = "Вчера открылся новый музей, и первые посетители хвалили собрание. "
GERMAN = "Gäste “schöne” Grüße – 5 €"


def test_a_byte_order_mark_beats_the_header_and_the_page() -> None:
    text = '<meta charset="windows-1252">' + RUSSIAN
    body = b"\xff\xfe" + text.encode("utf-16-le")
    source = decode(body, "utf-8")
    assert (source.text, source.encoding) == (text, "utf-16-le")


def test_the_header_beats_the_page() -> None:
    assert decode(b"<meta charset=iso-8859-1>" + GERMAN.encode(), "UTF-8").text.endswith(GERMAN)


@pytest.mark.parametrize("label", ["iso-8859-1", "latin1", "US-ASCII", "windows-1252", "cp1252"])
def test_latin_labels_mean_windows_1252(label: str) -> None:
    assert decode(GERMAN.encode("cp1252"), label).text == GERMAN


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
    assert RUSSIAN in decode(declaration + RUSSIAN.encode("cp1251")).text


def test_a_meta_that_says_utf_16_means_utf_8() -> None:
    assert RUSSIAN in decode(b"<meta charset=utf-16>" + RUSSIAN.encode()).text


def test_a_declaration_that_the_bytes_contradict_is_passed_over() -> None:
    assert decode(RUSSIAN.encode("cp1251") * 5, "utf-8").text == RUSSIAN * 5


def test_undeclared_utf_8_with_a_few_bad_bytes_stays_utf_8() -> None:
    source = decode(RUSSIAN.encode() + b"\xff\xfe" + RUSSIAN.encode())
    assert source.encoding == "utf-8"
    assert source.text.count("\ufffd") == 2


def test_undeclared_legacy_text_is_detected_or_taken_as_windows_1252() -> None:
    assert decode(RUSSIAN.encode("koi8-r") * 8).text == RUSSIAN * 8
    assert "schöne" in decode(b"<p>" + "Das ist eine schöne Straße".encode("cp1252")).text


@pytest.mark.parametrize("label", ["utf-7", "nonsense", "hex", "", '"'])
def test_labels_that_no_browser_knows_are_ignored(label: str) -> None:
    assert decode(RUSSIAN.encode(), label).text == RUSSIAN


def test_control_characters_are_taken_out() -> None:
    assert decode(b"a\x00b\x1bc\x7fd\n\te").text == "abcd\n\te"


@given(st.binary(max_size=300), st.one_of(st.none(), st.text(max_size=12)))
def test_any_bytes_decode(body: bytes, charset: str | None) -> None:
    source = decode(body, charset)
    assert source.chars == len(source.text)


@given(
    st.integers(0, 9),
    st.lists(st.tuples(st.sampled_from("aéह😀\x07\x85\n"), st.integers(1, 5000)), max_size=4),
    st.sampled_from([b"", b"\xe0", b"\xe0\xa4", b"\xf0\x9f", b"\xa4"]),
)
def test_a_page_of_many_pieces_is_decoded_as_a_whole(
    shift: int, runs: list[tuple[str, int]], stray: bytes
) -> None:
    body = b"a" * shift + "".join(sign * count for sign, count in runs).encode() + stray
    source = decode(body)
    if source.encoding == "utf-8":
        whole = body.decode("utf-8", "replace")
        assert source.text == "".join(c for c in whole if c not in "\x07\x85")
    assert source.chars == len(source.text)
    for chars in (1, 7, 4096):
        assert source.head(chars) == source.text[:chars]
        assert source.end(chars) == source.text[-chars:]


@given(st.text(max_size=200))
def test_utf_8_survives(text: str) -> None:
    visible = "".join(c for c in text if c >= " " and not "\x7f" <= c <= "\x9f" and c != "\ufeff")
    assert decode(("é" + visible).encode()).text == "é" + visible


@pytest.mark.parametrize(
    ("body", "binary"),
    [
        (b"%!PS-Adobe-3.0", True),
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


def test_utf_8_that_a_server_calls_latin_is_utf_8_all_the_same() -> None:
    for label in ("iso-8859-1", "windows-1251", "koi8-r"):
        assert decode(RUSSIAN.encode(), label).text == RUSSIAN
    assert decode(GERMAN.encode("cp1252"), "iso-8859-1").text == GERMAN


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_is_told_by_its_tags(codec: str) -> None:
    source = decode(("\n<html><p>" + RUSSIAN).encode(codec))
    assert (source.text, source.encoding) == ("\n<html><p>" + RUSSIAN, codec)


@pytest.mark.parametrize("codec", ["cp932", "euc_jp", "iso2022_jp"])
def test_undeclared_japanese_is_told_by_its_kana(codec: str) -> None:
    text = "<p>昨日、古い港に印刷博物館が開館し、人々が訪れた。"
    assert decode(text.encode(codec)).text == text


@pytest.mark.parametrize(
    ("label", "codec"),
    [
        ("x-sjis", "cp932"),
        ("KS_C_5601-1987", "cp949"),
        ("gb2312", "gb18030"),
        (" TIS-620 ", "cp874"),
        ("latin5", "cp1254"),
        ("x-mac-cyrillic", "mac-cyrillic"),
        ("iso-8859-8-i", "iso8859-8"),
        ("big5", "big5hkscs"),
    ],
)
def test_a_label_means_what_browsers_take_it_for(label: str, codec: str) -> None:
    assert codec_of(label) == codec


@pytest.mark.parametrize("label", ["utf-32", "iso-2022-kr", "hz-gb-2312", "base64", None])
def test_what_no_browser_decodes_is_no_label(label: str | None) -> None:
    assert codec_of(label) is None


@pytest.mark.parametrize("spaces", [0, 3, 1000])
def test_a_control_character_is_found_behind_any_number_of_no_break_spaces(spaces: int) -> None:
    text = "\xa0" * spaces
    assert decode(f"{text}a\x85b".encode()).text == f"{text}ab"
    assert decode(f"{text}ab".encode()).text == f"{text}ab"


def test_a_declaration_behind_a_comment_counts_and_one_within_does_not() -> None:
    commented = b"<!-- <meta charset=koi8-r> -->"
    assert decode(commented + b"<meta charset=windows-1251>\xcf\xf0\xe8").text.endswith("При")
    assert decode(b"<meta charset=windows-1251>" + commented + b"\xcf\xf0\xe8").text[-3:] == "При"
