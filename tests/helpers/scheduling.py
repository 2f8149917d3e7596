"""Trio runs that come again: the order in which tasks have their turn is drawn from a seed."""

from collections.abc import Awaitable, Callable, Sequence
from unittest.mock import patch

import trio
import trio.testing
from trio._core import _run  # no public name: these two are what Hypothesis's plugin sets as well


def run_in_order(
    main: Callable[[], Awaitable[object]],
    order: str,
    instruments: Sequence[trio.abc.Instrument] = (),
) -> None:
    """Run ``main`` under a clock that jumps, each turn's tasks shuffled as ``order`` says.

    Without this Trio shuffles as it likes, and a failure that hangs on who came first is not seen
    again. A run is repeatable as far as ``main`` itself is: real sockets, threads and hash order
    are not drawn from ``order``.
    """
    state = _run._r.getstate()
    try:
        with patch.object(_run, "_ALLOW_DETERMINISTIC_SCHEDULING", True):
            _run._r.seed(order)
            clock = trio.testing.MockClock(autojump_threshold=0)
            trio.run(main, clock=clock, instruments=instruments)
    finally:
        _run._r.setstate(state)
