"""Who is let in: how many streams the server and each client may have, and nobody at its end.

What is refused gets an answer at once, with a time to come back; nothing ever waits for a place.
"""

from collections.abc import Callable, Collection
from typing import Final

import attrs

from eventmesh_trio.abc import Request
from eventmesh_trio.app.stream_config import GeneralConfig
from eventmesh_trio.errors import OverloadedError, RateLimited
from eventmesh_trio.transport.addresses import AddressCounts, Network, client_of
from eventmesh_trio.transport.drain import Drain

__all__ = ["Admission"]

_RETRY_SECONDS: Final = 5.0


@attrs.define(eq=False)
class Admission:
    """Counts streams: responses that follow a session, and WebSockets.

    Args:
      service: its drain is the end of admission.
      trusted_proxies: who is believed about its clients; see `client_of`.
      on_refusal: called with the reason (``draining``, ``streams``, ``address``) of each refusal.
    """

    limits: GeneralConfig
    service: Drain
    trusted_proxies: Collection[Network] = ()
    on_refusal: Callable[[str], None] = lambda _: None
    streams: int = attrs.field(default=0, init=False)
    addresses: AddressCounts = attrs.field(factory=AddressCounts, init=False)

    def require_serving(self) -> None:
        """Raises `OverloadedError` once the server drains."""
        if self.service.begun:
            raise self.going_away()

    def going_away(self) -> OverloadedError:
        """The refusal of one who came too late."""
        self.on_refusal("draining")
        return OverloadedError(
            "the server is going away; try another, or later", retry_after_seconds=_RETRY_SECONDS
        )

    def stream(self, request: Request) -> "_Place":
        """Hold a place for one stream for as long as the block runs.

        Entering raises:
          OverloadedError: the server has as many streams as it may.
          RateLimited: this client has.
        """
        forwarded_for = [value for name, value in request.fields if name == b"x-forwarded-for"]
        return _Place(self, client_of(request.peer, forwarded_for, self.trusted_proxies))


class _Place:
    __slots__ = ("_admission", "_client", "_held")  # ten thousand streams hold one each

    def __init__(self, admission: Admission, client: str | None) -> None:
        self._admission = admission
        self._client = client
        self._held = False

    def __enter__(self) -> "_Place":
        admission, client = self._admission, self._client
        most = admission.limits.max_concurrent_streams
        most_of_one = admission.limits.max_streams_per_address
        if admission.streams >= most:
            admission.on_refusal("streams")
            raise OverloadedError(
                f"the server has {most} streams, as many as it may",
                retry_after_seconds=_RETRY_SECONDS,
            )
        if client is not None and admission.addresses[client] >= most_of_one:
            admission.on_refusal("address")
            raise RateLimited(
                f"your address has {most_of_one} streams, as many as it may",
                retry_after_seconds=_RETRY_SECONDS,
            )
        admission.streams += 1
        admission.addresses.add(client)
        self._held = True
        return self

    def leave(self) -> None:
        """Give the place up; idempotent.

        Called before the last bytes are written: who has read them may come back at once.
        """
        if self._held:
            self._held = False
            self._admission.streams -= 1
            self._admission.addresses.remove(self._client)

    def __exit__(self, *_: object) -> None:
        self.leave()
