"""One extractor, in a process of its own, over a folder of pages; told by its input when to run.

``python -m benchmarks.peers.extractors NAME FOLDER EVERY [SOURCE]``: a line ``START STOP`` reads so
many of the pages (of every so many one) and answers with the seconds of CPU that took; ``answers``
with what was read of each page, as JSON.
Nothing but the standard library and the one extractor is imported.
"""

import gzip
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Answer = dict[str, Any]
Extract = Callable[[bytes, str], Answer]
_BREAKS = re.compile(r"</(?:p|div|li|h[1-6]|td|th|tr|pre|blockquote)>|<br[^>]*>", re.IGNORECASE)


def _ours() -> Extract:
    from eventmesh_trio.pipeline.extract import extract_document

    def extract(body: bytes, url: str) -> Answer:
        found = extract_document(body, url)
        return {
            "text": found.text,
            "title": found.title,
            "author": found.author,
            "date": found.date,
            "quality": found.quality_score,
        }

    return extract


def _our_text() -> Extract:
    from eventmesh_trio.pipeline.extract import extract_text

    return lambda body, url: {"text": extract_text(body, url)}


def _trafilatura(**options: Any) -> Extract:
    import trafilatura

    return lambda body, url: {"text": trafilatura.extract(body, url=url, **options)}


def _trafilatura_metadata() -> Extract:
    import trafilatura

    def extract(body: bytes, url: str) -> Answer:
        found = trafilatura.bare_extraction(body, url=url, with_metadata=True)
        read = found.as_dict() if found is not None else {}
        return {name: read.get(name) for name in ("text", "title", "author", "date")}

    return extract


def _readability() -> Extract:
    import lxml.html
    from readability import Document

    def extract(body: bytes, url: str) -> Answer:
        document = Document(body, url=url)
        # It gives HTML; words of two paragraphs must not run together in its text.
        inner = _BREAKS.sub(lambda match: match[0] + "\n", document.summary())
        text = lxml.html.fromstring(inner).text_content() if inner.strip() else ""
        return {"text": text, "title": document.short_title()}

    return extract


def _resiliparse() -> Extract:
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    def extract(body: bytes, _: str) -> Answer:
        text = bytes_to_str(body, detect_encoding(body, html5_compatible=True))
        return {"text": extract_plain_text(text, main_content=True)}

    return extract


EXTRACTORS: dict[str, Callable[[], Extract]] = {
    "eventmesh_trio": _ours,
    "eventmesh_trio, text alone": _our_text,
    "trafilatura": lambda: _trafilatura(include_comments=False),
    "trafilatura, fast": lambda: _trafilatura(include_comments=False, fast=True),
    "trafilatura, metadata": _trafilatura_metadata,
    "readability-lxml": _readability,
    "resiliparse": _resiliparse,
}


def read_folder(
    folder: Path, source: str | None = None, every: int = 1
) -> Iterator[tuple[Answer, bytes]]:
    """What is known of each page (its JSON), and its bytes; of every so many pages one."""
    for path in sorted(folder.rglob("*.json"))[::every]:
        packed, plain = path.with_suffix(".html.gz"), path.with_suffix(".html")
        if not (packed.exists() or plain.exists()):
            continue
        truth = json.loads(path.read_text("utf-8"))
        if source is None or truth.get("source") == source:
            truth["id"] = path.stem
            body = gzip.decompress(packed.read_bytes()) if packed.exists() else plain.read_bytes()
            yield truth, body


def main() -> None:
    name, folder, every, *source = sys.argv[1:]
    extract = EXTRACTORS[name]()
    pages = [
        (truth["id"], truth.get("url") or "", body)
        for truth, body in read_folder(Path(folder), source[0] if source else None, int(every))
    ]
    answers: dict[str, Answer] = {}
    failures: dict[str, str] = {}
    print(json.dumps({"pages": len(pages)}), flush=True)
    for line in sys.stdin:
        if line.strip() == "answers":
            print(json.dumps({"answers": answers, "failures": failures}), flush=True)
            continue
        start, stop = map(int, line.split())
        began = time.process_time()
        for page, url, body in pages[start:stop]:
            try:
                answers[page] = extract(body, url)
            except Exception as error:  # it is the extractor's, and costs it the page
                answers[page] = {}
                failures[page] = f"{type(error).__name__}: {error}"[:200]
        print(json.dumps({"seconds": time.process_time() - began}), flush=True)


if __name__ == "__main__":
    main()
