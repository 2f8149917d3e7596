"""An explanation for people: a title for each step on the left, what came of it on the right.

What origins say of themselves (titles, field values, redirects) is written without the characters
that a terminal would obey.
"""

from collections.abc import Iterator, Sequence
from typing import Final, Literal, TextIO

import attrs
from rich.console import Console
from rich.text import Text

from eventmesh_trio.app.explanation import (
    Cached,
    Explanation,
    Failure,
    Guarded,
    Judged,
    Polite,
    Read,
    Rendered,
    Rendering,
    Request,
    Robots,
)
from eventmesh_trio.pipeline.network.trace import Phase

__all__ = ["Section", "gate_lines", "sections_of", "write_sections"]

Mood = Literal["plain", "good", "bad"]
_TITLE_WIDTH: Final = 12
_MAX_CHARS: Final = 300
_PHASES: Final[tuple[tuple[Phase, str], ...]] = (
    ("dns", "dns"),
    ("connect", "connect"),
    ("tls", "tls"),
    ("first_byte", "first byte"),
    ("body", "body"),
)
_RENDERING: Final[dict[Rendering, str]] = {
    "not wanted": "not wanted",
    "unavailable": "wanted, but no browser is configured",
    "failed": "failed: what was fetched is what there is",
    "used": "done, and its document is the one that is taken",
    "discarded": "done, and the document without it is no worse",
}
_COLOURS: Final[dict[Mood, str]] = {"plain": "", "good": "green", "bad": "red"}


@attrs.frozen
class Section:
    """One step; the mood is of its first line."""

    title: str
    lines: Sequence[str]
    mood: Mood = "plain"


def sections_of(told: Explanation) -> Iterator[Section]:
    """The steps, in the order in which they happened; those that were not reached are left out."""
    given = [] if told.url == told.href else [f"given as {told.url}"]
    yield Section("url", [told.href, *given])
    yield _guard(told.guard)
    if told.robots is not None:
        yield _robots(told.robots)
    if told.politeness is not None:
        yield _politeness(told.politeness)
    yield _cache(told.cache)
    if told.requests:
        yield Section("fetch", [line for request in told.requests for line in _request(request)])
    if told.gate is not None:
        yield Section("gate", gate_lines(told.gate))
    if told.gate is not None or told.renders:
        visits = [_visit(render) for render in told.renders]
        yield Section("render", [_RENDERING[told.rendering], *visits])
    if told.reads:
        yield Section("extraction", [line for read in told.reads for line in _read(read)])
    yield _outcome(told)
    yield Section("time", [_times(told)])


def write_sections(sections: Iterator[Section], out: TextIO) -> None:
    """Write them to a file; with colours where that is a terminal, else as plain text."""
    if not out.isatty():
        for section in sections:
            for title, line in _rows(section):
                out.write(f"{title:<{_TITLE_WIDTH}}{line}".rstrip() + "\n")
        return
    console = Console(file=out, highlight=False, soft_wrap=True)
    for section in sections:
        for number, (title, line) in enumerate(_rows(section)):
            colour = _COLOURS[section.mood] if number == 0 else ""
            console.print(Text.assemble((f"{title:<{_TITLE_WIDTH}}", "bold"), (line, colour)))


def _rows(section: Section) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(section.lines):
        yield section.title if number == 0 else "", _printable(line)


def _printable(text: str) -> str:
    shown = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    return shown if len(shown) <= _MAX_CHARS else shown[: _MAX_CHARS - 1] + "…"


# --- Before the fetch -----------------------------------------------------------------------------


def _guard(guard: Guarded) -> Section:
    lines = [
        f"{address}: {'may be dialled' if may else 'is not public, and must not be dialled'}"
        for address, may in guard.addresses
    ]
    if guard.refusal is not None:
        lines.insert(0, _failure(guard.refusal))
    elif not guard.allowed:
        lines.insert(0, "refused: one forbidden address is enough")
    else:
        lines.insert(0, "allowed")
    return Section("guard", lines, "good" if guard.allowed and not guard.refusal else "bad")


def _robots(robots: Robots) -> Section:
    verdict = "allowed" if robots.allowed else "not allowed"
    if robots.line is not None:
        verdict += f" by “{robots.line}”"
    elif robots.reason is not None:
        verdict += f": {robots.reason}"
    else:
        verdict += ": no rule matches"
    verdict += f" (as {robots.user_agent or '*'})"
    if not robots.heeded:
        verdict += ", which is not heeded"
    lines = [verdict]
    if robots.crawl_delay_seconds:
        lines.append(f"asks for {robots.crawl_delay_seconds:g} s between two requests")
    lines += [line for request in robots.requests for line in _request(request)]
    return Section("robots.txt", lines, "good" if robots.allowed or not robots.heeded else "bad")


def _politeness(polite: Polite) -> Section:
    if polite.refusal is not None:
        return Section("politeness", [_failure(polite.refusal)], "bad")
    if not polite.wait_seconds:
        return Section("politeness", ["no wait: the host has a turn for us"])
    return Section("politeness", [f"{_duration(polite.wait_seconds)} until the host's next turn"])


def _cache(cache: Cached) -> Section:
    if cache.state == "none":
        lines = [f"nothing kept ({cache.store})"]
    else:
        told = (
            "a crawl would take the document from here; what follows is without it"
            if cache.state == "fresh"
            else "a crawl would ask the origin whether it has changed"
            if cache.etag or cache.last_modified
            else "a crawl would fetch it anew"
        )
        until = f", until {cache.fresh_until}" if cache.fresh_until else ""
        lines = [
            f"{cache.state}{until}: {told} ({cache.store})",
            f"kept {cache.stored_at}, then judged {cache.gate_decision}",
        ]
        if cache.etag:
            lines.append(f"ETag: {cache.etag}")
        if cache.last_modified:
            lines.append(f"Last-Modified: {cache.last_modified}")
    if cache.trouble is not None:
        lines.append(f"the configured store cannot be used: {cache.trouble}")
    return Section("cache", [*lines, cache.key], "bad" if cache.trouble else "plain")


# --- The fetch and after --------------------------------------------------------------------------


def _request(request: Request) -> Iterator[str]:
    yield f"GET {request.url}"
    if request.status:
        told = [f"{request.http_version} {request.status}", request.content_type]
        if request.location is not None:
            told.append(f"to {request.location}")
        coding = f" in {request.content_encoding}" if request.content_encoding else ""
        told.append(f"{_size(request.wire_bytes)} on the wire{coding}")
        if request.decoded_bytes != request.wire_bytes and request.location is None:
            told.append(f"{_size(request.decoded_bytes)} decoded")
    else:
        told = ["no response"]
    yield "  " + ", ".join(part for part in told if part)
    phases = [
        f"{name} {_duration(request.seconds[phase])}"
        for phase, name in _PHASES
        if phase in request.seconds
    ]
    if request.addresses:
        phases.insert(0, f"from {', '.join(request.addresses)}")
    if phases:
        yield "  " + ", ".join(phases)


def gate_lines(gate: Judged) -> list[str]:
    """The decision, what was measured, and the sum that the score is."""
    features = gate.features
    after = " (of the rendered page, which did not depend on it)" if gate.rendered else ""
    lines = [
        gate.decision + after,
        f"{features.visible_chars} of {features.page_chars} characters are visible text, "
        f"{features.script_chars} are inline script",
        *(
            f"{term.name:<16}{term.measured:>7}  {term.expression:<33}{_points(term.points)}"
            for term in gate.terms
        ),
        f"{'score':<16}{'':>7}  {'the sum, clamped to 0..1':<33}{gate.score:7.4f}",
    ]
    if features.spa_markers:
        lines.append(f"markers: {', '.join(features.spa_markers)}")
    return lines


def _points(points: float) -> str:
    return f"{points:+7.4f}" if points else f"{'0':>7}"


def _visit(render: Rendered) -> str:
    if render.failure is not None:
        return f"{_duration(render.seconds)}: {_failure(render.failure)}"
    where = "" if render.final_url == render.url else f" at {render.final_url}"
    return (
        f"{_duration(render.seconds)}: status {render.status}{where}, "
        f"{_size(render.bytes or 0)} of HTML"
    )


def _read(read: Read) -> Iterator[str]:
    what = "the rendered page" if read.rendered else "the page as it came"
    if read.failure is not None:
        yield f"{what}, {_duration(read.seconds)}: {_failure(read.failure)}"
        return
    yield f"{what}, {_duration(read.seconds)}: {read.method}, quality {read.quality_score} of 100"
    scores = read.scores
    if scores is not None and scores.text_chars:
        yield (
            f"  {scores.text_chars} characters: length {scores.length:.2f}, prose "
            f"{scores.prose:.2f}, in one piece {scores.continuity:.2f}; trust in this method "
            f"{scores.trust:.2f}"
        )


def _outcome(told: Explanation) -> Section:
    outcome = told.outcome
    where = f" at {outcome.final_url}" if outcome.final_url else ""
    status = f"status {outcome.status}{where}" if outcome.status else "no response"
    lines = [f"{status}, {outcome.gate_decision}: {outcome.reason}"]
    if outcome.fetches > 1:
        lines.append(f"{outcome.fetches} attempts")
    lines.append("stages: " + " > ".join(outcome.stages))
    document = outcome.document
    if outcome.error is not None:
        return Section("result", [_failure(outcome.error), *lines], "bad")
    assert document is not None, "a result has a document or an error"
    figures = [
        f"{document.words} words",
        f"{document.characters} characters{' (cut)' if document.truncated else ''}",
        f"{document.links} links",
        f"{document.images} images",
        *([f"language {document.language}"] if document.language else []),
        *([f"of {document.date}"] if document.date else []),
    ]
    title = f"a document: “{document.title}”" if document.title else "a document without a title"
    return Section("result", [title, ", ".join(figures), *lines], "good")


def _times(told: Explanation) -> str:
    spent = {
        name: sum(request.seconds.get(phase, 0.0) for request in told.requests)
        for phase, name in _PHASES
    }
    spent["waiting for turns"] = told.waited_seconds
    spent["rendering"] = sum(render.seconds for render in told.renders)
    spent["extraction"] = sum(read.seconds for read in told.reads)
    parts = [f"{name} {_duration(seconds)}" for name, seconds in spent.items() if seconds]
    return ", ".join([*parts, f"all together {_duration(told.total_seconds)}"])


# --- Words ----------------------------------------------------------------------------------------


def _failure(failure: Failure) -> str:
    again = "; another time it may work" if failure.retryable else ""
    return f"{failure.type} ({failure.code}): {failure.message}{again}"


def _duration(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1000:.1f} ms" if seconds < 0.01 else f"{seconds * 1000:.0f} ms"


def _size(count: int) -> str:
    if count < 1000:
        return f"{count} B"
    for unit in ("kB", "MB"):
        count_in_unit = count / (1e3 if unit == "kB" else 1e6)
        if count_in_unit < 999.95:
            break
    return f"{count_in_unit:.1f} {unit}"
