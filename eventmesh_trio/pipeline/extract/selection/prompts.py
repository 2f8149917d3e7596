"""Short lines inside an article that are not of it: labels, credits, and what readers are asked.

Told by their words, in the languages that most pages are written in. Only lines under `_MAX_CHARS`
are looked at: a paragraph that begins with such words is a paragraph.
"""

import re
from typing import Final

from eventmesh_trio.pipeline.extract.page.outline import Block

__all__ = ["is_prompt"]

_MAX_CHARS: Final = 120
_LABELS: Final = re.compile(
    r"(?:advert(?:isement|ising|orial)?s?|sponsored(?: content)?|anzeige|werbung|publicidade?"
    r"|publicité|pubblicità|advertentie|iklan|реклама|広告|广告"
    r"|comments?|leave a (?:comment|reply)|captions?|close|print|e-?mail|share(?: this.*)?"
    r"|subscribe|sign up|loading|\d+ (?:of|/) \d+|(?:learn|read|see|show|load) more"
    r"|continue reading|don['’]t miss|\d+ min(?:ute)?s? read)\W*",
    re.IGNORECASE,
)
"""The whole of the line."""
_PROMPTS: Final = re.compile(
    r"\W*(?:follow (?:us|me|him|her|them|@"
    r"|.{1,40} on (?:twitter|facebook|instagram|x|linkedin|youtube))\b"
    r"|(?:read|see|learn|discover|explore|watch|check out) (?:also|next|more)\b"
    r"|read (?:this|the full)\b|also read\b|related\b.{0,20}:|more:|(?:click|tap) here|sign up"
    r"|subscribe|filed under|posted in|tagged|tags?:|last updated|updated (?:at|on)"
    r"|(?:originally )?published (?:at|on|in|by)\b"
    r"|(?:photos?|images?|pictures?|fotos?|bild(?:er)?|crédits?|credits?|featured image|copyright)"
    r"\b ?(?::|by|via|©|copyright|credit|courtesy)|©"
    r"|lesen sie|lire aussi|à lire|leia (?:mais|também)|lea también|leggi anche|lees ook"
    r"|baca juga|читайте)",
    re.IGNORECASE,
)
"""How the line begins."""
_CREDITED: Final = re.compile(
    r"\((?:images?|photos?|pictures?|pics?|fotos?|bild)\s?:[^)]{1,60}\)$"
    r"|\b(?:photo|image|picture|foto)s?(?: credit|graph)?s?(?: by)?: [^.]{1,50}\.?$",
    re.IGNORECASE,
)
"""How a line ends that stands under a picture. Either way there is a colon in it."""


def is_prompt(block: Block, *, heading: bool) -> bool:
    """Whether a line asks the reader for something, or labels or credits what is not text.

    ``heading``: it is one; headings are judged by all of their words, not by the first.
    """
    if block.chars > _MAX_CHARS:
        return False
    text = block.text
    if _LABELS.fullmatch(text) is not None:
        return True
    if ":" in text and _CREDITED.search(text) is not None:
        return True
    return not heading and _PROMPTS.match(text) is not None
