"""Cache entries, and clocks that stand still."""

from math import inf

from eventmesh_trio.abc import CacheEntry, Validators
from eventmesh_trio.testing import make_extraction, make_page

EPOCH = 1_700_000_000.0


class WallClock:
    """Seconds since the epoch, as a test sets them."""

    def __init__(self, now: float = EPOCH) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def make_entry(
    text: str = "text",
    url: str = "https://example.org/",
    *,
    stored_at: float = EPOCH,
    fresh_until: float = inf,
    etag: str | None = None,
) -> CacheEntry:
    page = make_page(url, text.encode())
    return CacheEntry(
        extraction=make_extraction(page),
        status=200,
        final_url=url,
        stored_at=stored_at,
        fresh_until=fresh_until,
        validators=Validators(url, etag, None) if etag else None,
        fields=((b"etag", etag.encode()),) if etag else (),
    )


def text_of(entry: CacheEntry | None) -> str | None:
    """The text of an entry; None where there is none."""
    return None if entry is None else entry.extraction.document.text
