"""What a page says about itself: every source alone, and who wins where they disagree."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventmesh_trio.pipeline.extract import extract_document
from eventmesh_trio.pipeline.extract.metadata.dates import (
    is_day_first,
    local_form,
    parse_date,
    url_date,
)
from eventmesh_trio.pipeline.extract.metadata.metadata import (
    Metadata,
    complete,
    read_kind,
    read_metadata,
)
from eventmesh_trio.pipeline.extract.page.outline import outline
from eventmesh_trio.pipeline.extract.source.parse import parse

URL = "https://gull.example/2023/04/05/pump"


def read(head: str, body: str = "", url: str | None = None) -> Metadata:
    tree = parse(f"<html><head>{head}</head><body>{body}</body></html>")
    page = outline(tree.body, signed=True)
    return complete(read_metadata(tree, url, page), page)


def ld(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return f'<script type="application/ld+json">{text}</script>'


# --- each source alone ---------------------------------------------------------------------------


def test_json_ld_alone_tells_everything() -> None:
    found = read(
        ld(
            {
                "@context": "https://schema.org",
                "@type": "NewsArticle",
                "headline": "The pump gives up",
                "author": [{"@type": "Person", "name": "Ada Byron"}, {"name": "Jo Marsh"}],
                "datePublished": "2024-05-17T08:30:00+02:00",
                "dateModified": "2024-05-18",
                "publisher": {"@type": "Organization", "name": "The Gull"},
                "description": "A flood, and a pump.",
                "inLanguage": "en-GB",
                "image": [{"@type": "ImageObject", "url": "/pump.jpg"}],
                "keywords": ["flood", "pumps, water"],
            }
        ),
        url=URL,
    )
    assert (found.title, found.author) == ("The pump gives up", "Ada Byron, Jo Marsh")
    assert (found.date, found.modified) == ("2024-05-17T08:30:00+02:00", "2024-05-18")
    assert (found.site_name, found.description) == ("The Gull", "A flood, and a pump.")
    assert (found.language, found.image) == ("en-GB", "https://gull.example/pump.jpg")
    assert found.tags == ("flood", "pumps", "water")
    assert (found.page_type, found.kind) == ("article", "article")
    assert found.has_article_jsonld


def test_open_graph_alone_tells_everything() -> None:
    values = {
        "og:title": "The pump gives up",
        "og:site_name": "The Gull",
        "og:description": "A flood, and a pump.",
        "og:image": "https://gull.example/pump.jpg",
        "og:url": "https://gull.example/pump",
        "og:locale": "en_GB",
        "og:type": "article",
        "article:author": "Ada Byron",
        "article:published_time": "2024-05-17T08:30:00Z",
        "article:modified_time": "2024-05-18T00:00:00Z",
        "article:tag": "flood",
    }
    found = read("".join(f'<meta property="{k}" content="{v}">' for k, v in values.items()))
    assert (found.title, found.author, found.site_name) == (
        "The pump gives up",
        "Ada Byron",
        "The Gull",
    )
    assert (found.date, found.modified) == ("2024-05-17T08:30:00Z", "2024-05-18T00:00:00Z")
    assert (found.description, found.image) == (values["og:description"], values["og:image"])
    assert (found.canonical_url, found.language) == ("https://gull.example/pump", "en-GB")
    assert (found.page_type, found.tags, found.has_opengraph) == ("article", ("flood",), True)


def test_dublin_core_alone_tells_everything() -> None:
    values = {
        "DC.title": "Of pumps",
        "DC.creator": "Ada Byron",
        "DC.date.issued": "2024-05-17",
        "DCTERMS.modified": "2024-05-18",
        "DC.description": "A study.",
        "DC.publisher": "The Gull",
        "DC.language": "en",
        "DC.subject": "pumps; floods",
    }
    found = read("".join(f'<meta name="{k}" content="{v}">' for k, v in values.items()))
    assert (found.title, found.author, found.site_name) == ("Of pumps", "Ada Byron", "The Gull")
    assert (found.date, found.modified) == ("2024-05-17", "2024-05-18")
    assert (found.description, found.language) == ("A study.", "en")
    assert found.tags == ("pumps", "floods")


def test_twitter_cards_alone_tell_title_description_image_and_author() -> None:
    found = read(
        '<meta name="twitter:title" content="The pump"><meta name="twitter:image" content="/p.jpg">'
        '<meta name="twitter:description" content="A flood.">'
        '<meta name="twitter:label1" content="Written by"><meta name="twitter:data1" content="Jo">'
        '<meta name="twitter:label2" content="Time"><meta name="twitter:data2" content="3">',
        url=URL,
    )
    assert (found.title, found.description, found.author) == ("The pump", "A flood.", "Jo")
    assert found.image == "https://gull.example/p.jpg"


def test_microdata_alone_tells_author_and_dates() -> None:
    found = read(
        "",
        '<article itemscope itemtype="https://schema.org/BlogPosting">'
        '<h1 itemprop="headline">The pump</h1>'
        '<div itemprop="author" itemscope itemtype="https://schema.org/Person">'
        '<a itemprop="url" href="/ada"><span itemprop="name">Ada Byron</span></a> Editor</div>'
        '<time itemprop="datePublished" datetime="2024-05-17">today</time>'
        '<meta itemprop="dateModified" content="2024-05-18">'
        '<meta itemprop="keywords" content="flood"></article>',
    )
    assert (found.title, found.author, found.page_type) == ("The pump", "Ada Byron", "article")
    assert (found.date, found.modified, found.tags) == ("2024-05-17", "2024-05-18", ("flood",))
    assert not found.has_article_jsonld


def test_the_teasers_of_a_list_are_not_what_a_page_is_about() -> None:
    teaser = (
        '<article itemscope itemtype="https://schema.org/BlogPosting">'
        '<h2 itemprop="headline">Story {0}</h2><span itemprop="author">Author {0}</span>'
        '<time itemprop="datePublished" datetime="2024-05-0{0}"></time></article>'
    )
    page = "<h1>All stories</h1>" + "".join(teaser.format(n) for n in range(1, 6))
    found = read("<title>All stories</title>", page)
    assert (found.title, found.author, found.page_type) == ("All stories", None, None)
    dated = "<div itemscope itemtype=Event><meta itemprop=date content=2024-05-01></div>"
    assert read("<title>All</title>", dated * 3).date is None


@pytest.mark.parametrize(
    ("body", "author", "date"),
    [
        ("<p class=byline>By <a>Ada Byron</a> | May 17, 2024</p>", "Ada Byron", "2024-05-17"),
        ("<div class=meta><span class=author-name>Ada Byron</span></div>", "Ada Byron", None),
        ("<a href=/authors/ada>Ada Byron</a>", "Ada Byron", None),
        ("<a rel=author href=/ada>Ada Byron</a>", "Ada Byron", None),
        ("<h1>Pump</h1><p>Von Ada Byron</p><p>17. Mai 2024</p>", "Ada Byron", "2024-05-17"),
        ("<h1>Pump</h1><p>Par Ada Byron</p><p>17 mai 2024</p>", "Ada Byron", "2024-05-17"),
        ("<span class=entry-date>17.05.2024</span>", None, "2024-05-17"),
        ("<article><time datetime=2024-05-17>a year ago</time></article>", None, "2024-05-17"),
        ("<div class=comments><b class=author>Troll</b><time>2024-05-17</time></div>", None, None),
        ("<aside><span class=author>Other</span></aside>", None, None),
        ("<p class=author>About the author</p>", None, None),
        ("<p class=post_author>Ada Byron</p>", "Ada Byron", None),
        ("<a class=Author-Name href=x>Ada Byron</a><i class=pubDate>17 May 2024</i>", "Ada Byron",
         "2024-05-17"),
        ("<pre><span class=author>Ada Byron</span></pre>", "Ada Byron", None),
        ("<p class=author hidden>Other</p><time aria-hidden=true>2024-05-17</time>", None, None),
        ("<time class=x>2024-05-17</time>" * 3000, None, "2024-05-17"),
    ],
)  # fmt: skip
def test_the_visible_page_tells_what_is_not_declared(
    body: str, author: str | None, date: str | None
) -> None:
    found = read("<title>Pump</title>", body)
    assert (found.author, found.date) == (author, date)


def test_the_first_post_of_a_thread_dates_it() -> None:
    posts = "<ul class=replies><li>May 17, 2024 at 3:15 pm</li><li>May 18, 2024</li></ul>"
    assert read("<title>Pump</title>", posts, "https://gull.example/topic/7").date == "2024-05-17"
    assert read("<title>Pump</title>", posts, "https://gull.example/pump").date is None


def test_icons_and_addresses_follow_the_base_and_never_lead_to_a_script() -> None:
    page = (
        "<head><base href=/deep/><link rel='shortcut icon' href=i.png>"
        "<link rel=canonical href='javascript:alert(1)'><meta property=og:url content=pump>"
        "<meta property=og:image content='data:image/png;base64,AA'><title>Pump</title></head>"
    )
    document = extract_document(page.encode(), URL)
    assert document.favicon == "https://gull.example/deep/i.png"
    assert document.canonical_url == "https://gull.example/deep/pump"
    assert document.image is None


# --- who wins ------------------------------------------------------------------------------------


def test_structured_data_wins_over_the_head_for_author_and_date() -> None:
    found = read(
        '<meta name=author content="Desk"><meta name=date content=2020-01-01>'
        + ld({"@type": "Article", "author": "Ada Byron", "datePublished": "2024-05-17"}),
        "<p class=byline>By Somebody Else, May 1, 2021</p>",
        URL,
    )
    assert (found.author, found.date) == ("Ada Byron", "2024-05-17")


def test_the_head_wins_over_the_address_and_the_address_over_the_text() -> None:
    text = "<time datetime=2021-01-01></time>"
    assert read("<meta name=date content=2022-02-02>", text, URL).date == "2022-02-02"
    assert read("", text, URL).date == "2023-04-05"
    assert read("", text, "https://gull.example/pump").date == "2021-01-01"


def test_a_person_in_the_text_wins_over_a_site_that_declares_itself_its_author() -> None:
    head = '<meta property=og:site_name content="The Gull"><meta name=author content="The Gull">'
    assert read(head, "<h1>Pump</h1><p>By Ada Byron</p>").author == "Ada Byron"
    assert read(head, "<h1>Pump</h1><p>No name</p>").author == "The Gull"


def test_what_is_written_for_sharing_wins_for_description_and_image() -> None:
    found = read(
        '<meta property=og:description content="Shared"><meta name=description content="Searched">'
        "<meta property=og:image content=/shared.jpg>"
        + ld({"@type": "Article", "description": "Described", "image": "/described.jpg"}),
        url=URL,
    )
    assert (found.description, found.image) == ("Shared", "https://gull.example/shared.jpg")


def test_of_several_articles_the_one_with_the_pages_title_is_meant() -> None:
    stories = [
        {"@type": "NewsArticle", "headline": "Another", "author": "Wrong"},
        {"@type": "NewsArticle", "headline": "The pump", "author": "Right"},
    ]
    assert read("<title>The pump</title>" + ld(stories)).author == "Right"


def test_a_page_that_tells_only_when_it_changed_is_dated_so() -> None:
    found = read("", "<h1>Pump</h1><p>Last updated: 17 May 2024</p>")
    assert (found.date, found.modified) == ("2024-05-17", "2024-05-17")
    found = read("", "<h1>Pump</h1><p>Published 1 May 2024. Updated 17 May 2024</p>")
    assert found.date == "2024-05-01"


def test_the_day_is_the_publishers_own_where_the_page_gives_its_offset() -> None:
    found = read(
        '<meta property=article:published_time content="2024-05-16T23:00:00-05:00">'
        + ld({"@type": "Article", "datePublished": "2024-05-17T04:00:00Z"})
    )
    assert found.date == "2024-05-16T23:00:00-05:00"
    assert local_form("2024-05-17T04:00:00Z", ["2024-05-17T04:00:00+02:00", "2024-05-16"]) == (
        "2024-05-17T04:00:00Z"
    )


# --- titles --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "body", "title"),
    [
        ("<title>Pumps - The Gull</title>", "<h1>Pumps</h1>", "Pumps"),
        ("<title>Pumps - All - The Gull</title>", "<h1>Pumps - All</h1>", "Pumps - All"),
        ("<title>Which? - Page 3 - Forum</title>", "<h1>Forum</h1><h2>Which?</h2>", "Which?"),
        ("<title>Usage — Pumps 2.3 manual</title>", "<h1>Usage<a href=#u>¶</a></h1>", "Usage"),
        ("<title>Pump | Buy</title>", "<h1>Pump<br></h1>", "Pump"),
        ("<title>7 pumps for a plot</title>", "<h1>Pumps for my plot</h1>", "Pumps for my plot"),
        ("<title>Pumps and floods | The Gull</title>", "<h1>Menu</h1>", "Pumps and floods"),
        ("<title>Rain, at last - My Own Club</title>", "<h1>My Own Club</h1>", "Rain, at last"),
        ("<title>Home</title><meta property=og:site_name content='The Gull'>", "", "The Gull"),
        ("<svg><title>Logo</title></svg>", "<h1>Pumps</h1>", "Pumps"),
        ("<meta property=og:title content='Pumps &amp;amp; floods'>", "", "Pumps & floods"),
        ("", "<h2>Only this</h2>", "Only this"),
        ("", "<p>Nothing</p>", ""),
    ],
)  # fmt: skip
def test_titles_are_what_readers_call_the_page(head: str, body: str, title: str) -> None:
    assert read(head, body).title == title


def test_a_site_is_known_by_its_host_too() -> None:
    page = "<title>Big Pump Co - Acme Waterworks of Southern Norway</title>"
    assert read(page, url="https://www.acmewaterworks.example/").title == "Big Pump Co"


# --- dates ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("03/04/2024", "en-GB", "2024-04-03"),
        ("03/04/2024", "en-US", "2024-03-04"),
        ("03/04/2024", "fr", "2024-04-03"),
        ("03/04/2024", "en", None),
        ("23/04/2024", None, "2024-04-23"),
        ("04/23/2024", None, "2024-04-23"),
        ("23.04.2024", None, "2024-04-23"),
        ("10.11.15 15:34 UTC", None, "2015-11-10"),
        ("Version 10.11.15", None, None),
        ("version 1.2.3.2024", None, None),
        ("17th of May 2024", None, "2024-05-17"),
        ("17-May-2024", None, "2024-05-17"),
        ("1er mai 2024", None, "2024-05-01"),
        ("17 Mayıs 2024", None, "2024-05-17"),
        ("17 مايو 2024", None, "2024-05-17"),
        ("17 Μαΐου 2024", None, "2024-05-17"),
    ],
)
def test_dates_are_read_as_the_language_of_the_page_writes_them(
    text: str, language: str | None, expected: str | None
) -> None:
    assert parse_date(text, day_first=is_day_first(language)) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/2024/05/17/pump", "2024-05-17"),
        ("/2024/may/17/pump", "2024-05-17"),
        ("/20240517/pump", "2024-05-17"),
        ("/2024-05-17-pump", "2024-05-17"),
        ("/202051/pump", None),
        ("/2024/05/pump", None),
        ("/2024/13/45/pump", None),
    ],
)
def test_dates_in_addresses(path: str, expected: str | None) -> None:
    assert url_date("https://gull.example" + path) == expected


# --- no page is too broken -----------------------------------------------------------------------


@given(st.text(max_size=300), st.text(max_size=60), st.text(max_size=60))
def test_no_declaration_makes_the_reader_fail(script: str, name: str, value: str) -> None:
    quoted = value.replace('"', "&quot;")
    found = read(
        f'{ld(script)}<meta name="{name}" content="{quoted}">'
        f'<meta property="og:title" content="{quoted}"><meta name="date" content="{quoted}">',
        f'<div itemscope itemtype="{name}"><b itemprop="{name}">{value}</b></div>',
        URL,
    )
    assert isinstance(found.title, str)


def test_the_kind_alone_is_the_same_as_with_everything() -> None:
    page = ld({"@type": "Product", "name": "Pump"}) + "<meta property=og:type content=product>"
    tree = parse(page)
    assert (
        read_kind(tree, URL).kind == read_metadata(tree, URL, outline(tree.body)).kind == "product"
    )
