"""Whole pages in, documents out."""

import hashlib
import json
import re
import time

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from eventmesh_trio.errors import UnsupportedContent
from eventmesh_trio.pipeline.extract import extract_document, extract_page
from eventmesh_trio.wire.events import Document

URL = "https://example.org/news/2024/05/17/harbour"
SENTENCE = "The harbour museum opened its doors yesterday, and visitors praised the collection. "
PARAGRAPHS = "".join(f"<p>Paragraph {n}. {SENTENCE * 3}</p>" for n in range(6))
PAGE = f"""<!doctype html><html lang="en_GB"><head><title>Harbour museum opens | The Gull</title>
<meta property="og:site_name" content="The Gull"><meta name="description" content="A museum.">
<meta property="article:published_time" content="2024-05-17T08:30:00+02:00">
<meta name="author" content="By Ada Byron"><link rel="canonical" href="/news/harbour">
<link rel="shortcut icon" href="/favicon.png"><meta property="og:image" content="/a.jpg">
<meta name="keywords" content="museum, harbour,Museum"></head><body>
<nav><a href="/">Home</a> <a href="/sport">Sport</a></nav>
<article><h1>Harbour museum opens</h1>{PARAGRAPHS}
<p>See <a href="../map?x=1">the map</a>.</p>
<div class="share-buttons"><a href="#">Tweet this</a></div></article>
<aside class="related"><p>Related: {SENTENCE}</p></aside>
<footer>All rights reserved by the publisher of this page.</footer></body></html>"""


def article(inner: str) -> bytes:
    return f"<html><body><article>{PARAGRAPHS}{inner}</article></body></html>".encode()


def test_an_article_is_separated_from_what_surrounds_it() -> None:
    document = extract_document(PAGE.encode(), URL)
    assert [f"Paragraph {n}." in document.text for n in range(6)] == [True] * 6
    for noise in ("Home", "Sport", "Tweet", "Related", "rights reserved"):
        assert noise not in document.text
        assert noise not in document.markdown


def test_no_text_holds_a_line_end_that_only_unicode_knows() -> None:
    # `requests.Response.iter_lines` and others would cut a line of NDJSON there.
    page = article("<pre>a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\x1dh\x1ei</pre><p>j\u2028k</p>")
    document = extract_document(page, URL)
    assert "a\nb\nc" in document.text
    written = msgspec.json.encode(document).decode()
    assert written.splitlines() == [written]


def test_metadata_is_read_from_the_head() -> None:
    document = extract_document(PAGE.encode(), URL)
    assert document.title == "Harbour museum opens"
    assert document.author == "Ada Byron"
    assert document.date == "2024-05-17T08:30:00+02:00"
    assert document.site_name == "The Gull"
    assert document.description == "A museum."
    assert document.language == "en-GB"
    assert document.canonical_url == "https://example.org/news/harbour"
    assert document.image == "https://example.org/a.jpg"
    assert document.favicon == "https://example.org/favicon.png"
    assert document.tags == ("museum", "harbour")


def test_computed_members_follow_from_the_text() -> None:
    document = extract_document(PAGE.encode(), URL)
    assert document.content_hash == "sha256:" + hashlib.sha256(document.text.encode()).hexdigest()
    assert document.word_count == len(re.findall(r"\w+", document.text))
    assert document.reading_time == max(1, round(document.word_count / 230))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", document.extracted_at)
    assert [(link.url, link.text) for link in document.links] == [
        ("https://example.org/news/2024/05/map?x=1", "the map")
    ]


def test_full_mode_keeps_what_is_seen_but_for_the_pages_frame() -> None:
    extraction = extract_page(PAGE.encode(), URL, mode="full")
    assert extraction.method == "full"
    assert "Paragraph 5." in extraction.document.text
    assert "Related: The harbour" in extraction.document.text
    for frame in ("Sport", "rights reserved"):
        assert frame not in extraction.document.text
    only_frame = b"<nav><a href=/>Home</a></nav>"
    assert extract_page(only_frame, URL, mode="full").document.text == "Home"


def test_metadata_mode_has_no_text() -> None:
    extraction = extract_page(PAGE.encode(), URL, mode="metadata")
    document = extraction.document
    assert (extraction.method, document.text, document.markdown, document.word_count) == (
        "metadata",
        "",
        "",
        0,
    )
    assert document.title == "Harbour museum opens"
    assert document.html is UNSET


def test_raw_mode_returns_the_decoded_page_unchanged() -> None:
    source = "<p>soft\u00adhyphen д</p>"
    document = extract_document(source.encode("utf-16"), URL, mode="raw")
    assert document.html == source
    assert document.text == ""


@pytest.mark.parametrize("limit", [1, 7, 100, 500])
def test_text_and_markdown_are_cut_to_the_limit_and_flagged(limit: int) -> None:
    document = extract_document(PAGE.encode(), URL, max_text_chars=limit)
    assert len(document.text) <= limit
    assert len(document.markdown) <= limit
    assert document.truncated is True
    assert extract_document(PAGE.encode(), URL).truncated is UNSET


def test_confidence_is_higher_for_an_article_than_for_a_list_of_links() -> None:
    links = "".join(
        f'<li><a href="/{n}">Story number {n} with a long title</a></li>' for n in range(40)
    )
    good = extract_document(PAGE.encode(), URL)
    poor = extract_document(f"<body><ul>{links}</ul></body>".encode(), URL)
    assert good.quality_score >= 85
    assert 0 < poor.quality_score < good.quality_score - 20
    assert "Story number 39" in poor.text
    assert extract_document(b"", URL).quality_score == 0


def test_a_page_whose_content_sits_under_a_misleading_class_is_still_read() -> None:
    page = f'<body><div class="x"><div class="sidebar">{PARAGRAPHS[:700]}</p></div></div></body>'
    assert "Paragraph 1." in extract_document(page.encode(), URL).text


def test_comments_are_left_out_of_an_article_and_are_the_content_of_a_forum() -> None:
    comments = f'<div class="comments"><p>First comment. {SENTENCE * 3}</p></div>'
    assert "First comment" not in extract_document(article("") + comments.encode(), URL).text
    thread = (
        '<script type="application/ld+json">{"@type": "DiscussionForumPosting"}</script>'
        f"<p>Question. {SENTENCE * 2}</p>{comments}"
    )
    document = extract_document(thread.encode(), URL)
    assert document.page_type == "forum"
    assert "First comment" in document.text


def test_an_empty_shell_takes_the_body_that_its_json_ld_carries() -> None:
    item = {
        "@graph": [
            {"@type": "WebSite", "name": "X"},
            {
                "@type": "NewsArticle",
                "headline": "Opened",
                "author": [{"@type": "Person", "name": "Ada Byron"}, {"name": "Mary S"}],
                "datePublished": "2026-03-01",
                "articleBody": SENTENCE * 4 + "\ud800",
            },
        ]
    }
    page = f'<script type="application/ld+json">{json.dumps(item)}</script><div id="root"></div>'
    extraction = extract_page(page.encode(), URL)
    assert extraction.method == "json-ld"
    assert extraction.document.text == (SENTENCE * 4).strip()
    assert extraction.document.author == "Ada Byron, Mary S"
    assert extraction.document.date == "2026-03-01"
    assert extraction.document.title == "Opened"


def test_json_ld_that_is_not_quite_json_is_read_or_ignored() -> None:
    nearly = '{"@type": "Article", "headline": "Line\nbreak", "author": "Ada",}'
    broken = '{"@type": "Article", "headline": "a "quoted" word"}'
    for script, author in ((nearly, "Ada"), (broken, None)):
        page = f'<script type="application/ld+json">{script}</script>{PARAGRAPHS}'
        document = extract_document(page.encode(), URL)
        assert document.author == author
        assert "Paragraph 5." in document.text


def test_hidden_text_is_never_content() -> None:
    hidden = (
        '<p style="Display : NONE">HIDDEN1</p><p hidden>HIDDEN2</p><div aria-hidden="true">HIDDEN3</div>'  # noqa: E501
        '<span style="visibility:hidden">HIDDEN4</span><template><p>HIDDEN5</p></template>'
    )
    for mode in ("article", "full"):
        document = extract_document(article(f"<p>Seen. {hidden}</p>{hidden}"), URL, mode=mode)  # type: ignore[arg-type]
        assert "HIDDEN" not in document.text + document.markdown
        assert "Seen." in document.text


def test_invisible_characters_are_taken_out_and_joiners_kept() -> None:
    document = extract_document(
        article("<p>so\u00adft\u200b w\u202eord می\u200cخواهم&#xfeff;</p>"), URL
    )
    assert "soft word می\u200cخواهم" in document.text


@pytest.mark.parametrize(
    "body",
    [
        *(b"%PDF-1.7\n" + b"\x00\x01\x02" * 50, b"%!PS-Adobe-3.0 text"),
        *(b"\x89PNG\r\n\x1a\n", bytes(range(32)) * 50),
    ],
)
def test_binary_bytes_are_refused_or_give_an_empty_document(body: bytes) -> None:
    with pytest.raises(UnsupportedContent):
        extract_page(body, URL)
    assert extract_document(body, URL).text == ""


@pytest.mark.parametrize("body", [b"", b"   ", b"<", b"<frameset><frame></frameset>", b"\xff\xfe"])
def test_pages_without_text_give_an_empty_document(body: bytes) -> None:
    extraction = extract_page(body, URL)
    assert extraction.document.text in ("", "<")
    assert extraction.document.reading_time in (0, 1)


def test_a_tiny_page_keeps_its_only_words() -> None:
    assert extract_document(b"<p>Test</p>", URL).text == "Test"


def test_plain_text_is_taken_as_it_stands() -> None:
    body = b"First <b>line</b>\nsecond line\n\nNew paragraph & more"
    extraction = extract_page(body, URL, content_type="text/plain; charset=utf-8")
    assert extraction.method == "plain-text"
    assert extraction.document.text == "First <b>line</b>\nsecond line\n\nNew paragraph & more"
    assert extract_page(body, URL, content_type="text/html").document.text.startswith("First line")


def test_a_script_built_page_is_seen_as_one_by_the_gate() -> None:
    shell = (
        '<body><noscript>Please enable JavaScript to run this app.</noscript><div id="root"></div>'
        "<script>window.__INITIAL_STATE__={}</script><script src=/a.js></script>"
    )
    extraction = extract_page(shell.encode(), URL)
    assert extraction.document.text == ""
    assert extraction.gate_decision == "headless"
    assert extract_page(PAGE.encode(), URL).gate_decision == "raw"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.sampled_from([None, "utf-8", "shift_jis", "nonsense", "utf-16"]))
def test_any_bytes_give_a_document_that_can_be_written_as_json(
    body: bytes, charset: str | None
) -> None:
    document = extract_document(b"<div>" + body, URL, charset=charset)
    assert msgspec.json.decode(msgspec.json.encode(document), type=Document) == document


TAGS = "div p a b i ul li table tr td th pre code blockquote h2 br img section article form".split()  # noqa: SIM905


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from([f"<{tag}>" for tag in TAGS] + [f"</{tag}>" for tag in TAGS]),
            st.sampled_from(['<a href="javascript:x">', '<img src="data:image/png;base64,AA">']),
            st.text(alphabet="ab <>&*_[]()`#|.-1\n\u00ad\u200b", max_size=12),
        ),
        max_size=60,
    )
)
def test_any_tag_soup_is_read_and_its_markdown_has_no_live_scheme(pieces: list[str]) -> None:
    document = extract_document(f"<p>{SENTENCE * 5}</p>{''.join(pieces)}".encode(), URL)
    assert not re.search(r"(?<!\\)\]\((?!https?:|mailto:|tel:)", document.markdown)
    outside_code = re.sub(r"(?ms)^\s*(?:> |- |\d+\. )*`{3,}.*?`{3,}|`[^`]*`", "", document.markdown)
    # No tag but our own, which have no attributes.
    assert not re.search(r"<(?!br>|/?(?:strong|em|del|sup|sub)>)[a-zA-Z/!?]", outside_code)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("nested blocks", b"<div>" * 50_000 + b"deep" + b"</div>" * 50_000),
        ("nested inline elements", b"<b><i>" * 30_000 + b"deep"),
        ("attributes", b"<p " + b" ".join(b"a%d=1" % n for n in range(30_000)) + b">deep</p>"),
        ("unclosed links", b"<a href=x><p>deep" * 10_000),
        ("nested lists", b"<ul><li>deep" * 10_000),
        ("nested tables", b"<table><tr><td>deep" * 5_000),
        ("unclosed comments", b"deep" + b"<!--" * 100_000),
        ("unclosed scripts", b"deep" + b"<script>" * 100_000),
        ("a quote without end", b"deep<a href='" * 20_000),
    ],
)
def test_hostile_nesting_takes_bounded_time(name: str, body: bytes) -> None:
    started = time.process_time()
    document = extract_document(f"<p>{SENTENCE * 5}</p>".encode() + body, URL)
    elapsed = time.process_time() - started
    assert "harbour museum" in document.text, name
    assert elapsed < 3, f"{name}: {elapsed:.1f} s"
