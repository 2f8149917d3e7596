"""What is written without runs is what runs would give: the short way is for speed alone."""

import random

import pytest

from eventmesh_trio.pipeline.extract import extract_document
from eventmesh_trio.pipeline.extract.links import resolved
from eventmesh_trio.pipeline.extract.markdown.direct import write_directly
from eventmesh_trio.pipeline.extract.markdown.inline import InlineWriter
from eventmesh_trio.pipeline.extract.page.blocks import Mark

BASE = "https://example.org/page"
TEXTS = (
    "foo", "bar ", " baz", " ", "  ", "\n", "x:", "(y)", "[z]", "!", " w. ", "\xa0z", "a*b", "_c",
    "<i>", "`", "don’t", "é", "“q”", "&amp;", "3", "\\", "a\x0cb", "\x1c", "\x85",
)  # fmt: skip
MARKS = ("a", "a", "b", "b", "i", "code", "sup")


def random_parts(chance: random.Random) -> list[str | Mark]:
    parts: list[str | Mark] = []
    opened: list[str] = []
    for _ in range(chance.randint(2, 9)):
        kind = chance.random()
        if kind < 0.5:
            parts.append(chance.choice(TEXTS))
        elif kind < 0.75:
            name = chance.choice(MARKS)
            if name not in opened:
                opened.append(name)
                address = chance.choice(("/p", "#q", "#r", "javascript:r")) if name == "a" else ""
                parts.append((name, address, ""))
        elif kind < 0.92 and opened:
            parts.append(("/" + opened.pop(), "", ""))
        elif kind < 0.96:
            parts.append(("img", chance.choice(("/i.png", "data:,")), chance.choice(("", "alt"))))
        else:
            parts.append(("br", "", ""))
    while opened and chance.random() < 0.8:
        parts.append(("/" + opened.pop(), "", ""))
    return parts


@pytest.mark.parametrize("seed", range(8))
def test_the_short_way_writes_what_the_runs_would(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    writer = InlineWriter(BASE, {"q": "1"})
    short = {}
    for _ in range(2000):
        parts = random_parts(chance)
        uniform = chance.random() < 0.2
        hard_break = chance.choice(("  \n", " ", "<br>"))
        text = "".join([part for part in parts if isinstance(part, str)])
        visible = chance.choice((None, " ".join(text.split())))  # as a block has it
        written = write_directly(writer, parts, hard_break, uniform=uniform, text=visible)
        if written is not None and len(parts) > 1:
            short[tuple(parts), uniform, hard_break] = written
    assert len(short) > 500

    monkeypatch.setattr(
        "eventmesh_trio.pipeline.extract.markdown.inline.write_directly", lambda *_, **__: None
    )
    long = {
        (parts, uniform, hard_break): writer.write(parts, uniform=uniform, hard_break=hard_break)
        for parts, uniform, hard_break in short
    }
    assert short == long


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (["see ", ("b", "", ""), "this ", ("/b", "", ""), "one"], "see **this** one"),
        ([("b", "", ""), "Note:", ("/b", "", ""), " rain"], "**Note:** rain"),
        ([("b", "", ""), ("a", "/p", ""), "x", ("/a", "", ""), ("/b", "", "")],
         "[**x**](https://example.org/p)"),
        ([("a", "/p", ""), ("img", "/i.png", "a cat"), ("/a", "", "")],
         "[![a cat](https://example.org/i.png)](https://example.org/p)"),
        (["one ", ("br", "", ""), ("i", "", ""), ("/i", "", ""), " two"], "one  \ntwo"),
        ([("b", "", ""), "x", ("/b", "", ""), "\n ", ("i", "", ""), "y", ("/i", "", "")],
         "**x** *y*"),
        (["CO", ("sup", "", ""), "2", ("/sup", "", ""), " and"], "CO<sup>2</sup> and"),
        (["so", ("sup", "", ""), ("a", "#r", ""), "3", ("/a", "", ""), ("/sup", "", "")],
         "so<sup>3</sup>"),
    ],
)  # fmt: skip
def test_what_most_blocks_are_made_of_goes_the_short_way(
    parts: list[str | Mark], expected: str
) -> None:
    assert write_directly(InlineWriter(BASE, {}), parts, "  \n", uniform=False) == expected


@pytest.mark.parametrize(
    "parts",
    [
        [("b", "", ""), "Note:", ("/b", "", ""), "rain"],
        [("b", "", ""), "x ", ("/b", "", ""), " ", ("b", "", ""), "y", ("/b", "", "")],
        [("b", "", ""), "x", ("/b", "", ""), ("sup", "", ""), "y", ("/sup", "", "")],
        [("sub", "", ""), "x", ("/sub", "", "")],
        ["a word ", ("a", "#q", ""), "1", ("/a", "", "")],
        ["two `ticks` ", ("b", "", ""), "x", ("/b", "", "")],
    ],
)
def test_marks_that_need_their_neighbours_are_left_to_the_runs(parts: list[str | Mark]) -> None:
    assert write_directly(InlineWriter(BASE, {"q": "1"}), parts, "  \n", uniform=False) is None


@pytest.mark.parametrize("before", [[], [("sup", "", ""), "2", ("/sup", "", "")]])
def test_code_in_several_pieces_of_text_is_one_span(before: list[str | Mark]) -> None:
    parts = [*before, " ", ("code", "", ""), "git ", "bisect", ("/code", "", "")]
    assert InlineWriter(BASE, {}).write(parts).endswith("`git bisect`")


@pytest.mark.parametrize(
    ("body", "written"),
    [
        (
            "<table><tr><th>a<th>b<tr><td><p><a href=/p>C:</a>\\ </p><p>b</p><td>c</table>",
            "\\\\<br>b",
        ),
        ("<dl><dt>t</dt><dd><a href=/p>C:</a>\\ </dd><dd>two</dd></dl>", "\\\\\n\ntwo"),
        ("<p>a\x0cb <a href=/p>c</a></p>", "a b [c]"),
        ("<p>a\x0cb <s>c</s></p>", "a b ~~c~~"),
        ("<table><tr><th>h<tr><td>a\x0cb</table>", "| a b |"),
    ],
)
def test_no_backslash_and_no_space_is_lost(body: str, written: str) -> None:
    assert written in extract_document(body.encode(), BASE).markdown


def test_an_address_that_is_too_long_is_none_and_is_not_remembered() -> None:
    extract_document(b"<p><a href=''>a</a> words</p>", BASE)
    known = resolved.cache_info().currsize
    page = f"<p><a href='data:{'x' * 5000}'>a</a> <img src='/{'y' * 5000}.jpg' alt=b> words</p>"
    document = extract_document(page.encode(), BASE)
    assert "a words" in document.markdown
    assert resolved.cache_info().currsize == known
