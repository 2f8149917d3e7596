"""`Asides`: what one reader is told that is its own, and never logged.

Progress in its turn, a warning, the server's health, a heartbeat; and its connection's notices. All
but these are made when the reader is ready for them, from the newest state, and never queued.
"""

from collections.abc import Collection
from math import inf
from typing import TypeVar

import trio

from eventmesh_trio.mesh.census import Census
from eventmesh_trio.mesh.flow import Track
from eventmesh_trio.mesh.marks import Marks
from eventmesh_trio.mesh.notices import NoticeQueue
from eventmesh_trio.mesh.outlet import Outlet
from eventmesh_trio.mesh.personal import heartbeat_event, personal_progress, warning_event
from eventmesh_trio.mesh.position import Position
from eventmesh_trio.mesh.reader import ReaderSpec, SubscriberStatistics
from eventmesh_trio.wire.events import Event, Progress

__all__ = ["Asides"]

T = TypeVar("T")


class Asides:
    """Kept by a `Subscriber`; its `Gathering` says when there is room for them.

    They look at the reader's position, and never move it.
    ``last_activity``: when the reader was last given or written anything; a heartbeat ends the
    silence from then on.
    """

    __slots__ = (
        "_calm_behind_until",
        "_census",
        "_health_version",
        "_marks",
        "_position",
        "_session_id",
        "_spec",
        "_vitals",
        "calm_until",
        "last_activity",
        "notices",
    )

    def __init__(
        self,
        position: Position,
        spec: ReaderSpec,
        census: Census,
        *,
        session_id: str,
        notice_queue: int,
    ) -> None:
        self._position = position
        self._vitals = position.vitals
        self._spec = spec
        self._census = census
        self._session_id = session_id
        self._marks = Marks()
        self._health_version = census.health_version
        self.notices = NoticeQueue(notice_queue)
        self.last_activity = trio.current_time()
        self.calm_until = self._calm_behind_until = -inf
        """Before this time no progress is due: the reader was told of all its runs lately. The
        other is the same while it lags, and so is told more seldom."""

    def statistics(self) -> SubscriberStatistics:
        """How this reader fares at this moment; most asides tell some of it."""
        position = self._position
        return self._vitals.statistics(
            used=position.used(), pending=position.pending(), notices=len(self.notices.items)
        )

    def followed(self) -> Collection[Track]:
        """The live runs that this reader follows."""
        track = self._position.track
        if track is None:
            return self._position.log.live_tracks
        return (track,) if track.live else ()

    # --- When --------------------------------------------------------------------------------

    def are_due(self) -> bool:
        """Whether any but a notice is to be told now, to a reader that has taken all there is."""
        now = trio.current_time()
        if self._is_alarmed(now):
            return True
        silence_until = self.last_activity + self._spec.heartbeat_seconds
        return (now >= self.calm_until or now >= silence_until) and self.next_due() <= now

    def are_quiet(self, now: float, events: int) -> bool:
        """Whether none is due beside so many events, as far as `note_calm` knows."""
        position = self._position
        lags = position.taken[0] + events < position.flow.events or self._vitals.pressure.is_slow
        calm_until = self._calm_behind_until if lags else self.calm_until
        return now < calm_until and not self._is_alarmed(now)

    def next_due(self) -> float:
        """When progress or a heartbeat is due if nothing else happens."""
        due = self.last_activity + self._spec.heartbeat_seconds
        if self._spec.progress:
            lags = self._position.lags()
            for track in self.followed():
                if self._has_progress(track):
                    due = min(due, self._progress_due(track, lags=lags))
        return due

    def note_calm(self) -> None:
        """Find how long no progress is due, whatever comes."""
        calm_until = calm_behind_until = inf
        if self._spec.progress:
            for track in self.followed():
                calm_until = min(calm_until, self._progress_due(track, lags=False))
                calm_behind_until = min(calm_behind_until, self._progress_due(track, lags=True))
        self.calm_until, self._calm_behind_until = calm_until, calm_behind_until

    def _is_alarmed(self, now: float) -> bool:
        """Whether there is a warning or the server's health to tell, which keep no schedule."""
        if self._spec.system_status and self._health_version != self._census.health_version:
            return True
        return self._vitals.owes_warning and self._warning_is_due(now)

    def _warning_is_due(self, now: float) -> bool:
        # A socket on which nothing runs carries replies only, however slow its last writes were.
        position = self._position
        if not self._vitals.warning_is_due(now):
            return False
        return position.cursor < position.log.top or bool(self.followed())

    # --- What --------------------------------------------------------------------------------

    def take(self, outlet: Outlet[T], now: float) -> None:
        """Hand out what is due."""
        position, census = self._position, self._census
        if self._spec.progress:
            lags = position.lags()
            for track in self.followed():
                if self._has_progress(track) and now >= self._progress_due(track, lags=lags):
                    self._offer_progress(outlet, track, now)
        if self._warning_is_due(now):
            warning = warning_event(self._spec.connection_id, self.statistics())
            if outlet.offer([warning], None):
                self._vitals.note_warning(now)
                census.warned()
        has_health = self._spec.system_status and self._health_version != census.health_version
        if has_health and outlet.offer([census.system_status()], None):
            self._health_version = census.health_version
        silent = not outlet.items and position.cursor == position.log.top
        if silent and now >= self.last_activity + self._spec.heartbeat_seconds:
            beat = heartbeat_event(self._session_id, census, self.statistics())
            outlet.offer([beat], None)

    # --- Progress: the newest state, where this reader is ready for it ------------------------

    def last_progress(self, track: Track, statistics: SubscriberStatistics) -> Event | None:
        """What is to stand before the run's summary; None where the reader has been told."""
        if not self._spec.progress or not self._marks.is_news(track):
            return None
        progress = track.progress()
        return None if progress is None else self._personal(progress, track, statistics)

    def note_summary(self, track: Track, *, told: bool) -> None:
        """The run's summary was handed out; ``told``: with its `last_progress` before it."""
        if told:
            self._note_progress(track, -inf)
        self._marks.forget(track)

    def _has_progress(self, track: Track) -> bool:
        """Whether there is news of a run whose first result this reader has taken."""
        first = track.first_result_seq
        return 0 < first <= self._position.cursor and self._marks.is_news(track)

    def _progress_due(self, track: Track, *, lags: bool) -> float:
        due = self._marks.due(track)  # the first comes with the first result
        if lags:
            return max(due, self._marks.told_at(track) + self._spec.buffer_timeout_ms / 1000)
        return due

    def _offer_progress(self, outlet: Outlet[T], track: Track, now: float) -> None:
        progress = track.progress()
        if progress is not None:
            event = self._personal(progress, track, self.statistics())
            if not outlet.offer([event], track):
                return
        self._note_progress(track, now)

    def _personal(
        self, progress: Progress, track: Track, statistics: SubscriberStatistics
    ) -> Event:
        position = self._position
        return personal_progress(
            progress,
            track.request_id,
            self._spec,
            statistics,
            max(0, position.flow.nbytes - position.taken[1]),
            pressed=self._vitals.pressed,
        )

    def _note_progress(self, track: Track, now: float) -> None:
        interval = self._spec.flush_interval_seconds
        position = self._position
        readers = position.log.readers + track.readers
        due = track.take_turn(now + interval, interval, readers)
        skipped = self._marks.note(track, now, due)
        self._vitals.coalesced += skipped
        self._census.coalesced(skipped)
