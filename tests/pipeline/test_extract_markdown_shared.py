"""Markdown of real pages, from the folder beside the checkout where there is one, read back.

``EVENTMESH_SHARED`` names another place for that folder.
"""

import gzip
import json
import os
import re
from collections import Counter
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from eventmesh_trio.pipeline.extract import extract_document

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("EVENTMESH_SHARED") or ROOT.parent / "shared") / "extraction"
PAGES = sorted((SHARED / "dev" / "pages").glob("*.html.gz"))
STEP = 9
"""Every ninth page: the whole corpus takes ten seconds."""

GFM = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
WORD = re.compile(r"\w+")


def words_shown(written: str) -> list[str]:
    """The words that a reader of rendered Markdown sees, but for those of pictures."""
    pieces: list[str] = []
    for token in GFM.parse(written):
        assert token.type not in ("html_block", "code_block"), token.content
        if token.type == "fence":
            pieces.append(token.content + "\n")
        for child in token.children or []:
            if child.type in ("text", "code_inline"):
                pieces.append(child.content)
            elif child.type in ("hardbreak", "softbreak") or child.content == "<br>":
                pieces.append("\n")
        pieces.append("\n" if token.type == "inline" else "")
    return WORD.findall("".join(pieces))


@pytest.mark.skipif(not PAGES, reason=f"{SHARED} is not there")
@pytest.mark.parametrize("path", PAGES[::STEP], ids=lambda path: str(path.name).partition(".")[0])
def test_markdown_of_a_real_page_shows_the_words_of_its_text(path: Path) -> None:
    facts = json.loads(path.with_name(path.name.replace(".html.gz", ".json")).read_text())
    page = gzip.decompress(path.read_bytes())
    document = extract_document(page, facts.get("url"))
    if "[^" in document.markdown or b"<math" in page:
        pytest.skip("footnotes and formulas are written in another way than they are shown")
    assert Counter(words_shown(document.markdown)) == Counter(WORD.findall(document.text))
