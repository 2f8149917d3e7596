"""Markdown takes time in proportion to the page, whatever the page nests or repeats."""

import time

import pytest

from eventmesh_trio.pipeline.extract import extract_document

URL = "https://example.org/a/b"
SECONDS_PER_MB = 8.0
"""What no page may take; quadratic work takes a minute. The pages below take half a second a
megabyte on an idle machine, but the machine of the tests may be busy."""

PAGES = {
    "inline elements without end": "<p><b>x</b>" + "<span>a</span>" * 30_000,
    "marks that are opened and closed": "<p>" + "<b>a</b>b<i>c</i>" * 20_000,
    "empty marks between letters": "<p>" + "a<b></b>" * 40_000,
    "marks inside marks": "<p>" + "<b><i>a" * 200 + "</i>b</b>" * 200,
    "links in one paragraph": "<p>" + '<a href="/x">y</a> ' * 20_000,
    "breaks in one paragraph": "<p>" + "a<br>" * 40_000,
    "code with breaks": "<p><code>" + "a<br>" * 40_000,
    "backticks": "<p><code>" + "`" * 200_000 + "</code>" + "`a" * 50_000,
    "brackets": "<p>" + "[" * 100_000 + "]" * 100_000,
    "items in one list": "<ol>" + "<li>a" * 40_000,
    "lists beside lists": "<ul><li>a</ul>" * 20_000,
    "lists that are children of lists": "<ul>" * 100 + "<ul><li>a</ul>" * 10_000,
    "quotes beside quotes": "<blockquote>a</blockquote>" * 20_000,
    "nested quotes with lines": "<blockquote>" * 400 + "<pre>" + "a\n" * 50_000,
    "nested lists with lines": "<ul><li>" * 200 + "a<br>b" * 20_000,
    "cells in one row": "<table><tr>" + "<td>a" * 30_000,
    "rows that span": "<table>" + "<tr><td rowspan=60000 colspan=900>a<td>b" * 5_000,
    "rows of one cell under a wide one": "<table><tr>" + "<th>a" * 200 + "<tr><td>b" * 15_000,
    "nested tables": "<table><tr><td>a<td>b" * 120 + "<tr><td>c<td>d" * 3_000,
    "references to notes": '<p>x<a href="#n1">1</a>' * 10_000 + '<p id="n1">y<a href="#r">^</a>',
    "notes": "".join(
        f'<p><a href="#n{n}">{n}</a><p id="n{n}">y <a href="#r{n}">^</a>' for n in range(5_000)
    ),
    "terms": "<dl>" + "<dt>a<dd>b" * 15_000,
    "pictures": '<img src="/a.png" alt="b">' * 20_000,
    "pictures in nested elements": "<div><img src=/a.png>" * 480 + "<p>text" * 100,
    "formulas": "<p>" + "<math alttext='x'><mi>x</mi></math>" * 10_000,
    "lines of code in elements": "<pre>" + "<div><span>a</span></div>" * 20_000,
}


@pytest.mark.parametrize("name", PAGES)
def test_no_page_takes_more_time_than_its_size_allows(name: str) -> None:
    page = PAGES[name].encode()
    begun = time.process_time()
    document = extract_document(page, URL, mode="full")
    taken = time.process_time() - begun
    assert document.markdown
    assert taken < max(1.0, SECONDS_PER_MB * len(page) / 1e6)
