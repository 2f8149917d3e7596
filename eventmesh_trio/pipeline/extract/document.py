"""The whole way from bytes to a `Document`, with the gate's verdict on the same parse."""

import hashlib
import math
import re
from datetime import UTC, datetime
from typing import Final

import attrs
from msgspec import UNSET
from selectolax.lexbor import LexborNode

from eventmesh_trio.abc import Extraction, ExtractionScores
from eventmesh_trio.errors import UnsupportedContent
from eventmesh_trio.pipeline.extract.decode import decode, sniff_binary
from eventmesh_trio.pipeline.extract.features import measure
from eventmesh_trio.pipeline.extract.language import detect
from eventmesh_trio.pipeline.extract.links import base_url, collect
from eventmesh_trio.pipeline.extract.markdown import markdown
from eventmesh_trio.pipeline.extract.metadata import Metadata, complete, read_metadata
from eventmesh_trio.pipeline.extract.outline import Outline, outline
from eventmesh_trio.pipeline.extract.parse import parse
from eventmesh_trio.pipeline.extract.scoring import Selection, is_prose, select, select_all
from eventmesh_trio.pipeline.extract.text import (
    MAX_HTML_BYTES,
    as_markup,
    count_words,
    cut,
    plain_text,
    reading_minutes,
)
from eventmesh_trio.pipeline.fetching.content_types import essence_of, is_html
from eventmesh_trio.pipeline.gate import judge, judge_data
from eventmesh_trio.wire.events import Document
from eventmesh_trio.wire.requests import ExtractMode

__all__ = ["extract_document", "extract_page"]

_MARKUP: Final = re.compile(r"html|xml|sgml")
_TEXTUAL: Final = re.compile(r"^text/|json|javascript|ecmascript|yaml")
_SHORT_CHARS: Final = 250
_NOSCRIPT_CHARS: Final = 500
_ALTERNATIVE_FACTOR: Final = 2
_FULL_MARKS_CHARS: Final = 2500
_TRUST: Final = {"lenient": 0.8, "whole-page": 0.9, "noscript": 0.9, "index": 0.7, "full": 0.9}


@attrs.frozen
class _Content:
    page: Outline
    selection: Selection
    text: str
    method: str


def extract_document(
    body: bytes,
    url: str | None = None,
    *,
    charset: str | None = None,
    mode: ExtractMode = "article",
    max_text_chars: int | None = None,
) -> Document:
    """Read one page; never raises for any bytes. Binary bytes give an empty document.

    Args:
      body: the page, content codings removed.
      url: its address; without it relative links are left out.
      charset: of the Content-Type field, as sent.
      mode: ``article`` the main content; ``full`` all visible text; ``metadata`` neither text nor
        Markdown; ``raw`` likewise, and the decoded page itself as ``html``.
      max_text_chars: cut text and Markdown, each, to that many characters (``truncated``).
    """
    if sniff_binary(body):
        body = b""
    return extract_page(
        body, url, charset=charset, mode=mode, max_text_chars=max_text_chars
    ).document


def extract_page(
    body: bytes,
    url: str | None = None,
    *,
    charset: str | None = None,
    content_type: str | None = None,
    mode: ExtractMode = "article",
    max_text_chars: int | None = None,
) -> Extraction:
    """Read one page, and say how. Arguments as for `extract_document`, and:

    Args:
      content_type: as sent; text that is not markup (plain text, JSON, CSV) is taken as it stands.

    ``method`` names the way taken: ``main-content``, ``index`` (a page of links), ``lenient``,
    ``whole-page``, ``noscript``, ``json-ld``, ``plain-text``, ``full``, ``metadata``, ``raw`` or
    ``none`` (there was no text).
    Raises:
      UnsupportedContent: the bytes are a PDF, an image or other binary data.
    """
    if sniff_binary(body):
        raise UnsupportedContent("the body is binary data, not a page")
    source, _ = decode(body, charset)
    plain = _is_plain(content_type)
    tree = parse(as_markup(source) if plain else source)
    base = base_url(tree, url)
    metadata = read_metadata(tree, url, base)
    visible = outline(tree.body)
    metadata = complete(metadata, visible)
    features = measure(
        tree,
        len(source),
        visible,
        has_opengraph=metadata.has_opengraph,
        has_article_jsonld=metadata.has_article_jsonld,
    )
    if content_type is None or is_html(content_type, body):
        verdict = judge(features)
    else:
        verdict = judge_data(features, essence_of(content_type) or "content without a type")
    if mode in ("metadata", "raw"):
        content = _Content(visible, Selection([], 0, mode, 0.0, 0.0), "", mode)
    elif mode == "full":
        content = _content(visible, select_all(visible), "full")
    elif plain:
        content = _content(visible, select_all(visible), "plain-text")
    else:
        content = _main_content(tree.body, visible, metadata)
    scores = _scores(content)
    document = _document(
        content, scores, metadata, url, base, source if mode == "raw" else None, max_text_chars
    )
    return Extraction(
        document, content.method, verdict.score, verdict.decision, verdict.reason, features, scores
    )


def _is_plain(content_type: str | None) -> bool:
    essence = essence_of(content_type or "")
    return (
        bool(essence) and _MARKUP.search(essence) is None and _TEXTUAL.search(essence) is not None
    )


def _content(page: Outline, selection: Selection, method: str) -> _Content:
    text = plain_text(page, selection.kept)
    return _Content(page, selection, text, method if text else "none")


def _main_content(root: LexborNode | None, visible: Outline, metadata: Metadata) -> _Content:
    """The main content, from where it is best to be had when the page itself shows little."""
    selection = select(visible, forum=metadata.page_type == "forum")
    content = _content(visible, selection, selection.method)
    if len(content.text) >= _SHORT_CHARS:
        return content
    if metadata.body is not None:
        page = outline(parse(metadata.body).body)
        other = _content(page, select_all(page), "json-ld")
        if len(other.text) >= max(_SHORT_CHARS, _ALTERNATIVE_FACTOR * len(content.text)):
            return other
    # What is served to readers without script; a sentence that asks for script is none of it.
    page = outline(root, noscript=True)
    selection = select(page)
    other = _content(page, selection, "noscript")
    if len(other.text) >= max(_NOSCRIPT_CHARS, _ALTERNATIVE_FACTOR * len(content.text)):
        return other
    return content


def _document(
    content: _Content,
    scores: ExtractionScores,
    metadata: Metadata,
    url: str | None,
    base: str | None,
    html: str | None,
    max_text_chars: int | None,
) -> Document:
    kept = content.selection.kept
    written = markdown(content.page, kept, 0, base)
    links, images = collect(content.page, kept, base)
    text, text_cut = cut(content.text, max_text_chars)
    written, markdown_cut = cut(written, max_text_chars)
    words = count_words(text)
    html, html_cut = (None, False) if html is None else cut(html, None, MAX_HTML_BYTES)
    hashed = html if html is not None else text
    return Document(
        url=url or "",
        title=metadata.title,
        markdown=written,
        text=text,
        word_count=words,
        reading_time=reading_minutes(text, words),
        quality_score=_confidence(scores),
        extracted_at=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        content_hash="sha256:" + hashlib.sha256(hashed.encode()).hexdigest(),
        author=metadata.author,
        date=metadata.date,
        modified=metadata.modified,
        site_name=metadata.site_name,
        description=metadata.description,
        language=metadata.language or detect(content.text),
        canonical_url=metadata.canonical_url,
        image=metadata.image,
        favicon=metadata.favicon,
        page_type=metadata.page_type,
        tags=metadata.tags,
        links=links,
        images=images,
        html=UNSET if html is None else html,
        truncated=True if text_cut or markdown_cut or html_cut else UNSET,
    )


def _scores(content: _Content) -> ExtractionScores:
    """The measurements behind a document's quality; all 0 where there is no text."""
    chars = len(content.text)
    if not chars:
        return ExtractionScores(
            text_chars=0, length=0.0, coverage=0.0, link_density=0.0, prose=0.0, trust=0.0
        )
    blocks = [content.page.blocks[i] for i in content.selection.kept]
    prose = sum(block.chars for block in blocks if is_prose(block)) / chars
    return ExtractionScores(
        text_chars=chars,
        length=min(1.0, math.log1p(chars) / math.log1p(_FULL_MARKS_CHARS)),
        coverage=min(content.selection.coverage, 1.0),
        link_density=content.selection.link_density,
        prose=min(prose, 1.0),
        trust=_TRUST.get(content.method, 1.0),
    )


def _confidence(scores: ExtractionScores) -> int:
    """How likely it is that the text is the page's content, all of it and nothing else, 0-100.

    Four measurements in equal parts: how much text there is (full marks at 2,500 characters), what
    share of the page's good text was kept, how little of it is links, and how much of it is
    sentences. A way other than the first is trusted less.
    """
    if not scores.text_chars:
        return 0
    parts = scores.length + scores.coverage + 1.0 - scores.link_density + scores.prose
    return round(100 * parts / 4 * scores.trust)
