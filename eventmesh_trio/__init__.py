"""URLs in, clean documents out, streamed over NDJSON, SSE or WebSocket."""

__version__ = "0.1.0"
