"""Moments and histogram of a set of values, and how those of several sets make one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: What TensorBoard shows is 30 bins; 64 keep its percentiles honest on heavy tails.
BINS = 64


@dataclass(frozen=True)
class Histogram:
    """Counts over equal bins.

    Attributes:
        edges: `len(counts) + 1` ascending edges.
        counts: Values in [edge, next edge); the last bin holds its right edge too.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Moments:
    """Statistics of the finite values of a tensor.

    The sums are kept in units of a power of two, 2 ** `exponent`, so that the fourth powers of
    1e300 do not overflow. It is 0 where that cannot happen, which is nearly always.

    Attributes:
        count: Finite values.
        nonfinite: NaN and infinite values.
        zeros: Values equal to zero.
        sums: Σx, Σ(x − mean)², Σ(x − mean)³ and Σ(x − mean)⁴, with x in units of 2 ** `exponent`.
        min: Smallest finite value; NaN when there is none.
        max: Largest one.
        exponent: Of the unit.
    """

    count: int = 0
    nonfinite: int = 0
    zeros: int = 0
    sums: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    min: float = math.nan
    max: float = math.nan
    exponent: int = 0

    @property
    def total(self) -> float:
        """Σx."""
        return scaled(self.sums[0], self.exponent)

    @property
    def deviation(self) -> float:
        """Σ(x − mean)²."""
        return scaled(self.sums[1], 2 * self.exponent)

    @property
    def sum_of_squares(self) -> float:
        """Σx²; infinite beyond float64."""
        return scaled(self._squares, 2 * self.exponent)

    @property
    def _squares(self) -> float:
        return self.sums[1] + self.sums[0] * (self.sums[0] / self.count) if self.count else 0.0

    @property
    def mean(self) -> float:
        """Mean of the finite values."""
        return scaled(self.sums[0] / self.count, self.exponent) if self.count else math.nan

    @property
    def std(self) -> float:
        """Population standard deviation, as `numpy.std`."""
        if not self.count:
            return math.nan
        return scaled(math.sqrt(self.sums[1] / self.count), self.exponent)

    @property
    def kurtosis(self) -> float:
        """Fourth standardised moment, Σ(x − mean)⁴ / n / std⁴: 3 for a Gaussian.

        NaN where all values are the same, or differ by no more than their mean can be known to.
        """
        if not self.count or self.min == self.max:
            return math.nan
        _, second, _, fourth = self.sums
        noise = 4 * float(np.finfo(np.float64).eps) * abs(self.sums[0] / self.count)
        if second <= self.count * noise * noise:
            return math.nan
        return self.count * (fourth / second) / second

    @property
    def norm(self) -> float:
        """Euclidean norm; NaN where no value is finite."""
        return math.nan if not self.count else scaled(math.sqrt(self._squares), self.exponent)

    @property
    def zero_share(self) -> float:
        """Share of zeros among all values, non-finite ones included."""
        size = self.count + self.nonfinite
        return self.zeros / size if size else math.nan

    def __add__(self, other: "Moments") -> "Moments":
        """The statistics of both sets together."""
        return joined([self, other])


def scaled(value: float, exponent: int) -> float:
    """`value` times two to a power; infinite, not an error, beyond float64."""
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        return math.copysign(math.inf, value)


def joined(parts: Sequence[Moments]) -> Moments:
    """The statistics of disjoint sets together (Pébay, SAND2008-6212, equations 2.1 to 2.9)."""
    filled = [part for part in parts if part.count]
    nonfinite = sum(part.nonfinite for part in parts)
    if not filled:
        return Moments(nonfinite=nonfinite)
    exponent = max(part.exponent for part in filled)
    counts = np.array([part.count for part in filled], dtype=np.float64)
    sums = np.array([part.sums for part in filled])
    if any(part.exponent != exponent for part in filled):
        shifts = np.array([[part.exponent - exponent] for part in filled])
        sums = np.ldexp(sums, shifts * np.arange(1, 5))
    return Moments(
        count=sum(part.count for part in filled),
        nonfinite=nonfinite,
        zeros=sum(part.zeros for part in filled),
        sums=joined_sums(counts, sums),
        min=min(part.min for part in filled),
        max=max(part.max for part in filled),
        exponent=exponent,
    )


def joined_sums(
    counts: NDArray[np.float64], sums: NDArray[np.float64]
) -> tuple[float, float, float, float]:
    """The four sums of `Moments` for the union of sets, given those of each as a row."""
    if len(counts) == 1:
        first, second, third, fourth = sums[0].tolist()
        return first, second, third, fourth
    totals, seconds, thirds, fourths = sums.T
    total = float(totals.sum())
    shift = totals / counts - total / float(counts.sum())
    square = shift * shift
    second = seconds + counts * square
    third = thirds + 3 * shift * seconds + counts * square * shift
    fourth = fourths + 4 * shift * thirds + 6 * square * seconds + counts * square * square
    return total, float(second.sum()), float(third.sum()), float(fourth.sum())


def power_sums(values: NDArray[np.float64]) -> list[float]:
    """The four sums of `Moments` for some values."""
    centred = values - values.mean()
    square = centred * centred
    return [float(each.sum()) for each in (values, square, square * centred, square * square)]


def bin_edges(low: float, high: float, bins: int = BINS) -> tuple[float, ...]:
    """Equal bins from `low` to `high`; wider ones where those could not be told apart."""
    middle, half = low / 2 + high / 2, high / 2 - low / 2
    least = bins * float(np.spacing(max(abs(low), abs(high))))
    if half == 0:
        half = least = max(abs(middle), 1.0) / 2
    if half <= least:
        largest = float(np.finfo(np.float64).max)
        low, high = max(middle - least, -largest), min(middle + least, largest)
    if math.isinf(high - low):
        return tuple((2 * np.linspace(low / 2, high / 2, bins + 1)).tolist())
    return tuple(np.linspace(low, high, bins + 1).tolist())
