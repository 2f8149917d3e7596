# ruff: noqa: E501 - markup, as it is written
"""What kind of page it is, and what that changes."""

import pytest
from page_kinds import SENTENCES, article, ld, listing, product, prose

from eventmesh_trio.pipeline.extract import extract_document, extract_page
from eventmesh_trio.pipeline.extract.page.outline import Outline, outline
from eventmesh_trio.pipeline.extract.selection.choice import choose
from eventmesh_trio.pipeline.extract.selection.kinds import declared_kind, kind_of
from eventmesh_trio.pipeline.extract.source.parse import parse

STORY = "https://example.org/news/2024/05/17/flood"


def tree_of(markup: str) -> Outline:
    return outline(parse(markup.encode()).body)


@pytest.mark.parametrize(
    ("types", "og_type", "generator", "url", "kind"),
    [
        (["NewsArticle"], None, None, STORY, "article"),
        ([], "article", None, STORY, "article"),
        ([], "website", "WordPress 6.4", STORY, "unknown"),
        ([], None, None, None, "unknown"),
        (["DiscussionForumPosting"], "article", None, STORY, "forum"),
        (["QAPage", "Question"], None, None, STORY, "forum"),
        (["FAQPage", "Question"], None, None, STORY, "unknown"),
        ([], None, "Discourse 3.2", STORY, "forum"),
        ([], "article", None, "https://example.org/viewtopic.php?t=16", "topic"),
        ([], "article", None, "https://example.org/threads/pumps.123/", "topic"),
        ([], "article", None, "https://example.org/t/pumps-for-rain/88", "topic"),
        ([], None, None, "https://example.org/index.php?/topic/12-pumps/", "topic"),
        ([], None, None, "https://example.org/forums/garden/12/pumps", "topic"),
        ([], None, None, "https://example.org/t/garden-chairs?page=2", "unknown"),
        ([], None, None, "https://forum.example.org/pumps-for-rain", "unknown"),
        (["Product"], "article", None, STORY, "product"),
        ([], "og:product", None, STORY, "product"),
        ([], "shop-objects:item", None, STORY, "product"),
        ([], "product.group", None, STORY, "collection"),
        (["CollectionPage"], "website", None, STORY, "collection"),
        ([], "website", None, "https://example.org", "home"),
        (["Organization"], None, None, "https://example.org/?from=mail", "home"),
    ],
)
def test_a_page_is_what_it_declares_to_be(
    types: list[str], og_type: str | None, generator: str | None, url: str | None, kind: str
) -> None:
    assert declared_kind(types, og_type, generator, url) == kind


def test_the_markup_of_posts_tells_a_thread_that_is_shared_as_an_article() -> None:
    thread = '<div itemscope itemtype="https://schema.org/DiscussionForumPosting"><p>Which pump?</p></div>'
    assert kind_of(tree_of(thread), "article") == "forum"


def test_comments_make_a_forum_only_where_they_are_most_of_the_page() -> None:
    comments = "".join(
        f'<div itemscope itemtype="https://schema.org/Comment/"><p>{n}. I agree with that.</p></div>'
        for n in range(3)
    )
    assert kind_of(tree_of(f"<h1>Pumps</h1>{comments}"), "unknown") == "forum"
    assert kind_of(tree_of(f"<article>{prose(4)}</article>{comments}"), "article") == "article"


def test_nested_comments_are_counted_once() -> None:
    reply = (
        '<div itemtype="https://schema.org/Comment"><p>Agreed, and so said my neighbour.</p></div>'
    )
    comment = (
        f'<div itemtype="https://schema.org/Comment"><p>I agree with that.</p>{reply * 3}</div>'
    )
    assert kind_of(tree_of(f"<article>{prose(2)}</article>{comment}"), "article") == "article"


@pytest.mark.parametrize("kind", ["article", "topic", "unknown"])
def test_an_article_keeps_its_text_whatever_its_page_is_taken_for(kind: str) -> None:
    page = tree_of(article())
    kept = choose(page, kind).kept  # type: ignore[arg-type]
    paragraphs = [i for i, block in enumerate(page.blocks) if block.tag == "p"]
    assert len(paragraphs) == 9
    assert [i for i in kept if page.blocks[i].tag != "h1"] == paragraphs


def test_readers_comments_do_not_make_an_undeclared_article_a_list() -> None:
    comments = "".join(
        f"<li><b>user{n}</b><p>I think that the council did what it could in a week like that, {n}.</p>"
        for n in range(60)
    )
    page = f"<article><h1>Flood</h1>{prose(5)}</article><ol class=comments>{comments}</ol>"
    text = extract_document(page.encode(), STORY).text
    assert "The river had been rising" in text
    assert "the council did what it could" not in text


def test_the_records_of_a_list_are_kept_and_its_frame_is_not() -> None:
    document = extract_document(listing().encode(), "https://example.org/pumps/")
    for n in range(30):
        assert f"Product number {n}" in document.text
        assert f"{n}.99" in document.text
    assert "Section 3" not in document.text
    assert "Imprint" not in document.text


def test_a_product_keeps_its_properties() -> None:
    text = extract_document(product().encode(), "https://example.org/pumps/p-12").text
    for wanted in ("Pump P-12", "The river had been rising", "Property 11", "Value 11"):
        assert wanted in text
    assert "Section 3" not in text


def test_a_product_that_a_program_draws_is_what_it_declares() -> None:
    about = f"<h4>QUIET.</h4><p>{' '.join(SENTENCES)}</p>"
    page = f"<html><head>{ld('Product', description=about)}</head><body><div id=app></div></body></html>"
    extraction = extract_page(page.encode(), "https://example.org/pumps/p-12")
    assert extraction.method == "json-ld"
    lines = [line for line in extraction.document.text.splitlines() if line]
    assert lines == ["QUIET.", " ".join(SENTENCES)]


def test_a_home_page_is_all_of_its_sections() -> None:
    sections = "".join(
        f"<div class=tile><h2>Benefit {n}</h2><p>It keeps water out of cellars, number {n}.</p></div>"
        for n in range(9)
    )
    page = (
        f"<nav><a href=/a>About</a></nav>{sections}<footer>Imprint, and the small print.</footer>"
    )
    text = extract_document(page.encode(), "https://example.org/").text
    assert [f"number {n}." in text for n in range(9)] == [True] * 9
    assert "Imprint" not in text
    assert "About" not in text


def test_a_list_that_calls_itself_an_article_is_a_list() -> None:
    rows = "".join(
        f'<li><a href="/s/{n}">A story about the flood of nineteen hundred and {n}</a></li>'
        for n in range(10, 60)
    )
    page = (
        '<html><head><meta property="og:type" content="article"></head><body><h1>Floods</h1>'
        "<div class=intro><p>This page has a short introduction, and then it has the stories. It is "
        "here that a reader finds what the paper has written about rivers, about rain, about "
        f"bridges and about the people who live beside them.</p></div><ul class=stories>{rows}</ul>"
        "</body></html>"
    )
    text = extract_document(page.encode(), "https://example.org/floods").text
    assert "nineteen hundred and 10" in text
    assert "nineteen hundred and 59" in text
