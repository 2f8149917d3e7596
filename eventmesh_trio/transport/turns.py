"""`Turns`: one task at a time, without anything held for those who might wait."""

import trio

__all__ = ["Turns"]


class Turns:
    """A lock, handed over in the order of asking; a third of `trio.Lock`'s size while nobody waits.

    Ten thousand idle WebSockets hold two of each. As a context manager it is waited for, and is a
    checkpoint; `take_nowait` is none.
    """

    __slots__ = ("_lot", "taken")

    def __init__(self) -> None:
        self.taken = False
        self._lot: trio.lowlevel.ParkingLot | None = None

    def take_nowait(self) -> bool:
        """Take the turn if it is nobody's; whether it was."""
        if self.taken:
            return False
        self.taken = True
        return True

    async def take(self) -> None:
        """Take the turn when it comes. Cancelled: it was not taken."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.take_nowait():
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        if self._lot is None:
            self._lot = trio.lowlevel.ParkingLot()
        await self._lot.park()  # who wakes us hands the turn over, and it stays taken

    def give(self) -> None:
        """Hand the turn to whoever has waited longest, or to nobody."""
        if self._lot:
            self._lot.unpark()
        else:
            self.taken = False

    async def __aenter__(self) -> None:
        await self.take()

    async def __aexit__(self, *_: object) -> None:
        self.give()
