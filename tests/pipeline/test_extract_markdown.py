"""Markdown as it is written from a page's blocks."""

import html

import pytest
from markdown_it import MarkdownIt

from eventmesh_trio.pipeline.extract import extract_document

URL = "https://example.org/a/b"


def markdown(inner: str) -> str:
    return extract_document(f"<body>{inner}</body>".encode(), URL, mode="full").markdown


@pytest.mark.parametrize(
    ("markup", "expected"),
    [
        ("<h2>One <b>two</b></h2><p>Text</p>", "## One **two**\n\nText"),
        ("<p>a <b> b </b>c <em>d</em><i></i></p>", "a **b** c *d*"),
        ("<p>one<br>two<br><br>three</p>", "one  \ntwo\n\nthree"),
        ("<ul><li>a<li>b<ul><li>c</ul><li>d</ul>", "- a\n- b\n  - c\n- d"),
        ("<ol start=3><li>a<li><p>b</p><p>c</p></ol>", "3. a\n4. b\n\n   c"),
        ("<blockquote><p>a</p><p>b</p></blockquote><p>c</p>", "> a\n>\n> b\n\nc"),
        ("<blockquote><ul><li>a<li>b</ul></blockquote>", "> - a\n> - b"),
        (
            '<pre><code class="language-python">if a:\n    b &lt; *c*\n</code></pre>',
            "```python\nif a:\n    b < *c*\n```",
        ),
        ("<pre>```\nx</pre>", "````\n```\nx\n````"),
        ("<p>use <code>a*b`c</code></p>", "use ``a*b`c``"),
        (
            "<table><tr><th>A<th>B<tr><td>1<td>x|y</table>",
            "| A | B |\n| --- | --- |\n| 1 | x\\|y |",
        ),
        (
            "<table><tr><td>1<td>2<tr><td colspan=2>3</table>",
            "|  |  |\n| --- | --- |\n| 1 | 2 |\n| 3 |  |",
        ),
        ('<p><a href="c?x=(1)">see</a></p>', "[see](https://example.org/a/c?x=(1))"),
        ('<p><img src="/i.png" alt="A [b]">', "![A \\[b\\]](https://example.org/i.png)"),
        (
            '<p>x <a href="/y"><img src="i.png" alt="z"></a>',
            "x [![z](https://example.org/a/i.png)](https://example.org/y)",
        ),
        (
            "<p># no heading</p><p>1. no list</p><p>- nor this</p>",
            "\\# no heading\n\n1\\. no list\n\n\\- nor this",
        ),
        ("<p>2 * 3 _x_ snake_case</p>", "2 * 3 \\_x\\_ snake_case"),
        ("<p>&lt;b&gt; &amp;lt; &amp; R&D</p>", "&lt;b> &amp;lt; & R&D"),
        ("<dl><dt>Term<dd>Meaning</dl>", "**Term**\n: Meaning"),
        ("<table><tr><td><p>lay</p><h2>out</h2></td></tr></table>", "lay\n\n## out"),
    ],
)
def test_markup_becomes_markdown(markup: str, expected: str) -> None:
    assert markdown(markup) == expected


@pytest.mark.parametrize(
    "href",
    [
        "javascript:alert(1)",
        "JaVaScRiPt:alert(1)",
        " java\nscript:alert(1)",
        "\x01javascript:alert(1)",
        "&#106;avascript:alert(1)",
        "data:text/html,<script>x</script>",
        "vbscript:x",
        "file:///etc/passwd",
        "http://[bad",
        "blob:https://example.org/1",
    ],
)
def test_addresses_that_are_no_web_address_become_plain_text(href: str) -> None:
    document = extract_document(
        f'<body><p><a href="{href}">click</a> <img src="{href}" alt=""> end</p>'.encode(),
        URL,
        mode="full",
    )
    assert document.markdown == "click end"
    assert document.links == ()
    assert document.images == ()


@pytest.mark.parametrize(
    "text",
    [
        "[x](javascript:alert(2))",
        "![x](http://evil.example/p.png)",
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "<http://evil.example>",
        "`a` **b** ~~c~~ __d__",
        "[ref]: javascript:x",
        "&lt;script&gt;",
        "a\\*b",
        "***",
        "===",
        "> quote",
        "+ plus",
        "12) list",
    ],
)
def test_text_that_looks_like_markdown_or_html_is_shown_as_it_is(text: str) -> None:
    written = markdown(f"<p>{html.escape(text)}</p>")
    rendered = MarkdownIt("commonmark", {"html": True}).render(written)
    assert html.unescape(rendered) == f"<p>{text}</p>\n"


def test_the_base_element_rules_relative_addresses() -> None:
    page = (
        '<head><base href="/x/y/"></head><body><p><a href="z">go</a> <a href="//h.example/">h</a>'
    )
    document = extract_document(page.encode(), URL, mode="full")
    assert [link.url for link in document.links] == [
        "https://example.org/x/y/z",
        "https://h.example/",
    ]


def test_without_a_url_relative_addresses_are_left_out() -> None:
    document = extract_document(
        b'<p><a href="/z">go</a> <a href="http://e.org/">e</a>', mode="full"
    )
    assert [link.url for link in document.links] == ["http://e.org/"]
    assert document.markdown == "go [e](http://e.org/)"


def test_a_link_around_blocks_is_a_link_in_each() -> None:
    assert markdown('<a href="/c"><div>one</div><div>two</div></a>') == (
        "[one](https://example.org/c)\n\n[two](https://example.org/c)"
    )


def test_placeholders_and_tracking_pixels_are_no_images() -> None:
    page = (
        '<p>x<img src="data:image/gif;base64,R0" data-src="/real.jpg" alt="r">'
        '<img src="/pixel.gif" width="1" height="1"></p>'
    )
    assert markdown(page) == "x![r](https://example.org/real.jpg)"
