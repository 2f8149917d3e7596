"""What kind of page this is: an article, a thread of posts, a list, a product.

The kind decides how content is selected (`eventmesh_trio.pipeline.extract.selection.choice`). It is
read from what the page declares and from its markup, never from the name of its host. A page that
declares nothing of use is `UNKNOWN`, and its structure decides.

Source: https://schema.org/docs/full.html, https://ogp.me/#types, and the URLs that forum software
writes (phpBB, vBulletin, XenForo, Discourse, Invision, NodeBB, MyBB, bbPress, FluxBB).
"""

import re
from collections.abc import Collection
from typing import Final, Literal

from eventmesh_trio.pipeline.extract.page.outline import Outline

__all__ = ["Kind", "declared_kind", "kind_of"]

Kind = Literal["article", "collection", "forum", "home", "product", "topic", "unknown"]
"""``collection``: lists of any records, products among them. ``home``: a site's first page.
``topic``: by its address a thread; an article, if it has no posts."""

_THREAD_TYPES: Final = frozenset(("DiscussionForumPosting", "QAPage"))
_PRODUCT_TYPES: Final = frozenset(("Product", "ProductGroup", "ItemPage", "IndividualProduct"))
_COLLECTION_TYPES: Final = frozenset(
    ("CollectionPage", "SearchResultsPage", "OfferCatalog", "ImageGallery")
)
_ARTICLE_TYPE: Final = re.compile(r"Article$|BlogPosting$|^Report$|^Review$|^Recipe$|^HowTo$")
_PRODUCT_OG: Final = re.compile(r"(?:^|[:.])(?:product|item)s?(?:\.item)?$")
_COLLECTION_OG: Final = re.compile(r"product\.group$|(?:^|[:.])(?:collection|category)$")

_FORUM_SOFTWARE: Final = re.compile(
    r"discourse|xenforo|vbulletin|phpbb|mybb|invision|nodebb|flarum|ubb\.threads|vanilla|fluxbb"
    r"|simple machines|woltlab|bbpress",
    re.IGNORECASE,
)
_TOPIC_PATH: Final = re.compile(
    r"[/?&](?:threads?|topics?|viewtopic|showthread|showtopic|topic_show|discussions?)(?=[/.?=_-]|$)"
    r"|/(?:forums?|boards?|bbs|ubbthreads|questions?)(?=[/.?=-])[^#]*\d|/t/(?:[^/?#]+/)?\d",
    re.IGNORECASE,
)
_MAX_PATH_CHARS: Final = 2048
"""Of an address that are looked at: no forum writes longer ones."""
_HOME: Final = re.compile(r"/?(?:[?#].*)?", re.DOTALL)
_HOST: Final = re.compile(r"^[a-z][a-z0-9+.-]*://[^/?#]*", re.IGNORECASE)

_MIN_COMMENTS: Final = 2
_COMMENTS_SHARE: Final = 0.5
"""Of a page's characters: above it comments are not what readers add, they are the page."""


def declared_kind(
    types: Collection[str], og_type: str | None, generator: str | None, url: str | None
) -> Kind:
    """The kind by what stands outside the text.

    Args:
      types: all ``@type`` of the page's JSON-LD, without prefix.
      og_type: ``og:type`` as written.
      generator: ``<meta name=generator>``.
      url: the page's address; the host is not looked at.
    """
    if not _THREAD_TYPES.isdisjoint(types):
        return "forum"
    if generator and _FORUM_SOFTWARE.search(generator) is not None:
        return "forum"
    path = _HOST.sub("", url or "", count=1)[:_MAX_PATH_CHARS]
    if _TOPIC_PATH.search(path) is not None:
        return "topic"
    if url and _HOME.fullmatch(path) is not None:
        return "home"
    declared = (og_type or "").strip().lower()
    if _COLLECTION_OG.search(declared) is not None:
        return "collection"
    if not _PRODUCT_TYPES.isdisjoint(types) or _PRODUCT_OG.search(declared) is not None:
        return "product"
    if declared == "article" or any(_ARTICLE_TYPE.search(name) for name in types):
        return "article"
    if not _COLLECTION_TYPES.isdisjoint(types):
        return "collection"
    return "unknown"


def kind_of(page: Outline, declared: Kind) -> Kind:
    """The kind by the page's own markup (microdata), else as declared.

    A thread often passes for an article: its software writes ``og:type`` so that it is shared.
    """
    if declared == "forum":
        return declared
    comments = 0
    chars = 0
    seen = 0  # blocks up to here are counted: comments nest
    for node in [page.nodes[index] for index in page.marked]:
        item = node.attributes.get("itemtype")
        if not item:
            continue
        name = item.rstrip("/").rpartition("/")[2]
        if name == "DiscussionForumPosting":
            return "forum"
        if name in ("Comment", "UserComments", "Answer") and node.first_block >= seen:
            comments += 1
            chars += page.chars(node)
            seen = node.end_block
    if comments >= _MIN_COMMENTS and chars > _COMMENTS_SHARE * page.chars_before[-1]:
        return "forum"
    return declared
