"""The whole way from bytes to a `Document`, with the gate's verdict on the same parse."""

import hashlib
from datetime import UTC, datetime
from typing import Final

import attrs
from msgspec import UNSET
from selectolax.lexbor import LexborHTMLParser, LexborNode

from eventmesh_trio.abc import Extraction, ExtractionScores
from eventmesh_trio.errors import UnsupportedContent
from eventmesh_trio.pipeline.extract.confidence import confidence, score_extraction
from eventmesh_trio.pipeline.extract.features import measure
from eventmesh_trio.pipeline.extract.links import collect
from eventmesh_trio.pipeline.extract.markdown.markdown import markdown
from eventmesh_trio.pipeline.extract.metadata.language import detect
from eventmesh_trio.pipeline.extract.metadata.metadata import (
    Metadata,
    complete,
    read_kind,
    read_metadata,
)
from eventmesh_trio.pipeline.extract.page.outline import Outline, outline
from eventmesh_trio.pipeline.extract.page.walk import is_beside
from eventmesh_trio.pipeline.extract.selection.choice import choose, choose_skimmed
from eventmesh_trio.pipeline.extract.selection.kinds import kind_of
from eventmesh_trio.pipeline.extract.selection.pictures import with_pictures
from eventmesh_trio.pipeline.extract.selection.regions import is_framing, strike
from eventmesh_trio.pipeline.extract.selection.scoring import Selection, select_all
from eventmesh_trio.pipeline.extract.source.decode import Source, decode, is_pdf, sniff_binary
from eventmesh_trio.pipeline.extract.source.formats import Markup, to_markup
from eventmesh_trio.pipeline.extract.source.parse import parse, parse_page
from eventmesh_trio.pipeline.extract.source.pdf import pdf_markup, read_pdf
from eventmesh_trio.pipeline.extract.text import MAX_HTML_BYTES, cut, plain_text
from eventmesh_trio.pipeline.extract.words import words_and_minutes
from eventmesh_trio.pipeline.fetching.content_types import essence_of, is_html
from eventmesh_trio.pipeline.gate import judge, judge_data
from eventmesh_trio.wire.events import Document
from eventmesh_trio.wire.requests import ExtractMode

__all__ = ["extract_document", "extract_page", "extract_text"]

_SHORT_CHARS: Final = 250
_NOSCRIPT_CHARS: Final = 500
_ALTERNATIVE_FACTOR: Final = 2


@attrs.frozen
class _Content:
    page: Outline
    selection: Selection
    text: str
    method: str


@attrs.frozen
class _Page:
    """A page that was parsed, walked and asked what it says about itself."""

    source: Source
    markup: Markup
    tree: LexborHTMLParser
    visible: Outline
    metadata: Metadata
    truncated: bool


def extract_document(
    body: bytes,
    url: str | None = None,
    *,
    charset: str | None = None,
    mode: ExtractMode = "article",
    max_text_chars: int | None = None,
) -> Document:
    """Read one page; never raises for any bytes. Binary bytes give an empty document.

    The gate is not asked: `extract_page` measures the page for it, which takes 3 % longer.

    Args:
      body: the page, content codings removed.
      url: its address; without it relative links are left out.
      charset: of the Content-Type field, as sent.
      mode: ``article`` the main content; ``full`` all visible text but for what frames it
        (navigation, footers, notices); ``metadata`` neither text nor Markdown; ``raw`` likewise,
        and the decoded page itself as ``html``.
      max_text_chars: cut text and Markdown, each, to that many characters (``truncated``).
    """
    try:
        page = _open(body, url, charset, None, mode)
    except UnsupportedContent:
        page = _open(b"", url, None, None, mode)
    content = _content_of(page, mode)
    scores = _score(page, content)
    return _document(page, content, scores, url, mode, max_text_chars)


def extract_text(body: bytes, url: str | None = None, *, charset: str | None = None) -> str:
    """Only the text of `extract_document`, in less time: without metadata, Markdown and links."""
    if is_pdf(body) or sniff_binary(body):
        return ""
    source = decode(body, charset)
    tree = parse(source.utf8, source.tags)
    declared = read_kind(tree, url)
    # Authors and dates are not asked for, so noise is only skimmed: nine pages of ten need no more,
    # and take a tenth less time. Those of posts stand in what is called noise.
    noise = is_beside if declared.kind == "article" else is_framing
    visible = outline(
        tree.body, skim=True, noise=None if declared.kind in ("forum", "topic") else noise
    )
    if visible.has_skimmed_noise:
        kind = kind_of(visible, declared.kind)
        if kind == declared.kind and (selection := choose_skimmed(visible, kind)) is not None:
            return plain_text(visible, selection.kept)
        visible = outline(tree.body, skim=True)
    return _main_content(tree.body, visible, declared).text


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
      content_type: as sent; text that is not markup (plain text, JSON, CSV) is taken as it stands,
        of XML its text. Feeds, sitemaps and PDFs are known without it.

    ``method`` names the way taken: ``main-content``, ``thread`` (the posts of a forum), ``region``
    (a page but for its frame), ``index`` (likewise, a page of links), ``lenient``, ``whole-page``,
    ``noscript``, ``json-ld``, ``feed``, ``sitemap``, ``xml``, ``json``, ``plain-text``, ``pdf``,
    ``full``, ``metadata``, ``raw`` or ``none`` (there was no text).
    Raises:
      UnsupportedContent: the bytes are an image or other binary data, or a PDF that is encrypted or
        broken, or one in the mode ``raw``: it has no source that could be sent.
    """
    page = _open(body, url, charset, content_type, mode)
    metadata = page.metadata
    features = measure(
        page.tree,
        page.source.chars,
        page.visible,
        has_opengraph=metadata.has_opengraph,
        has_article_jsonld=metadata.has_article_jsonld,
    )
    if page.markup.method is not None:
        verdict = judge_data(features, _named(content_type, page.markup.method))
    elif content_type is None or is_html(content_type, body):
        verdict = judge(features)
    else:
        verdict = judge_data(features, essence_of(content_type) or "content without a type")
    content = _content_of(page, mode)
    scores = _score(page, content)
    document = _document(page, content, scores, url, mode, max_text_chars)
    return Extraction(
        document, content.method, verdict.score, verdict.decision, verdict.reason, features, scores
    )


def _open(
    body: bytes, url: str | None, charset: str | None, content_type: str | None, mode: ExtractMode
) -> _Page:
    source, markup = _read(body, charset, content_type, mode)
    parsed = parse_page(markup.html, markup.tags)
    tree = parsed.tree
    skim = mode != "full" and markup.method is None
    visible = outline(tree.body, skim=skim, signed=True)
    metadata = complete(read_metadata(tree, url, visible), visible)
    return _Page(source, markup, tree, visible, metadata, markup.truncated or parsed.truncated)


def _content_of(page: _Page, mode: ExtractMode) -> _Content:
    visible = page.visible
    if mode in ("metadata", "raw"):
        return _Content(visible, Selection([], 0, mode, 0.0, 0.0), "", mode)
    if mode == "full":
        return _content(visible, _select_full(visible), "full")
    if page.markup.method is not None:
        return _content(visible, select_all(visible), page.markup.method)
    return _main_content(page.tree.body, visible, page.metadata)


def _score(page: _Page, content: _Content) -> ExtractionScores:
    return score_extraction(
        content.page, content.selection.kept, len(content.text), content.method, page.source
    )


def _read(
    body: bytes, charset: str | None, content_type: str | None, mode: ExtractMode
) -> tuple[Source, Markup]:
    """The decoded source, and the page to read. Of a PDF both are the page that it makes."""
    if is_pdf(body):
        if mode == "raw":
            raise UnsupportedContent("a PDF has no source that could be sent; use another mode")
        pdf = read_pdf(body)
        made = pdf_markup(pdf)
        source = Source(made.encode(), len(made), "utf-8")
        return source, Markup(source.utf8, "pdf", pdf.truncated)
    if sniff_binary(body):
        raise UnsupportedContent("the body is binary data, not a page")
    decoded = decode(body, charset)
    return decoded, to_markup(decoded, content_type)


def _named(content_type: str | None, method: str) -> str:
    """What a body that is not HTML is, for the gate's reason."""
    essence = essence_of(content_type or "")
    return essence if essence and not is_html(essence, b"") else f"content of the kind {method}"


def _select_full(page: Outline) -> Selection:
    """All that is seen but what frames it; all of a page that is nothing else."""
    struck = strike(page, posts=True)
    kept = [i for i, out in enumerate(struck) if not out]
    if not any(page.blocks[i].chars for i in kept):
        return select_all(page)
    return attrs.evolve(select_all(page), kept=kept)


def _content(page: Outline, selection: Selection, method: str) -> _Content:
    text = plain_text(page, selection.kept)
    return _Content(page, selection, text, method if text else "none")


def _main_content(root: LexborNode | None, visible: Outline, metadata: Metadata) -> _Content:
    """The main content, from where it is best to be had when the page itself shows little."""
    kind = kind_of(visible, metadata.kind)
    selection = choose(visible, kind)
    if not set(visible.skimmed).isdisjoint(selection.kept):
        visible = outline(root)  # what was only skimmed would be shown
        selection = choose(visible, kind)
    content = _content(visible, selection, selection.method)
    # Forums keep the posts in ``noscript`` when a program draws them.
    drawn = kind == "forum" and selection.method != "thread"
    if len(content.text) >= _SHORT_CHARS and not drawn:
        return content
    if metadata.body is not None and not drawn:
        page = outline(parse(metadata.body).body)
        other = _content(page, select_all(page), "json-ld")
        if len(other.text) >= max(_SHORT_CHARS, _ALTERNATIVE_FACTOR * len(content.text)):
            return other
    # What is served to readers without script; a sentence that asks for script is none of it.
    page = outline(root, noscript=True)
    selection = choose(page, kind)
    other = _content(page, selection, "noscript")
    if drawn and selection.method == "thread":
        return other
    if len(other.text) >= max(_NOSCRIPT_CHARS, _ALTERNATIVE_FACTOR * len(content.text)):
        return other
    return content


def _document(
    page: _Page,
    content: _Content,
    scores: ExtractionScores,
    url: str | None,
    mode: ExtractMode,
    max_text_chars: int | None,
) -> Document:
    metadata = page.metadata
    base = metadata.base
    html = page.source.text if mode == "raw" else None
    kept = content.selection.kept
    shown = with_pictures(content.page, kept)
    written = markdown(content.page, shown, 0, base)
    links, images = collect(content.page, shown, base)
    text, text_cut = cut(content.text, max_text_chars)
    written, markdown_cut = cut(written, max_text_chars)
    words, minutes = words_and_minutes(text)
    html, html_cut = (None, False) if html is None else cut(html, None, MAX_HTML_BYTES)
    hashed = html if html is not None else text
    return Document(
        url=url or "",
        title=metadata.title,
        markdown=written,
        text=text,
        word_count=words,
        reading_time=minutes,
        quality_score=confidence(scores),
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
        truncated=True if page.truncated or text_cut or markdown_cut or html_cut else UNSET,
    )
