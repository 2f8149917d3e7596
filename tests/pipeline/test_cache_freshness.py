"""How long a response may be used, as RFC 9111 has it."""

import time
from email.utils import formatdate

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventmesh_trio.abc import Fields, Page, Validators
from eventmesh_trio.pipeline.caching.freshness import (
    confirmed,
    entry_of,
    freshness_of,
    is_confirmation,
    may_be_kept,
)
from eventmesh_trio.pipeline.caching.limits import CacheLimits
from eventmesh_trio.testing import make_extraction, make_page
from tests.helpers.entries import EPOCH as NOW

DEFAULT = 1234.0
LIMITS = CacheLimits(default_fresh_seconds=DEFAULT, max_fresh_seconds=1e9)


def at(seconds: float) -> str:
    """A date so long after now, as HTTP writes it."""
    return formatdate(NOW + seconds, usegmt=True)


def fields(*lines: str) -> Fields:
    """Header fields from lines, as a fetch gives them."""
    split = (line.partition(":") for line in lines)
    return tuple(
        (name.strip().lower().encode(), value.strip().encode()) for name, _, value in split
    )


def seconds(*lines: str, limits: CacheLimits = LIMITS) -> float:
    return freshness_of(fields(*lines), NOW, limits) - NOW


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        # Nothing is said (4.2.2: a heuristic, which is ours).
        ([], DEFAULT),
        (["Cache-Control: public"], DEFAULT),
        (["Cache-Control:"], DEFAULT),
        (['ETag: "a"'], DEFAULT),
        (["Age: 100"], DEFAULT),
        # max-age and s-maxage (5.2.2.1, 5.2.2.10)
        (["Cache-Control: max-age=60"], 60),
        (["Cache-Control: MAX-AGE=60"], 60),
        (["Cache-Control: public, max-age=60"], 60),
        (["Cache-Control: public", "Cache-Control: max-age=60"], 60),
        (['Cache-Control: max-age="60"'], 60),
        (["Cache-Control: max-age = 60"], 60),
        (["Cache-Control: max-age=0"], 0),
        (["Cache-Control: max-age=60, s-maxage=10"], 10),
        (["Cache-Control: s-maxage=100, max-age=0"], 100),
        (["Cache-Control: max-age=60, must-revalidate"], 60),
        (["Cache-Control: max-age=60, stale-while-revalidate=600, stale-if-error=600"], 60),
        (['Cache-Control: x="max-age=5, no-store", max-age=60'], 60),
        (["Cache-Control: max-age=60,,, ,public"], 60),
        # of two the first (4.2.1); what cannot be read is stale
        (["Cache-Control: max-age=60, max-age=5"], 60),
        (["Cache-Control: max-age=60", "Cache-Control: max-age=5"], 60),
        (["Cache-Control: max-age=abc"], 0),
        (["Cache-Control: max-age=-5"], 0),
        (["Cache-Control: max-age=1.5"], 0),
        (["Cache-Control: max-age"], 0),
        # larger than can be (1.2.2)
        (["Cache-Control: max-age=99999999999999999999"], 1e9),
        ([f"Cache-Control: max-age={'9' * 6000}"], 1e9),
        # no-cache, and what never matches (4.1)
        (["Cache-Control: no-cache, max-age=60"], 0),
        (['Cache-Control: no-cache="set-cookie", max-age=60'], 0),
        (["Vary: *", "Cache-Control: max-age=60"], 0),
        (["Vary: Accept-Encoding, *", "Cache-Control: max-age=60"], 0),
        (["Vary: Cookie, User-Agent, Accept-Language", "Cache-Control: max-age=60"], 60),
        # Expires (5.3)
        ([f"Expires: {at(90)}"], 90),
        ([f"Date: {at(0)}", f"Expires: {at(90)}"], 90),
        ([f"Date: {at(0)}", f"Expires: {at(-90)}"], 0),
        (["Expires: 0"], 0),
        (["Expires: -1"], 0),
        (["Expires: Thu, 01 Dec 99999 16:00:00 GMT"], 0),
        ([f"Expires: {at(90)}", f"Expires: {at(900)}"], 90),
        ([f"Expires: {at(90)}", "Cache-Control: max-age=60"], 60),
        ([f"Expires: {at(90)}", "Cache-Control: max-age=nonsense"], 0),
        # an origin whose clock is wrong: its own dates are compared (4.2.1)
        ([f"Date: {at(5000)}", f"Expires: {at(5090)}"], 90),
        # age (4.2.3)
        (["Cache-Control: max-age=60", "Age: 20"], 40),
        (["Cache-Control: max-age=60", "Age: 100"], 0),
        (["Cache-Control: max-age=60", "Age: 20, 50"], 40),
        (["Cache-Control: max-age=60", "Age: nonsense"], 60),
        (["Cache-Control: max-age=60", f"Date: {at(-25)}"], 35),
        (["Cache-Control: max-age=60", f"Date: {at(-25)}", "Age: 10"], 35),
        (["Cache-Control: max-age=60", f"Date: {at(-5)}", "Age: 10"], 50),
        (["Cache-Control: max-age=60", f"Date: {at(5)}"], 60),
        (["Cache-Control: max-age=60", "Date: yesterday"], 60),
        # a tenth of the time since the last change (4.2.2)
        ([f"Last-Modified: {at(-1000)}"], 100),
        ([f"Date: {at(0)}", f"Last-Modified: {at(-1000)}"], 100),
        ([f"Last-Modified: {at(1000)}"], 0),
        (["Last-Modified: some time ago"], DEFAULT),
        ([f"Last-Modified: {at(-1000)}", "Cache-Control: max-age=7"], 7),
        # HTTP/1.0's word, which has no meaning in a response (5.4)
        (["Pragma: no-cache"], DEFAULT),
    ],
)
def test_a_response_is_fresh_for_as_long_as_it_says(lines: list[str], expected: float) -> None:
    assert seconds(*lines) == pytest.approx(expected, abs=1e-3)


def test_a_date_without_a_zone_is_of_gmt_wherever_we_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert seconds("Expires: Tue Nov 14 22:14:50 2023") == pytest.approx(90)
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        ([], True),
        (["Cache-Control: public"], True),
        (["Cache-Control: no-cache"], True),
        (["Cache-Control: no-store"], False),
        (["Cache-Control: No-Store, max-age=60"], False),
        (["Cache-Control: max-age=60", "Cache-Control: no-store"], False),
        (["Cache-Control: private"], False),
        (['Cache-Control: private="set-cookie"'], False),
        (['Cache-Control: x="no-store"'], True),
        (["Cache-Control: no-storey"], True),
        (["Cache-Control: no-store, must-understand"], True),
        (["Cache-Control: private, must-understand"], False),
        # a quote that nothing closes hides nothing
        (['Cache-Control: x="open, no-store'], False),
        (['Cache-Control: x="\\", private'], False),
    ],
)
def test_what_an_origin_forbids_is_not_kept(lines: list[str], kept: bool) -> None:
    assert may_be_kept(200, fields(*lines)) is kept


def test_a_status_that_is_not_understood_is_not_kept_although_it_must_be_understood() -> None:
    assert not may_be_kept(299, fields("Cache-Control: no-store, must-understand"))


@pytest.mark.parametrize(
    ("status", "line", "kept"),
    [
        (203, "ETag: x", True),
        (202, "ETag: x", False),  # "not yet" is no document
        (202, "Cache-Control: max-age=5", True),
        (202, "Cache-Control: public", True),
        (202, f"Expires: {at(5)}", True),
        (206, "Cache-Control: max-age=5", False),  # a part (3.3)
    ],
)
def test_a_status_is_kept_where_it_is_a_document_or_says_so(
    status: int, line: str, kept: bool
) -> None:
    assert may_be_kept(status, fields(line)) is kept


@pytest.mark.parametrize(
    "piece", ["a", "a ", '"', '"\\', 'a="', "=", ",", 'a="b",', "\\", '"a'], ids=repr
)
def test_a_field_of_any_length_is_read_in_no_time(piece: str) -> None:
    hostile = [
        (b"cache-control", f"{piece * (60_000 // len(piece))}{end}".encode()) for end in '"a'
    ]
    began = time.perf_counter()
    for one in hostile:
        may_be_kept(200, [one])
        freshness_of([one], NOW, LIMITS)
    assert time.perf_counter() - began < 1


def test_the_operators_limits_hold_whatever_the_origin_says() -> None:
    bounds = CacheLimits(min_fresh_seconds=10, default_fresh_seconds=20, max_fresh_seconds=30)
    assert seconds("Cache-Control: max-age=0", limits=bounds) == 10
    assert seconds("Cache-Control: no-cache", limits=bounds) == 10
    assert seconds(limits=bounds) == 20
    assert seconds("Cache-Control: max-age=25", limits=bounds) == 25
    assert seconds("Cache-Control: max-age=500", limits=bounds) == 30


_WORD = st.sampled_from(
    ["no-cache", "no-store", "private", "max-age", "s-maxage", "=", ",", '"', "\\", " ", "0", "60",
     "9" * 30, "é", "\t", "must-understand", ";", "*"]
)  # fmt: skip
_NAME = st.sampled_from([b"cache-control", b"expires", b"date", b"age", b"last-modified", b"vary",
                         b"etag", b"pragma"])  # fmt: skip
_VALUE = st.one_of(
    st.lists(_WORD, max_size=12).map(lambda words: "".join(words).encode("latin-1", "replace")),
    st.binary(max_size=40),
    st.floats(-1e11, 1e11).map(lambda s: at(0).encode() if abs(s) > 1e9 else at(s).encode()),
)


@given(st.lists(st.tuples(_NAME, _VALUE), max_size=8))
def test_whatever_the_fields_are_the_answer_is_within_the_limits(
    given_fields: list[tuple[bytes, bytes]],
) -> None:
    until = freshness_of(given_fields, NOW, LIMITS)
    assert NOW <= until <= NOW + LIMITS.max_fresh_seconds
    may_be_kept(200, given_fields)


# --- Validators -----------------------------------------------------------------------------------


def page(*lines: str, status: int = 200, final_url: str = "https://e.org/b") -> Page:
    made = make_page("https://e.org/a", status=status, final_url=final_url)
    return attrs.evolve(made, fields=fields(*lines))


def test_an_entry_remembers_the_validators_and_where_they_are_true() -> None:
    one = page('ETag: W/"x"', f"Last-Modified: {at(-9)}", "Set-Cookie: secret=1")
    entry = entry_of(make_extraction(one), one, NOW, LIMITS)
    assert entry.validators == Validators("https://e.org/b", 'W/"x"', at(-9))
    assert entry.final_url == "https://e.org/b"
    assert b"set-cookie" not in dict(entry.fields)
    assert entry_of(make_extraction(one), page(), NOW, LIMITS).validators is None


def test_what_a_browser_built_has_no_validators() -> None:
    one = attrs.evolve(page('ETag: "x"'), rendered=True)
    assert entry_of(make_extraction(one), one, NOW, LIMITS).validators is None


OURS = Validators("https://e.org/b", '"x"', None)


@pytest.mark.parametrize(
    ("answer", "confirms"),
    [
        (page(status=304), True),
        (page('ETag: "x"', status=304), True),
        (
            page('ETag: W/"x"', status=304),
            True,
        ),  # the comparison is the weak one (RFC 9110, 13.1.2)
        (page('ETag: "y"', status=304), False),
        (page('ETag: "x"', status=200), False),
        (page(status=304, final_url="https://e.org/elsewhere"), False),
    ],
)
def test_a_304_confirms_the_version_that_it_is_about(answer: Page, confirms: bool) -> None:
    assert is_confirmation(answer, OURS) is confirms


def test_a_confirmation_replaces_the_fields_that_it_has_and_keeps_the_others() -> None:
    first = page('ETag: "x"', "Cache-Control: max-age=60", "Age: 50", f"Date: {at(-50)}")
    entry = entry_of(make_extraction(first), first, NOW, LIMITS)
    assert entry.fresh_until == pytest.approx(NOW + 10)
    later = NOW + 1000
    # Its age and date were those of the first response: they are not carried over (4.3.4).
    bare = confirmed(entry, page(status=304), later, LIMITS)
    assert (bare.stored_at, bare.fresh_until) == (later, later + 60)
    assert bare.validators == entry.validators
    assert bare.extraction is entry.extraction
    told = confirmed(
        entry, page("Cache-Control: max-age=5", 'ETag: W/"x"', status=304), later, LIMITS
    )
    assert told.fresh_until == later + 5
    assert told.validators is not None
    assert told.validators.etag == 'W/"x"'


@pytest.mark.parametrize(
    ("detours", "expected"),
    [
        ([], 9000),
        ([["Cache-Control: max-age=60"]], 60),
        ([["Cache-Control: max-age=60"], ["Cache-Control: max-age=20"]], 20),
        ([["Cache-Control: max-age=99999"]], 9000),
        ([[]], DEFAULT),
        ([["Cache-Control: no-cache"]], 0),
        ([["Cache-Control: no-store, max-age=60"]], 0),
        ([["Cache-Control: private"]], 0),
    ],
)
def test_a_document_is_fresh_no_longer_than_the_redirects_that_led_to_it(
    detours: list[list[str]], expected: float
) -> None:
    page = attrs.evolve(
        make_page("http://h.example/", b"x"),
        fields=fields("Cache-Control: max-age=9000", 'ETag: "a"'),
        detours=tuple(fields(*lines) for lines in detours),
    )
    entry = entry_of(make_extraction(page), page, NOW, LIMITS)
    assert entry.fresh_until - NOW == pytest.approx(expected, abs=1)
    again = attrs.evolve(page, status=304, body=b"")
    assert confirmed(entry, again, NOW + 5, LIMITS).fresh_until - NOW - 5 == pytest.approx(
        expected, abs=1
    )
