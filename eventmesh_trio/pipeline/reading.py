"""From a page to its document: read as it came, and again from a browser where that is called for.

The gate judges the page that was fetched, in the same pass that reads it. What it decides is done
here: ``raw`` keeps that document, ``headless`` has the page rendered, ``probes_first`` only where
the document is poor. Of two documents the better one is taken, and whatever cannot be rendered
keeps the one it has. ``render_mode`` overrules the gate: ``static`` never renders, ``dynamic``
fetches nothing and renders at once.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

import attrs
import structlog
import trio

from eventmesh_trio.abc import Extraction, Page, Renderer, Validators
from eventmesh_trio.errors import (
    FetchTimeout,
    HTTPStatusError,
    PageError,
    RenderFailure,
    UnsupportedContent,
    bare,
)
from eventmesh_trio.pipeline.fetching.content_types import is_html
from eventmesh_trio.pipeline.gate import EMPTY_MOUNT
from eventmesh_trio.wire.requests import CrawlOptions, ExtractMode
from eventmesh_trio.wire.urls import URL

if TYPE_CHECKING:
    from eventmesh_trio.pipeline.stages import CrawlPorts

__all__ = [
    "Reading",
    "ReadingLimits",
    "RenderOutcome",
    "bringing_stages",
    "extraction_stages",
    "is_better",
    "is_poor",
    "load_page",
    "read_page",
]

_logger: Final = structlog.get_logger(__name__)

RenderOutcome = Literal["used", "discarded", "failed", "unavailable"]
"""Of a render that was wanted: its document was taken; the raw one was better; there was no page;
no browser is configured."""

_NO_BROWSER: Final = "no browser is configured, so the page is served raw"


@attrs.frozen(kw_only=True)
class ReadingLimits:
    """When a document that the gate is not sure of is poor, and its page worth a browser."""

    poor_text_chars: int = attrs.field(default=500, validator=attrs.validators.ge(0))
    """A document with less text than this, in characters, is poor."""

    poor_quality_score: int = attrs.field(
        default=30, validator=[attrs.validators.ge(0), attrs.validators.le(100)]
    )
    """A document whose quality, 0 to 100, is below this is poor, however long."""


@attrs.frozen
class _Again:
    """What came of rendering a page: its second extraction, or why there is none."""

    extraction: Extraction | PageError
    page: Page
    stages: tuple[str, ...]


@attrs.frozen
class Reading:
    """A document, and the page that it was read from.

    ``stages`` are those after the fetch, in order. ``provisional``: a browser was to render the
    page and failed, or had too little time, so that the next attempt may well bring a better
    document.
    """

    extraction: Extraction
    page: Page
    stages: tuple[str, ...]
    provisional: bool = False


def bringing_stages(
    options: CrawlOptions, ports: "CrawlPorts", page: Page | None = None
) -> tuple[str, ...]:
    """What `load_page` did for a URL that it brought ``page`` of, or began with where it failed."""
    if options.render_mode != "dynamic" or ports.renderer is None:
        return ("fetch",)
    return ("render",) if page is None or page.rendered else ("render", "fetch")


def extraction_stages(mode: ExtractMode) -> tuple[str, ...]:
    """What a worker does with a page in that mode: all are judged, not all have content taken."""
    stages = ("decode", "parse", "gate")
    return stages if mode in ("raw", "metadata") else (*stages, "extract")


async def load_page(
    ports: "CrawlPorts",
    url: str,
    options: CrawlOptions,
    *,
    before_hop: Callable[[URL], Awaitable[None]],
    validators: Validators | None = None,
) -> Page:
    """Bring a URL's page: from a browser if the options ask for one and there is one.

    What turns out to be no HTML is fetched as well: a browser's view of it is its own invention.
    Sets no deadline, and takes no turn: the caller does. Cancellation as for the two ports.

    Raises: PageError of the kind that fits.
    """
    if options.render_mode == "dynamic" and ports.renderer is not None:
        try:
            page = await ports.renderer.render(url, options, before_hop=before_hop)
        except UnsupportedContent:
            ports.meter.rendered("discarded")  # a PDF is nothing to a browser, but something to us
        except PageError:
            ports.meter.rendered("failed")
            raise
        else:
            if is_html(page.content_type, page.body):
                ports.meter.rendered("used")
                return page
            ports.meter.rendered("discarded")
    page = await ports.fetcher.fetch(url, options, before_hop=before_hop, validators=validators)
    ports.meter.fetched(page.elapsed_seconds, page.wire_bytes)
    return page


async def read_page(
    ports: "CrawlPorts",
    page: Page,
    options: CrawlOptions,
    limits: ReadingLimits,
    *,
    run: str,
    seconds_left: float,
    received: Callable[[int], None],
) -> Reading:
    """Read a page, and render it where the gate, the document and the options call for that.

    Args:
      run: whose turn at the host a render takes.
      seconds_left: of the URL's time, for a render; waiting for the turn does not count.
      received: told the body bytes of what was rendered.
    Raises:
      PageError: the page could not be read. A render that fails raises nothing.
    """
    reader = _Reader(ports, options, limits, run, seconds_left, received)
    return await reader.read(page)


@attrs.define(eq=False)
class _Reader:
    """The reading of one page; see `read_page`."""

    _ports: "CrawlPorts"
    _options: CrawlOptions
    _limits: ReadingLimits
    _run: str
    _seconds_left: float
    _received: Callable[[int], None]

    async def read(self, page: Page) -> Reading:
        options, meter = self._options, self._ports.meter
        first = await self._extract(page)
        stages = extraction_stages(options.extract_mode)
        if page.rendered:
            return Reading(_unjudged(first), page, stages, provisional=page.cut_short)
        meter.gated(first.gate_decision)
        wanted, why = self._wants_browser(page, first)
        if not wanted:
            return Reading(_told(first, why), page, stages)
        renderer = self._ports.renderer
        if renderer is None:
            meter.rendered("unavailable")
            return Reading(_told(first, f"{why}{_NO_BROWSER}"), page, stages)
        again = await self._read_again(renderer, page)
        stages = (*stages, *again.stages)
        if isinstance(again.extraction, PageError):
            meter.rendered("failed")
            error = again.extraction
            failed = f"{why}rendering failed ({error.type}: {error.message}), so it is served raw"
            return Reading(_told(first, failed), page, stages, provisional=True)
        second, mode = again.extraction, options.extract_mode
        cut_short = again.page.cut_short
        sizes = f"{_size(second, mode)}, the raw document {_size(first, mode)}"
        if not is_better(second, first, mode):
            meter.rendered("discarded")
            told = _told(first, f"{why}rendered, to no avail: {sizes}")
            return Reading(told, page, stages, provisional=cut_short)
        meter.rendered("used")
        told = _told(_judged_as(second, first), f"{why}rendered: {sizes}")
        return Reading(told, again.page, stages, provisional=cut_short)

    async def _read_again(self, renderer: Renderer, page: Page) -> "_Again":
        """Render a page and read what comes of it; a bug in that is a failure like any other."""
        stages: tuple[str, ...] = ("render",)
        error: PageError
        try:
            rendered = await self._render(renderer, page)
            stages = (*stages, *extraction_stages(self._options.extract_mode))
            return _Again(await self._extract(rendered), rendered, stages)
        except PageError as failure:
            error = bare(failure)
        except Exception as bug:
            _logger.error("a page could not be rendered", url=page.final_url, exc_info=bug)
            error = RenderFailure("the server failed to render this page; its log says why")
        await trio.lowlevel.checkpoint()  # it may have failed before its first one
        return _Again(error, page, stages)

    def _wants_browser(self, page: Page, first: Extraction) -> tuple[bool, str]:
        """Whether to render, and what to tell of it: all of a "no", the beginning of a "yes"."""
        mode, decision = self._options.render_mode, first.gate_decision
        dynamic = "render_mode is dynamic, but " if mode == "dynamic" else ""
        if not is_html(page.content_type, page.body):
            told = f"{dynamic}what is not HTML is never rendered"
            return False, told if dynamic or decision != "raw" else ""
        if dynamic:
            return True, dynamic
        if decision == "raw":
            return False, ""
        if mode == "static":
            return False, "not rendered: render_mode is static"
        if decision == "headless":
            return True, ""
        size = _size(first, self._options.extract_mode)
        if is_poor(first, self._options.extract_mode, self._limits):
            return True, f"the raw document is poor ({size}); "
        return False, f"not rendered: the raw document will do ({size})"

    async def _extract(self, page: Page) -> Extraction:
        options = self._options
        began = trio.current_time()
        try:
            extraction = await self._ports.extractor.extract(
                page, options.extract_mode, options.max_text_chars
            )
        except Exception:
            self._ports.meter.extracted(trio.current_time() - began)
            raise
        self._ports.meter.extracted(trio.current_time() - began)
        return extraction

    async def _render(self, renderer: Renderer, page: Page) -> Page:
        """The page as a browser has it, with the host's turn and what is left of the URL's time.

        Raises: PageError; also where it is not the document that was asked for.
        """
        limit = self._seconds_left
        if limit <= 0:
            raise FetchTimeout("the fetch has used up the URL's time")
        politeness, options = self._ports.politeness, self._options
        rendered: Page | None = None
        async with politeness.turn(page.final_url, options, self._run) as turn:
            with trio.move_on_after(limit):
                rendered = await renderer.render(
                    page.final_url, options, before_hop=partial(politeness.check, options=options)
                )
                turn.answered(rendered)
        if rendered is None:
            raise FetchTimeout(f"not rendered within the {limit:.3g} seconds that were left")
        self._received(rendered.wire_bytes)
        if not 200 <= rendered.status <= 299:
            raise HTTPStatusError(rendered.status)
        if not is_html(rendered.content_type, rendered.body):
            raise RenderFailure("the browser was given something else than a page")
        return rendered


def is_poor(extraction: Extraction, mode: ExtractMode, limits: ReadingLimits) -> bool:
    """Whether a document says too little, for a page of which a script may build the rest.

    Too little text, or bad text; also all that there is while an application's mount point is
    empty. In the modes that take no content it is the page's visible text that is looked at.
    """
    features = extraction.gate_features
    if features is not None and EMPTY_MOUNT in features.spa_markers:
        return True
    if _text_chars(extraction, mode) < limits.poor_text_chars:
        return True
    takes_content = "extract" in extraction_stages(mode)
    return takes_content and extraction.document.quality_score < limits.poor_quality_score


def is_better(rendered: Extraction, raw: Extraction, mode: ExtractMode) -> bool:
    """Whether the browser's document is the one to take: more text, weighed by its quality.

    Of two that are alike it is: it is what a reader would have seen.
    """
    return _worth(rendered, mode) >= _worth(raw, mode)


def _worth(extraction: Extraction, mode: ExtractMode) -> float:
    chars = _text_chars(extraction, mode)
    if "extract" not in extraction_stages(mode):
        return chars
    return chars * extraction.document.quality_score / 100


def _text_chars(extraction: Extraction, mode: ExtractMode) -> int:
    """The characters of the text found, before any cut; or of all that a reader would see."""
    if "extract" not in extraction_stages(mode):
        features = extraction.gate_features
        return features.visible_chars if features else 0
    scores = extraction.scores
    return scores.text_chars if scores else len(extraction.document.text)


def _size(extraction: Extraction, mode: ExtractMode) -> str:
    chars = f"{_text_chars(extraction, mode)} characters"
    if "extract" not in extraction_stages(mode):
        return chars
    return f"{chars} of quality {extraction.document.quality_score}"


def _told(extraction: Extraction, why: str) -> Extraction:
    """The extraction whose reason also says what came of the decision."""
    if not why:
        return extraction
    return attrs.evolve(extraction, gate_reason=f"{extraction.gate_reason}; {why}")


def _judged_as(rendered: Extraction, raw: Extraction) -> Extraction:
    """The browser's document under the judgement that sent the page there."""
    return attrs.evolve(
        rendered,
        gate_score=raw.gate_score,
        gate_decision=raw.gate_decision,
        gate_reason=raw.gate_reason,
        gate_features=raw.gate_features,
    )


def _unjudged(rendered: Extraction) -> Extraction:
    """What `load_page` had rendered: the options decided, and the gate can only measure."""
    return attrs.evolve(
        rendered,
        gate_decision="headless",
        gate_reason=(
            "render_mode is dynamic, so the page was rendered without being judged;"
            f" what came of it scores {rendered.gate_score:.4g}"
        ),
    )
