"""A fine grid over the values of a tensor, and which of its cells an edge cuts in two."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Cells of a grid, without the two outer ones: 32 kB of counters, which the first cache holds.
CELLS = 4096


@dataclass(frozen=True)
class Grid:
    """`CELLS` equal cells over a window; below it cell 0, above it cell `CELLS` + 1.

    A value v lies in cell trunc((v · unit − base) · scale). In floating point, too, that never
    falls when v grows, and exactness rests on nothing else: whatever the rounding does, all values
    of a lower cell are smaller than all values of a higher one.

    Attributes:
        base: Lower end of cell 0, in units.
        scale: Cells per unit.
        unit: A power of two that keeps sums of fourth powers within float64; nearly always 1.
        clamped: Whether there may be values outside of cells 0 ... `CELLS` + 1.
    """

    base: float
    scale: float
    unit: float
    clamped: bool

    def cell_of(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        """The cell of each value: the arithmetic of the counting pass, to the last bit."""
        with np.errstate(over="ignore"):  # far outside of the window
            places = (values * self.unit - self.base) * self.scale
        return np.clip(places, 0, CELLS + 1).astype(np.int64)


def exponent_of(low: float, high: float) -> int:
    """Exponent of the unit for values from `low` to `high`; 0 unless they are extreme."""
    exponent = math.frexp(max(abs(low), abs(high)))[1]
    return 0 if -200 <= exponent <= 200 else min(max(exponent, -1000), 1000)


def grid_over(low: float, high: float, exponent: int, *, clamped: bool) -> Grid:
    """A grid over the window [`low`, `high`].

    The grid lies a few ulps lower than it should. Edges that are numbers of the values' own dtype,
    such as whole ones, then begin their cell instead of ending the one before.
    """
    unit = math.ldexp(1.0, -exponent)
    low, high = low * unit, high * unit
    width = (high - low) / CELLS
    if width == 0 or math.isinf(1 / width):
        return Grid(low, 0.0, unit, clamped=False)
    nudge = 4 * float(np.spacing(max(abs(low), abs(high))))
    return Grid(low - width - nudge, 1 / width, unit, clamped=clamped or nudge > width / 2)


@dataclass(frozen=True)
class Bins:
    """Where the inner edges of a histogram lie among the cells of a grid.

    Attributes:
        inner: The edges but the first and the last.
        first: For each of them the first cell with values that are not below it, ascending.
        cut: Whether an edge has values of a cell on both sides; these are to be looked up.
    """

    inner: NDArray[np.float64]
    first: NDArray[np.int64]
    cut: NDArray[np.bool_]

    def look_up(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        """The counts of the values of cut cells, one by one."""
        found = np.searchsorted(self.inner, values, side="right")
        return np.bincount(found, minlength=len(self.inner) + 1)

    def counts(
        self, cells: NDArray[np.int64], looked_up: NDArray[np.int64] | None
    ) -> tuple[int, ...]:
        """The histogram, from the counts of the cells and of the values that were looked up."""
        below = np.zeros(CELLS + 3, dtype=np.int64)
        np.cumsum(np.where(self.cut, 0, cells), out=below[1:])
        counts = np.diff(below[self.first], prepend=0, append=below[-1])
        return tuple((counts if looked_up is None else counts + looked_up).tolist())


def bins_in(
    grid: Grid, edges: tuple[float, ...], low: float, high: float, *, float32: bool
) -> Bins:
    """Lay the edges of a histogram over a grid.

    An edge cuts no cell if the last number below it and the first one not below it (of the values'
    dtype) lie in different cells: every value is then on the side on which its cell is.

    Args:
        grid: The cells.
        edges: Of the histogram, which holds all values.
        low: The smallest value.
        high: The largest value.
        float32: Whether the values are float32 (or narrower).
    """
    inner = np.array(edges[1:-1])
    first = np.where(inner <= low, 0, CELLS + 2)
    inside = (inner > low) & (inner <= high)
    dtype = np.float32 if float32 else np.float64
    above = inner[inside].astype(dtype)
    above = np.where(above >= inner[inside], above, np.nextafter(above, dtype(np.inf)))
    below = np.nextafter(above, dtype(-np.inf))
    first[inside] = grid.cell_of(above.astype(np.float64))
    cut = np.zeros(CELLS + 2, dtype=np.bool_)
    cut[first[inside][grid.cell_of(below.astype(np.float64)) == first[inside]]] = True
    return Bins(inner, first, cut)
