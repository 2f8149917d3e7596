"""How each provider is asked and how its answer is read; hits: plain, each once, ranked."""

import json
from typing import Any
from urllib.parse import parse_qs

import pytest

from eventmesh_trio.errors import ValidationError
from eventmesh_trio.pipeline.searching.apis import (
    BadAnswer,
    BraveAPI,
    SearchAPI,
    SearxngAPI,
    SerperAPI,
)
from eventmesh_trio.pipeline.searching.hits import (
    MAX_SNIPPET_CHARACTERS,
    MAX_TITLE_CHARACTERS,
    Found,
    HitList,
    plain_text,
)
from eventmesh_trio.pipeline.searching.secret import Secret

KEY = Secret("abc123")
APIS = (SearxngAPI(), SerperAPI(KEY), BraveAPI(KEY))


def asked(api: SearchAPI, query: str = "trio", page: int = 0, **more: Any) -> dict[str, Any]:
    """The members of a request, wherever the API wants them."""
    options = {"limit": 10, "country": None, "locale": None, **more}
    request = api.request(query, page, **options)
    if request.body:
        return dict(json.loads(request.body))
    return {name: values[0] for name, values in parse_qs(request.query).items()}


# --- Requests ------------------------------------------------------------------------------------


def test_searxng_is_asked_for_json_by_page_and_language() -> None:
    api = SearxngAPI()
    assert asked(api, "ä & b=c") == {"q": "ä & b=c", "format": "json", "pageno": "1"}
    assert asked(api, page=2)["pageno"] == "3"
    assert asked(api, locale="de")["language"] == "de"
    assert asked(api, locale="pt_br")["language"] == "pt-BR"
    assert asked(api, locale="de", country="at")["language"] == "de-AT"
    assert asked(api, locale="de-CH", country="at")["language"] == "de-AT"
    assert "language" not in asked(api, country="AT")  # it knows no region without a language
    assert api.request("q", 0, limit=9, country=None, locale=None).method == "GET"


def test_serper_is_posted_to_with_its_key_and_in_pages_of_ten() -> None:
    api = SerperAPI(KEY)
    request = api.request("trio", 1, limit=50, country="DE", locale="de-DE")
    assert request.method == "POST"
    assert dict(request.fields) == {
        b"Content-Type": b"application/json",
        b"X-API-KEY": b"abc123",
    }
    assert json.loads(request.body) == {"q": "trio", "num": 10, "page": 2, "gl": "de", "hl": "de"}
    assert asked(api, locale="pt-BR")["hl"] == "pt-br"
    assert asked(api, locale="zh-Hant-TW")["hl"] == "zh-tw"
    assert asked(api) == {"q": "trio", "num": 10, "page": 1}


def test_brave_is_asked_with_its_token_and_only_for_what_it_knows() -> None:
    api = BraveAPI(KEY)
    request = api.request("trio", 0, limit=50, country="de", locale="de-AT")
    assert (request.method, request.body) == ("GET", b"")
    assert dict(request.fields) == {b"X-Subscription-Token": b"abc123"}
    assert asked(api, limit=50, country="de", locale="de-AT") == {
        **{"q": "trio", "count": "20", "offset": "0"},
        **{"country": "DE", "search_lang": "de"},
    }
    assert asked(api, limit=7)["count"] == "7"
    assert asked(api, page=2, limit=50)["offset"] == "2"
    assert "country" not in asked(api, country="LU")  # it would refuse the whole search
    assert "search_lang" not in asked(api, locale="tlh")


@pytest.mark.parametrize(
    ("locale", "language"),
    [
        *(("ja", "jp"), ("ja-JP", "jp"), ("no", "nb"), ("pt", "pt-pt"), ("pt-BR", "pt-br")),
        *(("en", "en"), ("en-GB", "en-gb"), ("en-US", "en"), ("zh-TW", "zh-hant")),
        *(("zh", "zh-hans"), ("zh-CN", "zh-hans"), ("EN_gb", "en-gb")),
    ],
)
def test_brave_has_spellings_of_its_own(locale: str, language: str) -> None:
    assert asked(BraveAPI(KEY), locale=locale)["search_lang"] == language


@pytest.mark.parametrize("query", ["x" * 401, "a " * 51])
def test_a_query_too_long_for_brave_is_the_requests_fault(query: str) -> None:
    with pytest.raises(ValidationError) as caught:
        BraveAPI(KEY).check(query)
    assert caught.value.field == "query"
    BraveAPI(KEY).check(query[:50])
    for api in (SearxngAPI(), SerperAPI(KEY)):
        api.check(query)


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.name)
def test_no_request_shows_its_key_when_it_is_printed(api: SearchAPI) -> None:
    request = api.request("q", 0, limit=1, country=None, locale=None)
    assert "abc123" not in f"{request!r} {request} {api!r} {api}"


def test_a_secret_is_shown_by_nothing_and_compared_by_its_text() -> None:
    assert (repr(KEY), str(KEY), f"{KEY}", str(Secret())) == (*["(secret)"] * 3, "")
    assert KEY == Secret("abc123") != Secret("x")
    assert hash(KEY) == hash(Secret("abc123"))
    assert (bool(KEY), bool(Secret()), KEY.reveal()) == (True, False, "abc123")
    for bad in ("a b", "a\nb", "schlüssel", "a\x00"):
        with pytest.raises(ValueError, match="printable ASCII") as caught:
            Secret(bad)
        assert bad not in str(caught.value)


# --- Answers -------------------------------------------------------------------------------------


def test_answers_are_read_with_whatever_members_they_have_beside() -> None:
    searxng, serper, brave = APIS
    body = {"results": [{"url": "http://a/", "title": "A", "content": None, "score": 1}], "x": 1}
    assert searxng.read(json.dumps(body).encode()) == [Found("http://a/", "A", None)]
    body = {"organic": [{"link": "http://a/", "title": "A", "sitelinks": []}], "credits": 1}
    assert serper.read(json.dumps({"searchParameters": {}, **body}).encode()) == [
        Found("http://a/", "A", None)
    ]
    body = {"web": {"results": [{"url": "http://a/", "title": "A", "description": "B"}]}}
    assert brave.read(json.dumps({"type": "search", **body}).encode()) == [
        Found("http://a/", "A", "B")
    ]


def test_an_answer_without_results_is_an_answer() -> None:
    searxng, serper, brave = APIS
    assert searxng.read(b'\xef\xbb\xbf{"results": []}') == []
    assert serper.read(b'{"searchParameters": {"q": "x"}, "organic": []}') == []
    assert brave.read(b'{"type": "search", "query": {}}') == []


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.name)
@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"<html>", b"{", b"[]", b"{}", b"null", b"3", b'{"results": {}, "organic": 1}'),
        *(b'{"results": [[]], "organic": [1], "type": "search", "web": {"results": [1]}}',),
        *(b'{"type": "ErrorResponse", "error": {}}', b"[" * 100_000, b'{"x": "\xff"}'),
        b'{"results": [{"url": "\\ud800"}], "organic": [{"link": "\\ud800"}], "type": "\\ud800"}',
    ],
    ids=lambda body: repr(body[:30]),
)
def test_anything_else_is_no_answer(api: SearchAPI, body: bytes) -> None:
    with pytest.raises(BadAnswer):
        api.read(body)


def test_a_searxng_that_found_nothing_while_engines_were_silent_has_not_answered() -> None:
    with pytest.raises(BadAnswer, match="engines of it did not answer"):
        SearxngAPI().read(b'{"results": [], "unresponsive_engines": [["brave", "timeout"]]}')


# --- Hits ----------------------------------------------------------------------------------------


def test_hits_are_ranked_each_once_and_no_more_than_asked_for() -> None:
    hits = HitList(3)
    urls = ["http://a/", "HTTP://A:80/#part", None, "ftp://b/", "nonsense", " http://b/x "]
    assert hits.add(Found(url, "T", "S") for url in urls) == 2
    assert not hits.full
    assert hits.add([Found("http://b/x"), Found("http://c/"), Found("http://d/")]) == 1
    assert hits.full
    assert hits.add([Found("http://e/")]) == 0
    assert [(hit.rank, hit.url) for hit in hits.hits] == [
        (1, "http://a/"),
        (2, "http://b/x"),
        (3, "http://c/"),
    ]


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("<strong>Best</strong> <b class='x'>guide</b>", "Best guide"),
        ("a &lt;div&gt; &amp; b", "a <div> & b"),
        ("if a < b and c > d", "if a < b and c > d"),
        (" one\n\n two\t\x00three ", "one two three"),
        (None, ""),
    ],
)
def test_texts_of_providers_become_plain(text: str | None, plain: str) -> None:
    assert plain_text(text, 100) == plain


def test_long_texts_are_cut_and_take_no_time() -> None:
    hits = HitList(1)
    hits.add([Found("http://a/", "<" * 1_000_000, "x " * 1_000_000)])
    assert len(hits.hits[0].search_title) == MAX_TITLE_CHARACTERS
    assert len(hits.hits[0].search_snippet) <= MAX_SNIPPET_CHARACTERS
