"""How long a reader's last writes took, and whether it is slow.

Source: ``streaming-api.md``, ``BufferConfig``: ``slow_send_threshold_ms`` (100 ms) and
``backpressure_window`` (50 sends).
"""

from typing import Final

__all__ = ["Pressure"]

_ENOUGH: Final = 5
"""With fewer sends than these nobody is called slow: one long write may be the network's."""


class Pressure:
    """Send times of one reader: recorded per write, never per event.

    Args:
      judged_sends: how many of the last sends are looked back on.
    """

    __slots__ = (
        "_judged_sends",
        "_samples",
        "_slow_samples",
        "_sum_ms",
        "_threshold_ms",
        "is_slow",
        "slow_sends",
    )

    def __init__(self, slow_threshold_ms: float, judged_sends: int = 50) -> None:
        self._threshold_ms = slow_threshold_ms
        self._judged_sends = judged_sends
        self._samples: list[float] = []  # a list: an empty deque takes 0.7 KB of each idle stream
        self._sum_ms = 0.0
        self._slow_samples = 0
        self.slow_sends = 0  # of all time
        self.is_slow = False
        """Whether more than half of the last sends took longer than the threshold."""

    def record(self, milliseconds: float) -> None:
        """Note that one write took so long."""
        if len(self._samples) == self._judged_sends:
            oldest = self._samples.pop(0)
            self._sum_ms -= oldest
            self._slow_samples -= oldest > self._threshold_ms
        self._samples.append(milliseconds)
        self._sum_ms += milliseconds
        if milliseconds > self._threshold_ms:
            self._slow_samples += 1
            self.slow_sends += 1
        count = len(self._samples)
        self.is_slow = count >= _ENOUGH and self._slow_samples * 2 > count

    @property
    def average_ms(self) -> float:
        """The mean of the last sends; 0.0 before the first."""
        return max(0.0, self._sum_ms) / len(self._samples) if self._samples else 0.0
