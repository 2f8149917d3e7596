"""What the gate's score is made of, measured on a parsed page.

Every feature means what its name says. Text is what a reader would see: what stands in scripts,
styles, templates, comments, ``<noscript>`` and hidden elements is none. A mount point counts only
while it is empty, and a request for script only where there is nothing else to read.
"""

import re
from typing import Final

from selectolax.lexbor import LexborHTMLParser

from eventmesh_trio.abc import GateFeatures
from eventmesh_trio.pipeline.extract.outline import Node, Outline
from eventmesh_trio.pipeline.extract.text import clean

__all__ = ["EMPTY_MOUNT", "MARKERS", "measure"]

EMPTY_MOUNT: Final = "empty mount point"
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
_MOUNTS: Final = ", ".join(
    (
        *(f"#{name}" for name in sorted(_MOUNT_IDS)),
        *sorted(_MOUNT_TAGS),
        *(f"[{name}]" for name in sorted(_MOUNT_ATTRIBUTES)),
    )
)
_STATE_WORDS: Final = """
    __NEXT_DATA__ __next_f __NUXT__ __NUXT_DATA__ __INITIAL_STATE__ __PRELOADED_STATE__
    __APOLLO_STATE__ __remixContext __reactRouterContext __sveltekit ___gatsby __VUE_SSR
    webpackJsonp webpackChunk ReactDOM. hydrateRoot(
"""
_STATE: Final = tuple(_STATE_WORDS.split())  # found by `in`: a pattern of them is 50 times slower
_UNFILLED: Final = re.compile(r"\{\{[^{}]{1,200}\}\}")
_UNFILLED_PLACES: Final = 3  # fewer may be what a page is about
_ASKS: Final = re.compile(r"\bjava\s?script\b", re.IGNORECASE)
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
    visible_chars = sum(len(clean(block.text)) for block in visible.blocks)
    script_chars, sources, has_state = _scripts(tree)
    runs_script = bool(sources or script_chars)
    bare = visible_chars < _EMPTY_CHARS and runs_script
    signs = (
        runs_script and _has_empty_mount(tree, visible),
        has_state,
        bare,
        bare and _asks_for_script(tree),
    )
    return GateFeatures(
        page_chars=page_chars,
        visible_chars=visible_chars,
        paragraphs=sum(
            node.tag == "p" and visible.chars(node) >= _PARAGRAPH_CHARS for node in visible.nodes
        ),
        has_article=any(_is_article(node) and visible.chars(node) for node in visible.nodes),
        has_opengraph=has_opengraph,
        has_article_jsonld=has_article_jsonld,
        script_chars=script_chars,
        spa_markers=tuple(name for name, found in zip(MARKERS, signs, strict=True) if found),
    )


def _scripts(tree: LexborHTMLParser) -> tuple[int, int, bool]:
    """Characters of inline script that runs, scripts loaded, whether there is application state."""
    chars = sources = 0
    has_state = False
    for script in tree.css("script"):
        attributes = script.attributes
        text = script.text()
        kind = (attributes.get("type") or "").partition(";")[0].strip().lower()
        if not kind or _RUNS.fullmatch(kind) is not None:
            sources += "src" in attributes
            chars += 0 if "src" in attributes else len(text)
        if not has_state:
            has_state = attributes.get("id") in _STATE or any(word in text for word in _STATE)
    return chars, sources, has_state


def _is_article(node: Node) -> bool:
    return node.tag in ("article", "main") or node.attributes.get("role") in ("article", "main")


def _has_empty_mount(tree: LexborHTMLParser, visible: Outline) -> bool:
    """Whether an application's mount point is there, and what it will show is not.

    One that is hidden has no node in the outline. One with placeholders is yet to be filled in.
    """
    if tree.css_first(_MOUNTS) is None:
        return False
    root = tree.root
    whole = root is not None and _is_mount("html", root.attributes)
    chars = unfilled = 0
    index = 0
    while index < len(visible.nodes):
        node = visible.nodes[index]
        if not (whole or _is_mount(node.tag, node.attributes)):
            index += 1
            continue
        chars += visible.chars(node)
        inside = visible.blocks[node.first_block : node.end_block]
        unfilled += sum(len(_UNFILLED.findall(block.text)) for block in inside)
        index = node.end_node  # what is mounted inside of it is in it
    return chars < _EMPTY_CHARS or unfilled >= _UNFILLED_PLACES


def _is_mount(tag: str, attributes: dict[str, str | None]) -> bool:
    return (
        tag in _MOUNT_TAGS
        or attributes.get("id") in _MOUNT_IDS
        or not _MOUNT_ATTRIBUTES.isdisjoint(attributes)
    )


def _asks_for_script(tree: LexborHTMLParser) -> bool:
    """Whether readers without script are told to get it, or are sent elsewhere."""
    return any(
        _ASKS.search(notice.text(separator=" ")) is not None
        or notice.css_first('meta[http-equiv="refresh" i]') is not None
        for notice in tree.css("noscript")
    )
