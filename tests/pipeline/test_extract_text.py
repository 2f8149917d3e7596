"""Plain text: white space as a browser shows it, no words joined or lost, words by script."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventmesh_trio.pipeline.extract import extract_document
from eventmesh_trio.pipeline.extract.words import count_words, words_and_minutes

URL = "https://example.org/a/b"


def text(inner: str) -> str:
    page = f"<!DOCTYPE html><body>{inner}</body>".encode()
    return extract_document(page, URL, mode="full", charset="utf-8").text


@pytest.mark.parametrize(
    ("markup", "expected"),
    [
        ("<p>One.</p><p>Two.</p>", "One.\n\nTwo."),
        ("<h2>Title</h2><p>One.</p><ul><li>a</li><li>b</li></ul>", "Title\n\nOne.\n\na\nb"),
        ("<div>one</div><div>two</div>", "one\ntwo"),
        ("<p>Roses<br>\n  are red</p>", "Roses\nare red"),
        ("<div>one<br><br>two</div>", "one\n\ntwo"),
        ("<table><tr><td>a<td>b<tr><td>c<td>d</table>", "a\tb\nc\td"),
        ("<p> a \n\t b&nbsp;&nbsp; c </p>", "a b c"),
        ("<p>un<b>believ</b>able, <i>so</i>-<span>called</span></p>", "unbelievable, so-called"),
        ("<p>super<wbr>cali&shy;fragi&#8203;listic</p>", "supercalifragilistic"),
        ("<div>before<p>inside</p>after</div>", "before\n\ninside\n\nafter"),
        ("<pre>a\n    b\n\nc</pre>", "a\n    b\n\nc"),
        ("<p><span>a</span> <span>b</span><span> c</span></p>", "a b c"),
        ("<dl><dt>Term<dd>Meaning</dl>", "Term\nMeaning"),
        ("<p><q>Yes</q>, she said.</p>", "“Yes”, she said."),
        ("<p><ruby>漢<rp>(</rp><rt>kan</rt><rp>)</rp></ruby>字</p>", "漢(kan)字"),
        ("<details><summary>More</summary>Hidden at first</details>", "More\nHidden at first"),
        ("<p dir=rtl>שלום \u200fעולם</p>", "שלום עולם"),
        ("<p>می\u200cخواهم</p>", "می\u200cخواهم"),
        ("<p>2 &lt; 3 *a* _b_</p>", "2 < 3 *a* _b_"),
        ("<p>x<script>y</script><style>z</style><!-- w --></p>", "x"),
        ("<figure><img src=/a.png alt=A><figcaption>Caption</figcaption></figure>", "Caption"),
        ("<p>a <math><mi>x</mi><mo>+</mo><mn>1</mn></math> b</p>", "a x+1 b"),
    ],
)
def test_white_space_is_what_a_browser_shows(markup: str, expected: str) -> None:
    assert text(markup) == expected


@pytest.mark.parametrize(
    ("markup", "expected"),
    [
        ('so anyway<sup><a href="#fn1">1</a></sup> it went', "so anyway it went"),
        ('so anyway<a href="#fn1"><sup>1, 2</sup></a>; it<br>went', "so anyway; it\nwent"),
        ('it went<sup><a href="#a">12</a></sup><sup><a href="#b">13</a></sup>.', "it went."),
        ("x<sup>2</sup>, <a href=#top>up</a>", "x2, up"),  # no link
        ("x<sup><a href=/power>2</a></sup>", "x2"),  # not to a note
        ('went<sup>[<a href="#n">3</a>]</sup>', "went[3]"),  # told from the word
        ('the n<sup><a href="#th">th</a></sup> time', "the nth time"),  # no number
        ('went<sup>on <a href="#n">3</a>', "wenton 3"),  # never closed
    ],
)
def test_the_raised_number_of_a_note_is_no_part_of_the_word_before_it(
    markup: str, expected: str
) -> None:
    assert text(f"<p>{markup}</p>") == expected


def test_a_paragraph_of_nothing_but_a_reference_leaves_no_line() -> None:
    assert text('<p>a</p><p><sup><a href="#n">3</a></sup></p><p>b</p>') == "a\n\nb"


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["p", "div", "li", "td", "h3", "blockquote", "dd", "section"]),
            st.lists(
                st.tuples(
                    st.sampled_from(
                        ["b", "i", "span", "a href=/x", "code", "sup", "font", "label"]
                    ),
                    st.text(alphabet="abc \n", min_size=1, max_size=8),
                ),
                min_size=1,
                max_size=4,
            ),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_inline_elements_part_no_word_and_blocks_join_none(
    blocks: list[tuple[str, list[tuple[str, str]]]],
) -> None:
    page = ""
    words: list[str] = []
    for tag, inline in blocks:
        inner = "".join(f"<{name}>{piece}</{name.split()[0]}>" for name, piece in inline)
        outer = f"<table><tr><td>{inner}</table>" if tag == "td" else f"<{tag}>{inner}</{tag}>"
        page += outer
        words += "".join(piece for _, piece in inline).split()
    assert text(page).split() == words


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        ("It's a well-known fact.", 5),
        ("don’t stop the café", 4),
        ("cafe\u0301 noir", 2),
        ("昨日、museum に", 4),
        ("ひらがなカタカナ", 8),
        ("中文字", 3),
        ("한국어 단어 세 개", 4),
        ("हिन्दी में शब्द", 3),
        ("বাংলা ভাষা", 2),
        ("தமிழ் மொழி", 2),
        ("العَرَبِيّة لغة", 2),
        ("שָׁלוֹם עולם", 2),
        ("می\u200cخواهم بروم", 2),
        ("Привет, мир", 2),
        ("", 0),
        ("… — !", 0),
    ],
)
def test_words_are_those_of_the_script(sample: str, words: int) -> None:
    assert count_words(sample) == words


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        # Article 1 of the Universal Declaration of Human Rights, and its words.
        (
            "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ ต่างมีเหตุผลและมโนธรรม "
            "และควรปฏิบัติต่อกันด้วยเจตนารมณ์แห่งภราดรภาพ",
            28,
        ),
        ("មនុស្សទាំងអស់កើតមកមានសេរីភាព និងភាពស្មើៗគ្នាក្នុងសេចក្ដីថ្លៃថ្នូរនិងសិទ្ធិ", 16),
        ("ມະນຸດທຸກຄົນເກີດມາມີກຽດສັກສີ ສິດທິ ເສລີພາບ ແລະ ຄວາມສະເໝີພາບເທົ່າທຽມກັນ", 15),
    ],
)
def test_words_of_scripts_without_spaces_are_estimated(sample: str, words: int) -> None:
    assert abs(count_words(sample) - words) <= 0.2 * words


def test_reading_time_is_by_script() -> None:
    english = "word " * 460
    chinese = "字" * 1000
    assert words_and_minutes(english) == (460, 2)
    assert words_and_minutes(chinese) == (1000, 2)
    assert words_and_minutes(english + chinese)[1] == 4
    thai = "สวัสดีชาวโลก" * 180  # 2,160 code points: some 460 words
    assert words_and_minutes(thai)[1] == 2


def test_text_and_markdown_have_the_same_words() -> None:
    page = "<h1>One</h1><ul><li>two<li>three</ul><table><tr><th>4<th>5<tr><td>6<td>7</table>"
    document = extract_document(page.encode(), URL, mode="full")
    assert re.findall(r"\w+", document.markdown) == document.text.split()


@given(
    st.text(
        alphabet="aé1½_'’‘“—•œŠ ª\x8c …\u0301\u30fb字あŁ→\N{GRINNING FACE}\x81\ufe0f", max_size=20
    )
)
def test_words_are_the_same_in_the_quick_way_and_in_the_general_one(text: str) -> None:
    # One letter of Thai is a word that is always found in the general way.
    assert count_words(text + " \u0e01") == count_words(text) + 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("don’t stop the d'Orsay's rock'n'roll", 7),
        ("the '90s, rock'n2 and x'y_z", 7),
        ("“Smart” – and → arrows …", 3),
    ],
)
def test_an_apostrophe_joins_the_letters_after_it_once(text: str, words: int) -> None:
    assert count_words(text) == words
