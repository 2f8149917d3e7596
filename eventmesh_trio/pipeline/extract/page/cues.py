"""What an element's name, role and class say about it, before any of its text is looked at."""

import re
from functools import lru_cache
from itertools import pairwise
from typing import Final

__all__ = [
    "ASIDE",
    "CAPTION",
    "COMMENTS",
    "CONTENT",
    "CUES_SEEN",
    "DOUBTFUL",
    "FRAME",
    "MAIN",
    "MAX_NAMES_CHARS",
    "NOISE",
    "NOTE",
    "PLACED",
    "SIGNED",
    "SOURCES",
    "cues_of",
    "cues_of_attributes",
    "cues_of_names",
]


# Flags of one int: enum.IntFlag costs a microsecond an operation, and a page has thousands.
NOISE: Final = 1  # navigation, advertising, sharing: left out unless it is most of the page
COMMENTS: Final = 2  # readers' comments: content of a forum, not of an article
CONTENT: Final = 4  # named as content by its class or id
MAIN: Final = 8  # named as the main part by HTML or ARIA
ASIDE: Final = 16
NOTE: Final = 32  # an admonition of documentation: content though it stands in an aside
CAPTION: Final = 64  # what stands under a picture, or who took it
DOUBTFUL: Final = 128  # often noise, as often a part of the text: left out if it is no prose
SOURCES: Final = 256  # notes, or literature
PLACED: Final = 512  # what it is, is told by where it stands
FRAME: Final = 1024  # by its tag: frames what a page has to say, wherever it is, unless it is most
SIGNED: Final = 2048  # named as an author or a date

_TAGS: Final = {
    "nav": NOISE | FRAME,
    "footer": NOISE | FRAME,
    "menu": NOISE | FRAME,
    "button": NOISE,
    "article": MAIN,
    "main": MAIN,
    "aside": ASIDE,
    "figcaption": CAPTION,
    "figure": PLACED,
    "form": PLACED,
    "header": PLACED,
    "time": SIGNED,
}
_NOISE_ROLES: Final = """
    navigation banner contentinfo complementary search menu menubar dialog alertdialog toolbar
    tablist button tooltip alert
"""
_ROLES: Final = {"main": MAIN, "article": MAIN, **dict.fromkeys(_NOISE_ROLES.split(), NOISE)}
_NOISE: Final = """
    cta feedback nav navbar navigation navi subnav topnav menu submenu menubar breadcrumb
    breadcrumbs crumbs footer foot sidebar sidenav share sharebar shares sharedaddy social socials
    related recommend recommended recommendation recommendations recirc promos promotion promoted
    sponsor sponsored sponsors advert adverts advertisement advertising ad ads adsense adslot dfp
    cookie cookies consent gdpr newsletter subscribe subscription popup modal pager paging paginator
    masthead skiplink skip signup login signin outbrain taboola addthis addtoany sharethis tooltip
    dropdown trending popular copyright disclaimer credits byline widgets toolbar vcard tagcloud
    tags taglist readmore morelinks seealso rating ratings breaking ticker donate jumplinks
    printonly screenreader visuallyhidden editsection catlinks navbox metadata hatnote meganav
    sitenav werbung anzeige anzeigen fusszeile teilen verwandte publicite partager publicidad
    compartir relacionados relacionadas pubblicita condividi correlati publicidade compartilhar
    rodape advertentie reklama
"""
_DOUBTFUL: Final = """
    banner banners carousel drawer noprint offcanvas overlay pagination paywall promo
    registration sharing slideshow toc widget
"""
_NOISE_PAIRS: Final = """
    side-bar bread-crumb read-more read-next read-also more-from more-stories more-news
    more-articles more-posts most-read most-popular most-viewed see-also you-may up-next
    next-article sign-up log-in skip-to skip-link sr-only screen-reader visually-hidden author-bio
    author-box author-info author-card author-description author-desc author-profile author-details
    author-about author-block author-widget author-section author-container post-author author-bios
    about-author about-the post-meta post-tags post-footer post-nav entry-meta entry-footer
    article-meta article-tags article-footer edit-section call-to site-header site-footer site-nav
    global-header global-nav global-footer page-header page-footer page-nav tag-list back-to
    pull-quote
"""
_COMMENTS: Final = """
    comment comments commentlist commentary disqus replies respond discussion livefyre talkback
    kommentar kommentare commentaire commentaires comentario comentarios commenti reacties
"""
_CONTENT: Final = """
    article content entry post story main body text prose hentry markdown articlebody richtext
    wysiwyg artikel articulo articolo artigo inhalt contenu contenido contenuto conteudo
"""
_CONTENT_PAIRS: Final = " ".join(
    f"{first}-{second}"
    for first in ("article", "post", "entry", "page", "main", "story", "blog", "news", "single")
    for second in ("body", "content", "text", "article")
)
_NOTES: Final = """
    note admonition callout warning tip caution important info hint
"""
_CAPTIONS: Final = "caption captions figcaption"
_SIGNED: Final = """
    author authors byline bylines authorname bylinename authorlink bylinelink date dateline pubdate
    publish published timestamp datetime datepublished publishdate publisheddate publishedon
    publishtime postdate posteddate
"""
_CAPTION_PAIRS: Final = "image-credit photo-credit image-copyright"
_SOURCES: Final = "footnotes endnotes sources"
_SOURCES_PAIRS: Final = "foot-notes end-notes"


def _flags(*lists: tuple[str, int]) -> dict[str, int]:
    flags: dict[str, int] = {}
    for words, flag in lists:
        for word in words.split():
            flags[word] = flags.get(word, 0) | flag
    return flags


_WORDS: Final = _flags(
    (_NOISE, NOISE),
    (_DOUBTFUL, DOUBTFUL),
    (_COMMENTS, COMMENTS),
    (_CONTENT, CONTENT),
    (_CONTENT_PAIRS.replace("-", ""), CONTENT),
    (_NOTES, NOTE),
    (_CAPTIONS, CAPTION),
    (_SOURCES, SOURCES),
    (_SIGNED, SIGNED),
)
_PAIRS: Final = {
    tuple(pair.encode().split(b"-")): flag
    for pair, flag in _flags(
        (_NOISE_PAIRS, NOISE),
        (_CONTENT_PAIRS, CONTENT),
        (_CAPTION_PAIRS, CAPTION),
        (_SOURCES_PAIRS, SOURCES),
    ).items()
}
_LAYOUT: Final = (b"has", b"with", b"no", b"without", b"hide", b"show", b"is")
"""``has-sidebar`` says what is beside an element, or how it looks, not what it is."""
# What else a word may be, above the flags of cues.
_FIRST: Final = 4096  # of a pair
_SECOND: Final = 8192
_LAYS_OUT: Final = 16384
_CUES: Final = _FIRST - 1


def _all_flags() -> dict[bytes, int]:
    flags = {word.encode(): flag for word, flag in _WORDS.items()}
    for first, second in _PAIRS:
        flags[first] = flags.get(first, 0) | _FIRST
        flags[second] = flags.get(second, 0) | _SECOND
    for word in _LAYOUT:
        flags[word] = flags.get(word, 0) | _LAYS_OUT
    return flags


_FLAGS: Final = _all_flags()
_LETTERS: Final = bytes(code if 97 <= code <= 122 else 32 for code in range(256))
"""To ``bytes.translate``: what is not in a-z becomes a blank."""
_PIECE: Final = re.compile(rb"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_MAX_SEEN: Final = 4096
"""Values of ``class`` and ``id`` that are remembered; then all are forgotten. A page has 390, and
145 that were not among the last 4096 of other sites. ``lru_cache`` takes twice as long."""
CUES_SEEN: Final[dict[str, int]] = {}
"""What values of ``class`` and ``id`` say, to be asked for before `cues_of_names`."""
MAX_NAMES_CHARS: Final = 256
"""Of one attribute with names, that are read. Utility classes by the dozen say nothing more; and
what was read is kept for the next pages."""


def _words_of(names: str) -> list[bytes]:
    """Words of bytes are found in half the time of a regular expression, and whether they are in
    lower case in a sixth of what a ``str`` takes."""
    data = names.encode("utf-8", "replace")
    if data.islower():
        return data.translate(_LETTERS).split()
    return b" ".join(_PIECE.findall(data)).lower().split()


@lru_cache(maxsize=16384)
def _cues_of_name(name: str) -> int:
    """What one class name says, by its words and pairs of words (``postMeta``, ``post-meta``)."""
    words = _words_of(name)
    flags = _FLAGS
    if len(words) > 1 and words[0] in flags and flags[words[0]] & _LAYS_OUT:
        return 0
    cues = 0
    for word in words:
        if word in flags:
            cues |= flags[word]
    if cues & _FIRST and cues & _SECOND:
        cues |= _cues_of_pairs(words)
    return cues & _CUES


def _cues_of_pairs(words: list[bytes]) -> int:
    """What words say with the word behind them."""
    cues = 0
    for pair in pairwise(words):
        if pair in _PAIRS:
            cues |= _PAIRS[pair]
    return cues


def cues_of_names(names: str) -> int:
    """What the names in an attribute say; name by name only where neighbours matter."""
    cut = names[:MAX_NAMES_CHARS]
    words = _words_of(cut)
    said = 0
    flags = _FLAGS
    for word in words:
        if word in flags:  # one of three is: that is asked for in half the time of a ``get``
            said |= flags[word]
    cues = said & _CUES
    # Words of two names may seem to be a pair; and what lays out says so of its own name only.
    if said & _LAYS_OUT or (said & _FIRST and said & _SECOND and _cues_of_pairs(words) & ~cues):
        cues = 0
        for name in cut.split():
            cues |= _cues_of_name(name)
    if len(names) <= MAX_NAMES_CHARS:  # one that is longer is not worth its memory
        if len(CUES_SEEN) >= _MAX_SEEN:
            CUES_SEEN.clear()
        CUES_SEEN[names] = cues
    return cues


def cues_of(tag: str, attributes: dict[str, str | None]) -> int:
    """What the element says about itself. Equal classes, ids and names in them are read once."""
    cues = _TAGS.get(tag, 0)
    return cues | cues_of_attributes(attributes) if attributes else cues


def cues_of_attributes(attributes: dict[str, str | None]) -> int:
    """What its attributes say, whatever its name."""
    cues = 0
    get = attributes.get
    if names := get("class"):
        known = CUES_SEEN.get(names)
        cues = cues_of_names(names) if known is None else known
        if len(attributes) == 1:
            return cues
    if identity := get("id"):
        known = CUES_SEEN.get(identity)
        cues |= cues_of_names(identity) if known is None else known
    if role := get("role"):
        cues |= _ROLES.get(role, 0)
    if (item := get("itemprop")) and item.lower() == "articlebody":
        cues |= MAIN | CONTENT
    return cues
