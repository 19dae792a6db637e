"""Everything that is measured of some tensors, in two passes over each, and a third for some."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_weightwatch.model.weights import whole
from lightning_weightwatch.values.blocks import for_each, on_one_core
from lightning_weightwatch.values.cells import CELLS, Grid, exponent_of, grid_over
from lightning_weightwatch.values.counting import (
    Counted,
    Plan,
    Range,
    beyond,
    cells_of,
    count,
    plan,
    range_of,
    range_of_all,
    values_of,
)
from lightning_weightwatch.values.spread import Cells, Spread, compact, spread_of_few, spreads
from lightning_weightwatch.values.statistics import (
    Histogram,
    Moments,
    bin_edges,
    joined_sums,
    power_sums,
)

#: Up to so many values all is exact: they are sorted.
FEW = 4096
# An error of the MAD above this share of it is worth reading the tensor again, so many times.
_SHARP = 0.01
_REPEATS = 3


@dataclass(frozen=True)
class Measured:
    """What is known of a tensor.

    Attributes:
        shape: Its full shape.
        moments: Of its finite values.
        histogram: Of its finite values; None, as is what follows, when it has none.
        joint: The counts of its values in the joint histogram.
        cells: Its values in fine cells.
        spread: Its median, MAD and outliers.
    """

    shape: tuple[int, ...]
    moments: Moments
    histogram: Histogram | None = None
    joint: tuple[int, ...] = ()
    cells: Cells | None = None
    spread: Spread | None = None


def measure(
    tensors: Sequence[Tensor], outlier_mads: float
) -> tuple[list[Measured], Histogram | None]:
    """Measure each tensor, and count all of them in one histogram over their common range."""
    with on_one_core():
        return _measured(tensors, outlier_mads)


def _measured(
    tensors: Sequence[Tensor], outlier_mads: float
) -> tuple[list[Measured], Histogram | None]:
    shapes: list[tuple[int, ...]] = []

    def gathered() -> Iterator[Tensor]:
        for tensor in tensors:
            values = whole(tensor)
            shapes.append(tuple(values.shape))
            yield values

    ranges = [
        range_of_all(parts) for parts in for_each(range_of, gathered(), [None] * len(tensors))
    ]
    filled = [at for at, found in enumerate(ranges) if found.low <= found.high]
    measured = [
        Measured(shape, Moments(nonfinite=found.size))
        for shape, found in zip(shapes, ranges, strict=True)
    ]
    if not filled:
        return measured, None
    edges = bin_edges(min(ranges[at].low for at in filled), max(ranges[at].high for at in filled))
    todo = [_todo(ranges[at], edges, tensors[at].dtype) for at in filled]
    counted = for_each(_second_pass, (whole(tensors[at]) for at in filled), todo)
    for at, parts, what in zip(filled, counted, todo, strict=True):
        if what is None:
            values = np.concatenate([part for part in parts if isinstance(part, np.ndarray)])
            measured[at] = _of_few(shapes[at], ranges[at], edges, values, outlier_mads)
        else:
            passed = [part for part in parts if isinstance(part, Counted)]
            measured[at] = _of_parts(shapes[at], ranges[at], what, passed)
    _measure_spreads(tensors, measured, ranges, outlier_mads)
    columns = zip(*(measured[at].joint for at in filled), strict=True)
    return measured, Histogram(edges, tuple(sum(column) for column in columns))


def _todo(found: Range, edges: tuple[float, ...], dtype: torch.dtype) -> Plan | None:
    if found.size <= FEW:
        return None
    float32 = dtype not in (torch.float64, torch.complex128)
    return plan(found, edges, float32=float32)


def _second_pass(stretch: Tensor, todo: Plan | None) -> Counted | NDArray[np.float64]:
    return values_of(stretch) if todo is None else count(stretch, todo)


def _of_parts(
    shape: tuple[int, ...], found: Range, todo: Plan, parts: Sequence[Counted]
) -> Measured:
    """Put together what was counted in the stretches of a tensor."""
    sums = [row for part in parts for row in part.sums]
    blocks = np.array([count for part in parts for count in part.counts])
    size = int(blocks.sum())
    moments = _moments(found, blocks, sums, sum(part.zeros for part in parts))
    cells = np.sum([part.cells for part in parts], axis=0)
    own, joint = (
        bins.counts(cells, np.sum([part.looked_up[which] for part in parts], axis=0))
        for which, bins in enumerate(todo.bins)
    )
    kept = Cells(todo.grid, compact(cells), found.low, found.high, size)
    return Measured(shape, moments, Histogram(todo.edges, own), joint, kept)


def _moments(
    found: Range, counts: NDArray[np.int64], sums: Sequence[Sequence[float]], zeros: int
) -> Moments:
    total, *powers = joined_sums(counts.astype(np.float64), np.array(sums))
    if found.low == found.high:  # no rounding error is a deviation
        powers = [0.0, 0.0, 0.0]
    size = int(counts.sum())
    return Moments(
        count=size,
        nonfinite=found.size - size,
        zeros=zeros,
        sums=(total, powers[0], powers[1], powers[2]),
        min=found.low,
        max=found.high,
        exponent=exponent_of(found.low, found.high),
    )


def _of_few(
    shape: tuple[int, ...],
    found: Range,
    joint_edges: tuple[float, ...],
    values: NDArray[np.float64],
    outlier_mads: float,
) -> Measured:
    """Measure a tensor of few values by sorting them."""
    ordered = np.sort(values)
    exponent = exponent_of(found.low, found.high)
    in_units = np.ldexp(ordered, -exponent) if exponent else ordered
    zeros = ordered.size - int(np.count_nonzero(ordered))
    moments = _moments(found, np.array([ordered.size]), [power_sums(in_units)], zeros)
    edges = bin_edges(found.low, found.high)
    own, joint = (
        tuple(np.diff(np.searchsorted(ordered, of[1:-1]), prepend=0, append=ordered.size).tolist())
        for of in (edges, joint_edges)
    )
    grid = grid_over(found.low, found.high, exponent, clamped=False)
    cells = np.bincount(grid.cell_of(ordered), minlength=CELLS + 2)
    kept = Cells(grid, compact(cells), found.low, found.high, ordered.size)
    spread = spread_of_few(ordered, outlier_mads)
    return Measured(shape, moments, Histogram(edges, own), joint, kept, spread)


def _measure_spreads(
    tensors: Sequence[Tensor],
    measured: list[Measured],
    ranges: Sequence[Range],
    outlier_mads: float,
) -> None:
    """Median, MAD and outliers of the tensors of many values, from their cells.

    Those whose cells turn out to be too wide are counted again in finer ones, and those of which a
    cell holds an outlier threshold are compared with it, value for value.
    """
    open_ones = [at for at, each in enumerate(measured) if each.cells and not each.spread]
    inexact: list[int] = []
    for repeat in range(_REPEATS + 1):
        cells = [each.cells for each in (measured[at] for at in open_ones) if each.cells]
        zeros = [measured[at].moments.zeros for at in open_ones]
        sets = [[index] for index in range(len(open_ones))]
        found, exact = spreads(cells, sets, outlier_mads, zeros)
        for at, spread in zip(open_ones, found, strict=True):
            measured[at] = replace(measured[at], spread=spread)
        inexact += [at for at, known in zip(open_ones, exact, strict=True) if not known]
        open_ones = [
            at
            for at, spread in zip(open_ones, found, strict=True)
            if spread.mad_error > _SHARP * spread.mad
        ]
        if not open_ones or repeat == _REPEATS:
            break
        inexact = [at for at in inexact if at not in open_ones]
        _count_again(tensors, measured, ranges, open_ones, outlier_mads)
    limits = [_known(measured[at].spread).outlier_range for at in inexact]
    counted = for_each(beyond, (whole(tensors[at]) for at in inexact), limits)
    for at, parts in zip(inexact, counted, strict=True):
        with_count = replace(_known(measured[at].spread), outliers=sum(parts))
        measured[at] = replace(measured[at], spread=with_count)


def _count_again(
    tensors: Sequence[Tensor],
    measured: list[Measured],
    ranges: Sequence[Range],
    which: Sequence[int],
    outlier_mads: float,
) -> None:
    """Lay finer cells around the medians of some tensors."""
    grids: list[tuple[Grid, bool]] = []
    for at in which:
        spread, found = _known(measured[at].spread), ranges[at]
        reach = 2 * (spread.mad + spread.mad_error) + spread.median_error
        low, high = max(found.low, spread.median - reach), min(found.high, spread.median + reach)
        exponent = exponent_of(found.low, found.high)
        grids.append((grid_over(low, high, exponent, clamped=True), found.finite))
    counted = for_each(cells_of, (whole(tensors[at]) for at in which), grids)
    for at, (grid, _), parts in zip(which, grids, counted, strict=True):
        cells = measured[at].cells
        assert cells is not None
        finer = replace(cells, grid=grid, counts=compact(np.sum(parts, axis=0)))
        measured[at] = replace(measured[at], cells=finer)


def _known(spread: Spread | None) -> Spread:
    assert spread is not None
    return spread
