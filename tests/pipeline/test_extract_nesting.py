"""Tags that would take the parser much time, or the tree much memory, are told and left out."""

import time
from collections.abc import Iterable

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from selectolax.lexbor import LexborHTMLParser

from eventmesh_trio.pipeline.extract.source.nesting import Nesting
from eventmesh_trio.pipeline.extract.source.parse import (
    MAX_ATTRIBUTES,
    MAX_DEPTH,
    guard,
    parse,
    parse_page,
)
from eventmesh_trio.pipeline.extract.source.pruning import prune, prune_tags

DEPTH = 20
MANY = 400


def depth_of(tree: LexborHTMLParser) -> int:
    node, depth, deepest = tree.root, 0, 0
    while node is not None:
        if node.child is not None:
            node, depth = node.child, depth + 1
            deepest = max(deepest, depth)
            continue
        while node is not None and node.next is None:
            node, depth = node.parent, depth - 1
        if depth <= 0 or node is None:
            break
        node = node.next
    return deepest


def count_of(tree: LexborHTMLParser) -> int:
    return len(tree.css("*"))


@pytest.mark.parametrize(
    "unit",
    [
        "<div>",
        "<div></x>",
        "<div><!--</div>-->",
        "<div><!x </div>",
        "<div></ </div>",
        '<div><a title="</div>">x</a>',
        "<span><div></span>",
        "<b><div></b>",
        "<a><div></a>",
        "<form><div></form>",
        "<noscript><div></noscript>",
        "<ul><li>",
        "<dl><dd>",
        "<ruby><rt><div>",
        "<optgroup><option>",
        "<section><rt>",
        "<td><pre><sup>",
        "<table><tr><td>",
        "<div><table><tr><td></div>",
        "<svg><style><div></style></svg>",
        "<svg><title><div></title>",
        "<svg><foreignObject><div></svg>",
        "<math><mi><b>",
        "<p><object>",
        "<iframe></iframe ><div>",
        "<a><object><math>",
        "<svg><td><th>",
        "<svg><option>",
        "<math><button><math>",
        "<div><svg><foreignObject></div>",
        "<h2><button></h2><dl>",
        "<object><li><dt>",
        "<b><span><p></b></p><x></span>",
        "<p><xmp></xmp><x></p>",
        "<svg><g><![CDATA[></g>]]>",
        "<caption><ul></caption>",
    ],
)
def test_no_way_to_nest_goes_deeper_than_the_limit(unit: str) -> None:
    assert depth_of(LexborHTMLParser(unit * MANY)) > 3 * DEPTH  # else it would test nothing
    pruned = prune_tags(unit.encode() * MANY, DEPTH, 1000)
    # The parser adds elements of its own: html, body, tbody, and what stands in a formula.
    assert depth_of(LexborHTMLParser(pruned)) < 2 * DEPTH + 10


@pytest.mark.parametrize(
    "page",
    [
        "<p>a<p>b" * MANY,
        "<ul>" + "<li>a" * MANY + "</ul>",
        "<dl>" + "<dt>a<dd>b" * MANY + "</dl>",
        "<table>" + "<tr><td>a<td>b" * MANY + "</table>",
        "<select>" + "<option>a" * MANY + "</select>",
        "<b><p>a</b></p>" * MANY,
        "<a href=x>a" * MANY,
        "<br><img src=x><hr>" * MANY,
        "<div><p>a</div>" * MANY,
        "<svg><path/></svg><p>a</p>" * MANY,
        "<script>'<div>'</script><style><div></style><textarea><div></textarea>" * MANY,
    ],
)
def test_tags_that_others_end_do_not_count_as_open(page: str) -> None:
    assert prune_tags(page.encode(), DEPTH, 100_000) == page.encode()


_NAMES = [
    "div",
    "p",
    "a",
    "b",
    "i",
    "ul",
    "li",
    "table",
    "tr",
    "td",
    "caption",
    "colgroup",
    "svg",
    "math",
    "title",
    "desc",
    "foreignobject",
    "mi",
    "object",
    "button",
    "option",
    "optgroup",
    "select",
    "rt",
    "ruby",
    "form",
    "template",
    "nobr",
    "span",
    "h2",
    "dl",
    "dd",
    "font",
    "noscript",
    "br",
    "hr",
    "annotation-xml",
    "applet",
    "input",
]


def tags(names: Iterable[str]) -> st.SearchStrategy[str]:
    """Start tags, and half as many end tags."""
    return st.builds(
        "<{}{}>".format, st.sampled_from(("", "", "/")), st.sampled_from(sorted(names))
    )


@given(st.lists(tags(_NAMES), min_size=1, max_size=6))
@example(["<rt>", "<rt>", "</rt>", "<button>", "<math>"])
@example(["<caption>", "</caption>", "<caption>", "<ul>", "</caption>"])
@example(["<ul>", "</dd>", "<rt>", "<dd>", "<button>"])
@example(["<table>", "<b>", "<i>", "<font>", "<p>", "</b>"])
def test_whatever_is_repeated_nests_no_deeper_than_the_limit(unit: list[str]) -> None:
    pruned = prune_tags("".join(unit).encode() * MANY, DEPTH, 1000)
    assert depth_of(LexborHTMLParser(pruned)) < 2 * DEPTH + 10


# Of these the parser's tree tells what is open: it keeps what a form or a table has put elsewhere.
_PLAIN = frozenset(_NAMES) - set("table tr td caption colgroup form template a nobr".split())  # noqa: SIM905


_OTHERS = ("x", " ", "<![CDATA[</g>]]>", "<g/>", "<!-- > -->", "<xmp></i></xmp>")


@given(st.lists(st.one_of(tags(_PLAIN), st.sampled_from(_OTHERS)), max_size=24))
def test_what_is_open_is_what_the_parser_has_open(pieces: list[str]) -> None:
    page = f"<!doctype html><body>{''.join(pieces)}<last>"
    nesting = Nesting(1000, 100_000, quirks=False)
    assert prune(page.encode(), nesting) == page.encode()
    found = LexborHTMLParser(page).css_first("last")
    assume(found is not None)  # it may stand in a title
    assert found is not None
    element, chain = found, []
    while element.tag != "body":
        chain.append(element.tag.lower())
        parent = element.parent
        assert parent is not None
        element = parent
    names = [name.decode() for name in nesting.elements.stack if name]
    assert [name.partition(":")[2] or name for name in names] == chain[::-1]


@given(st.lists(st.sampled_from("<div> </div> <b> </b> <p> </p> <td> x <li> </ul>".split())))  # noqa: SIM905
def test_no_text_is_lost_and_shallow_pages_stay_as_they_are(pieces: list[str]) -> None:
    page = "".join(pieces).encode()
    assert prune_tags(page, 4, 10).count(b"x") == page.count(b"x")
    assert prune_tags(page, 1000, 100_000) == page


def test_formatting_that_is_never_ended_does_not_fill_the_memory() -> None:
    page = "".join(f"<font size={n}><p>word{n}" for n in range(1500))
    tree = parse(page)
    assert count_of(tree) < 40_000  # without the limit there are over a million
    assert tree.body is not None
    assert tree.body.text().count("word") == 1500


@pytest.mark.parametrize("value", ["", "=1", "='<>'", '="</p>"', "=<"])
def test_attributes_beyond_the_limit_are_left_out(value: str) -> None:
    page = f"<p {' '.join(f'a{n}{value}' for n in range(20_000))}>text</p>"
    began = time.process_time()
    tree = parse(page)
    assert time.process_time() - began < 0.5  # without the limit it takes more than a second
    found = tree.css_first("p")
    assert found is not None
    assert len(found.attributes) <= MAX_ATTRIBUTES
    assert "text" in found.text()


@pytest.mark.parametrize("name", ["html", "body"])
def test_attributes_that_are_added_by_further_tags_take_linear_time(name: str) -> None:
    page = "".join(f"<{name} a{n}=1>" for n in range(20_000)) + "text"
    began = time.process_time()
    tree = parse(page)
    assert time.process_time() - began < 0.5
    assert tree.body is not None
    assert tree.body.text() == "text"


@pytest.mark.parametrize(
    "unit",
    ["<a =", "<a ='", "<a =\"'", "<!--", "<!-->", "<![CDATA[", "<svg><style>", "</", "<a b='<>' "],
)
def test_the_guard_itself_takes_linear_time(unit: str) -> None:
    page = unit.encode() * (400_000 // len(unit))
    began = time.process_time()
    guard(page)
    prune_tags(page, MAX_DEPTH, 1000)
    assert time.process_time() - began < 1.5


def test_an_ordinary_page_is_not_touched() -> None:
    page = b"<div class='a b' id=c><p>One <b>two</b></p></div>" * 3000
    assert guard(page) is page


@pytest.mark.parametrize("unit", ["<td>a", "<li>a", "<p>a"])
def test_of_tags_closer_than_any_page_has_them_only_the_first_are_read(unit: str) -> None:
    page = f"<table><tr>{unit * 100_000}END"
    parsed = parse_page(page.encode())
    assert parsed.truncated
    assert 20_000 < count_of(parsed.tree) < 30_000


@pytest.mark.parametrize("unit", ["<b></b>", "<p>Some words to read in it.</p>", "<i>a</i> "])
def test_what_costs_little_is_read_to_the_end(unit: str) -> None:
    parsed = parse_page((unit * 60_000 + "END").encode())
    assert not parsed.truncated
    assert parsed.tree.body is not None
    assert parsed.tree.body.text().endswith("END")


def test_long_tables_are_not_pruned_and_deep_ones_are() -> None:
    row = b"<tr><td>Some name<td>Some place<td>Some date or other</tr>"
    table = b"<table>" + row * 3000 + b"</table>"
    assert guard(table) is table
    assert len(guard(b"<div>" * 9000)) == len(b"<div>") * MAX_DEPTH


@pytest.mark.parametrize(
    "unit",
    [
        "<font><p>x",
        '<b title=">x</b>"><p>x',
        "<i><!--</i>--><p>x",
        "<b>x</i><p>x",
        "<i><svg></svg><p>x",
        "<i><svg><!--</i>--><p>x",
    ],
)
def test_formatting_that_only_looks_ended_is_told_from_such_that_is(unit: str) -> None:
    ended = b"<p>Some <b class='a'>bold</b> or <i>italic</i> <b>words</b>.</p>" * 1500
    assert guard(ended) is ended
    assert guard(unit.encode() * 9000) != unit.encode() * 9000


def test_icons_within_formatting_are_left_alone() -> None:
    icon = (
        '<li><i class="a icon-{}"><svg role="img" ><use href="#a"></use><path d="M1"/></svg></i>x'
    )
    page = "".join(icon.format(number) for number in range(1500)).encode()
    assert guard(page) is page


@pytest.mark.parametrize(
    "unit",
    [
        "<i a{0}><svg><g><path><use></i><p>x",
        "<svg><i a{0}></svg>x</i><p>x",
        "<i a{0}><svg><b>x</b></svg>x</i><p>x",
        "<i a{0}><svg><g><path></path><use></use></g></svg></i><p>x",
    ],
)
def test_formatting_around_an_icon_is_left_alone_and_does_not_grow(unit: str) -> None:
    page = "".join(unit.format(number) for number in range(1000)).encode()
    assert guard(page) is page
    assert count_of(parse(page)) < 10_000


@pytest.mark.parametrize("name", ["g", "path", "use", "svg"])
def test_the_end_of_what_was_begun_before_formatting_does_not_open_it_again(name: str) -> None:
    attributes = " ".join(f"a{number}" for number in range(500))
    page = f"<{name}>" * 3900 + f"<i {attributes}>" + f"</{name}>x" * 3900 + "</i>"
    nodes = parse(page).css("i")
    assert sum(len(node.attributes) for node in nodes) < 10_000


def test_formatting_with_many_attributes_is_opened_again_less_often() -> None:
    attributes = " ".join(f"a{n}" for n in range(400))
    tree = parse(f"<p><a {attributes}>" + "<p>x" * 20_000)
    assert len(tree.css("p")) == 20_001
    assert len(tree.css("a")) < 1500  # each takes 25 kB
    assert len(parse("<p><a id=b>" + "<p>x" * 20_000).css("a")) > 10_000


@pytest.mark.parametrize(
    "head",
    [
        '<p ="=">" ',  # a name may begin with "=", and then have a value
        '<p a/="=">" ',
        '<p =="> " ',
        '<p ="="><i>" ',
        "<p b='><i>' c=\"d\" ",
        '<p b="c"="="> " ',
        "<p ='=\">' ",
        f"""<p b='{'x">' * 3000}' """,  # ends no tag within apostrophes
        f"""<p b='{'x">' * 300}' c='{'x">' * 700}' """,
        "<!-- <p " + " ".join(f"b{n}" for n in range(600)) + ' b=" --><p ',
        "<!-- <p " + " ".join(f"b{n}" for n in range(60)) + ' b=" --><p ',
        "<!--" + '<p b="' * 2000 + " --><p ",
        "\n<x z='<script><textarea</script><x <!--<p=\"" * 30 + "'",  # one of them hides the others
    ],
)
def test_no_attributes_are_hidden_from_the_limit(head: str) -> None:
    page = head + " ".join(f"a{n}" for n in range(20_000)) + '>text</p><i title="">x</i>'
    began = time.process_time()
    tree = parse(page)
    assert time.process_time() - began < 0.5
    assert all(len(found.attributes) <= 3 * MAX_ATTRIBUTES // 2 for found in tree.css("*"))


@pytest.mark.parametrize(
    "unit", ["<a ", '<a b="', "<a b='", "<a b=\"'", "<a b=<a ", "<a b='x\">' ", "<a " * 32 + ">"]
)
def test_tags_within_tags_are_looked_for_in_linear_time(unit: str) -> None:
    page = unit.encode() * (400_000 // len(unit))
    began = time.process_time()
    guard(page)
    assert time.process_time() - began < 1.5


@pytest.mark.parametrize("unit", ["<a", "<<b", "<a/b=", "<ab "])
@pytest.mark.parametrize("end", [">", '">', 'x="<b>" >'])
def test_a_tag_of_nothing_but_beginnings_is_read_once_not_from_each(unit: str, end: str) -> None:
    page = (unit * 500 + end + unit * 5000 + end).encode() * 10
    page = b"<x " + b" ".join(b"a%d" % n for n in range(600)) + b">" + page
    began = time.process_time()
    guard(page)
    assert time.process_time() - began < 0.5  # a megabyte of them took six seconds


def test_ends_of_scripts_within_a_tag_do_not_have_it_read_anew() -> None:
    page = b"<x z='y=\"'y=\"<p</p></script>y=\"'" * 3000 + b" ".join(
        b"a%d" % n for n in range(90_000)
    )
    began = time.process_time()
    guard(page)
    assert time.process_time() - began < 0.5  # read anew for each it would be 20


def test_what_follows_a_script_that_compares_is_not_lost() -> None:
    script = "for(i=0;i<n;i++){" + "x = y ; " * 600 + "}"
    tree = parse(f"<script>{script}</script><p title='>'>text</p>" * 20)
    assert len(tree.css("p")) == 20
    assert len(tree.css("script")) == 20


def test_a_long_value_is_not_read_anew_for_each_tag_before_it() -> None:
    page = b"<p " * 3000 + b'x="' + b"word " * 100_000 + b'<">'
    began = time.process_time()
    guard(page)
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize(
    "tags",
    [
        "".join(f"<b a{n}>" for n in range(848)),
        "".join(f"<b a{n}='{'x' * 900}'>" for n in range(848)),
        f"<b a='{'x' * 100_000}'>",
        "<b " + " ".join(f"a{n}" for n in range(5000)) + ">",
        "".join(f'<b a{n}"=">foo</b>">' for n in range(848)),
        "".join(f'<b a{n} ="=">foo</b>">' for n in range(848)),
    ],
)
def test_copies_of_what_formatting_says_do_not_fill_the_memory(tags: str) -> None:
    page = f"<p>{tags}" + "<p>word" * 848
    tree = parse(page)
    assert count_of(tree) < 40_000
    assert tree.html is not None
    assert len(tree.html) < 20_000_000  # one of these pages of a megabyte took 900 MB
    assert tree.html.count("word") == 848


def test_the_same_formatting_again_and_again_is_left_alone() -> None:
    page = b"<p><small class='price'><span><i>5</i></span><div>a</div></small></p>" * 900
    assert guard(page) is page
