"""JSON-LD and microdata: as the standards have it, and as pages do."""

import json
import time

import pytest

from eventmesh_trio.pipeline.extract.metadata.jsonld import (
    is_type,
    names,
    read_items,
    text_of,
    types,
)
from eventmesh_trio.pipeline.extract.metadata.microdata import MAX_PROPERTIES
from eventmesh_trio.pipeline.extract.metadata.microdata import read_items as read_microdata
from eventmesh_trio.pipeline.extract.source.parse import parse

ARTICLE = '"@type": "Article", "headline": "The pump", "author": {"name": "Ada Byron"}'


def micro(markup: str) -> list[dict[str, object]]:
    found = parse(markup).css("[itemscope], [itemprop]")
    return read_microdata(list({element.mem_id: element for element in found}.values()))


@pytest.mark.parametrize(
    "script",
    [
        "{" + ARTICLE + "}",
        "[{" + ARTICLE + "}]",
        '{"@context": "x", "@graph": [{' + ARTICLE + "}]}",
        '{"@type": "WebPage", "mainEntity": {' + ARTICLE + "}}",
        "<!-- {" + ARTICLE + "} -->",
        "//<![CDATA[\n{" + ARTICLE + "}\n//]]>",
        "/* <![CDATA[ */ {" + ARTICLE + "} /* ]]> */",
        "{" + ARTICLE + ",}",
        "{" + ARTICLE + ', "list": [1, 2,, 3,], }',
        "{" + ARTICLE + "};",
        "{" + ARTICLE + "}\n{" + '"@type": "Person"}',
        "[{" + ARTICLE + '} {"@type": "Person"}]',
        "{" + ARTICLE + ', "x": "two\nlines\tand a tab"}',
        "{" + ARTICLE + r', "x": "it\'s \x escaped"}',
        "{" + ARTICLE + ', // said so\n "x": "https://gull.example/" /* and so */}',
        ("{" + ARTICLE + "}").replace('"', "&quot;"),
        "{" + ARTICLE + ', "x": "said "so" aloud", "y": 1}',
        "{" + ARTICLE + ', "articleBody": "Cut in the mid',
    ],
)
def test_json_that_is_not_quite_json_is_read(script: str) -> None:
    items = read_items([script])
    article = next(item for item in items if types(item) == ["Article"])
    assert article["headline"] == "The pump"
    assert names(article["author"]) == ["Ada Byron"]


@pytest.mark.parametrize("script", ["", "nonsense", "{", "[[[[", "null", "3", '"text"', "{}", "}{"])
def test_what_is_no_json_gives_no_article(script: str) -> None:
    assert [item for item in read_items([script]) if types(item)] == []


def test_references_are_followed_over_all_scripts_of_a_page() -> None:
    scripts = [
        json.dumps(
            {"@type": "Article", "author": [{"@id": "#ada"}], "publisher": {"@id": "#gull"}}
        ),
        json.dumps({"@graph": [{"@type": "Person", "@id": "#ada", "name": "Ada Byron"}]}),
        json.dumps({"@type": "Organization", "@id": "#gull", "name": "The Gull"}),
    ]
    article = read_items(scripts)[0]
    assert names(article["author"]) == ["Ada Byron"]
    assert names(article["publisher"]) == ["The Gull"]


def test_references_in_a_circle_come_to_an_end() -> None:
    circle = {"@type": "Person", "@id": "#a", "name": "Ada", "author": {"@id": "#a"}}
    assert names(read_items([json.dumps(circle)])[0]["author"]) == ["Ada"]


def test_questions_of_an_faq_are_not_what_a_page_is_about() -> None:
    questions = [{"@type": "Question", "name": "Why?"}]
    items = read_items([json.dumps({"@type": "FAQPage", "mainEntity": questions})])
    assert [types(item) for item in items] == [["FAQPage"]]


def test_values_may_be_lists_literals_and_markup() -> None:
    assert text_of([{"@value": "The <b>pump</b> &amp; more"}]) == "The pump & more"
    assert names([{"name": ["Ada", "Jo"]}, "Ada", {"name": {"@value": "Kim"}}]) == [
        "Ada",
        "Jo",
        "Kim",
    ]
    assert types({"@type": ["http://schema.org/Article", "schema:Report"]}) == ["Article", "Report"]


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ("application/ld+json", True),
        (" Application/LD+JSON; charset=utf-8", True),
        ("application/json", False),
        (None, False),
    ],
)
def test_the_type_of_a_script_is_compared_without_parameters(
    declared: str | None, expected: bool
) -> None:
    assert is_type(declared) is expected


# One that takes time with the square of its length takes minutes for a megabyte.
@pytest.mark.parametrize(
    "piece",
    ['"\\', "/*", "//", ",", "}{", "[", '"author":"', '"name":"', "--> ", "{", "\\", '"a":', "@id"],
)
def test_a_hostile_script_takes_time_in_proportion_to_its_length(piece: str) -> None:
    started = time.process_time()
    read_items([piece * (1_000_000 // len(piece))])
    assert time.process_time() - started < 3


def test_microdata_nests_as_its_elements_do() -> None:
    items = micro(
        '<div itemscope itemtype="https://schema.org/Article">'
        '<h1 itemprop="name headline">The pump</h1>'
        '<p itemprop="author" itemscope itemtype="https://schema.org/Person">'
        '<a itemprop="name" href="/ada">Ada <b>Byron</b></a><a itemprop="url" href="/ada">x</a></p>'
        '<i itemprop="author">Jo</i><img itemprop="image" src="/p.jpg"></div>'
        '<div itemscope itemtype="https://schema.org/Person"><b itemprop="name">Kim</b></div>'
        '<b itemprop="name">of nobody</b>'
    )
    ada = {"@type": "https://schema.org/Person", "name": "Ada Byron", "url": "/ada"}
    assert items == [
        {
            "@type": "https://schema.org/Article",
            "name": "The pump",
            "headline": "The pump",
            "author": [ada, "Jo"],
            "image": "/p.jpg",
        },
        {"@type": "https://schema.org/Person", "name": "Kim"},
    ]


def test_deep_microdata_takes_time_in_proportion_to_its_length() -> None:
    deep = "<div itemscope itemtype=x itemprop=y>" * 500 + "<b itemprop=z>w</b>" * 20_000
    started = time.process_time()
    items = micro(deep)
    assert time.process_time() - started < 3
    assert len(items) == 1
    assert MAX_PROPERTIES >= 500
