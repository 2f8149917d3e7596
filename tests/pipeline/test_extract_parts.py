"""Dates, languages, titles, authors, words: the small readers of the extractor."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventmesh_trio.pipeline.extract import extract_document
from eventmesh_trio.pipeline.extract.links import absolute
from eventmesh_trio.pipeline.extract.metadata.dates import parse_date, url_date
from eventmesh_trio.pipeline.extract.metadata.language import detect, normalise
from eventmesh_trio.pipeline.extract.page.attributes import image_source
from eventmesh_trio.pipeline.extract.source.parse import MAX_ATTRIBUTES, MAX_DEPTH, guard
from eventmesh_trio.pipeline.extract.text import MAX_HTML_BYTES, MAX_TEXT_BYTES, clean, cut
from eventmesh_trio.pipeline.extract.words import count_words, words_and_minutes
from eventmesh_trio.wire.codec import encode_json


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-05-17", "2024-05-17"),
        ("2024-05-17T08:30:00Z", "2024-05-17T08:30:00Z"),
        ("2024-05-17 08:30:00.123 +0200", "2024-05-17T08:30:00+02:00"),
        ("2024-05-17T08:30:00", "2024-05-17"),
        ("20240517", "2024-05-17"),
        ("Published: May 17th, 2024 at noon", "2024-05-17"),
        ("17 May 2024", "2024-05-17"),
        ("17. März 2024", "2024-03-17"),
        ("17 de mayo de 2024", "2024-05-17"),
        ("17 мая 2024", "2024-05-17"),
        ("2024年5月17日", "2024-05-17"),
        ("1715934600", "2024-05-17T08:30:00Z"),
        ("1715934600000", "2024-05-17T08:30:00Z"),
        ("03/04/2024", None),
        ("2024-13-40", None),
        ("2024-05-17T25:00:00Z", None),
        ("call 17 times 2024", None),
        ("", None),
        (None, None),
    ],
)
def test_dates_are_read_as_pages_write_them(text: str | None, expected: str | None) -> None:
    assert parse_date(text) == expected


@given(st.text(max_size=60))
def test_no_text_makes_the_date_reader_fail(text: str) -> None:
    parse_date(text)
    url_date("https://example.org/" + text)


def test_a_date_stands_in_many_paths() -> None:
    assert url_date("https://example.org/2024/05/17/title") == "2024-05-17"
    assert url_date("https://example.org/2024/99/17/title") is None
    assert url_date(None) is None


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("en_us", "en-US"),
        ("ZH-hant-tw", "zh-Hant-TW"),
        ("de", "de"),
        ("und", None),
        ("english", None),
        ("", None),
    ],
)
def test_language_tags_are_normalised(tag: str, expected: str | None) -> None:
    assert normalise(tag) == expected


@pytest.mark.parametrize(
    ("language", "text"),
    [
        (
            "en",
            "The museum of printing opened yesterday in the old harbour, and it was one of the first.",  # noqa: E501
        ),
        (
            "de",
            "Das Museum wurde gestern im alten Hafen eröffnet, und die ersten Gäste waren mit der Sammlung",  # noqa: E501
        ),
        (
            "fr",
            "Le musée a ouvert hier dans le vieux port, et les premiers visiteurs ont aimé la collection",  # noqa: E501
        ),
        (
            "es",
            "El museo abrió ayer en el puerto viejo, y los primeros visitantes que llegaron por la mañana",  # noqa: E501
        ),
        (
            "ru",
            "Вчера в старом порту открылся новый музей, и первые гости были рады тому, что он не закрыт",  # noqa: E501
        ),
        (
            "ja",
            "昨日、古い港に新しい博物館が開館しました。最初の来館者は収蔵品を称賛しました。とても良いです。展示は来月まで続きます。",
        ),
        (
            "zh",
            "昨天，新的博物馆在老港口开放，第一批参观者称赞了馆内的收藏品。展览将持续到下个月底，欢迎大家前来参观。",
        ),
        (
            "ko",
            "어제 오래된 항구에 새로운 박물관이 문을 열었고 첫 방문객들은 소장품을 칭찬했습니다. 전시는 다음 달까지 계속됩니다.",  # noqa: E501
        ),
        (
            "ar",
            "افتتح المتحف الجديد أمس في الميناء القديم و قد أشاد الزوار من كل مكان في هذا اليوم على هذه المجموعة التي كان",  # noqa: E501
        ),
    ],
)
def test_undeclared_languages_are_recognised(language: str, text: str) -> None:
    sample = text + " " + text
    assert detect(sample) == language
    assert extract_document(f"<p>{sample}</p>".encode()).language == language


@pytest.mark.parametrize("text", ["", "Hello", "1234 5678 " * 20, "qwrt plkj zxcv bnmf " * 20])
def test_no_language_is_invented(text: str) -> None:
    assert detect(text) is None


@pytest.mark.parametrize(
    ("head", "title"),
    [
        ("<title>A long story about it | The Site</title>", "A long story about it"),
        ("<title>Story - The Site</title><meta property=og:site_name content='The Site'>", "Story"),
        ("<title>Half - and - half</title><h1>Half - and - half</h1>", "Half - and - half"),
        ("<title>Site: Story</title><h1>Story</h1>", "Story"),
        ("<meta property='og:title' content='Shared &amp; read'><title>X</title>", "Shared & read"),
        ("<body><h1>Only a heading</h1>", "Only a heading"),
        ("<body><svg><title>Icon</title></svg><p>x", ""),
        ("<p>Nothing", ""),
    ],
)
def test_the_title_is_the_pages_own_without_its_site(head: str, title: str) -> None:
    assert extract_document(head.encode()).title == title


@pytest.mark.parametrize(
    ("markup", "author"),
    [
        ('<meta name="author" content="Ada Byron">', "Ada Byron"),
        ('<meta property="article:author" content="https://facebook.com/ada">', None),
        ('<a rel="author" href="/ada">Ada Byron</a>', "Ada Byron"),
        ('<p class="byline">By Ada Byron | 17 May 2024</p>', "Ada Byron"),
        ("<h1>Title</h1><p>By Ada Byron, May 17, 2024</p>", "Ada Byron"),
        ("<h1>Title</h1><p>Bystanders were there.</p>", None),
    ],
)
def test_authors_are_names(markup: str, author: str | None) -> None:
    assert extract_document(f"<body>{markup}<p>text</p>".encode()).author == author


def test_words_are_counted_in_every_script() -> None:
    assert count_words("It's a well-known fact.") == 5
    assert count_words("昨日、museum に") == 4
    assert (words_and_minutes(""), words_and_minutes("word")) == ((0, 0), (1, 1))
    assert words_and_minutes("word " * 2300) == (2300, 10)
    assert words_and_minutes("字" * 5000) == (5000, 10)


@given(st.text(max_size=100), st.integers(1, 50))
def test_cut_keeps_a_beginning_within_the_limit(text: str, limit: int) -> None:
    head, was_cut = cut(text, limit)
    assert len(head) <= limit
    assert text.startswith(head)
    assert was_cut == (len(text) > limit)


@given(st.text(alphabet=st.characters(codec=None), max_size=50))
def test_cleaned_text_can_always_be_encoded(text: str) -> None:
    clean(text).encode()


def test_addresses_are_normalised_and_judged_by_their_parsed_scheme() -> None:
    assert absolute("HTTP://Example.ORG/a b", None) == "http://example.org/a%20b"
    assert absolute("mailto:a@b.org", None) is None
    assert absolute("mailto:a@b.org", None, clickable=True) == "mailto:a@b.org"
    assert absolute("x" * 5000, "http://e.org/") is None
    assert absolute("\ud800", "http://e.org/") is None


@pytest.mark.parametrize("base", [None, "https://e.org/a/b?c", "http://e.org/", "nonsense"])
@pytest.mark.parametrize(
    ("href", "expected"),
    [
        ("https://x.org/../y", "https://x.org/y"),
        ("http:///x.org:80/z", "http://x.org/z"),
        ("https://\\x.org", "https://x.org/"),
        ("https://", None),
    ],
)
def test_an_address_with_a_host_is_the_same_on_every_page(
    href: str, expected: str | None, base: str | None
) -> None:
    assert absolute(href, base) == expected


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("/i/blank.gif", False),
        ("1x1.PNG?v=2", False),
        ("/i/site-pixel.svg#x", False),
        ("/i/spacer.gif?next=/photo.png", False),
        ("/i/photo.png?over=/i/spacer.gif", False),
        ("/i/megapixel.png", True),
        ("/i/blank.jpg", True),
        ("/i/blank.gif.webp", True),
        ("/i/x1x1.png", True),
    ],
)
def test_a_spacer_is_no_picture_and_what_only_sounds_like_one_is(source: str, shown: bool) -> None:
    assert image_source({"src": source}) == (source if shown else "")


def test_an_address_full_of_suffixes_is_read_in_one_pass() -> None:
    source = "/i/" + "ank.png#" * 100_000
    started = time.thread_time()
    assert image_source({"src": source}) == ""  # it is too long
    assert time.thread_time() - started < 1


def test_the_guard_leaves_ordinary_pages_alone() -> None:
    page = b"<ul>" + b"<li>item <b>x</b>" * 3000 + b"</ul>" + b"<p>one<br>two" * 3000
    assert guard(page) == page


def test_the_guard_takes_tags_out_and_no_text() -> None:
    guarded = guard(b"<div>a" * 20_000 + b"</div>" * 20_000)
    assert guarded.count(b"<div>") == MAX_DEPTH == guarded.count(b"</div>")
    assert guarded.count(b"a") == 20_000


def test_the_guard_takes_attributes_beyond_the_limit_out() -> None:
    tag = ("<p " + " ".join(f'a{n}="{n}"' for n in range(5000)) + ">text</p>").encode()
    assert guard(tag).count(b"=") == MAX_ATTRIBUTES
    assert guard(tag).endswith(b">text</p>")
    data = b'<img src="data:image/png;base64,' + b"A" * 100_000 + b'" alt="x">'
    assert guard(data) == data


def test_a_short_cut_ends_at_a_line_as_well_as_at_a_word() -> None:
    assert cut("Page 1\nThird line", 10) == ("Page 1", True)
    assert cut("one two three", 10) == ("one two", True)


@pytest.mark.parametrize(
    "piece",
    ["word ", "w\u00f6rd ", "\u0441\u043b\u043e\u0432\u043e ", "\u6f22", "\U0001f4a9", '"', "\x01"],
)
@pytest.mark.parametrize("limit", [None, 10**9])
def test_no_text_is_larger_than_what_passes_through_the_server(
    piece: str, limit: int | None
) -> None:
    text = piece * (3 * MAX_TEXT_BYTES // len(piece))
    head, was_cut = cut(text, limit)
    assert was_cut
    assert text.startswith(head)
    encoded = len(encode_json(head))
    assert encoded <= MAX_TEXT_BYTES
    widest = max(piece)
    held = len(head) * (1 if widest < "\u0100" else 2 if widest < "\U00010000" else 4)
    assert held <= 2 * MAX_TEXT_BYTES
    # Nor much less than it may be by one of the two.
    assert encoded > 0.9 * MAX_TEXT_BYTES or held > 1.9 * MAX_TEXT_BYTES
    assert cut(head, None) == (head, False)


def test_a_text_whose_front_is_longer_as_json_than_its_rest_is_cut_to_fit() -> None:
    head, was_cut = cut("\x01" * MAX_TEXT_BYTES + "x" * MAX_TEXT_BYTES, None)
    assert was_cut
    assert len(encode_json(head)) <= MAX_TEXT_BYTES
    assert set(head) == {"\x01"}


def test_half_a_surrogate_pair_is_no_trouble_for_a_cut() -> None:
    head, was_cut = cut("\ud800" * 3 * MAX_TEXT_BYTES, None)
    assert was_cut
    assert 0 < len(head) <= MAX_TEXT_BYTES


def test_a_page_that_is_asked_for_as_it_is_is_cut_to_what_one_message_can_hold() -> None:
    page = b"<p>" + b'"' * 9_000_000
    document = extract_document(page, mode="raw")
    assert isinstance(document.html, str)
    assert document.truncated is True
    assert page.decode().startswith(document.html)
    assert 0.9 * MAX_HTML_BYTES < len(encode_json(document.html)) <= MAX_HTML_BYTES
