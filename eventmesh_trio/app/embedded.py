"""A run as the program that embeds a mesh holds it: its events, and its controls."""

import uuid

import attrs
import trio

from eventmesh_trio.app.readers import reader_spec
from eventmesh_trio.app.stream_config import StreamConfig
from eventmesh_trio.mesh.reader import ReaderSpec, SubscriberStatistics
from eventmesh_trio.mesh.run import Run
from eventmesh_trio.mesh.subscriber import Subscriber
from eventmesh_trio.wire.encoders import HTTPEncoder
from eventmesh_trio.wire.events import Event
from eventmesh_trio.wire.headers import ReaderWishes

__all__ = ["EmbeddedStream", "embedded_spec"]


@attrs.define(eq=False)
class EmbeddedStream:
    """A run's events, in order; the summary is the last. Iterate it once."""

    run: Run
    subscriber: Subscriber
    _begun_at: float | None = attrs.field(factory=trio.current_time, init=False)

    def statistics(self) -> SubscriberStatistics:
        """How this reader fares; how far the run has come tells ``run.statistics()``."""
        return self.subscriber.statistics()

    def pause(self) -> None:
        """Stop the work; pages in flight are fetched again after `resume`, none is lost."""
        self.run.pause()

    def resume(self) -> None:
        self.run.resume()

    async def cancel(self) -> None:
        """Cancel the run (a checkpoint); its summary still comes."""
        self.run.cancel()
        await trio.lowlevel.checkpoint()

    def __aiter__(self) -> "EmbeddedStream":
        return self

    async def __anext__(self) -> Event:
        try:
            event = await self.subscriber.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None
        if self._begun_at is not None:
            self.subscriber.first_byte((trio.current_time() - self._begun_at) * 1000)
            self._begun_at = None
        return event


def embedded_spec(config: StreamConfig, request_id: str) -> ReaderSpec:
    """The reader of one run within this program."""
    encoder = HTTPEncoder("ndjson")
    spec = reader_spec(
        config,
        ReaderWishes(),
        protocol="ndjson",
        encoder_for=lambda _: encoder,
        until="run",
        request_id=request_id,
        connection_id=f"conn-{uuid.uuid4().hex}",
    )
    return attrs.evolve(spec, protocol="channel", patient=True)
