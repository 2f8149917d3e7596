"""The APIs of search providers: how each is asked, and how its answer is read. Nothing here waits.

Sources: https://docs.searxng.org/dev/search_api.html, https://serper.dev/ (its playground), and
https://api-dashboard.search.brave.com/api-reference/web/search/get
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol
from urllib.parse import urlencode

import attrs
import msgspec

from eventmesh_trio.errors import ValidationError
from eventmesh_trio.pipeline.searching.client import APIRequest
from eventmesh_trio.pipeline.searching.hits import Found
from eventmesh_trio.pipeline.searching.limits import ProviderName
from eventmesh_trio.pipeline.searching.secret import Secret
from eventmesh_trio.wire.codec import encode_json

__all__ = ["BadAnswer", "BraveAPI", "SearchAPI", "SearxngAPI", "SerperAPI"]

_BOM: Final = b"\xef\xbb\xbf"


class BadAnswer(Exception):
    """An answer that is not one of the API, or that says that there is none."""


class SearchAPI(Protocol):
    """One kind of endpoint. ``page_size``: the results that one answer has, at least or at most."""

    @property
    def name(self) -> ProviderName: ...

    @property
    def page_size(self) -> int: ...

    @property
    def refusal_hint(self) -> str:
        """What a 401 or 403 most likely means, for the operator."""
        ...

    def check(self, query: str) -> None:
        """Return if it takes that query. Raises `ValidationError`."""
        ...

    def request(
        self, query: str, page: int, *, limit: int, country: str | None, locale: str | None
    ) -> APIRequest:
        """The request for one page, from 0."""
        ...

    def read(self, body: bytes) -> Sequence[Found]:
        """The results of an answer, best first. Raises `BadAnswer`."""
        ...


def _language(locale: str | None) -> tuple[str | None, str | None]:
    """The language, in lower case, and the region, in upper case, of a locale."""
    if locale is None:
        return None, None
    language, *rest = re.split("[-_]", locale)
    region = next((part.upper() for part in rest if len(part) == 2), None)
    return language.lower(), region


def _decoded(body: bytes, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(body.removeprefix(_BOM), type=kind)
    except msgspec.ValidationError:
        raise BadAnswer("its answer is JSON of another shape than documented") from None
    except (ValueError, RecursionError):  # syntax, invalid UTF-8, depth
        raise BadAnswer("its answer is not JSON") from None


# --- SearXNG -------------------------------------------------------------------------------------


class _SearxngResult(msgspec.Struct):
    url: str | None = None
    title: str | None = None
    content: str | None = None


class _SearxngAnswer(msgspec.Struct):
    results: list[_SearxngResult]
    unresponsive_engines: list[Any] = []


@attrs.frozen
class SearxngAPI:
    """A SearXNG instance. It knows languages with a region, and no country without a language."""

    name: ProviderName = "searxng"
    page_size: int = 10  # of its engines; what several of them bring together is mostly more
    refusal_hint: str = "does the instance allow the format json (search.formats)?"

    def check(self, query: str) -> None:
        """Any query will do."""

    def request(
        self,
        query: str,
        page: int,
        *,
        limit: int,  # noqa: ARG002 - the API has no such parameter
        country: str | None,
        locale: str | None,
    ) -> APIRequest:
        language, region = _language(locale)
        members = {"q": query, "format": "json", "pageno": str(page + 1)}
        if language is not None:
            region = country.upper() if country is not None else region
            members["language"] = language if region is None else f"{language}-{region}"
        return APIRequest(query=urlencode(members))

    def read(self, body: bytes) -> Sequence[Found]:
        answer: _SearxngAnswer = _decoded(body, _SearxngAnswer)
        if not answer.results and answer.unresponsive_engines:
            # It does not tell which engines did answer. That nothing is to be found is much rarer
            # than that all of them turned the instance away.
            raise BadAnswer("it found nothing, and engines of it did not answer")
        return [Found(one.url, one.title, one.content) for one in answer.results]


# --- Serper --------------------------------------------------------------------------------------


class _SerperResult(msgspec.Struct):
    link: str | None = None
    title: str | None = None
    snippet: str | None = None


class _SerperAnswer(msgspec.Struct):
    organic: list[_SerperResult] = []
    searchParameters: Any = None  # noqa: N815 - its name on the wire


@attrs.frozen
class SerperAPI:
    """Google's results by Serper. A page has ten; larger ones cost more than several of them."""

    key: Secret
    name: ProviderName = "serper"
    page_size: int = 10
    refusal_hint: str = "is the key right, and has it credits left?"

    def check(self, query: str) -> None:
        """Any query will do."""

    def request(
        self,
        query: str,
        page: int,
        *,
        limit: int,  # noqa: ARG002 - a page of ten costs the same whatever is taken of it
        country: str | None,
        locale: str | None,
    ) -> APIRequest:
        language, region = _language(locale)
        members: dict[str, Any] = {"q": query, "num": self.page_size, "page": page + 1}
        if country is not None:
            members["gl"] = country.lower()
        if language is not None:
            with_region = language in ("pt", "zh", "es") and region is not None
            members["hl"] = f"{language}-{region}".lower() if with_region else language
        return APIRequest(
            method="POST",
            fields=(
                (b"Content-Type", b"application/json"),
                (b"X-API-KEY", self.key.reveal().encode("ascii")),
            ),
            body=encode_json(members),
        )

    def read(self, body: bytes) -> Sequence[Found]:
        answer: _SerperAnswer = _decoded(body, _SerperAnswer)
        if not answer.organic and answer.searchParameters is None:
            raise BadAnswer("its answer is JSON of another shape than documented")
        return [Found(one.link, one.title, one.snippet) for one in answer.organic]


# --- Brave ---------------------------------------------------------------------------------------


class _BraveResult(msgspec.Struct):
    url: str | None = None
    title: str | None = None
    description: str | None = None


class _BraveWeb(msgspec.Struct):
    results: list[_BraveResult] = []


class _BraveAnswer(msgspec.Struct):
    type: str
    web: _BraveWeb | None = None


_BRAVE_CHARACTERS: Final = 400
_BRAVE_WORDS: Final = 50
# What the API takes; it refuses a search with any other value.
_BRAVE_COUNTRIES: Final = frozenset(
    {
        *("AR", "AU", "AT", "BE", "BR", "CA", "CL", "CN", "DK", "FI", "FR", "DE", "GR", "HK", "IN"),
        *("ID", "IT", "JP", "KR", "MY", "MX", "NL", "NZ", "NO", "PL", "PT", "PH", "RU", "SA", "ZA"),
        *("ES", "SE", "CH", "TW", "TR", "GB", "US"),
    }
)
_BRAVE_LANGUAGES: Final = frozenset(
    {
        *("ar", "eu", "bn", "bg", "ca", "hr", "cs", "da", "nl", "en", "et", "fi", "fr", "gl", "de"),
        *("el", "gu", "he", "hi", "hu", "is", "it", "kn", "ko", "lv", "lt", "ms", "ml", "mr", "nb"),
        *("pl", "pa", "ro", "ru", "sr", "sk", "sl", "es", "sv", "ta", "te", "th", "tr", "uk", "vi"),
    }
)
_BRAVE_SPELLINGS: Final[Mapping[tuple[str, str | None], str]] = {
    ("en", "GB"): "en-gb",
    ("ja", None): "jp",
    ("no", None): "nb",
    ("nn", None): "nb",
    ("pt", None): "pt-pt",
    ("pt", "BR"): "pt-br",
    ("zh", None): "zh-hans",
    ("zh", "TW"): "zh-hant",
    ("zh", "HK"): "zh-hant",
}


def _brave_language(locale: str | None) -> str | None:
    language, region = _language(locale)
    if language is None:
        return None
    for key in ((language, region), (language, None)):
        if (spelling := _BRAVE_SPELLINGS.get(key)) is not None:
            return spelling
    return language if language in _BRAVE_LANGUAGES else None


@attrs.frozen
class BraveAPI:
    """Brave Search. A country or language that it does not know is not passed on."""

    key: Secret
    name: ProviderName = "brave"
    page_size: int = 20
    refusal_hint: str = "is the subscription token right?"

    def check(self, query: str) -> None:
        if len(query) > _BRAVE_CHARACTERS or len(query.split()) > _BRAVE_WORDS:
            raise ValidationError(
                f"query is too long for Brave Search: at most {_BRAVE_CHARACTERS} characters and "
                f"{_BRAVE_WORDS} words",
                field="query",
            )

    def request(
        self, query: str, page: int, *, limit: int, country: str | None, locale: str | None
    ) -> APIRequest:
        members = {"q": query, "count": str(min(limit, self.page_size)), "offset": str(page)}
        if country is not None and country.upper() in _BRAVE_COUNTRIES:
            members["country"] = country.upper()
        if (language := _brave_language(locale)) is not None:
            members["search_lang"] = language
        return APIRequest(
            query=urlencode(members),
            fields=((b"X-Subscription-Token", self.key.reveal().encode("ascii")),),
        )

    def read(self, body: bytes) -> Sequence[Found]:
        answer: _BraveAnswer = _decoded(body, _BraveAnswer)
        if answer.type != "search":
            raise BadAnswer("its answer is JSON of another shape than documented")
        results = [] if answer.web is None else answer.web.results
        return [Found(one.url, one.title, one.description) for one in results]
