"""What the cache may keep, for how long, and where: its settings."""

import attrs

__all__ = ["CacheLimits"]

_MEMORY = "memory:"
_SQLITE = "sqlite:"


def _store(_: object, __: object, value: str) -> None:
    if value != _MEMORY and (not value.startswith(_SQLITE) or value == _SQLITE):
        raise ValueError(f"store is {value!r}; it must be {_MEMORY} or {_SQLITE}PATH")
    if value == f"{_SQLITE}:memory:":
        raise ValueError(f"store is {value!r}; a store in memory is {_MEMORY}")
    if "\0" in value:
        raise ValueError("store has a NUL in its path")


@attrs.frozen
class CacheLimits:
    """The cache of extracted documents.

    Raises:
      ValueError: a limit that makes no sense, by itself or beside another.
    """

    store: str = attrs.field(default=_MEMORY, validator=_store)
    """Where documents are kept: ``memory:``, or ``sqlite:PATH`` for a file that outlives the
    server. ``eventmesh serve`` that is told nothing else keeps a file in the user's data directory.
    """

    cache_bytes: int = attrs.field(default=64 * 1024 * 1024, validator=attrs.validators.ge(0))
    """What all documents kept in memory may hold together; 0 keeps none."""

    store_bytes: int = attrs.field(
        default=1024 * 1024 * 1024, validator=attrs.validators.ge(512 * 1024)
    )
    """What the documents and their index may take in the file, at least 512KB. The least recently
    used documents make room. Its write-ahead log comes on top: some megabytes."""

    max_pending_bytes: int = attrs.field(default=32 * 1024 * 1024, validator=attrs.validators.ge(0))
    """What may wait to be written to the file; what comes while it is full is not kept."""

    busy_seconds: float = attrs.field(default=5.0, validator=attrs.validators.ge(0))
    """How long a write waits for another process that writes to the same file."""

    lookup_seconds: float = attrs.field(default=5.0, validator=attrs.validators.gt(0))
    """How long a look into the file may take (a disk that hangs); after it the document is fetched,
    and nobody looks there for ``retry_seconds``."""

    retry_seconds: float = attrs.field(default=5.0, validator=attrs.validators.ge(0))
    """How long nothing is written to the file after a write has failed (a full disk)."""

    default_fresh_seconds: float = attrs.field(default=3600.0, validator=attrs.validators.ge(0))
    """How long a document is used without asking its origin, where the origin says nothing of it
    (neither how long, nor when the page was last modified)."""

    min_fresh_seconds: float = attrs.field(default=0.0, validator=attrs.validators.ge(0))
    """How long a document is used at least, whatever the origin says short of forbidding to keep
    it."""

    max_fresh_seconds: float = attrs.field(default=86_400.0, validator=attrs.validators.ge(0))
    """How long a document is used at most, whatever the origin says."""

    max_indexed_characters: int = attrs.field(default=200_000, validator=attrs.validators.ge(0))
    """How much of a document's text can be searched for, from its beginning; 0 indexes none."""

    def __attrs_post_init__(self) -> None:
        if self.min_fresh_seconds > self.max_fresh_seconds:
            raise ValueError("min_fresh_seconds is above max_fresh_seconds")
