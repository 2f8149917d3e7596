"""What is no HTML page is read by its type, or by its first element."""

import pytest

from eventmesh_trio.abc import Extraction
from eventmesh_trio.pipeline.extract import extract_page

URL = "https://example.org/feed"
RSS = """<?xml version="1.0" encoding="utf-8"?><!-- made by hand -->
<rss version="2.0"><channel><title>AT&amp;T news</title><link>https://example.org/</link>
<atom:link href="https://example.org/feed" rel="self"/>
<description>All of it</description><language>en-GB</language>
<lastBuildDate>Mon, 02 Mar 2026 09:00:00 GMT</lastBuildDate>
<item><title>One &amp;amp; two</title><link>https://example.org/1</link>
<pubDate>Sun, 01 Mar 2026 08:00:00 +0100</pubDate><dc:creator><![CDATA[Ada Byron]]></dc:creator>
<description>short</description>
<content:encoded><![CDATA[<p>The <b>whole</b> text<div><!-- open]]></content:encoded></item>
<item><title>Three</title><description>plain &amp;lt;b&amp;gt; & more</description></item>
</channel></rss>"""
ATOM = """<feed xmlns="http://www.w3.org/2005/Atom"><title>Notes</title>
<updated>2026-03-01T10:00:00Z</updated><author><name>Ada</name></author>
<entry><title type="html">X &lt;i&gt;y&lt;/i&gt;</title>
<link rel="edit" href="/e"/><link href="/a?x=1&amp;y=2"/>
<author><name>Bob</name></author><published>2026-02-01T00:00:00Z</published>
<content type="xhtml"><div><p>a &lt; b</p></div></content></entry></feed>"""


def read(text: str, content_type: str | None, mode: str = "article") -> Extraction:
    return extract_page(text.encode(), URL, content_type=content_type, mode=mode)  # type: ignore[arg-type]


def lines(extraction: Extraction) -> list[str]:
    return [line for line in extraction.document.text.split("\n") if line]


@pytest.mark.parametrize("content_type", ["application/rss+xml", "text/xml", "text/html", None])
def test_a_feed_is_its_entries_whatever_its_type(content_type: str | None) -> None:
    extraction = read(RSS, content_type)
    assert (extraction.method, extraction.gate_decision) == ("feed", "raw")
    assert lines(extraction) == [
        *("AT&T news", "All of it", "One & two", "2026-03-01T08:00:00+01:00 · Ada Byron"),
        *("The whole text", "Three", "plain <b> & more"),
    ]
    document = extraction.document
    assert (document.title, document.language) == ("AT&T news", "en-GB")
    assert document.modified == "2026-03-02T09:00:00+00:00"
    assert [link.url for link in document.links] == ["https://example.org/1"]
    assert "## [One & two](https://example.org/1)" in document.markdown
    assert "**whole**" in document.markdown


def test_atom_is_read_with_its_markup_and_its_own_links() -> None:
    extraction = read(ATOM, "application/atom+xml")
    assert lines(extraction) == ["Notes", "X y", "2026-02-01T00:00:00+00:00 · Bob", "a < b"]
    assert [link.url for link in extraction.document.links] == ["https://example.org/a?x=1&y=2"]


def test_a_json_feed_is_a_feed_and_other_json_stands_as_it_is() -> None:
    feed = (
        '{"version": "https://jsonfeed.org/version/1.1", "title": "N", "items":'
        ' [{"url": "https://e.org/1", "title": "T", "content_html": "<p>x <em>y</em>"}, 3]}'
    )
    extraction = read(feed, "application/feed+json")
    assert extraction.method == "feed"
    assert lines(extraction) == ["N", "T", "x y"]
    for text in ('{"a":\n  [1, "<b>&amp;*x*"]}', "{broken"):
        extraction = read(text, "application/json")
        assert (extraction.method, extraction.document.text) == ("json", text)
        assert extraction.document.markdown == f"```json\n{text}\n```"


@pytest.mark.parametrize("root", ["urlset", "sitemapindex"])
def test_a_sitemap_is_a_list_of_links(root: str) -> None:
    inner = "url" if root == "urlset" else "sitemap"
    entries = "".join(
        f"<{inner}><loc>https://e.org/{n}?a=1&amp;b</loc><lastmod>2026-01-0{n}</lastmod></{inner}>"
        for n in (1, 2)
    )
    extraction = read(f"<{root}>{entries}</{root}>", "application/xml")
    assert extraction.method == "sitemap"
    assert [link.url for link in extraction.document.links] == [
        "https://e.org/1?a=1&b",
        "https://e.org/2?a=1&b",
    ]


def test_any_other_xml_is_its_text_with_mixed_content_together() -> None:
    text = "<book><title>T</title><para>one <em>two</em> three</para><x k='1'/><y>&#228;</y></book>"
    extraction = read(text, "text/xml")
    assert (extraction.method, extraction.document.title) == ("xml", "T")
    assert lines(extraction) == ["T", "one two three", "ä"]


def test_no_entity_of_a_document_type_is_expanded() -> None:
    bomb = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12))
    extraction = read(f'<!DOCTYPE x [<!ENTITY a0 "lol">{bomb}]><x>&a11; end</x>', "text/xml")
    assert len(extraction.document.text) < 3000
    assert "end" in extraction.document.text


def test_xhtml_is_read_by_its_own_rules_where_it_is_served_as_that() -> None:
    page = (
        '<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><head>'
        '<script src="a.js"/><title>T</title><script>//<![CDATA[\nvar a = "<p>no";\n//]]></script>'
        "</head><body><svg><title>icon</title></svg><a name='x'/><div class='s'/>"
        f"<p><![CDATA[1 < 2 & so on]]></p><p>{'A sentence of its own. ' * 20}</p></body></html>"
    )
    document = read(page, "application/xhtml+xml").document
    assert document.title == "T"
    assert "1 < 2 & so on" in document.text
    assert "no" not in document.text.split("sentence")[0].split("so on")[0]


@pytest.mark.parametrize(
    ("content_type", "method"),
    [("text/plain", "plain-text"), ("text/csv", "plain-text"), ("text/css", "plain-text")],
)
def test_other_text_is_never_taken_for_markup(content_type: str, method: str) -> None:
    extraction = read("<p>a, <b>,c\n<rss>d", content_type)
    assert (extraction.method, extraction.document.text) == (method, "<p>a, <b>,c\n<rss>d")


@pytest.mark.parametrize(
    "unit",
    ["<a ", "<item><title>x", "<![CDATA[", "<!DOCTYPE [", "<a b='", "&amp;", "<!--", "<x/>", "<?"],
)
@pytest.mark.parametrize("before", ["", "<rss>"])
@pytest.mark.parametrize("content_type", ["text/xml", "application/xhtml+xml"])
def test_broken_xml_takes_linear_time(unit: str, before: str, content_type: str) -> None:
    import time

    text = before + unit * (150_000 // len(unit))
    began = time.process_time()
    read(text, content_type)
    assert time.process_time() - began < 1.5
