"""Main text, Markdown and metadata out of a page's bytes.

`extract_document` is the function to call; `extract_page` also tells how the page was read and what
the gate makes of it. Both are pure: no clock but ``extracted_at``, no files, no network. One module
a step: `decode`, `parse`, `metadata`, `outline`, `scoring`, then `text`, `markdown`, `links`.
"""

from eventmesh_trio.pipeline.extract.document import extract_document, extract_page, extract_text

__all__ = ["extract_document", "extract_page", "extract_text"]
