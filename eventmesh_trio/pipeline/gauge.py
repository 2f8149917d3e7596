"""Where the URLs under way are: a gauge per stage, the measure behind a progress's ``phase``."""

from typing import Final, Literal

__all__ = ["Stage", "StageGauge"]

Stage = Literal["fetch", "extraction", "publish"]

_ORDER: Final[tuple[Stage, ...]] = ("fetch", "extraction", "publish")


class StageGauge:
    """How many URLs are in each stage; one that waits to enter a stage counts for that stage.

    So a stage that holds the others up is the one that most URLs are counted in.
    """

    def __init__(self) -> None:
        self._inside: dict[Stage, int] = dict.fromkeys(_ORDER, 0)

    def enter(self, stage: Stage) -> None:
        """A URL begins its way at this stage."""
        self._inside[stage] += 1

    def move(self, source: Stage, target: Stage) -> None:
        """A URL is done with ``source`` and waits for ``target``."""
        self._inside[source] -= 1
        self._inside[target] += 1

    def leave(self, stage: Stage) -> None:
        """A URL's way ends."""
        self._inside[stage] -= 1

    def clear(self) -> None:
        """Nothing is under way any more: the work was cancelled, and its leases went back."""
        self._inside = dict.fromkeys(_ORDER, 0)

    @property
    def busiest(self) -> Stage:
        """The stage with most URLs in it; of equal ones the earlier, of none ``fetch``."""
        return max(_ORDER, key=self._inside.__getitem__)
