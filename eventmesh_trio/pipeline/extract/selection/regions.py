"""The whole of a page but for what frames its content: for pages that are not one piece of prose.

A list of records, a shop's page, a product, the home page of a service have no element that holds
the content and nothing else. Here the page is taken as it is, and what frames it is struck out:
navigation, filters, banners, controls, counters, and sections that recommend other pages.
"""

import re
from collections import deque
from functools import lru_cache
from itertools import accumulate
from typing import Final

from eventmesh_trio.pipeline.extract.page.cues import COMMENTS, MAIN, MAX_NAMES_CHARS, NOISE, NOTE
from eventmesh_trio.pipeline.extract.page.outline import Node, Outline
from eventmesh_trio.pipeline.extract.selection.scoring import Selection

__all__ = ["is_control", "is_framing", "link_density", "select_region", "strike"]

_HEADINGS: Final = frozenset(("h1", "h2", "h3", "h4"))
_POST_TAGS: Final = frozenset(("form", "aside"))
_ROLES: Final = frozenset(
    (
        "navigation", "banner", "contentinfo", "search", "menu", "menubar", "dialog",
        "alertdialog", "tooltip", "toolbar", "tablist",
    )
)  # fmt: skip
_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_WORD: Final = re.compile(r"[a-z]+")
_LAYOUT: Final = re.compile(r"\b(?:has|with|no|without|hide|show|is)[-_]\S*")
_FRAME_WORDS: Final = """
    nav navbar navigation navi subnav topnav menu submenu menubar meganav sitenav breadcrumb
    breadcrumbs crumbs footer share sharing social socials cookie cookies consent gdpr newsletter
    modal popup drawer offcanvas pagination pager paginator paging pagenav skip skiplink signup
    login signin minicart facet facets filter filters refinement refinements refinebar sorting
    sorter toolbar tooltip announcement wishlist advert adverts advertisement ads adsbygoogle
    outbrain taboola copyright sidebar sidenav autocomplete searchbox
"""
_FRAME: Final = frozenset(_FRAME_WORDS.split())
_FRAME_PAIRS: Final = re.compile(
    r"side[-_]?bar|bread[-_]crumb|sort[-_]?(?:by|order|options?)"
    r"|(?:promo|top|utility|announcement)[-_]?bar|skip[-_](?:to|link)|sr[-_]only"
    r"|screen[-_]reader|visually[-_]?hidden|off[-_]?screen|(?:site|page)[-_](?:header|footer|nav)"
    r"|mini[-_]?cart|search[-_](?:form|box|bar)|back[-_]to[-_]top|recently[-_]viewed|tool[-_]tip"
)
_BUTTON: Final = re.compile(r"(?:cart|share|filter)[-_]?button")
"""A class of records that can be put into a cart, not of the button."""
_CONSENT: Final = re.compile(r"cookie|consent|gdpr|onetrust")

# What a name says, as flags.
_SAYS_FRAME: Final = 1
_SAYS_CONSENT: Final = 2
_SAYS_BUTTON: Final = 4

_MAX_SAID: Final = 4096
"""Values of ``class`` that are remembered; then all are forgotten."""
_said: Final[dict[str | None, int]] = {}

# Shares of the page's characters, above which an element is the page in spite of what it is called.
_ALWAYS: Final = 2.0
_NAV_LIMIT: Final = 0.6
_ROLE_LIMIT: Final = 0.5
_SECTION_LIMIT: Final = 0.4
_NAMED_LIMIT: Final = 0.35
_FORM_LIMIT: Final = 0.3
_COMMENTS_LIMIT: Final = 0.9  # what readers add to a page is often longer than the page
_TAG_LIMITS: Final = {
    "nav": _NAV_LIMIT, "menu": _NAV_LIMIT, "footer": _NAV_LIMIT, "button": _ALWAYS,
    "form": _FORM_LIMIT, "aside": _FORM_LIMIT,
    "body": 0.0, "html": 0.0, "main": 0.0, "article": 0.0,
    "p": 0.0, "tr": 0.0, "h1": 0.0, "h2": 0.0, "h3": 0.0,
}  # fmt: skip
_SECTIONS: Final = frozenset(("main", "article", "section", "li"))

_CONTROL_CHARS: Final = 40
_CONTROL_WORDS: Final = """
    add|add to cart|add to bag|add to basket|add to wishlist|add to wish list|add to compare
    add to favorites|add to favourites|quick view|quick shop|quick add|quick buy|quick look
    read more|read article|read the article|read story|read the full story|read the full article
    learn more|view details|view product|view more|view all|view cart|see more|see details|see all
    see options|shop now|shop all|buy now|buy it now|choose options|select options|compare|details
    product details|more|next|previous|prev|load more|show more|show less|close|menu|search|filter
    filters|sort|sort by|apply now|subscribe|sign in|sign up|log in|login|share|save|print
    continue reading|reply|quote|like|report|edit|delete|copy link|click to expand|sticky|locked
    previous slide|next slide|skip to content|skip to main content|back to top|expand|collapse
    mehr|mehr lesen|weiterlesen|mehr erfahren|in den warenkorb|zum warenkorb|anmelden|teilen|suche
    lire la suite|en savoir plus|ajouter au panier|voir plus|partager|se connecter|rechercher
    leer más|ver más|añadir al carrito|comprar|compartir|iniciar sesión|buscar|leggi tutto
    aggiungi al carrello|condividi|accedi|cerca|ler mais|saiba mais|adicionar ao carrinho|entrar
    lees meer|in winkelwagen|delen|läs mer|læs mere|les mer|czytaj więcej|dodaj do koszyka
    подробнее|читать далее|в корзину|поделиться|войти|続きを読む|もっと見る|カートに入れる
    阅读更多|查看更多|加入购物车|更多
"""
_CONTROLS: Final = frozenset(
    label.strip() for line in _CONTROL_WORDS.strip().splitlines() for label in line.split("|")
)
_EDGES: Final = " \t\n.…:;!?*+»«›‹>→←▸▾▼|•·()[]"
_COUNTER: Final = re.compile(
    r"[\d.,]+[km+]?(?: (?:replies|views|posts|topics|comments|likes|threads|messages|reviews?))?"
    r"|(?:replies|views|posts|topics|comments|likes)[: ]*[\d.,]*[km]?"
)
_AGO: Final = re.compile(
    r".{0,12}\b\d+ ?(?:s|m|h|d|w|y|mo|sec\w*|min\w*|hours?|hrs?|days?|weeks?|months?|years?) ago"
)
_ELSEWHERE: Final = re.compile(
    r"you (?:may|might|could|'ll|’ll|will) (?:also )?(?:like|love|enjoy|need)"
    r"|(?:customers|people|shoppers|others) (?:also|who)|related|recommended|recommendations"
    r"|recently viewed|similar (?:items|products)|complete (?:the|your)|pairs? (?:well|with)"
    r"|frequently bought|more (?:from|like|to (?:love|explore))|explore more|best ?sellers"
    r"|sponsored|(?:customer |product |verified |ratings? (?:&|and) )?reviews?\b"
    r"|what (?:people|our customers|customers) (?:are saying|say)|ratings?\b|testimonials?"
    r"|questions? (?:&|and) answers|q ?& ?a\b|share this|follow us|as seen|featured in|join "
    r"|sign up|subscribe|newsletter|inspired by your|trending|popular|stay in"
    r"|need help|seller feedback|about (?:this|the) seller|find similar"
    r"|das könnte (?:dir|ihnen)|ähnliche|kunden(?:bewertungen| kauften)|vous aimerez|avis clients"
    r"|produits (?:similaires|associés)|también te|productos relacionados|opiniones"
    r"|potrebbe(?:ro)? (?:piacerti|interessarti)|prodotti correlati|você também|produtos"
    r" relacionados",
    re.IGNORECASE,
)
"""Headings of sections about other pages, and of what customers say; at the start of the text."""
_ELSEWHERE_CHARS: Final = 60
_RECENT: Final = 4
"""Blocks within which the same text is a copy, for another width of screen."""


def select_region(page: Outline, struck: list[bool], *, links: bool) -> Selection:
    """All content of a page.

    Args:
      struck: what `strike` says; more is struck in it.
      links: lines that are links are content (a list of records), as are sections about others.
        Without: they lead away from it.
    """
    blocks = page.blocks
    if not links:
        _strike_elsewhere(page, struck)
    titles = [i for i, b in enumerate(blocks) if b.tag == "h1" and not struck[i]]
    start = titles[0] if len({blocks[i].text for i in titles}) == 1 else 0
    if 2 * page.chars_before[start] > page.chars_before[-1]:
        start = 0
    kept: list[int] = []
    recent: deque[str] = deque(maxlen=_RECENT)
    for i, block in enumerate(blocks):
        text = block.text
        if struck[i] or len(text) < 2 or text in recent:
            continue
        if 2 * block.link_chars > block.chars and (
            i < start or not (links or block.tag in _HEADINGS)
        ):
            continue
        if len(text) < _CONTROL_CHARS and _is_furniture(text):
            continue
        recent.append(text)
        kept.append(i)
    while kept and blocks[kept[-1]].tag in _HEADINGS:
        kept.pop()
    chars = sum(blocks[i].chars for i in kept)
    density = sum(blocks[i].link_chars for i in kept) / chars if chars else 0.0
    coverage = chars / page.chars_before[-1] if chars else 0.0
    method = ("index" if links else "region") if kept else "none"
    return Selection(kept, 0, method, coverage, density)


def link_density(page: Outline, struck: list[bool]) -> float:
    """Link characters of all characters that are not struck, 0-1; 1 where there are none."""
    chars = links = 0
    for block, out in zip(page.blocks, struck, strict=True):
        if not out:
            chars += block.chars
            links += block.link_chars
    return links / chars if chars else 1.0


def is_control(text: str) -> bool:
    """Whether a short text is the label of a control, in the languages that are known here."""
    return len(text) < _CONTROL_CHARS and text.casefold().strip(_EDGES) in _CONTROLS


@lru_cache(maxsize=4096)
def _is_furniture(text: str) -> bool:
    """Controls, counters, and how long ago something was, which is true only at that moment."""
    text = text.casefold().strip(_EDGES)
    return (
        text in _CONTROLS
        or _COUNTER.fullmatch(text) is not None
        or (text.endswith(" ago") and _AGO.fullmatch(text) is not None)
    )


def strike(page: Outline, *, posts: bool = False) -> list[bool]:
    """Which blocks frame the page's content, by what the elements around them are or are called.

    ``posts``: comments are content, and forms and asides: forums wrap posts in the one, quotations
    in the other.

    Narrower than `eventmesh_trio.pipeline.extract.page.cues.NOISE`: a widget or a carousel is no
    part of an article, but it is how the records of a list are shown.
    """
    nodes = page.nodes
    struck = [False] * len(page.blocks)
    total = page.chars_before[-1]
    sectioned = 0  # nodes up to here are inside an element that has a header of its own
    end = 1  # nodes up to here are struck, or the root
    chars = page.chars_before
    said = _said.get
    for index, node in enumerate(nodes):
        if index < end:
            continue
        tag = node.tag
        if tag in _SECTIONS and node.end_node > sectioned:
            sectioned = node.end_node
        if tag == "header":
            limit = _ALWAYS if index >= sectioned else 0.0
        elif posts and tag in _POST_TAGS:
            limit = 0.0
        else:
            attributes = node.attributes
            if tag in _TAG_LIMITS:
                limit = _TAG_LIMITS[tag]
            # At most a class, and that says nothing, as of most: a call takes as long as all else.
            elif not attributes or (len(attributes) == 1 and not said(attributes.get("class"), 1)):
                limit = 0.0
            else:
                limit = _limit_by_attributes(node)
            if node.cues & COMMENTS and not posts:
                limit = max(limit, _COMMENTS_LIMIT)
        if limit:
            first, last = node.first_block, node.end_block
            if chars[last] - chars[first] < limit * total:
                struck[first:last] = [True] * (last - first)
                end = node.end_node
    return struck


def is_framing(node: Node) -> bool:
    """Whether an element that calls itself noise frames the content of a page of any kind."""
    cues = node.cues
    return (
        bool(cues & NOISE)
        and not cues & (MAIN | NOTE)
        and node.tag not in _TAG_LIMITS
        and _limit_by_attributes(node) > 0
    )


def _limit_by_attributes(node: Node) -> float:
    """The share of the page below which an element frames it; 0 where nothing says so."""
    attributes = node.attributes
    if not attributes:
        return 0.0
    said = 0
    if names := attributes.get("class"):
        known = _said.get(names)
        said = _names_say(names) if known is None else known
    if len(attributes) > 1 or not names:
        role = attributes.get("role")
        if role and role in _ROLES:
            return _ROLE_LIMIT
        if identity := attributes.get("id"):
            said |= _name_says(identity[:MAX_NAMES_CHARS])
    if not said:
        return 0.0
    if said & _SAYS_CONSENT:
        return _ALWAYS
    return _NAMED_LIMIT if said == _SAYS_FRAME and not node.cues & MAIN else 0.0


def _names_say(names: str) -> int:
    said = 0
    for name in names[:MAX_NAMES_CHARS].split():
        said |= _name_says(name)
    if len(names) <= MAX_NAMES_CHARS:  # one that is longer is not worth its memory
        if len(_said) >= _MAX_SAID:
            _said.clear()
        _said[names] = said
    return said


# Pages have many names that are their own, made of few that are not: each is read once.
@lru_cache(maxsize=16384)
def _name_says(name: str) -> int:
    text = name if name.islower() else _CAMEL.sub("-", name).lower()
    if "-" in text or "_" in text:
        text = _LAYOUT.sub(" ", text)
    said = 0
    if _CONSENT.search(text) is not None:
        said |= _SAYS_CONSENT
    if not _FRAME.isdisjoint(_WORD.findall(text)) or _FRAME_PAIRS.search(text) is not None:
        said |= _SAYS_FRAME
    if "button" in text and _BUTTON.search(text) is not None:
        said |= _SAYS_BUTTON
    return said


def _strike_elsewhere(page: Outline, struck: list[bool]) -> None:
    """Strike the sections that begin with a heading of `_ELSEWHERE`."""
    blocks, nodes = page.blocks, page.nodes
    total = page.chars_before[-1]
    good = [0, *accumulate(0 if s else b.chars for s, b in zip(struck, blocks, strict=True))]
    for i, block in enumerate(blocks):
        if struck[i] or block.chars > _ELSEWHERE_CHARS or block.tag not in _HEADINGS:
            continue
        if _ELSEWHERE.match(block.text) is None:
            continue
        section = nodes[block.node]
        while section.parent >= 0:
            parent = nodes[section.parent]
            if (
                good[parent.first_block] < good[i]  # something else comes first
                or page.chars(parent) > _SECTION_LIMIT * total
                or parent.tag in ("body", "main", "article")
            ):
                break
            section = parent
        span = section.end_block - section.first_block
        struck[section.first_block : section.end_block] = [True] * span
