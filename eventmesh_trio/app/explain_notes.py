"""Ports that note what passes through them, for `eventmesh_trio.app.explain`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import trio

from eventmesh_trio.abc import Extraction, Extractor, Page, Renderer, Validators
from eventmesh_trio.app.explanation import Rendering
from eventmesh_trio.errors import EventMeshError
from eventmesh_trio.pipeline.gate import GateDecision
from eventmesh_trio.pipeline.reading import RenderOutcome
from eventmesh_trio.pipeline.stages import BeforeHop, CrawlPorts, HopFetcher, Meter, Turn, Turns
from eventmesh_trio.wire.requests import CrawlOptions, ExtractMode
from eventmesh_trio.wire.urls import URL

__all__ = ["Notes", "ReadNote", "RenderNote", "noting"]


@attrs.frozen
class ReadNote:
    page: Page
    seconds: float
    found: Extraction | None = None
    failure: EventMeshError | None = None


@attrs.define(eq=False)
class RenderNote:
    """Without a page and a failure it was cut off: the URL's time was up."""

    url: str
    seconds: float = 0.0
    page: Page | None = None
    failure: EventMeshError | None = None


@attrs.define(eq=False)
class Notes:
    fetches: int = 0
    waited_seconds: float = 0.0
    rendering: Rendering = "not wanted"
    renders: list[RenderNote] = attrs.field(factory=list)
    reads: list[ReadNote] = attrs.field(factory=list)


@attrs.frozen
class _NotingFetcher:
    _fetcher: HopFetcher
    _notes: Notes

    async def fetch(
        self,
        url: str,
        options: CrawlOptions,
        *,
        before_hop: BeforeHop | None = None,
        validators: Validators | None = None,
    ) -> Page:
        self._notes.fetches += 1
        return await self._fetcher.fetch(url, options, before_hop=before_hop, validators=validators)


@attrs.frozen
class _NotingExtractor:
    _extractor: Extractor
    _notes: Notes

    async def extract(
        self, page: Page, mode: ExtractMode, max_text_chars: int | None
    ) -> Extraction:
        began = trio.current_time()
        try:
            found = await self._extractor.extract(page, mode, max_text_chars)
        except EventMeshError as error:
            seconds = trio.current_time() - began
            self._notes.reads.append(ReadNote(page, seconds, failure=error))
            raise
        self._notes.reads.append(ReadNote(page, trio.current_time() - began, found))
        return found


@attrs.frozen
class _NotingRenderer:
    _renderer: Renderer
    _notes: Notes

    async def render(
        self, url: str, options: CrawlOptions, *, before_hop: BeforeHop | None = None
    ) -> Page:
        began = trio.current_time()
        note = RenderNote(url)
        self._notes.renders.append(note)
        try:
            note.page = await self._renderer.render(url, options, before_hop=before_hop)
        except EventMeshError as error:
            note.failure = error
            raise
        finally:
            note.seconds = trio.current_time() - began
        return note.page


@attrs.frozen
class _NotingTurns:
    _turns: Turns
    _notes: Notes

    async def check(self, url: URL, options: CrawlOptions) -> None:
        await self._turns.check(url, options)

    @asynccontextmanager
    async def turn(self, url: str, options: CrawlOptions, run: str) -> AsyncIterator[Turn]:
        began = trio.current_time()
        async with self._turns.turn(url, options, run) as turn:
            self._notes.waited_seconds += trio.current_time() - began
            yield turn


@attrs.frozen
class _NotingMeter:
    _meter: Meter
    _notes: Notes

    def retried(self) -> None:
        self._meter.retried()

    def fetched(self, seconds: float, wire_bytes: int) -> None:
        self._meter.fetched(seconds, wire_bytes)

    def extracted(self, seconds: float) -> None:
        self._meter.extracted(seconds)

    def gated(self, decision: GateDecision) -> None:
        self._meter.gated(decision)

    def rendered(self, outcome: RenderOutcome) -> None:
        self._notes.rendering = outcome
        self._meter.rendered(outcome)

    def settled(self, outcome: str, urls: int = 1) -> None:
        self._meter.settled(outcome, urls)


def noting(ports: CrawlPorts, notes: Notes) -> CrawlPorts:
    """The same ports, noted. The cache is left as it is."""
    return attrs.evolve(
        ports,
        fetcher=_NotingFetcher(ports.fetcher, notes),
        extractor=_NotingExtractor(ports.extractor, notes),
        politeness=_NotingTurns(ports.politeness, notes),
        meter=_NotingMeter(ports.meter, notes),
        renderer=None if ports.renderer is None else _NotingRenderer(ports.renderer, notes),
    )
