"""Who searches for deep searches, and what a search may take; each field is a setting."""

from typing import Any, Final, Literal, get_args

import attrs
from attrs import validators

from eventmesh_trio.pipeline.searching.secret import Secret
from eventmesh_trio.wire.urls import parse_url

__all__ = ["BRAVE_URL", "PROVIDERS", "SERPER_URL", "ProviderName", "SearchLimits"]

ProviderName = Literal["local", "searxng", "serper", "brave"]
PROVIDERS: Final[tuple[ProviderName, ...]] = get_args(ProviderName)
SERPER_URL: Final = "https://google.serper.dev/search"
_NO_KEY: Final = Secret()
BRAVE_URL: Final = "https://api.search.brave.com/res/v1/web/search"


def _endpoint(_: object, attribute: "attrs.Attribute[Any]", value: str) -> None:
    if not value and attribute.name == "searxng_url":  # none: another provider is used
        return
    try:
        parse_url(value)
    except ValueError as error:
        raise ValueError(f"{attribute.name} {error}") from None
    if "?" in value or "#" in value or "@" in value:
        raise ValueError(f"{attribute.name} is to have no query, no fragment and no password")


def _provider(_: object, __: object, value: str) -> None:
    if value not in PROVIDERS:
        raise ValueError(f"there is no provider {value!r}; there are {', '.join(PROVIDERS)}")


@attrs.frozen(kw_only=True)
class SearchLimits:
    """The provider of deep searches and its limits.

    Raises:
      ValueError: a value that makes no sense, or a provider that lacks its URL or key.
    """

    provider: str = attrs.field(default="local", validator=_provider)
    """Who is asked: ``local`` (what this server has crawled), ``searxng``, ``serper`` or ``brave``.
    No request can choose another."""

    searxng_url: str = attrs.field(default="", validator=_endpoint)
    """The base URL of a SearXNG instance; its address need not be public."""

    serper_url: str = attrs.field(default=SERPER_URL, validator=_endpoint)
    """Where Serper is asked. Another than the default need not be a public address."""

    serper_key: Secret = _NO_KEY
    """The access key for Serper; never shown or logged."""

    serper_key_file: str = ""
    """A file that holds the access key for Serper; read once, at the start."""

    brave_url: str = attrs.field(default=BRAVE_URL, validator=_endpoint)
    """Where Brave Search is asked. Another than the default need not be a public address."""

    brave_key: Secret = _NO_KEY
    """The subscription token for Brave Search; never shown or logged."""

    brave_key_file: str = ""
    """A file that holds the token for Brave Search; read once, at the start."""

    timeout_seconds: float = attrs.field(default=10.0, validator=validators.gt(0))
    """How long one search may take: waiting for its turn, retries and further pages included."""

    answer_wait_seconds: float = attrs.field(default=15.0, validator=validators.ge(0))
    """How long a response waits for the provider, so that its failure is a 503 instead of a stream.
    A search that takes longer, or was paused, is streamed, and fails within its stream."""

    max_answer_bytes: int = attrs.field(default=2 * 1024 * 1024, validator=validators.gt(0))
    """Of one answer of a provider, as received and without its content coding."""

    max_searches: int = attrs.field(default=8, validator=validators.gt(0))
    """Searches that ask the provider at once; who comes later waits within its own time."""

    max_retries: int = attrs.field(default=2, validator=validators.ge(0))
    """Attempts after the first, where the provider was busy, failed, or could not be reached."""

    first_delay_seconds: float = attrs.field(default=0.5, validator=validators.ge(0))
    """The longest wait before the second attempt; doubled for each one after."""

    max_retry_after_seconds: float = attrs.field(default=5.0, validator=validators.ge(0))
    """The longest ``Retry-After`` of a provider that is waited for."""

    def __attrs_post_init__(self) -> None:
        if self.provider == "searxng" and not self.searxng_url:
            raise ValueError("the provider searxng needs searxng_url")
        if self.provider == "serper" and not (self.serper_key or self.serper_key_file):
            raise ValueError("the provider serper needs serper_key or serper_key_file")
        if self.provider == "brave" and not (self.brave_key or self.brave_key_file):
            raise ValueError("the provider brave needs brave_key or brave_key_file")
        if self.serper_key and self.serper_key_file:
            raise ValueError("serper_key and serper_key_file are both set; set one")
        if self.brave_key and self.brave_key_file:
            raise ValueError("brave_key and brave_key_file are both set; set one")
