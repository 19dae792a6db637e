"""Median, median absolute deviation and outliers of many sets at once, out of counted cells."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_weightwatch.values.cells import CELLS, Grid

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Spread:
    """Where the values of a set lie, and how far around.

    Attributes:
        median: As `numpy.median`, known to ± `median_error`.
        mad: Median absolute deviation about the median, not scaled: the standard deviation of a
            Gaussian is 1.4826 times this. Known to ± `mad_error`.
        outliers: Values strictly beyond `outlier_range`.
        outlier_range: `median` ∓ the chosen number of `mad`.
        median_error: Bound of the error of `median`.
        mad_error: Bound of the error of `mad`.
    """

    median: float
    mad: float
    outliers: int
    outlier_range: tuple[float, float]
    median_error: float
    mad_error: float


@dataclass(frozen=True)
class Cells:
    """The values of one tensor, counted in the cells of a grid.

    Attributes:
        grid: The grid.
        counts: Of its cells, the outer ones included.
        low: The smallest value.
        high: The largest value.
        count: All values.
    """

    grid: Grid
    counts: NDArray[np.unsignedinteger]
    low: float
    high: float
    count: int


def compact(counts: Ints) -> NDArray[np.unsignedinteger]:
    """The same counts in as few bytes as they need: a report keeps them."""
    return counts.astype(np.min_scalar_type(int(counts.max())))


class Union:
    """Sets of tensors, and how many values of each set lie below a number.

    How many of a tensor's values are not above t is known but for the cell in which t lies: at
    least those of the lower cells, at most those and its own. That bounds every quantile.

    Args:
        members: The tensors.
        sets: For each set the positions of its members, one at least.
    """

    def __init__(self, members: Sequence[Cells], sets: Sequence[Sequence[int]]) -> None:
        self._starts = np.cumsum([0] + [len(each) for each in sets[:-1]])
        self._set = np.repeat(np.arange(len(sets)), [len(each) for each in sets])
        chosen = np.concatenate([np.asarray(each, dtype=np.int64) for each in sets])
        below = np.zeros((len(members), CELLS + 3), dtype=np.int64)
        for row, each in zip(below, members, strict=True):
            np.cumsum(each.counts, dtype=np.int64, out=row[1:])
        self._below = below.ravel()
        self._offset = chosen * (CELLS + 3)
        columns = [
            (each.low, each.high, each.grid.base, each.grid.scale, each.grid.unit)
            for each in members
        ]
        table = np.array(columns)[chosen].T
        self._low, self._high, self._base, self._scale, self._unit = table
        self._count = np.array([each.count for each in members], dtype=np.int64)[chosen]
        self.count = np.add.reduceat(self._count, self._starts)
        self.low = np.minimum.reduceat(self._low, self._starts)
        self.high = np.maximum.reduceat(self._high, self._starts)

    def at_most(self, bounds: Floats) -> tuple[Ints, Ints]:
        """Least and greatest numbers of values ≤ a bound, for each tensor of each set.

        Args:
            bounds: [..., sets].

        Returns:
            Two arrays [..., tensors of all sets, one after the other].
        """
        own = bounds[..., self._set]
        places = (np.clip(own, self._low, self._high) * self._unit - self._base) * self._scale
        cell = np.clip(places, 0, CELLS + 1).astype(np.int64) + self._offset
        all_of_it, none_of_it = own >= self._high, own < self._low
        least = np.where(all_of_it, self._count, np.where(none_of_it, 0, self._below[cell]))
        most = np.where(all_of_it, self._count, np.where(none_of_it, 0, self._below[cell + 1]))
        return least, most

    def _summed(self, counts: Ints) -> Ints:
        summed: Ints = np.add.reduceat(counts, self._starts, axis=-1)
        return summed

    def medians(self) -> tuple[Floats, Floats]:
        """Lower and upper bound of the median of each set."""
        return self._middle(self.low, self.high, self.at_most)

    def deviations(self, medians: Floats) -> tuple[Floats, Floats]:
        """Lower and upper bound of the median of |x − m| of each set, with m as given."""

        def counts(radii: Floats) -> tuple[Ints, Ints]:
            least, most = self.at_most(medians + radii)
            least_below, most_below = self.at_most(np.nextafter(medians - radii, -np.inf))
            return np.maximum(least - most_below, 0), most - least_below

        farthest = np.maximum(self.high - medians, medians - self.low)
        farthest = np.minimum(farthest, np.finfo(np.float64).max)
        low, high = self._middle(np.zeros_like(medians), farthest, counts)
        # medians ± radii are rounded
        slack = np.where(high > 0, np.spacing(np.maximum(np.abs(medians), high)), 0)
        return np.maximum(low - slack, 0), high + slack

    def _middle(
        self, low: Floats, high: Floats, counts: Callable[[Floats], tuple[Ints, Ints]]
    ) -> tuple[Floats, Floats]:
        """Bounds of the mean of the two middle values, which are one where the count is odd.

        Args:
            low: No middle value of a set is smaller.
            high: Nor greater.
            counts: The least and the greatest number of values, by tensor, that are ≤ a bound.
        """
        ranks = np.stack([(self.count + 1) // 2, self.count // 2 + 1])

        def reached(bounds: Floats) -> NDArray[np.bool_]:  # [bound, rank, set]
            least, most = counts(bounds)
            enough = np.stack([self._summed(most[0]), self._summed(least[1])]) >= ranks
            return np.asarray(enough, dtype=np.bool_)

        shape = (2, 2, len(self.count))
        found = _smallest(np.broadcast_to(low, shape), np.broadcast_to(high, shape), reached)
        middle = np.where(self.count % 2, found[:, 0], found[:, 0] / 2 + found[:, 1] / 2)
        return middle[0], middle[1]

    def beyond(self, low: Floats, high: Floats) -> tuple[Ints, Ints]:
        """Least and greatest numbers of values of each set strictly outside [low, high].

        Of a cell that holds such a limit the least is none, or one where a tensor's smallest or
        largest value lies beyond.
        """
        least_low, most_low = self.at_most(np.nextafter(low, -np.inf))
        least_high, most_high = self.at_most(high)
        least = np.maximum(least_low, self._low < low[self._set]) + np.maximum(
            self._count - most_high, self._high > high[self._set]
        )
        return self._summed(least), self._summed(most_low + self._count - least_high)


def spreads(
    members: Sequence[Cells],
    sets: Sequence[Sequence[int]],
    outlier_mads: float,
    zeros: Sequence[int],
) -> tuple[list[Spread], list[bool]]:
    """The spread of each set.

    Where the cells leave the number of outliers open, it is the least that they allow.

    Args:
        members: The tensors.
        sets: For each set the positions of its members, one at least.
        outlier_mads: How many MADs from the median an outlier is.
        zeros: For each set, how many of its values are zero.

    Returns:
        The spreads, and for each whether the number of its outliers is exact.
    """
    if not sets:
        return [], []
    with np.errstate(over="ignore"):
        return _spreads(Union(members, sets), outlier_mads, np.asarray(zeros))


def _spreads(union: Union, outlier_mads: float, zeros: Ints) -> tuple[list[Spread], list[bool]]:
    low, high = union.medians()
    # More than half of a pruned tensor is zero, and so are its median and MAD.
    pruned = 2 * zeros > union.count
    low, high = np.where(pruned, 0, low), np.where(pruned, 0, high)
    medians = low / 2 + high / 2
    median_errors = np.maximum(high - medians, medians - low)
    least, most = union.deviations(medians)
    least = np.where(pruned, 0, np.maximum(least - median_errors, 0))
    most = np.where(pruned, 0, most + median_errors)
    mads = least / 2 + most / 2
    mad_errors = np.maximum(most - mads, mads - least)
    limits = medians - outlier_mads * mads, medians + outlier_mads * mads
    fewest, greatest = union.beyond(*limits)
    columns = (medians, mads, fewest, *limits, median_errors, mad_errors)
    found = [
        Spread(median, mad, outliers, (lower, upper), median_error, mad_error)
        for median, mad, outliers, lower, upper, median_error, mad_error in zip(
            *(column.tolist() for column in columns), strict=True
        )
    ]
    return found, (fewest == greatest).tolist()


def spread_of_few(ordered: Floats, outlier_mads: float) -> Spread:
    """The spread of some ascending values, exactly."""
    median = _middle(ordered)
    with np.errstate(over="ignore"):
        mad = _middle(np.sort(np.abs(ordered - median)))
    low, high = median - outlier_mads * mad, median + outlier_mads * mad
    outliers = int(np.searchsorted(ordered, low)) + len(ordered)
    outliers -= int(np.searchsorted(ordered, high, side="right"))
    return Spread(median, mad, outliers, (low, high), 0.0, 0.0)


def _middle(ordered: Floats) -> float:
    size = len(ordered)
    return float(ordered[(size - 1) // 2] / 2 + ordered[size // 2] / 2)


def _smallest(low: Floats, high: Floats, reached: Callable[[Floats], NDArray[np.bool_]]) -> Floats:
    """The smallest numbers from `low` to `high` for which a growing condition holds, by bisection.

    It halves the numbers that there are, not their distance: 64 rounds do whatever the magnitude.
    """
    above, below = _rank(high), _rank(low) - 1
    while ((above - below).view(np.uint64) > 1).any():  # the difference may need all 64 bits
        middle = (above >> 1) + (below >> 1) + (above & below & 1)
        held = reached(_number(middle))
        above, below = np.where(held, middle, above), np.where(held, below, middle)
    return _number(above)


def _rank(numbers: Floats) -> Ints:
    bits = (numbers + 0.0).view(np.int64)  # + 0.0: there are two zeros
    return np.where(bits >= 0, bits, np.int64(-(2**63)) - bits)


def _number(ranks: Ints) -> Floats:
    bits = np.where(ranks >= 0, ranks, np.int64(-(2**63)) - ranks)
    return np.asarray(bits, dtype=np.int64).view(np.float64)
