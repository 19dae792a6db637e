"""Which of the measurements of a fit are shown, where a viewer keeps only so many."""

#: TensorBoard shows 10 steps of an image and 51 of a histogram, and drops others at random.
MOST_FIGURES = 10
MOST_HISTOGRAMS = 51

# A fit whose end is not known is taken to have this many measurements, and then to be in its
# first quarter.
_FEW, _YET_TO_COME = 100, 4


class Schedule:
    """At most `limit` measurements of a fit: all of a short one, else ever fewer as it goes on.

    The first is among them and the last can be, since one is kept back for it. Between them they
    lie close at first, where most happens, and where a run ends that is stopped early. A fit that
    goes on beyond its end begins anew.

    Args:
        limit: 2 or more.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._measured = self._shown = 0
        self._next = 1.0
        self._progress = 0.0
        self._behind = False

    def due(self, progress: float | None, *, affordable: bool = True) -> bool:
        """Whether to show this measurement; to be asked once for each.

        Args:
            progress: The share of the fit that is done; None where that cannot be known.
            affordable: Whether the cost of showing allows it; the end of a fit is always shown.
        """
        if progress is not None and progress < self._progress:  # the end has moved away
            self._measured, self._shown, self._next = 0, 0, 1.0
        self._progress = self._progress if progress is None else progress
        self._measured += 1
        kept_back = 0 if progress is not None and progress >= 1 else 1
        due = (affordable and self._measured >= self._next) or not kept_back
        due = due and self._shown < self._limit - kept_back
        if due:
            self._shown += 1
            self._next = self._measured + self._stride(progress)
        self._behind = not due
        return due

    def _stride(self, progress: float | None) -> float:
        """To the next: what may still be shown stands at equal ratios, the last one at the end."""
        left = max(self._limit - self._shown, 1)
        to_come = 1 / progress if progress else max(_FEW / self._measured, _YET_TO_COME)
        if self._measured * to_come <= self._limit and self._shown == self._measured:
            return 1.0
        growth: float = to_come ** (1 / left)
        return max(1.0, self._measured * (growth - 1))

    def last(self) -> bool:
        """Whether the last measurement, now that no other follows, is still to be shown."""
        behind, self._behind = self._behind, False
        self._shown += behind
        return behind

    def state(self) -> list[float]:
        """Plain numbers to go on from."""
        return [self._measured, self._shown, self._next, self._progress, float(self._behind)]

    def restore(self, state: list[float]) -> None:
        """Go on from `state()`."""
        measured, shown, self._next, self._progress, behind = state
        self._measured, self._shown, self._behind = int(measured), int(shown), bool(behind)
