"""What the gate's score is made of, measured on a parsed page.

Every feature means what its name says. Text is what a reader would see: what stands in scripts,
styles, templates, comments, ``<noscript>`` and hidden elements is none. A mount point counts only
while it is empty, and a request for script only where there is nothing else to read.
"""

import re
from functools import lru_cache
from typing import Final

from selectolax.lexbor import LexborHTMLParser

from eventmesh_trio.abc import GateFeatures
from eventmesh_trio.pipeline.extract.page.cues import MAIN
from eventmesh_trio.pipeline.extract.page.outline import Outline
from eventmesh_trio.pipeline.extract.text import clean
from eventmesh_trio.pipeline.gate import EMPTY_MOUNT

__all__ = ["MARKERS", "measure"]

MARKERS: Final = (
    EMPTY_MOUNT,
    "application state",
    "scripts but no text",
    "asks for script",
)
"""The signs that a script builds a page, in the order in which they are told."""

_PARAGRAPH_CHARS: Final = 25
_EMPTY_CHARS: Final = 200  # a loading message and a notice fit into it
_MOUNT_WORDS: Final = """
    root app __next __nuxt ___gatsby gatsby-focus-wrapper svelte q-app ember-app react-root
    react-app vue-app app-root main-app app-mount
"""
_MOUNT_IDS: Final = frozenset(_MOUNT_WORDS.split())
_MOUNT_TAGS: Final = frozenset({"app-root", "my-app", "ng-app", "flutter-view"})
_MOUNT_ATTRIBUTES: Final = frozenset(
    {"ng-app", "data-ng-app", "ng-version", "v-cloak", "data-v-app", "data-reactroot"}
)
_MOUNTED_BY_ATTRIBUTE: Final = ", ".join(f"[{name}]" for name in sorted(_MOUNT_ATTRIBUTES))
_STATE_WORDS: Final = """
    __NEXT_DATA__ __next_f __NUXT__ __NUXT_DATA__ __INITIAL_STATE__ __PRELOADED_STATE__
    __APOLLO_STATE__ __remixContext __reactRouterContext __sveltekit ___gatsby __VUE_SSR
    webpackJsonp webpackChunk ReactDOM. hydrateRoot(
"""
_STATE: Final = tuple(_STATE_WORDS.split())
# A pattern is quick only if it begins with characters that all alternatives share: 21 us for the
# 49 kB of script of a mean page, where `in` with each of the words takes 130.
_STATE_IN_TEXT: Final = re.compile(
    "__(?:" + "|".join(word[2:] for word in _STATE if word.startswith("__")) + ")"
)
_STATE_CALLS: Final = tuple(word for word in _STATE if not word.startswith("__"))
_UNFILLED: Final = re.compile(r"\{\{[^{}]{1,200}\}\}")
_UNFILLED_PLACES: Final = 3  # fewer may be what a page is about
_ASKS: Final = re.compile(r"\bjava\s?script\b", re.IGNORECASE)
_ARTICLES: Final = frozenset({"article", "main"})  # as tags, and as roles
_SIGNS: Final = _MOUNT_ATTRIBUTES | {"id"}
_TYPE_CHARS: Final = 100  # of a script's type, that are read: no name of one is half as long
# What runs; the rest are data blocks (HTML, 4.12.1): JSON, templates, import maps.
_RUNS: Final = re.compile(
    r"(?:text|application)/(?:x-)?(?:java|ecma|live|j)script[0-9.]*|module|text/babel|text/jsx"
)


def measure(
    tree: LexborHTMLParser,
    page_chars: int,
    visible: Outline,
    *,
    has_opengraph: bool,
    has_article_jsonld: bool,
) -> GateFeatures:
    """Measure a parsed page. ``visible`` is the outline of its body."""
    visible_chars = len(clean("".join([block.text for block in visible.blocks])))
    script_chars, sources, has_state = _read_scripts(tree)
    runs_script = bool(sources or script_chars)
    bare = visible_chars < _EMPTY_CHARS and runs_script
    nodes, before = visible.nodes, visible.chars_before
    signs = (
        runs_script and _has_empty_mount(tree, visible, bare=bare),
        has_state,
        bare,
        bare and _asks_for_script(tree),
    )
    return GateFeatures(
        page_chars=page_chars,
        visible_chars=visible_chars,
        paragraphs=sum(
            [
                before[node.end_block] - before[node.first_block] >= _PARAGRAPH_CHARS
                for node in nodes
                if node.tag == "p"
            ]
        ),
        # The cue is that of these tags and roles, and of one property.
        has_article=any(
            visible.chars(node)
            for node in [nodes[index] for index in visible.telling]
            if node.cues & MAIN
            if node.tag in _ARTICLES or node.attributes.get("role") in _ARTICLES
        ),
        has_opengraph=has_opengraph,
        has_article_jsonld=has_article_jsonld,
        script_chars=script_chars,
        spa_markers=tuple(name for name, found in zip(MARKERS, signs, strict=True) if found),
    )


def _read_scripts(tree: LexborHTMLParser) -> tuple[int, int, bool]:
    """Characters of inline script that runs, scripts loaded, whether there is application state."""
    chars = sources = 0
    has_state = False
    texts: list[str] = []
    for script in tree.tags("script"):
        attributes = script.attributes
        text = script.text(deep=False)  # within drawings scripts nest, and hold each other's words
        if text:
            texts.append(text)
        if _runs((attributes.get("type") or "")[:_TYPE_CHARS]):
            if "src" in attributes:
                sources += 1
            else:
                chars += len(text)
        has_state = has_state or attributes.get("id") in _STATE
    if not has_state:
        joined = "\n".join(texts)
        has_state = _STATE_IN_TEXT.search(joined) is not None or any(
            call in joined for call in _STATE_CALLS
        )
    return chars, sources, has_state


@lru_cache(maxsize=256)
def _runs(kind: str) -> bool:
    """Whether a script of this type runs; that of most is not said."""
    if not kind:
        return True
    essence = kind.partition(";")[0].strip().lower()
    return not essence or _RUNS.fullmatch(essence) is not None


def _has_empty_mount(tree: LexborHTMLParser, visible: Outline, *, bare: bool) -> bool:
    """Whether an application's mount point is there, and what it will show is not.

    A mount point that is hidden has no node in the outline: it is known by its name, and on a page
    with nothing else to read (``bare``) by any sign. One with placeholders is yet to be filled in.
    """
    root = tree.root
    nodes = visible.nodes
    tagged = any(tree.tags(tag) for tag in _MOUNT_TAGS)
    if root is not None and _is_mount(root.attributes):
        mounts = [0] if nodes else []
    else:
        is_unmarked = _SIGNS.isdisjoint
        mounts = [
            index
            for index in visible.marked
            if not is_unmarked(nodes[index].attributes) and _is_mount(nodes[index].attributes)
        ]
        if tagged:
            named = [index for index, node in enumerate(nodes) if node.tag in _MOUNT_TAGS]
            mounts = sorted({*mounts, *named})
    chars = unfilled = end = 0
    for index in mounts:
        if index < end:
            continue  # what is mounted inside of a mount point is in it
        node = nodes[index]
        end = node.end_node
        chars += visible.chars(node)
        inside = visible.blocks[node.first_block : node.end_block]
        unfilled += sum(len(_UNFILLED.findall(block.text)) for block in inside)
    if chars >= _EMPTY_CHARS:
        return unfilled >= _UNFILLED_PLACES
    return bool(mounts) or tagged or _is_mounted_unseen(tree, bare=bare)


def _is_mounted_unseen(tree: LexborHTMLParser, *, bare: bool) -> bool:
    """Whether an id, or another sign, of a mount point is hidden or among words."""
    # Selectors are compared with every element, 10 to 25 us each; asking for ids is one.
    return not _MOUNT_IDS.isdisjoint([element.id for element in tree.css("[id]")]) or (
        bare and tree.css_first(_MOUNTED_BY_ATTRIBUTE) is not None
    )


def _is_mount(attributes: dict[str, str | None]) -> bool:
    return attributes.get("id") in _MOUNT_IDS or not _MOUNT_ATTRIBUTES.isdisjoint(attributes)


def _asks_for_script(tree: LexborHTMLParser) -> bool:
    """Whether readers without script are told to get it, or are sent elsewhere."""
    read: set[int] = set()
    for notice in tree.css("noscript"):
        if notice.mem_id in read:
            continue  # it is in another, and hundreds may be in each other
        read.update([inner.mem_id for inner in notice.css("noscript")])
        if _ASKS.search(notice.text(separator=" ")) is not None:
            return True
        if notice.css_first('meta[http-equiv="refresh" i]') is not None:
            return True
    return False
