"""The confidence of a document: higher where its text is surely the page's, all of it."""

import pytest

from eventmesh_trio.abc import ExtractionScores
from eventmesh_trio.pipeline.extract import extract_page, extract_text
from eventmesh_trio.pipeline.extract.confidence import confidence

URL = "https://gull.example/pump"
SENTENCE = "The old pump gave up on the night of the flood, when the village needed it most. "
HEAD = "<!DOCTYPE html><html><head><title>The pump</title></head><body>"
NAV = "<nav><a href=/>Home</a> <a href=/news>News</a></nav>"
PARAGRAPHS = "".join(f"<p>Part {n}. {SENTENCE * 3}</p>" for n in range(8))
ARTICLE = f"{HEAD}{NAV}<article><h1>The pump</h1>{PARAGRAPHS}</article></body></html>"
LINKS = (
    f"{HEAD}<main><ul>"
    + "".join(
        f"<li><a href=/{n}>Another story about the pump, number {n}</a></li>" for n in range(60)
    )
    + "</ul></main></body></html>"
)
SHELL = (
    f"{HEAD}<div id=root><p>Please enable JavaScript to run this application.</p></div>"
    "<script>render()</script></body></html>"
)
GOODS = (
    f"{HEAD}<h1>Pumps</h1><div>"
    + "".join(
        f"<div class=item><b>Pump {n}</b> <span>19.{n}</span> <a href=/{n}>Details</a></div>"
        for n in range(10, 60)
    )
    + "</div></body></html>"
)
CUT = ARTICLE[: ARTICLE.index("Part 3.") + 200]


def quality(page: str) -> int:
    return extract_page(page.encode(), URL).document.quality_score


def test_an_article_in_one_piece_is_trusted() -> None:
    assert quality(ARTICLE) >= 95


@pytest.mark.parametrize("page", [CUT, LINKS, SHELL, GOODS], ids=["cut", "links", "shell", "goods"])
def test_what_is_no_whole_article_is_trusted_less(page: str) -> None:
    assert quality(page) <= quality(ARTICLE) - 20


def test_a_shell_that_a_script_would_fill_is_trusted_least() -> None:
    assert quality(SHELL) < min(map(quality, (CUT, LINKS, GOODS)))
    assert quality(f"{HEAD}<div id=root></div></body></html>") == 0


def test_pages_without_end_tags_are_not_cut_if_their_last_sentence_has_an_end() -> None:
    assert quality(ARTICLE.replace("</body></html>", "")) == quality(ARTICLE)


def test_an_article_between_which_much_was_left_out_is_trusted_less() -> None:
    menu = "<nav><ul>" + "<li><a href=/x>Somewhere else entirely</a></li>" * 12 + "</ul></nav>"
    pieces = "".join(f"<p>{SENTENCE * 2}</p>{menu}" for _ in range(8))
    page = f"{HEAD}<article><h1>The pump</h1>{pieces}</article></body></html>"
    assert quality(page) < quality(ARTICLE)


def test_the_score_is_what_the_measurements_say() -> None:
    whole = ExtractionScores(text_chars=900, length=1.0, prose=1.0, continuity=1.0, trust=1.0)
    half = ExtractionScores(text_chars=900, length=1.0, prose=0.8, continuity=0.5, trust=1.0)
    short = ExtractionScores(text_chars=75, length=0.5, prose=0.8, continuity=0.5, trust=0.9)
    assert [confidence(scores) for scores in (whole, half, short)] == [100, 70, 32]


def test_the_measurements_are_told_with_the_extraction() -> None:
    scores = extract_page(ARTICLE.encode(), URL).scores
    assert scores is not None
    assert scores.text_chars == len(extract_text(ARTICLE.encode(), URL))
    assert (scores.length, scores.continuity, scores.trust) == (1.0, 1.0, 1.0)
    assert 0.95 < scores.prose <= 1.0


@pytest.mark.parametrize("page", [ARTICLE, LINKS, GOODS, CUT, "", "<p>x", "\x89PNG\r\n\x1a\n"])
def test_the_text_alone_is_that_of_the_document(page: str) -> None:
    body = page.encode("latin-1")
    if page.startswith("\x89"):
        assert extract_text(body, URL) == ""
    else:
        assert extract_text(body, URL) == extract_page(body, URL).document.text
