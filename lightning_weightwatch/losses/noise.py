"""How noisy a learning curve is, and whether a rise of it is more than that noise."""

import math

import numpy as np
from numpy.typing import NDArray

#: With fewer values after the best, noise and a trend cannot be told apart.
MIN_AFTER_BEST = 8
#: A rise above so many standard deviations of the noise is none of it...
BEYOND_NOISE = 4.0
#: ...nor is a smaller one, where the values rise with time: z of their rank correlation.
TREND_Z = 1.0

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

    The lowest of noisy values lies below all the others without anything having changed, so that
    the last is above it by several standard deviations. It is taken for noise if it is by no more
    than four of them, and the values after the best do not rise with time either.

    Args:
        from_best: The curve from its lowest value on, that included.
    """
    if len(from_best) - 1 < MIN_AFTER_BEST:
        return False
    rise = float(from_best[-1]) - float(from_best[0])
    return rise <= BEYOND_NOISE * noise_of(from_best) and trend_of(from_best[1:]) <= TREND_Z
