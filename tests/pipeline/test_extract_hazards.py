"""Pages of our own for each kind of hazard: what must be found in them, and in what time."""

import time

import attrs
import pytest

from eventmesh_trio.pipeline.extract import extract_page
from eventmesh_trio.pipeline.extract.source.parse import MAX_TAGS

URL = "https://example.org/a/b"
SENTENCE = "The lighthouse keeper wrote every evening, and nobody read it until the spring. "
BODY = f"<article><h1>Keeper</h1><p>{SENTENCE * 3}</p><p>{SENTENCE * 3}</p></article>"
LEAST_SECONDS = 0.5
SECONDS_PER_MB = 1.0
FRENCH = "“L’été” déjà – 5 €"


@attrs.frozen
class Hazard:
    body: bytes
    contains: str = "lighthouse keeper"
    absent: str = "\ufffd"
    content_type: str | None = "text/html"
    charset: str | None = None


def page(inner: str = "", head: str = "") -> str:
    return (
        f"<!doctype html><html><head><title>Keeper</title>{head}</head><body>{BODY}{inner}</body>"
    )


CYRILLIC = f"<p>{'Смотритель маяка писал каждый вечер. ' * 6}</p>"
CHINESE = f"<p>{'灯塔看守人每天晚上都写日记，没有人读。' * 9}</p>"
JAPANESE = f"<p>{'灯台守は毎晩日記を書いたが、誰も読まなかった。' * 9}</p>"
LATIN = f"<p>{FRENCH} {'Le gardien écrivait. ' * 20}</p>"
WRONG_META = "<meta charset=windows-1252>"
HAZARDS = {
    "meta names cp1251": Hazard(("<meta charset=cp1251>" + CYRILLIC).encode("cp1251"), "маяка"),
    "only the header names it": Hazard(JAPANESE.encode("cp932"), "毎晩", charset="Shift_JIS"),
    "the mark beats header and meta": Hazard(
        ("\ufeff" + WRONG_META + CYRILLIC).encode("utf-16-le"), "маяка", charset="utf-8"
    ),
    "the header beats meta": Hazard((WRONG_META + LATIN).encode(), FRENCH, charset="utf-8"),
    "latin-1 means windows-1252": Hazard(LATIN.encode("cp1252"), FRENCH, charset="iso-8859-1"),
    "nothing declared, windows-1252": Hazard(LATIN.encode("cp1252"), "écrivait"),
    "meta after 3 kB of comment": Hazard(
        f"<!--{'x' * 3000}--><meta charset=gb2312>{CHINESE}".encode("gb18030"), "每天晚上"
    ),
    "bad bytes in utf-8": Hazard(
        (page() + CYRILLIC).encode() + b"\xff\xfe", "lighthouse keeper", absent="Ð"
    ),
    "nul and escape": Hazard(
        page("<p>be\x00fore\x1b after</p>").encode() + b"<p cl\x00ass=\x00>x", absent="\x00"
    ),
    "deep blocks": Hazard((page() + "<div>" * 100_000).encode()),
    "deep inline elements": Hazard(("<i><span>" * 60_000 + BODY).encode()),
    "unclosed links": Hazard((page() + "<a href=x><p>" * 20_000).encode()),
    "unclosed fonts": Hazard(
        (page() + "".join(f"<font size={n}><p>" for n in range(9999))).encode()
    ),
    "a page of megabytes": Hazard(
        page("".join(f"<p>Number {n}. {SENTENCE * 5}</p>" for n in range(5000))).encode(),
        "Number 4999.",
    ),
    "a long data URI": Hazard(
        page(f"<img src='data:image/png;base64,{'iVBORw0KGgo' * 300_000}'>").encode(),
        absent="iVBORw0KGgo",
    ),
    "only JSON-LD": Hazard(
        b'<script type="application/ld+json">{"@type": "Article", "articleBody": "'
        + (SENTENCE * 5).encode()
        + b'"}</script><div id=root></div>'
    ),
    "broken JSON-LD": Hazard(
        page(head='<script type="application/ld+json">{"a": "b\n",}}</script>').encode()
    ),
    "an application's shell": Hazard(
        b"<body><noscript>You need JavaScript.</noscript><div id=root></div><script>S={}</script>",
        "",
        absent="JavaScript",
    ),
    "hostile content": Hazard(
        page("<p><a href='jav&#x09;ascript:x'>l</a><img src=x onerror=y></p>").encode(),
        absent="onerror",
    ),
    "hidden text": Hazard(
        page("<p style='display:none'>SECRET<p hidden>SECRET").encode(), absent="SECRET"
    ),
    "an address that cannot be": Hazard(
        page("<p><a href='http://[::1'>x</a>", "<base href='http://[x/'>").encode()
    ),
    "a frameset": Hazard(b"<title>F</title><frameset><frame src=a></frameset>", ""),
    "nothing": Hazard(b"", ""),
    "xhtml in html": Hazard(
        b'<?xml version="1.0"?>'
        + page("<svg><title>ICON</title></svg><script>//<![CDATA[\nJUNK//]]></script>").encode(),
        absent="JUNK",
    ),
    "tables as layout": Hazard(
        f"<table><tr><td>{'<br><br>'.join([SENTENCE * 4] * 5)}</table>".encode()
    ),
    "many attributes": Hazard(
        f"<body {' '.join(f'a{n}=1' for n in range(50_000))}>{BODY}".encode()
    ),
    "many references": Hazard(page("&amp;&lt;&#65;" * 100_000).encode()),
    "AMP": Hazard(
        f"<!doctype html><html ⚡><head><style amp-boilerplate>x</style></head><body>{BODY}"
        "<amp-img src=a.png layout=responsive></amp-img><amp-ad>AD</amp-ad>".encode(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HAZARDS)
def test_a_hazard_is_read_right_and_in_its_time(name: str) -> None:
    hazard = HAZARDS[name]
    began = time.process_time()
    document = extract_page(
        hazard.body, URL, charset=hazard.charset, content_type=hazard.content_type
    ).document
    seconds = time.process_time() - began
    assert hazard.contains in document.text
    assert hazard.absent not in document.text + document.markdown
    assert not hazard.contains or document.title != "ICON"
    assert seconds < max(LEAST_SECONDS, SECONDS_PER_MB * len(hazard.body) / 1e6)


def test_a_page_of_too_many_tags_is_read_to_the_limit_and_says_so() -> None:
    paragraphs = "".join(f"<p>Number {n}. {SENTENCE}" for n in range(300))
    document = extract_page((paragraphs + "<b>x" * MAX_TAGS + "<p>END").encode(), URL).document
    assert document.truncated is True
    assert "Number 299." in document.text
    assert "END" not in document.text
