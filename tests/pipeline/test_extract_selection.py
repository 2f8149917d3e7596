"""What is content: the main part is found, and what stands inside it without being of it goes."""

import time

import pytest

from eventmesh_trio.pipeline.extract import extract_document
from eventmesh_trio.pipeline.extract.page.cues import (
    CAPTION,
    COMMENTS,
    CONTENT,
    DOUBTFUL,
    FRAME,
    MAIN,
    NOISE,
    cues_of,
)
from eventmesh_trio.pipeline.extract.page.outline import Outline, outline
from eventmesh_trio.pipeline.extract.selection.prompts import is_prompt
from eventmesh_trio.pipeline.extract.selection.scoring import select
from eventmesh_trio.pipeline.extract.selection.teasers import teasers
from eventmesh_trio.pipeline.extract.source.parse import parse

ARTICLE_HEAD = '<meta property="og:type" content="article"><title>The ferry</title>'


def prose(number: int, times: int = 3) -> str:
    """A paragraph that no other number gives."""
    return (
        f"Ferry {number} left the northern pier at dawn, and {number} passengers stood on deck. "
        * times
    ).strip()


BODY = "".join(f"<p>{prose(n)}</p>" for n in range(1, 5))
WANTED = "\n".join(prose(n) for n in range(1, 5))


def text_of(body: str, head: str = ARTICLE_HEAD) -> str:
    page = f"<html><head>{head}</head><body>{body}</body></html>"
    lines = extract_document(page.encode()).text.splitlines()
    return "\n".join(line for line in lines if line)


def page_of(body: str) -> Outline:
    return outline(parse(f"<body>{body}</body>").body)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("<h1>The ferry</h1>", ""),
        ("<h1>The ferry</h1><div>By Ada Byron</div><div>17 May 2024</div>", ""),
        ("<header><h1>The ferry</h1><p>Our harbour reporter</p></header>", ""),
        ("<div>Advertisement</div>", "<p>Advertisement</p>"),
        ("", "<p>Follow us on our channels for more.</p>"),
        ("", "<p>Filed under: harbours, ferries</p>"),
        ("", "<p>Read also: the pier that was never built</p>"),
        ("", '<div class="author-bio">Ada Byron has written about harbours for ten years.</div>'),
        ("", '<div class="postMeta">17 comments, 4 minutes</div>'),
        ("", '<div class="newsletter"><p>Get the harbour letter, every week, for free.</p></div>'),
        ("", '<div id="comments"><p>I was there too, and it was a fine, fine morning.</p></div>'),
        ("", "<aside><p>The harbour was built in 1881, and rebuilt in 1931.</p></aside>"),
        ("", "<h2>What others read</h2>"),
        (
            "",
            "<h3>More stories</h3><ul><li><a href=/1>The pier of the north</a></li>"
            "<li><a href=/2>The pier of the south</a></li>"
            "<li><a href=/3>The lighthouse</a> is lit</li></ul>",
        ),
    ],
)
def test_what_stands_around_the_text_of_an_article_is_left_out(before: str, after: str) -> None:
    assert text_of(f"<article>{before}{BODY}{after}</article>") == WANTED


@pytest.mark.parametrize(
    "picture",
    [
        "<figure><img src=/a.jpg><figcaption>The ferry, seen from the pier.</figcaption></figure>",
        "<figure><img src=/a.jpg><span>Image copyright The Harbour</span></figure>",
        '<div class="wp-caption"><img src=/a.jpg><p class="wp-caption-text">The ferry.</p></div>',
        "<div>The ferry, seen from the pier (Image: HARBOUR PRESS)</div>",
        "<p>Photo: Ada Byron, Harbour Press</p>",
    ],
)
def test_captions_and_credits_are_no_text_of_an_article(picture: str) -> None:
    half = "".join(f"<p>{prose(n)}</p>" for n in (1, 2))
    rest = "".join(f"<p>{prose(n)}</p>" for n in (3, 4))
    assert text_of(f"<article>{half}{picture}{rest}</article>") == WANTED


def test_a_table_in_a_figure_is_text() -> None:
    table = "<figure><table><tr><th>Year<th>Ferries<tr><td>1931<td>Twelve</table></figure>"
    assert "Twelve" in text_of(f"<article>{BODY}{table}{BODY}</article>")


def test_a_long_paragraph_that_begins_like_a_prompt_is_a_paragraph() -> None:
    paragraph = "Follow us, said the captain, and they did. " * 5
    assert paragraph.strip() in text_of(f"<article>{BODY}<p>{paragraph}</p>{BODY}</article>")


def test_cards_that_lead_to_other_pages_are_left_out_however_much_they_tell() -> None:
    cards = "".join(
        f"<div class=teaser><h4><a href=/{n}>Another story about ferry {n}</a></h4>"
        f"<p>{prose(n)}</p></div>"
        for n in range(10, 20)
    )
    assert text_of(f"<div><div>{BODY}</div><div>{cards}</div></div>") == WANTED


def test_two_cards_are_no_pattern_and_a_linked_item_of_one_line_is_no_card() -> None:
    card = "<li><a href=/1>A story about the pier</a><p>It was built of oak and iron.</p></li>"
    line = "<li><a href=/1>A story about the pier</a>, which was built of oak.</li>"
    assert len(teasers(page_of(f"<ul>{card * 3}</ul>"))) == 3
    assert teasers(page_of(f"<ul>{card * 2}</ul>")) == []
    assert teasers(page_of(f"<ul>{line * 5}</ul>")) == []


def test_cards_of_different_lists_are_not_counted_together() -> None:
    card = "<li><a href=/1>A story about the pier</a><p>It was built of oak and iron.</p></li>"
    assert teasers(page_of(f"<ul>{card * 2}</ul>" * 3)) == []


def test_headings_and_captions_of_a_page_that_is_no_article_are_kept() -> None:
    body = f"<main><h1>The ferry service</h1>{BODY}<figcaption>Our newest ferry</figcaption></main>"
    text = text_of(body, "<title>The ferry service</title>")
    assert text.startswith("The ferry service")
    assert "Our newest ferry" in text


def test_a_name_that_says_noise_is_not_believed_around_the_title() -> None:
    body = (
        '<div class="breaking-item"><h1>The ferry</h1></div>'
        f'<div class="breaking-item">{BODY}</div>'
        '<div class="footer-text">All rights are reserved by the harbour and its piers.</div>'
    )
    assert text_of(f"<div>{body}</div>") == WANTED


@pytest.mark.parametrize("name", ["widget", "paywall", "accordion-drawer", "toc_content", "promo"])
def test_a_doubtful_name_is_believed_of_links_and_not_of_prose(name: str) -> None:
    links = "".join(f"<li><a href=/{n}>Pier {n}</a> today" for n in range(8))
    text = text_of(
        f'<article><div class="{name}">{BODY}</div><div class="{name}"><ul>{links}</ul></div>'
    )
    assert text == WANTED


def test_an_article_without_any_helpful_name_is_found_among_navigation() -> None:
    menu = "".join(f"<li><a href=/{n}>Section {n}</a>" for n in range(40))
    body = f"<div><ul>{menu}</ul></div><div><div>{BODY}</div></div><div>© 2024 The Harbour</div>"
    assert text_of(body) == WANTED


def test_links_inside_sentences_stay() -> None:
    linked = (
        '<p>The <a href="/n">northern pier</a> is older than the <a href="/s">southern</a>,'
        " they say.</p>"
    )
    assert "The northern pier is older than the southern, they say." in text_of(
        f"<article>{BODY}{linked}{BODY}</article>"
    )


@pytest.mark.parametrize(
    ("address", "label", "stays"),
    [
        ("/harbours/{}", "Read how pier {} was built", False),
        ("https://other.example/{}", "Pier {} is sold to its tenants", True),
        ("//other.example/{}", "Pier {} is sold to its tenants", True),
        ("/harbours/{}", "Pier {}", True),
    ],
)
def test_paragraphs_that_but_name_pages_of_the_same_site_lead_away_however_many(
    address: str, label: str, stays: bool
) -> None:
    body = "".join(
        f"<p>{prose(n)}</p><p><a href='{address.format(n)}'>{label.format(n)}</a></p>"
        for n in range(1, 9)
    )
    lines = text_of(f"<article>{body}<p>{prose(9)}</p></article>").splitlines()
    assert [label.format(n) in lines for n in range(1, 9)] == [stays] * 8
    assert all(prose(n) in lines for n in range(1, 10))


def test_a_list_of_literature_is_left_out_and_the_notes_of_an_author_are_not() -> None:
    def page(notes: int) -> str:
        items = "".join(
            f"<li>Byron, A. ({1900 + n}). On pier {n}. Harbours, 7.</li>" for n in range(notes)
        )
        return text_of(f"<article>{BODY * 3}<div class=footnotes><ol>{items}</ol></div></article>")

    assert "On pier 3." not in page(20)
    assert "On pier 3." in page(5)


def test_comments_are_the_content_of_a_forum_only() -> None:
    posts = "".join(f'<div class="comment"><p>{prose(n)}</p></div>' for n in range(1, 5))
    page = page_of(f"<div>{BODY}</div><div id=comments>{posts.replace('Ferry', 'Boat')}</div>")
    kept = {kind: select(page, kind).kept for kind in ("article", "forum")}
    texts = {kind: " ".join(page.blocks[i].text for i in found) for kind, found in kept.items()}
    assert "Boat" not in texts["article"]
    assert "Boat 4" in texts["forum"]


@pytest.mark.parametrize(
    ("tag", "attributes", "expected"),
    [
        ("div", {"class": "postMeta"}, NOISE | CONTENT),
        ("div", {"class": "sideBar"}, NOISE),
        ("div", {"class": "site-nav main"}, NOISE | CONTENT),
        ("div", {"id": "articleBody"}, CONTENT),
        ("div", {"class": "entry_content"}, CONTENT),
        ("div", {"class": "has-sidebar no-footer"}, 0),
        ("div", {"class": "commentlist"}, COMMENTS),
        ("div", {"class": "image-caption"}, CAPTION),
        ("div", {"class": "elementor-widget"}, DOUBTFUL),
        ("div", {"role": "navigation"}, NOISE),
        ("section", {"itemprop": "articleBody"}, MAIN | CONTENT),
        ("nav", {}, FRAME | NOISE),
        ("div", {"class": None, "id": ""}, 0),
        ("div", {"class": "unsociable leftover"}, 0),
    ],
)
def test_names_are_read_by_their_words(
    tag: str, attributes: dict[str, str | None], expected: int
) -> None:
    assert cues_of(tag, attributes) == expected


def test_a_heading_is_no_prompt_for_its_first_word_alone() -> None:
    [block] = page_of("<h2>Subscribe to nothing: a manifesto</h2>").blocks
    assert not is_prompt(block, heading=True)
    assert is_prompt(block, heading=False)
    [block] = page_of("<h2>Advertisement</h2>").blocks
    assert is_prompt(block, heading=True)


def cards(count: int) -> str:
    return "".join(
        f"<div class=c{n % 7}><h3><a href=/{n}>Some story about ferry {n}</a></h3>"
        f"<p>Text {n}.</p></div>"
        for n in range(count)
    )


@pytest.mark.parametrize(
    "page",
    [
        cards(6000),
        "<div class=post><p>One, two, three, and four. " * 6000,
        "<div>" * 500 + "<p>One, two, three, and four.</p>" * 12_000,
        "<ul>" + "<li><a href=/>More of the same story</a>" * 12_000,
        "<header><div>" * 200 + "<header>x</header>" * 12_000,
        "<figure>" * 400 + "<table><tr><td>One, two, three, and four.</table>" * 6000,
        "<div class=sources>" * 400 + "<li>One, two, three, and four." * 12_000,
    ],
    ids=["cards", "unclosed", "deep", "links", "headers", "figures", "sources"],
)
def test_selecting_takes_time_in_proportion_to_the_page(page: str) -> None:
    arrays = page_of(page)
    started = time.process_time()
    for kind in ("article", "unknown"):
        select(arrays, kind)
    assert time.process_time() - started < 1.5  # 0.1 s on a quiet machine


@pytest.mark.parametrize("kind", ["article", "unknown", "forum", "product", "collection"])
@pytest.mark.parametrize(
    "body", ["", "   ", "<p></p>", "<img src=/a.png>", "x", "<h1>x</h1>", "<nav>x</nav>", "<li>"]
)
def test_a_page_with_next_to_nothing_gives_next_to_nothing(body: str, kind: str) -> None:
    page = page_of(body)
    selection = select(page, kind)
    assert all(page.blocks[i].chars for i in selection.kept)
    assert 0.0 <= selection.link_density <= 1.0
