"""What elements say about themselves: class names are read together, and mean what each means."""

from hypothesis import given
from hypothesis import strategies as st

from eventmesh_trio.pipeline.extract.page.cues import (
    COMMENTS,
    CONTENT,
    FRAME,
    MAIN,
    NOISE,
    cues_of,
)

_WORDS = "nav post body meta has side bar content comment read more item ad col7 no é É x2"
_WORD = st.sampled_from(_WORDS.split())
_NAME = st.one_of(
    st.lists(_WORD, min_size=1, max_size=3).map("-".join),
    st.lists(_WORD, min_size=1, max_size=3).map("_".join),
    st.lists(_WORD, min_size=1, max_size=3).map(lambda words: "".join(map(str.title, words))),
    st.text(alphabet="adnvADNV-_19é", min_size=1, max_size=8),
)


@given(st.lists(_NAME, min_size=1, max_size=5))
def test_several_names_say_what_each_of_them_says(names: list[str]) -> None:
    each = 0
    for name in names:
        each |= cues_of("div", {"class": name})
    assert cues_of("div", {"class": " ".join(names)}) == each


@given(_NAME)
def test_a_name_says_the_same_as_class_and_as_id_and_when_seen_again(name: str) -> None:
    first = cues_of("div", {"class": name})
    assert cues_of("div", {"class": name}) == first
    assert cues_of("div", {"id": name}) == first


def test_pairs_count_within_a_name_and_not_across_names() -> None:
    assert cues_of("div", {"class": "post-meta"}) & NOISE
    assert cues_of("div", {"class": "postMeta"}) & NOISE
    assert not cues_of("div", {"class": "post meta"}) & NOISE


def test_words_of_layout_silence_the_name_that_begins_with_them_alone() -> None:
    assert cues_of("div", {"class": "has-sidebar"}) == 0
    assert cues_of("div", {"class": "has-sidebar comments"}) == COMMENTS
    assert cues_of("div", {"class": "has sidebar"}) == NOISE


def test_all_attributes_that_speak_are_heard() -> None:
    attributes: dict[str, str | None] = {
        "class": "x",
        "id": "comments",
        "role": "main",
        "itemprop": "articleBody",
    }
    assert cues_of("nav", attributes) == FRAME | NOISE | COMMENTS | MAIN | CONTENT


def test_attributes_without_a_value_say_nothing() -> None:
    assert cues_of("div", {"class": None, "id": None, "role": None, "itemprop": None}) == 0


def test_a_name_beyond_those_that_are_remembered_is_read_like_the_first() -> None:
    for number in range(5000):
        cues_of("div", {"id": f"row-{number}"})
    assert cues_of("div", {"class": "sidebar"}) == NOISE
    assert cues_of("div", {"class": "sidebar " + "x" * 100_000}) == NOISE
