"""Microdata (``itemscope``, ``itemtype``, ``itemprop``) as the objects that JSON-LD would give.

Source: https://html.spec.whatwg.org/multipage/microdata.html, "Values" and "Associating names with
items"; ``itemref`` is not followed.
"""

from collections.abc import Sequence
from typing import Final

from selectolax.lexbor import LexborNode

from eventmesh_trio.pipeline.extract.metadata.jsonld import Item

__all__ = ["MAX_PROPERTIES", "read_items"]

MAX_PROPERTIES: Final = 1000
"""Of a page, in its order: a shop's list of products has some 20 for each of 48."""
MAX_TEXT_CHARS: Final = 2000
MAX_READ_CHARS: Final = 500_000
"""Of all texts that are read for values. Elements nest, and each is read with all that is in it."""
_BODY: Final = ("articlebody", "text", "reviewbody", "description")
"""Properties that hold text at length. It is read by the walk of the page, not once more here."""
_ADDRESSES: Final = {
    **dict.fromkeys(("a", "area", "link"), "href"),
    **dict.fromkeys(("audio", "embed", "iframe", "img", "source", "track", "video"), "src"),
    "object": "data",
}
_VALUES: Final = {"meta": "content", "data": "value", "meter": "value", "time": "datetime"}


def read_items(elements: Sequence[LexborNode]) -> list[Item]:
    """Build the items of a page, outermost first, each with its ``@type`` and its properties.

    Args:
      elements: all elements with ``itemscope`` or ``itemprop``, in document order.

    A property that stands more than once is a list. One without an item around it is none of any.
    """
    items: list[Item] = []
    owners: dict[int, Item | None] = {}  # of the elements that were climbed over, by identity
    left = MAX_READ_CHARS
    for element in elements[:MAX_PROPERTIES]:
        attributes = element.attributes
        owner = _owner(element, owners)
        own: Item | None = None
        if "itemscope" in attributes:
            own = {}
            kind = (attributes.get("itemtype") or "").split()
            if kind:
                own["@type"] = kind if len(kind) > 1 else kind[0]
            owners[element.mem_id] = own
        names = (attributes.get("itemprop") or "").split()
        if owner is not None and names:
            value: Item | str | None = own
            if value is None:
                value = _declared(element, attributes, names)
            if value is None and left > 0:
                text = element.text(separator=" ")
                left -= len(text)
                value = " ".join(text[: 2 * MAX_TEXT_CHARS].split())[:MAX_TEXT_CHARS]
            for name in names:
                _add(owner, name, value or "")
        elif own is not None and "@type" in own:
            items.append(own)
    return items


def _owner(element: LexborNode, owners: dict[int, Item | None]) -> Item | None:
    """The item around an element. What is climbed is remembered: no element is climbed twice."""
    climbed = []
    node = element.parent
    owner: Item | None = None
    while node is not None:
        identity = node.mem_id
        if identity in owners:
            owner = owners[identity]
            break
        climbed.append(identity)
        node = node.parent
    for identity in climbed:
        owners[identity] = owner
    return owner


def _declared(
    element: LexborNode, attributes: dict[str, str | None], names: Sequence[str]
) -> str | None:
    """The value that an attribute holds; None if it is the element's text."""
    content = attributes.get("content")
    if content is not None:
        return content[:MAX_TEXT_CHARS]
    tag = element.tag or ""
    attribute = _ADDRESSES.get(tag) or _VALUES.get(tag)
    if attribute is not None:
        value = attributes.get(attribute)
        # A link around a person's name says the name as much as the address: the name is asked for.
        if value and not (tag == "a" and "url" not in names):
            return value[:MAX_TEXT_CHARS]
    return "" if any(name.lower() in _BODY for name in names) else None


def _add(item: Item, name: str, value: Item | str) -> None:
    if value == "":
        return
    known = item.get(name)
    if known is None:
        item[name] = value
    elif isinstance(known, list):
        known.append(value)
    else:
        item[name] = [known, value]
