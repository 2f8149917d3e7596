"""What a user of the client holds: the events of a crawl or a session, and its controls."""

import logging
from collections.abc import Sequence
from typing import Literal

import trio

from eventmesh_trio.client.endpoint import Endpoint, convert
from eventmesh_trio.client.feeds import AnyStreamEvent
from eventmesh_trio.client.follow import Follower
from eventmesh_trio.errors import EventMeshError
from eventmesh_trio.wire.events import Gap, Summary
from eventmesh_trio.wire.sessions import SessionInfo

__all__ = ["Command", "CrawlStream", "control"]

logger = logging.getLogger(__name__)

Command = Literal["pause", "resume", "cancel"]


async def control(
    endpoint: Endpoint, command: Command, session_id: str, request_id: str | None
) -> SessionInfo:
    """Give a command to one run of a session, or to all live ones."""
    target = endpoint.address.target("sessions", session_id, command, request_id=request_id)
    return convert(await endpoint.call("POST", target), SessionInfo)


class CrawlStream:
    """An asynchronous iterator of events, each a struct of `eventmesh_trio.wire.events`.

    One task iterates; any task may control. A cancelled ``__anext__`` loses nothing. The iteration
    ends after the run's ``summary`` (of a session: when no run is live), and raises an
    `EventMeshError` when the server stays away longer than the limits allow.

    """

    def __init__(self, endpoint: Endpoint, follower: Follower, session_id: str) -> None:
        self.session_id = session_id
        self._endpoint = endpoint
        self._follower = follower

    def __aiter__(self) -> "CrawlStream":
        return self

    async def __anext__(self) -> AnyStreamEvent:
        try:
            return await self._follower.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    @property
    def request_id(self) -> str | None:
        """The run, or None for all runs of the session.

        An equal request that was left behind in the session may have begun it, and named it.
        """
        return self._follower.request_id

    @property
    def summary(self) -> Summary | None:
        """The last ``summary`` that has arrived."""
        return self._follower.summary

    @property
    def gaps(self) -> Sequence[Gap]:
        """Where events were lost, in order; each was an event of the iteration too."""
        return tuple(self._follower.gaps)

    @property
    def last_event_id(self) -> str | None:
        """The id of the last logged event that has arrived: where another client could go on.

        Events that arrived but were not yet asked for are counted as well.
        """
        return self._follower.last_event_id

    @property
    def connections(self) -> int:
        """How many connections this stream has had; more than one means that it was resumed."""
        return self._follower.connections

    async def pause(self) -> None:
        """Stop fetching; the run's deadlines stand still. Pausing twice changes nothing.

        Raises:
          NotFoundError: the server no longer has the session or the run.
          ConnectionBroken: not reached, or no answer: whether it was obeyed is unknown.
        """
        await self._control("pause")

    async def resume(self) -> None:
        """Go on after `pause`. Raises as that."""
        await self._control("resume")

    async def cancel(self) -> None:
        """End the run; its ``summary`` (status ``cancelled``) still comes. Raises as `pause`."""
        await self._control("cancel")

    async def _control(self, command: Command) -> None:
        await control(self._endpoint, command, self.session_id, self.request_id)

    async def leave(self) -> None:
        """Cancel a run that was asked for and has not ended, then close politely."""
        if self.summary is None:
            try:
                await self.cancel()
            except EventMeshError as error:
                # The server is gone, or the run: it cancels what nobody reads.
                logger.info("the run %s was not cancelled: %s", self.request_id, error)
        await self._follower.say_goodbye()
