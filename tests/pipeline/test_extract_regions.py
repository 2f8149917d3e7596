# ruff: noqa: E501 - markup, as it is written
"""A page but for its frame."""

import pytest

from eventmesh_trio.pipeline.extract.page.outline import Outline, outline
from eventmesh_trio.pipeline.extract.selection.regions import (
    is_control,
    link_density,
    select_region,
    strike,
)
from eventmesh_trio.pipeline.extract.source.parse import parse

SENTENCE = "The pump keeps the water out of cellars, and it does so without any noise. "


def region(markup: str, *, links: bool) -> str:
    page = outline(parse(f"<html><body>{markup}</body></html>".encode()).body)
    kept = select_region(page, strike(page), links=links).kept
    return "\n".join(page.blocks[i].text for i in kept)


def walked(markup: str) -> Outline:
    return outline(parse(markup.encode()).body)


@pytest.mark.parametrize(
    "frame",
    [
        "<nav>{}</nav>",
        "<footer>{}</footer>",
        "<header>{}</header>",
        "<button>{}</button>",
        "<form>{}</form>",
        "<aside>{}</aside>",
        "<div role=navigation>{}</div>",
        "<div role=dialog>{}</div>",
        "<div class=breadcrumbs>{}</div>",
        '<div class="plp-filters desktop">{}</div>',
        '<div class="ProductList_filtersDesktop__hrV">{}</div>',
        '<div class="site-header">{}</div>',
        "<div id=mini-cart>{}</div>",
        "<div class=comments>{}</div>",
    ],
)
def test_a_frame_is_struck_out(frame: str) -> None:
    framed = frame.format("<p>What stands in the frame.</p>")
    text = region(f"{framed}<div>{f'<p>{SENTENCE}</p>' * 8}</div>", links=True)
    assert "What stands in the frame." not in text
    assert SENTENCE.strip() in text


@pytest.mark.parametrize(
    "content",
    [
        "<section><header>{}</header></section>",
        "<div class=product-carousel>{}</div>",
        "<div class=widget>{}</div>",
        '<div class="has-sidebar">{}</div>',
        '<div class="card addToCartButton share-button">{}</div>',
    ],
)
def test_records_are_no_frame_however_they_are_shown(content: str) -> None:
    markup = content.format("<p>What is for sale.</p>")
    assert "What is for sale." in region(
        f"{markup}<div>{f'<p>{SENTENCE}</p>' * 8}</div>", links=True
    )


def test_what_is_most_of_the_page_is_content_whatever_it_is_called() -> None:
    text = region(f"<div class=menu>{f'<p>{SENTENCE}</p>' * 8}</div><p>Open daily.</p>", links=True)
    assert SENTENCE.strip() in text


def test_a_question_about_cookies_is_struck_out_however_long() -> None:
    ask = "".join(f"<p>We store cookies for reason {n}, and for others.</p>" for n in range(40))
    text = region(f"<div class=cookie-banner>{ask}</div><p>{SENTENCE}</p>", links=True)
    assert "reason" not in text
    assert SENTENCE.strip() in text


def test_links_are_the_records_of_a_list_and_lead_away_from_anything_else() -> None:
    markup = "<p><a href=/1>Pump one</a></p><p><a href=/2>Pump two</a></p><p>Both are quiet.</p>"
    assert region(markup, links=True) == "Pump one\nPump two\nBoth are quiet."
    assert region(markup, links=False) == "Both are quiet."


def test_links_in_front_of_the_first_heading_are_a_menu() -> None:
    markup = f"<p><a href=/a>About us</a></p><h1>Pumps</h1><p>{SENTENCE * 3}</p>"
    assert "About us" not in region(markup, links=True)
    late = f"<p><a href=/a>About us</a></p><p>{SENTENCE * 3}</p><h1>Pumps</h1><p>End of it.</p>"
    assert "About us" in region(late, links=True)


def test_where_every_entry_has_a_first_heading_none_is_the_title_of_the_page() -> None:
    entries = f"<h1>Rain</h1><p>{SENTENCE}</p><h1>Snow</h1><p>{SENTENCE}It is white.</p>"
    assert "Pump two" in region(f"<p><a href=/2>Pump two</a></p>{entries}", links=True)
    twice = f"<h1>Rain</h1><p>{SENTENCE}</p><h1>Rain</h1><p>{SENTENCE}It is wet.</p>"
    assert "Pump two" not in region(f"<p><a href=/2>Pump two</a></p>{twice}", links=True)


def test_a_section_about_other_pages_goes_with_all_that_is_in_it() -> None:
    others = "<div><div><h2>You may also like</h2></div><div><h3>Pump P-13</h3><p>Louder.</p></div></div>"
    markup = f"<div><h1>Pump</h1><p>{SENTENCE * 3}</p></div>{others}<p>Made in Brno.</p>"
    text = region(markup, links=False)
    assert "P-13" not in text
    assert "Louder" not in text
    assert "Made in Brno." in text
    assert "P-13" in region(markup, links=True)


def test_a_heading_inside_the_content_takes_no_more_than_itself() -> None:
    markup = f"<div><p>{SENTENCE * 3}</p><h2>Reviews</h2><p>Made in Brno.</p></div>"
    assert "Made in Brno." in region(markup, links=False)


def test_controls_counters_and_copies_are_left_out() -> None:
    markup = (
        "<p>Pump P-12</p><p>Pump P-12</p><p>(1,204)</p><p>12 reviews</p><p>Add to cart</p>"
        "<p>3 days ago</p><p>In den Warenkorb</p><p>229 EUR</p><p>More »</p>"
    )
    assert region(markup, links=True) == "Pump P-12\n229 EUR"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Read more…", True),
        ("ADD TO CART", True),
        ("Ajouter au panier", True),
        ("続きを読む", True),
        ("Read more about pumps", False),
        ("More rain is expected on Friday", False),
        ("", False),
    ],
)
def test_a_control_is_known_by_the_whole_of_its_label(text: str, expected: bool) -> None:
    assert is_control(text) is expected


def test_the_density_of_links_is_that_of_what_is_not_struck_out() -> None:
    page = walked("<body><nav><a href=/a>0123456789</a></nav><p><a href=/1>01234</a> 56789</p>")
    assert link_density(page, strike(page)) == pytest.approx(5 / 11)
    empty = walked("<body></body>")
    assert link_density(empty, strike(empty)) == 1.0


def test_a_page_that_is_all_frame_gives_nothing() -> None:
    page = walked("<body><nav><a href=/a>Home</a></nav><button>Menu</button>")
    struck = [True] * len(page.blocks)
    selection = select_region(page, struck, links=True)
    assert selection.kept == []
    assert selection.method == "none"
