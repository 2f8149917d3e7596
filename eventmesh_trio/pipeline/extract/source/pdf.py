"""The text of a PDF file: its paragraphs, and what the file says of itself.

PDFium reads it, which is a great deal of C++ given a stranger's bytes: this is only called in the
processes of `eventmesh_trio.pipeline.workers`, where it can crash, hang and run out of memory
alone.

Source: ISO 32000-1, 14.3.3 (document information); PDFium's ``fpdf_text.h``.
"""

import re
import statistics
import time
from collections import Counter
from datetime import datetime
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import attrs

from eventmesh_trio.errors import UnsupportedContent

if TYPE_CHECKING:
    import pypdfium2  # type: ignore[import-untyped]

__all__ = ["MAX_CHARS", "MAX_PAGES", "MAX_SECONDS", "Pdf", "pdf_markup", "read_pdf"]

MAX_PAGES: Final = 1000
"""Pages that are read; a longer file is a book, and its document says ``truncated``."""
MAX_SECONDS: Final = 10.0
"""Of reading pages: half of what a worker has for a page by default, `WorkerLimits.job_seconds`."""
MAX_CHARS: Final = 4 * 1024 * 1024
"""Of text: what a document can hold (`MAX_TEXT_BYTES`)."""

_GAP: Final = 1.45  # of the usual distance of two lines: a wider one parts paragraphs
_SHORT_LINE: Final = 0.8  # of the longest line: a shorter one, with a full stop, ends a paragraph
_LARGER: Final = 1.15  # of the usual height of letters: a line of larger ones is a heading
_RUNNING_PAGES: Final = 3  # a line that stands at the edge of so many pages is not of the text
_HYPHENS: Final = (
    "-\u00ad\u2010\u0002\ufffe"  # the last two are PDFium's for a hyphen at a line's end
)
_SENTENCE_END: Final = re.compile(r"[.!?:;。！？…][\"'”’»)\]]*$")
_INVISIBLE: Final = re.compile("[\x00-\x08\x0b-\x1f\ufffe\uffff]")
_DATE: Final = re.compile(
    r"(?:D:)?(\d{4})(\d\d)?(\d\d)?(?:(\d\d)(\d\d)(\d\d)?)?(?:(Z)|([+-])(\d\d)'?(\d\d)?'?)?"
)
_NO_TITLE: Final = re.compile(
    r"untitled.*|(?:microsoft|powerpoint|word|acrobat)\b.*|.*\.(?:docx?|pptx?|xlsx?|indd|qxd|tex|dvi"
    r"|pdf|odt|rtf|ps|cdr|ai)|.*[\\/].*[\\/].*",
    re.IGNORECASE,
)


@attrs.frozen(kw_only=True)
class Pdf:
    """What was read. ``paragraphs`` are text, each with whether it is a heading."""

    title: str
    author: str
    subject: str
    keywords: str
    created: str
    modified: str
    paragraphs: tuple[tuple[str, bool], ...]
    truncated: bool


@attrs.frozen
class _Line:
    """Coordinates are points from the lower left corner of the page. A line that ends in a hyphen
    has the next one's text too: PDFium joins them."""

    text: str
    left: float
    right: float
    height: float  # of its letters
    first_bottom: float
    last_bottom: float


def read_pdf(body: bytes) -> Pdf:
    """Read a file's text and metadata, within the limits above. Blocks; call it in a worker.

    Raises: UnsupportedContent: the file is encrypted, or it is broken.
    """
    import pypdfium2  # noqa: PLC0415  # 10 MB, for the few processes and pages that need it

    try:
        document = pypdfium2.PdfDocument(body)
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower():
            raise UnsupportedContent("the PDF is encrypted, and needs a password") from None
        raise UnsupportedContent("the PDF is broken, or none at all") from None
    try:
        return _read(document)
    finally:
        document.close()


def _read(document: "pypdfium2.PdfDocument") -> Pdf:
    known = document.get_metadata_dict()
    until = time.monotonic() + MAX_SECONDS
    pages: list[list[_Line]] = []
    chars = 0
    count = len(document)
    for index in range(min(count, MAX_PAGES)):
        lines = _lines(document, index)
        pages.append(lines)
        chars += sum(len(line.text) for line in lines)
        if chars > MAX_CHARS or time.monotonic() > until:
            break
    paragraphs = _paragraphs(_without_running_lines(pages))
    return Pdf(
        title=_title(known.get("Title", ""), paragraphs),
        author=_tidy(known.get("Author", "")),
        subject=_tidy(known.get("Subject", "")),
        keywords=_tidy(known.get("Keywords", "")).replace(";", ","),
        created=_date(known.get("CreationDate", "")),
        modified=_date(known.get("ModDate", "")),
        paragraphs=tuple(paragraphs),
        truncated=len(pages) < count or chars > MAX_CHARS,
    )


def _lines(document: "pypdfium2.PdfDocument", index: int) -> list[_Line]:
    """A page's lines in reading order; none of a page that cannot be read."""
    import pypdfium2  # noqa: PLC0415

    try:
        page = document[index]
        text_page = page.get_textpage()
    except pypdfium2.PdfiumError:
        return []  # one bad page of many; the others have their text
    try:
        return _lines_of(text_page)
    finally:
        text_page.close()
        page.close()


def _lines_of(text_page: Any) -> list[_Line]:
    count = min(text_page.count_chars(), MAX_CHARS)
    text = text_page.get_text_range(0, count) if count else ""
    lines: list[_Line] = []
    at = 0
    for raw in re.split(r"(\r\n|\r|\n)", text):
        start, at = at, at + len(raw)
        if raw.isspace() or not raw:
            continue
        first = start + len(raw) - len(raw.lstrip())
        last = min(start + len(raw.rstrip()), count) - 1
        if first > last:
            continue
        left, first_bottom, _, top = text_page.get_charbox(first, loose=True)
        _, last_bottom, right, _ = text_page.get_charbox(last, loose=True)
        lines.append(_Line(raw, left, right, top - first_bottom, first_bottom, last_bottom))
    return lines


def _without_running_lines(pages: list[list[_Line]]) -> list[list[_Line]]:
    """Take out what stands first or last on many pages, but for its numbers: headers, footers."""
    if len(pages) < _RUNNING_PAGES:
        return pages
    edges = Counter(
        key for lines in pages for key in {_running(line) for line in lines[:1] + lines[-1:]}
    )
    most = max(_RUNNING_PAGES, len(pages) // 3)
    running = {key for key, count in edges.items() if count >= most}
    return [
        [
            line
            for number, line in enumerate(lines)
            if number not in (0, len(lines) - 1) or _running(line) not in running
        ]
        for lines in pages
    ]


def _running(line: _Line) -> str:
    return re.sub(r"\d+", "0", line.text.strip())


def _paragraphs(pages: list[list[_Line]]) -> list[tuple[str, bool]]:
    every = [line for lines in pages for line in lines]
    if not every:
        return []
    height = statistics.median(line.height for line in every)
    width = max(line.right - line.left for line in every)
    steps = [
        step
        for lines in pages
        for one, two in pairwise(lines)
        if 0 < (step := one.last_bottom - two.first_bottom) < 4 * max(height, 1.0)
    ]
    usual = statistics.median(steps) if steps else height
    found: list[tuple[str, bool]] = []
    open_lines: list[_Line] = []

    def finish() -> None:
        text = _join(open_lines)
        if text:
            heading = len(text) < 200 and all(line.height > _LARGER * height for line in open_lines)
            found.append((text, heading))
        open_lines.clear()

    for lines in pages:
        for line in lines:
            if open_lines and _begins(open_lines[-1], line, usual, width):
                finish()
            open_lines.append(line)
    finish()
    return found


def _begins(before: _Line, line: _Line, usual: float, width: float) -> bool:
    """Whether a line begins a paragraph."""
    ended = _SENTENCE_END.search(before.text.rstrip()) is not None
    if abs(line.height - before.height) > 0.2 * max(line.height, before.height):
        return True  # letters of another size
    step = before.last_bottom - line.first_bottom
    if step < 0:  # the next column or page: a sentence may go on there
        return ended
    if step > _GAP * usual:
        return True
    return ended and before.right - before.left < _SHORT_LINE * width


def _join(lines: list[_Line]) -> str:
    """Lines as one text. A word that was parted at a line's end is whole again."""
    text = ""
    for line in lines:
        words = " ".join(line.text.replace("\u00ad", "-").split())
        if not text:
            text = words
        elif text[-1] in _HYPHENS and text[-2:-1].isalpha() and words[:1].islower():
            text = text[:-1] + words
        elif text[-1] in _HYPHENS:
            text += words
        else:
            text += " " + words
    text = re.sub(r"(?<=\w)[\x02\ufffe]\s?(?=\w)", "", text)  # hyphens that PDFium joined itself
    return _INVISIBLE.sub("", text).strip()


def _title(told: str, paragraphs: list[tuple[str, bool]]) -> str:
    """What the file calls itself, unless a program did; else its first heading or short line."""
    told = _tidy(told)
    if told and _NO_TITLE.fullmatch(told) is None:
        return told
    for text, heading in paragraphs[:5]:
        if heading:
            return text
    return paragraphs[0][0] if paragraphs and len(paragraphs[0][0]) < 200 else ""


def _tidy(value: str) -> str:
    return " ".join(_INVISIBLE.sub("", value).split())


def _date(value: str) -> str:
    """RFC 3339 of a PDF date (ISO 32000-1, 7.9.4); "" for what is none."""
    match = _DATE.fullmatch(value.strip())
    if match is None:
        return ""
    year, month, day, hour, minute, second, utc, sign, hours, minutes = match.groups()
    date = f"{year}-{month or '01'}-{day or '01'}"
    zone = "+00:00" if utc else f"{sign}{hours}:{minutes or '00'}" if sign else ""
    text = f"{date}T{hour}:{minute}:{second or '00'}{zone}" if hour else date
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return ""
    return moment.isoformat() if hour else date


def pdf_markup(pdf: Pdf) -> str:
    """The file as a page."""
    metas = {
        "author": pdf.author,
        "description": pdf.subject,
        "keywords": pdf.keywords,
        "article:published_time": pdf.created,
        "article:modified_time": pdf.modified,
    }
    head = "".join(
        f'<meta name="{name}" content="{escape(value)}">' for name, value in metas.items() if value
    )
    body = "".join(
        f"<h2>{escape(text)}</h2>" if heading else f"<p>{escape(text)}</p>"
        for text, heading in pdf.paragraphs
    )
    return f"<!DOCTYPE html><title>{escape(pdf.title)}</title>{head}<body>{body}"
