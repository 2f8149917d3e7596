"""How far an extraction is to be trusted, by what was kept and how that lies in the page.

Content is a run of paragraphs. What reads like sentences was meant to be read, and what lies in one
piece was found in one piece; headlines, menus and tables of goods are short lines without an end,
and where a selection had to leave much out between its first block and its last, each of these
decisions may have been wrong. Of some thirty measurements tried on pages whose content is known,
these two say most about how much of it was found, and next to nothing is gained by a third.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from eventmesh_trio.abc import ExtractionScores
from eventmesh_trio.pipeline.extract.page.outline import Block, Outline
from eventmesh_trio.pipeline.extract.selection.scoring import is_prose
from eventmesh_trio.pipeline.extract.source.decode import Source

__all__ = ["confidence", "score_extraction"]

FULL_LENGTH_CHARS: Final = 150
"""A sentence or two. A shorter text is mostly a notice, or the beginning of what was cut."""
CUT_SHORT: Final = 0.7
"""For a page without an end tag whose text stops within a sentence: the rest was not received."""
TRUST: Final[Mapping[str, float]] = {"lenient": 0.7, "noscript": 0.9}
"""For the ways taken where the first finds nothing: real F1 over expected, in round figures, on
pages whose content is known. Of the other ways it is near 1."""
_LINKS_SHARE: Final = 0.5  # of a block; with more it is a menu, whatever its punctuation
_LAST_CHARS: Final = 80  # of a paragraph: a signature or a caption need not be a sentence
_ENDS_CHARS: Final = (
    4096  # of a page, in which its outer tags are; some append scripts and comments
)
_START_TAG: Final = re.compile(r"<(?:!doctype\s+html|html|body)\b", re.IGNORECASE)
_END_TAG: Final = re.compile(r"</(?:body|html)\b", re.IGNORECASE)
_ENDED: Final = re.compile(r"[.!?…:;。！？；：؟।॥۔]['\"”’»›)\]』」]*\s*$")


def score_extraction(
    page: Outline, kept: Sequence[int], text_chars: int, method: str, source: Source
) -> ExtractionScores:
    """Measure a selection.

    Args:
      kept: the blocks that were taken, in order.
      text_chars: characters of the text that they gave.
      method: the way that was taken, as `extract_page` names it.
      source: the page as it came.

    All is 0 where there is no text.
    """
    blocks = [page.blocks[i] for i in kept]
    chars = sum(block.chars for block in blocks)
    if not chars or not text_chars:
        return ExtractionScores(text_chars=0, length=0.0, prose=0.0, continuity=0.0, trust=0.0)
    prose = sum(
        block.chars
        for block in blocks
        if block.link_chars <= _LINKS_SHARE * block.chars and is_prose(block)
    )
    between = page.chars_before[max(kept) + 1] - page.chars_before[min(kept)]
    return ExtractionScores(
        text_chars=text_chars,
        length=min(1.0, text_chars / FULL_LENGTH_CHARS),
        prose=min(1.0, prose / chars),
        continuity=min(1.0, chars / between),
        trust=TRUST.get(method, 1.0) * (CUT_SHORT if _is_cut(blocks, source) else 1.0),
    )


def _is_cut(blocks: Sequence[Block], source: Source) -> bool:
    last = next(block for block in reversed(blocks) if block.chars)
    return (
        last.chars >= _LAST_CHARS
        and _ENDED.search(last.text) is None
        and _START_TAG.search(source.head(_ENDS_CHARS)) is not None
        and _END_TAG.search(source.end(_ENDS_CHARS)) is None
    )


def confidence(scores: ExtractionScores) -> int:
    """The F1 to be expected of a text, 0-100: how much of it is content, and of content in it.

    Half is earned by having found anything, the other half by prose in one piece. That line is near
    the mean F1 of the pages with a score, from the worst to the best.
    """
    expected = (1.0 + scores.prose * scores.continuity) / 2
    return round(100 * expected * scores.length * scores.trust)
