"""What a monitor takes of an epoch."""

import time

# More than this share of an epoch, and more than a second, is worth a warning.
BUDGET_SHARE = 0.2
BUDGET_SECONDS = 1.0


class EpochCost:
    """Seconds spent in an epoch, beside the seconds of the epoch."""

    def __init__(self) -> None:
        self._started: float | None = None
        self._spent = 0.0

    def begin(self) -> None:
        """An epoch begins."""
        self._started, self._spent = time.perf_counter(), 0.0

    def add(self, seconds: float) -> None:
        """Count seconds of this epoch."""
        self._spent += seconds

    def complaint(self) -> str | None:
        """What it was, in words, if it was too much."""
        if self._started is None or self._spent <= BUDGET_SECONDS:
            return None
        share = self._spent / (time.perf_counter() - self._started)
        if share <= BUDGET_SHARE:
            return None
        return f"{self._spent:.1f} s, {100 * share:.0f} % of the epoch"
