"""An exception -> the error object that a stream carries (``docs/wire.rst``)."""

from eventmesh_trio.errors import EventMeshError
from eventmesh_trio.wire.events import ErrorInfo

__all__ = ["error_info"]


def error_info(error: EventMeshError, timestamp: str) -> ErrorInfo:
    """Describe ``error`` for a client; ``timestamp`` (RFC 3339) is when it was noticed."""
    return ErrorInfo(
        type=error.type,
        error_type=error.type,
        category=error.category,
        message=error.message,
        retryable=error.can_retry,
        retry_after_seconds=error.retry_after_seconds,
        error_code=error.error_code,
        context=dict(error.context),  # the exception may live on; what is published never changes
        timestamp=timestamp,
    )
