"""Fakes for the tests of programs that embed a mesh, and for our own.

Each implements a port of `eventmesh_trio.abc`, honours cancellation as the port's text says, and
remembers what was asked of it. None opens a socket or starts a process.
"""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import attrs
import trio

from eventmesh_trio.abc import Extraction, Page, Validators
from eventmesh_trio.wire.events import Document, Event
from eventmesh_trio.wire.requests import CrawlOptions, ExtractMode
from eventmesh_trio.wire.urls import URL, parse_url

__all__ = [
    "FakeExtractor",
    "FakeFetcher",
    "FakePoliteness",
    "FakeRenderer",
    "FakeTurn",
    "RecordingPublisher",
    "make_extraction",
    "make_page",
    "make_rendered_page",
]


# --- pipeline ---------------------------------------------------------------------------------


def make_page(
    url: str,
    body: bytes = b"<title>A page</title><p>Some text.</p>",
    *,
    status: int = 200,
    final_url: str | None = None,
    content_type: str = "text/html; charset=utf-8",
    rendered: bool = False,
) -> Page:
    """A page as a fetcher would bring it."""
    return Page(
        url=url,
        final_url=url if final_url is None else final_url,
        status=status,
        fields=((b"content-type", content_type.encode("latin-1")),),
        body=body,
        content_type=content_type,
        charset="utf-8",
        wire_bytes=len(body),
        elapsed_seconds=0.0,
        rendered=rendered,
    )


def make_extraction(page: Page) -> Extraction:
    """A document whose text is the page's body, decoded; good enough to tell pages apart."""
    text = page.body.decode("utf-8", "replace")
    return Extraction(
        document=Document(
            url=page.final_url,
            title=f"Title of {page.final_url}",
            markdown=text,
            text=text,
            word_count=len(text.split()),
            reading_time=1,
            quality_score=80,
            extracted_at="2024-01-15T10:30:00.000Z",
            content_hash=f"sha256:{hashlib.sha256(text.encode()).hexdigest()}",
        ),
        method="fake",
        gate_score=0.8,
        gate_decision="raw",
        gate_reason="the page is a fake",
    )


def _at_once(_: object) -> float:
    return 0.0


def _allow(_: str) -> None:
    return None


@attrs.define(eq=False)
class FakeFetcher:
    """A `Fetcher` that answers from a function.

    ``answer`` gives a URL's page, or the exception that the fetch raises; ``delay`` the seconds
    before it does. A page with another ``final_url`` is one redirect away.

    ``started``, ``finished`` and ``cancelled`` list URLs in the order of events; ``validators``
    what each fetch was given of them (a 304 is for ``answer`` to give); ``most_at_once`` is the
    largest number of fetches that ran together.
    """

    answer: Callable[[str], Page | Exception] = make_page
    delay: Callable[[str], float] = _at_once
    started: list[str] = attrs.field(factory=list, init=False)
    finished: list[str] = attrs.field(factory=list, init=False)
    cancelled: list[str] = attrs.field(factory=list, init=False)
    options: list[CrawlOptions] = attrs.field(factory=list, init=False)
    validators: list[Validators | None] = attrs.field(factory=list, init=False)
    at_once: int = attrs.field(default=0, init=False)
    most_at_once: int = attrs.field(default=0, init=False)

    async def fetch(
        self,
        url: str,
        options: CrawlOptions,
        *,
        before_hop: Callable[[URL], Awaitable[None]] | None = None,
        validators: Validators | None = None,
    ) -> Page:
        self.started.append(url)
        self.options.append(options)
        self.validators.append(validators)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await trio.sleep(self.delay(url))
        except trio.Cancelled:
            self.cancelled.append(url)
            raise
        finally:
            self.at_once -= 1
        self.finished.append(url)
        answer = self.answer(url)
        if isinstance(answer, Exception):
            raise answer
        if before_hop is not None and answer.final_url != url:
            await before_hop(parse_url(answer.final_url))
        return answer


@attrs.define(eq=False)
class FakeExtractor:
    """An `Extractor` that answers from a function, as `FakeFetcher` does.

    ``extracted`` lists the final URLs of the pages that it was given.
    """

    answer: Callable[[Page], Extraction | Exception] = make_extraction
    delay: Callable[[Page], float] = _at_once
    extracted: list[str] = attrs.field(factory=list, init=False)
    at_once: int = attrs.field(default=0, init=False)
    most_at_once: int = attrs.field(default=0, init=False)

    async def extract(
        self,
        page: Page,
        mode: ExtractMode,  # noqa: ARG002 - the port's
        max_text_chars: int | None,  # noqa: ARG002 - the port's
    ) -> Extraction:
        self.extracted.append(page.final_url)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await trio.sleep(self.delay(page))
        finally:
            self.at_once -= 1
        answer = self.answer(page)
        if isinstance(answer, Exception):
            raise answer
        return answer


def make_rendered_page(url: str) -> Page:
    """A page as a browser would have it."""
    return make_page(
        url, b"<title>A page</title><p>Some text that a script wrote.</p>", rendered=True
    )


@attrs.define(eq=False)
class FakeRenderer:
    """A `Renderer` that answers from a function, as `FakeFetcher` does.

    ``started``, ``finished`` and ``cancelled`` list URLs in the order of events;
    ``most_at_once`` is the largest number of renders that ran together.
    """

    answer: Callable[[str], Page | Exception] = make_rendered_page
    delay: Callable[[str], float] = _at_once
    started: list[str] = attrs.field(factory=list, init=False)
    finished: list[str] = attrs.field(factory=list, init=False)
    cancelled: list[str] = attrs.field(factory=list, init=False)
    at_once: int = attrs.field(default=0, init=False)
    most_at_once: int = attrs.field(default=0, init=False)

    async def render(
        self,
        url: str,
        options: CrawlOptions,  # noqa: ARG002 - the port's
        *,
        before_hop: Callable[[URL], Awaitable[None]] | None = None,
    ) -> Page:
        self.started.append(url)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await trio.sleep(self.delay(url))
        except trio.Cancelled:
            self.cancelled.append(url)
            raise
        finally:
            self.at_once -= 1
        self.finished.append(url)
        answer = self.answer(url)
        if isinstance(answer, Exception):
            raise answer
        if before_hop is not None and answer.final_url != url:
            await before_hop(parse_url(answer.final_url))
        return answer


@attrs.define(eq=False)
class FakePoliteness:
    """Politeness that gives every URL its turn after ``delay`` seconds; ``held`` are out now.

    ``refusal`` gives the exception for a URL that robots.txt does not allow, ``check_delay`` the
    seconds that it takes to find out. ``runs`` lists whose turns there were, ``answers`` the pages
    that were told of.
    """

    delay: Callable[[str], float] = _at_once
    refusal: Callable[[str], Exception | None] = _allow
    check_delay: Callable[[str], float] = _at_once
    held: int = attrs.field(default=0, init=False)
    runs: list[str] = attrs.field(factory=list, init=False)
    answers: list[Page] = attrs.field(factory=list, init=False)

    async def check(
        self,
        url: URL,
        options: CrawlOptions,  # noqa: ARG002 - the port's
    ) -> None:
        await trio.sleep(self.check_delay(url.href))
        refusal = self.refusal(url.href)
        if refusal is not None:
            raise refusal

    @asynccontextmanager
    async def turn(
        self,
        url: str,
        options: CrawlOptions,  # noqa: ARG002 - the port's
        run: str = "",
    ) -> AsyncIterator["FakeTurn"]:
        await trio.sleep(self.delay(url))
        self.runs.append(run)
        self.held += 1
        try:
            yield FakeTurn(self)
        finally:
            self.held -= 1


@attrs.define(eq=False)
class FakeTurn:
    """A turn of `FakePoliteness`; a redirect's target costs its ``delay`` as well."""

    _politeness: FakePoliteness

    async def move(self, url: URL) -> None:
        await trio.sleep(self._politeness.delay(url.href))

    def answered(self, page: Page) -> None:
        self._politeness.answers.append(page)


# --- mesh -------------------------------------------------------------------------------------


class RecordingPublisher:
    """A `Publisher` that keeps what it is given, and has room or has not, as the test says."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.touches = 0
        self._room = trio.Event()
        self._room.set()

    def take_room(self) -> None:
        """From now on there is no room."""
        if self._room.is_set():
            self._room = trio.Event()

    def give_room(self) -> None:
        """There is room again; whoever waits for it goes on."""
        self._room.set()

    def has_room(self) -> bool:
        return self._room.is_set()

    async def wait_room(self) -> None:
        await trio.lowlevel.checkpoint()
        while not self._room.is_set():
            await self._room.wait()

    def publish(self, event: Event) -> None:
        self.events.append(event)

    def touch(self) -> None:
        self.touches += 1
