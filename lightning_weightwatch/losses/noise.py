"""How noisy a learning curve is, and whether a rise of it is more than that noise."""

import math

import numpy as np
from numpy.typing import NDArray

#: With fewer values after the best, noise and a trend cannot be told apart.
MIN_AFTER_BEST = 8
# In noise the last value is no more than so many standard deviations above the level of all...
_LAST = 2.0
# ...and their median no more than so many: where more of them are higher, the level rose.
_LEVEL = 1.0
# The rank correlation of noise with time has a z of no more than this times ln n: 0.7 for 8 values,
# 2.3 for 1000. Of a short tail less evidence is asked for: on labelled short runs a rise as small
# as the noise was overfitting nearly always.
_TREND = 1 / 3

# The standard deviation of Gaussian noise is this often the median of its absolute values.
_GAUSSIAN = 1.4826


def noise_of(values: NDArray[np.float64]) -> float:
    """Standard deviation of the noise of a curve, from its second differences.

    σ = 1.4826 · median |Δ²v| / √6: a trend, and even a bend, leaves it small, unlike the residuals
    of a running median, which are 0 on a smooth curve and on half of the points of any other.

    Args:
        values: Shape [n].

    Returns:
        In the unit of the values; NaN for fewer than three of them.
    """
    if len(values) < 3:
        return math.nan
    # An eighth of them: the largest finite values have no finite difference, and no finite mean.
    bends = np.abs(np.diff(values / 8, n=2))
    return 8 * _GAUSSIAN * float(np.median(bends)) / math.sqrt(6)


def is_rough(values: NDArray[np.float64]) -> bool:
    """Whether a curve turns as noise does: at every third inner point or more often.

    Of noise two thirds are turning points; a smooth curve, however bent, has hardly any, and then
    the standard deviation by second differences is none of noise.

    Args:
        values: Shape [n].
    """
    ways = np.sign(np.diff(values / 2))
    turns = int(np.count_nonzero(ways[1:] * ways[:-1] < 0))
    return 3 * turns >= len(values) - 2 > 0


def trend_of(values: NDArray[np.float64]) -> float:
    """Whether values rise with time: z = ρ √(n − 1), ρ their rank correlation (Spearman) with it.

    About standard normal for values in a random order. Ties have their mean rank.

    Args:
        values: Shape [n].

    Returns:
        Above 0 if they rise; 0 for fewer than three values or equal ones.
    """
    n = len(values)
    if n < 3:
        return 0.0
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]
    ranks -= ranks.mean()
    times = np.arange(n) - (n - 1) / 2
    spread = math.sqrt(float(ranks @ ranks) * float(times @ times))
    return float(ranks @ times) / spread * math.sqrt(n - 1) if spread > 0 else 0.0


def is_noise(from_best: NDArray[np.float64]) -> bool:
    """Whether the last of the values is no further above the first, the lowest, than noise goes.

    It is if it is by no more than `beyond_noise`, the median of all is lower by a standard
    deviation at least than the last may be, and they do not rise with time either. What came before
    the lowest has no part in it.

    Args:
        from_best: The curve from its lowest value on, that included.

    Returns:
        False for fewer than eight values after the lowest, of which there is no telling.
    """
    n = len(from_best) - 1
    if n < MIN_AFTER_BEST:
        return False
    eighths = from_best / 8  # the largest finite values have no finite difference
    noise, above = noise_of(eighths), eighths[1:] - eighths[0]
    return (
        float(above[-1]) <= beyond_noise(n) * noise
        and float(np.median(above)) <= (beyond_noise(n) - _LAST + _LEVEL) * noise
        and trend_of(from_best[1:]) <= _TREND * math.log(n)
    )


def beyond_noise(n: int) -> float:
    """How many standard deviations above the lowest of n noisy values the last of them may be.

    √(2 ln n) + 2: the lowest of n normal values is about √(2 ln n) below their level without
    anything having changed, and the last is two above it at most.
    """
    return math.sqrt(2 * math.log(n)) + _LAST
