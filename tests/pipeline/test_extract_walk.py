"""The walk: a tree becomes blocks and nodes, in order, whatever the tree."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventmesh_trio.pipeline.extract import extract_document, extract_text
from eventmesh_trio.pipeline.extract.page.elements import TEXT_ID
from eventmesh_trio.pipeline.extract.page.outline import Outline, outline
from eventmesh_trio.pipeline.extract.page.walk import is_beside
from eventmesh_trio.pipeline.extract.source.parse import parse


def page_of(body: str) -> Outline:
    return outline(parse(f"<body>{body}</body>").body)


def texts(body: str) -> list[str]:
    return [block.text for block in page_of(body).blocks]


_NAME_WORDS = """
    div p b a ul li table tr td pre code br hr img span h2 math script input q
"""
_NAMES = _NAME_WORDS.split()
SOUP = st.lists(
    st.one_of(
        st.sampled_from([f"<{name}>" for name in _NAMES]),
        st.sampled_from([f"</{name}>" for name in _NAMES]),
        st.sampled_from(['<a href="/x">', "<p hidden>", '<div class="nav item">', "<annotation>"]),
        st.text(alphabet="ab &<>\n\t\u00a0é", max_size=6),
    ),
    max_size=40,
).map("".join)


@given(SOUP)
def test_nodes_nest_and_blocks_lie_in_their_nodes(soup: str) -> None:
    page = page_of(soup)
    for index, node in enumerate(page.nodes):
        assert index < node.end_node <= len(page.nodes)
        assert 0 <= node.first_block <= node.end_block <= len(page.blocks)
        if index:
            parent = page.nodes[node.parent]
            assert node.parent < index
            assert node.end_node <= parent.end_node
            assert parent.first_block <= node.first_block
            assert node.end_block <= parent.end_block
    for index, block in enumerate(page.blocks):
        node = page.nodes[block.node]
        assert block.tag == node.tag
        assert node.first_block <= index < node.end_block
        assert block.chars == len(block.text)
        assert 0 <= block.link_chars <= block.chars
    assert page.chars_before[-1] == sum(len(block.text) for block in page.blocks)


@given(SOUP)
def test_no_text_is_lost_or_twice(soup: str) -> None:
    """Whatever the tags: letters come out in the order in which they went in."""
    visible = soup.replace("hidden", "")
    tree = parse(f"<body>{visible}</body>")
    for hidden in tree.css("script, annotation"):
        hidden.decompose()
    wanted = "".join(c for c in (tree.body.text() if tree.body else "") if c in "abé")
    found = "".join(c for text in (b.text for b in outline(tree.body).blocks) for c in text)
    assert "".join(c for c in found if c in "abé") == wanted


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("<p>one<p>two", ["one", "two"]),
        ("one<div>two</div>three", ["one", "two", "three"]),
        ("<p>a <b>b</b>\n<i>c</i> d", ["a b c d"]),
        ("<p>one<br>two<br><br>three", ["one\ntwo", "three"]),
        ("<p>one<br> <br>two", ["one", "two"]),
        ("<a href=/>one<div>two</div></a>", ["one", "two"]),
        ("<p hidden>no<p>yes<p style='display: none'>no<p aria-hidden=true>no", ["yes"]),
        ("<p hidden=until-found>found", ["found"]),
        ("<svg><text>no</text></svg><select><option>no</select>yes", ["yes"]),
        ("<pre>a\n  b</pre>", ["a\n  b"]),
        ("<p>&nbsp; a&nbsp;b ", ["a b"]),
        ("<noscript><p>no</p></noscript>yes", ["yes"]),
    ],
)
def test_blocks_are_what_a_reader_sees_as_paragraphs(body: str, expected: list[str]) -> None:
    assert texts(body) == expected


def test_noscript_is_walked_into_on_request() -> None:
    tree = parse("<body><noscript><p>served</p></noscript>yes</body>")
    assert [block.text for block in outline(tree.body, noscript=True).blocks] == ["served", "yes"]


def test_what_one_walk_learnt_of_names_is_true_in_the_next() -> None:
    """The parser gives names it does not know other numbers in every page."""
    for name in ("x-one", "x-two", "noscript", "xmp"):
        for noscript in (False, True, False):
            tree = parse(f"<body><p>before</p><{name}><p>in</p></{name}><o:p>after</o:p>")
            page = outline(tree.body, noscript=noscript)
            tags = [node.tag for node in page.nodes]
            assert (name in tags) == (noscript or name != "noscript")
            assert tags[:2] == ["body", "p"]
            assert page.blocks[0].text == "before"
            assert page.blocks[-1].text == "after"


@pytest.mark.parametrize(
    ("style", "hides"),
    [
        ("DISPLAY : None", True),
        ("color: red; visibility:hidden", True),
        ("display: block", False),
        ("", False),
    ],
)
def test_styles_hide_in_any_case(style: str, hides: bool) -> None:
    assert texts(f'<p style="{style}">maybe</p><p>yes') == (["yes"] if hides else ["maybe", "yes"])


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("/img/SPACER.GIF", False),
        ("pixel.png?x=1", False),
        ("/my-blank.svg", False),
        ("/bankblank.gif", True),
        ("/blank.gift", True),
    ],
)
def test_pictures_that_only_keep_a_place_are_none(source: str, shown: bool) -> None:
    [block] = page_of(f'<p>text <img src="{source}">').blocks
    assert bool(block.images) == shown


def test_a_tree_without_a_body_gives_empty_arrays() -> None:
    page = outline(None)
    assert (page.blocks, page.nodes, page.chars_before) == ([], [], [0])


def test_links_and_their_characters_are_counted_in_every_block_they_reach() -> None:
    [first, second] = page_of('<a href="/x">one <div>three</div></a>').blocks
    assert (first.links, first.link_chars, second.links, second.link_chars) == (1, 3, 1, 5)


def test_an_annotation_without_text_is_no_trouble() -> None:
    assert texts("<p><math><mi>x</mi><annotation></annotation></math> is one") == ["x is one"]


@pytest.mark.parametrize(
    "body",
    [
        "<div>" * 500 + "<p>text</p>" * 20_000,
        "<p>" + "<br>" * 60_000,
        "<p>" + " <b> </b>" * 30_000,
        "<math>" + "<annotation>x</annotation>" * 20_000,
        "<pre>" + "<div>line</div>" * 20_000,
        '<a href="/">' + "<p>text" * 20_000,
        "<b>" * 500 + "<div>text</div>" * 20_000,
    ],
    ids=["deep", "breaks", "spaces", "annotations", "lines", "link", "marks"],
)
def test_walking_takes_time_in_proportion_to_the_page(body: str) -> None:
    tree = parse(f"<body>{body}</body>")
    started = time.process_time()
    outline(tree.body)
    assert time.process_time() - started < 1.5  # 0.1 s on a quiet machine


def test_blocks_share_no_more_marks_than_emphasis_has_kinds() -> None:
    page = page_of("<b>" * 300 + "<div>text</div>" * 50)
    assert len(page.blocks) == 50
    assert max(len(block.parts) for block in page.blocks[1:-1]) < 20


def test_the_number_of_text_is_that_of_the_parser() -> None:
    body = parse("<body>words<p>more</p></body>").body
    assert body is not None
    numbers = {node.tag: node.tag_id for node in body.traverse(include_text=True)}
    assert numbers["-text"] == TEXT_ID
    assert TEXT_ID not in (numbers["p"], numbers["body"])


@pytest.mark.parametrize("tag", ["div", "p", "a", "span", "b", "td", "li"])
@pytest.mark.parametrize(
    "attribute",
    ["hidden", "aria-hidden=true", "style='DISPLAY : none'", "class=x style='visibility:hidden'"],
)
def test_hidden_elements_of_every_kind_are_left_out(tag: str, attribute: str) -> None:
    inner = f"<{tag} {attribute}>not shown</{tag}>"
    around = f"<table><tr>{inner}</tr></table>" if tag == "td" else f"<div>{inner}</div>"
    assert texts(f"<p>before</p>{around}<p>after</p>") == ["before", "after"]
    shown = inner.replace(attribute, "class=x style='display:block'")
    assert "not shown" in texts(f"<p>before</p>{around.replace(inner, shown)}<p>after</p>")


_PROSE = "A sentence with a few words in it, as it stands on many pages. " * 8


def test_a_navigation_that_is_skimmed_is_one_block_and_its_links_are_counted() -> None:
    body = f"<nav><ul><li><a href=/a>One</a><li>Two</ul></nav><p>{_PROSE}</p><footer>F<p>G</footer>"
    page = outline(parse(body).body, skim=True)
    assert [block.text for block in page.blocks] == ["One Two", _PROSE.strip(), "F G"]
    assert page.skimmed == [0, 2]
    assert page.blocks[0].link_chars == len("One")
    assert page.nodes[1].end_node == 2


def test_a_navigation_that_is_much_of_the_page_is_not_skimmed() -> None:
    body = f"<nav><p>{_PROSE}</p><p>More</p></nav><p>{_PROSE}</p>"
    page = outline(parse(body).body, skim=True)
    assert [block.text for block in page.blocks] == [_PROSE.strip(), "More", _PROSE.strip()]
    assert page.skimmed == []


def test_a_long_navigation_is_not_skimmed_lest_the_page_be_walked_twice() -> None:
    body = f"<nav><p>{_PROSE * 6}</p></nav><p>{_PROSE * 99}</p><nav>Home</nav>"
    page = outline(parse(body).body, skim=True, noise=is_beside)
    assert page.skimmed == [2]
    assert page.nodes[1].end_node == 3


def test_navigation_that_is_all_of_a_page_is_shown_block_by_block() -> None:
    links = "".join(f"<nav><a href=/{i}>Item {i}</a><p>Words</p></nav>" for i in range(9))
    document = extract_document(f"<body>{links}</body>".encode(), "http://a.example/", mode="full")
    assert document.text.split("\n\n")[:3] == ["Item 0", "Words", "Item 1"]


_AD = "<div class='ads {}'><ul><li><a href=/x>Buy this</a><li>and that</ul></div>"


def test_noise_that_is_skimmed_is_one_block_and_its_links_are_counted() -> None:
    body = parse(f"<body>{_AD}<p>{_PROSE}</p><aside><p>beside</p></aside></body>").body
    page = outline(body, skim=True, noise=is_beside)
    assert [block.text for block in page.blocks] == ["Buy this and that", _PROSE.strip(), "beside"]
    assert page.skimmed == [0, 2]
    assert (page.blocks[0].links, page.blocks[0].link_chars) == (1, len("Buy this"))
    assert [node.tag for node in page.nodes] == ["body", "div", "p", "aside"]
    assert outline(body, skim=True).skimmed == []


@pytest.mark.parametrize(
    "noise",
    [
        f"<div class=ads><p>{_PROSE * 4}</p></div>",
        "<div class=sidebar><h1>The title</h1><p>more</p></div>",
        "<main class=sidebar><p>more</p></main>",
        "<aside class=note><p>more</p></aside>",
    ],
    ids=["long", "around the heading", "main", "note"],
)
def test_what_may_be_more_than_its_name_says_is_not_skimmed(noise: str) -> None:
    page = outline(
        parse(f"<body>{noise}<p>{_PROSE * 8}</p></body>").body, skim=True, noise=is_beside
    )
    assert page.skimmed == []
    assert "p" in [node.tag for node in page.nodes[1:-1]]


@pytest.mark.parametrize("element", ["div class=ads", "nav"])
def test_elements_inside_each_other_are_not_read_again_and_again_to_be_skimmed(
    element: str,
) -> None:
    nested = f"<{element}>" * 500 + "<p>words</p>" * 40_000
    body = parse(f"<body>{nested}</body>").body
    started = time.process_time()
    outline(body, skim=True, noise=is_beside)
    assert time.process_time() - started < 2  # 0.2 s on a quiet machine


_KINDS = st.sampled_from(["", "article", "product", "product.group"])
_PARTS = st.sampled_from(
    [
        f"<p>{_PROSE}</p>",
        "<h1>The title</h1>",
        "<h2>More</h2>",
        "<p>A short line.</p>",
        _AD,
        "<div class=comments><p>I have an opinion, too, and it is long.</p></div>",
        f"<aside><p>{_PROSE}</p></aside>",
        f"<section class=related><p>{_PROSE * 3}</p><a href=/y>Another story</a></section>",
        "<div class='page-header'><h1>The title</h1><p>By A. Person</p></div>",
        "<nav><a href=/>Home</a></nav>",
        "<div class=sidebar><h3>Offers</h3><ul><li><a href=/z>A pier</a><li>A buoy</ul></div>",
        f"<div class='cookie-consent'><p>{_PROSE}</p></div>",
        "<ul class=menu><li><a href=/a>Harbours</a><li><a href=/b>Ferries</a></ul>",
        "<div class=records>" + "<div><a href=/r>A record</a><p>What it says.</p></div>" * 6,
        "</div>",
    ]
)


@given(_KINDS, st.lists(_PARTS, min_size=1, max_size=12))
def test_the_text_alone_is_that_of_the_document(kind: str, parts: list[str]) -> None:
    head = f'<meta property="og:type" content="{kind}">'
    page = f"<html><head>{head}</head><body>{''.join(parts)}</body></html>".encode()
    assert extract_text(page) == extract_document(page).text
