"""The two passes over a tensor: its range, then its moments, cells and histograms at once."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_weightwatch.values.blocks import blocks
from lightning_weightwatch.values.cells import CELLS, Bins, Grid, bins_in, exponent_of, grid_over
from lightning_weightwatch.values.scratch import Scratch, scratch_of
from lightning_weightwatch.values.statistics import bin_edges

_SAMPLE = 512  # of each stretch; it only guides where the fine cells are put
# Full-range cells are fine enough if the range is less than this many MADs: 4,096 of them leave an
# error of about 0.6 %. Otherwise they cover the median ± half of it, where the MAD is decided.
_WINDOW = 24.0


@dataclass(frozen=True)
class Range:
    """What the first pass found in a stretch, or in a tensor.

    Attributes:
        low: Smallest finite value; NaN when there is none.
        high: Largest one.
        size: All values.
        finite: Whether all are.
        sample: Some of the finite values, evenly spread.
    """

    low: float
    high: float
    size: int
    finite: bool
    sample: NDArray[np.float64]


def range_of(stretch: Tensor, _: None) -> Range:
    """The first pass over a stretch."""
    flat = stretch.reshape(-1)
    low, high = _ends(blocks(flat))
    finite = math.isfinite(low) and math.isfinite(high)
    if not finite:
        low, high = _ends(block[torch.isfinite(block)] for block in blocks(flat))
    some = flat[:: 1 + flat.numel() // _SAMPLE].cpu()
    sample = (some if some.dtype == torch.float64 else some.float().double()).numpy()
    return Range(low, high, flat.numel(), finite, sample[np.isfinite(sample)])


def _ends(parts: Iterable[Tensor]) -> tuple[float, float]:
    """The smallest and the largest value; NaN where one is, or where there is none."""
    ends = [part.aminmax() for part in parts if part.numel()]
    if not ends:
        return math.nan, math.nan
    lows, highs = (torch.stack(side) for side in zip(*ends, strict=True))
    return lows.amin().item(), highs.amax().item()


def range_of_all(parts: Sequence[Range]) -> Range:
    """The range of a tensor from those of its stretches."""
    return Range(
        min((part.low for part in parts if part.low == part.low), default=math.nan),
        max((part.high for part in parts if part.high == part.high), default=math.nan),
        sum(part.size for part in parts),
        all(part.finite for part in parts),
        np.concatenate([part.sample for part in parts]),
    )


@dataclass(frozen=True)
class Plan:
    """What the second pass is to count.

    Attributes:
        grid: Fine cells.
        edges: Of the tensor's own histogram.
        bins: Of that histogram and of the joint one, on the grid.
        finite: Whether all values are.
        has_zeros: Whether zero lies within the range.
        looked_up: Cells whose values are looked up one by one: those that an edge cuts, and the
            one that holds zero, so that zeros are counted on the way. None when there is none.
    """

    grid: Grid
    edges: tuple[float, ...]
    bins: tuple[Bins, ...]
    finite: bool
    has_zeros: bool
    looked_up: NDArray[np.bool_] | None


def plan(found: Range, joint_edges: tuple[float, ...], *, float32: bool) -> Plan:
    """Choose the cells of a tensor that has finite values."""
    low, high = found.low, found.high
    window = low, high
    if found.sample.size:
        middle = _central(found.sample)
        reach = _WINDOW * _central(np.abs(found.sample / 2 - middle / 2))
        if 0 < 2 * reach < high - low:
            window = max(low, middle - reach), min(high, middle + reach)
    exponent = exponent_of(low, high)
    grid = grid_over(*window, exponent, clamped=window != (low, high))
    edges = bin_edges(low, high)
    bins = tuple(bins_in(grid, of, low, high, float32=float32) for of in (edges, joint_edges))
    has_zeros = low <= 0 <= high
    looked_up = np.logical_or.reduce([each.cut for each in bins])
    if has_zeros:
        looked_up[grid.cell_of(np.zeros(1))] = True
    marked = looked_up if looked_up.any() else None
    return Plan(grid, edges, bins, found.finite, has_zeros, marked)


def _central(values: NDArray[np.float64]) -> float:
    return float(np.partition(values, values.size // 2)[values.size // 2])


@dataclass(frozen=True)
class Counted:
    """What the second pass found in a stretch.

    Attributes:
        counts: Finite values of each block.
        sums: Σx, Σ(x − mean)², ... ³, ... ⁴ of each block, in units of the grid.
        cells: Values in each cell.
        looked_up: For each histogram, the counts of the values of cells that were looked up.
        zeros: Values equal to zero.
    """

    counts: list[int]
    sums: list[list[float]]
    cells: NDArray[np.int64]
    looked_up: tuple[NDArray[np.int64], ...]
    zeros: int


def count(stretch: Tensor, todo: Plan) -> Counted:
    """The second pass over a stretch."""
    marked: Tensor | None = None
    counts: list[int] = []
    sums: list[Tensor] = []
    cells: list[Tensor] = []
    picked: list[NDArray[np.float64]] = []
    for exact, scratch in _doubles(stretch, finite=todo.finite):
        in_units = exact if todo.grid.unit == 1 else exact * todo.grid.unit
        index = scratch.cells_of(in_units, todo.grid)
        cells.append(torch.bincount(index, minlength=CELLS + 2))
        if todo.looked_up is not None:
            if marked is None:
                marked = torch.from_numpy(todo.looked_up).to(index.device)
            picked.append(_picked(exact, scratch.chosen(marked)))
        counts.append(exact.numel())
        sums += scratch.sums_of(in_units)
    values = np.concatenate([*picked, np.zeros(0)])
    in_cells = todo.grid.cell_of(values)
    return Counted(
        counts,
        torch.stack(sums).view(-1, 4).tolist() if sums else [],
        _summed(cells),
        tuple(each.look_up(values[each.cut[in_cells]]) for each in todo.bins),
        values.size - int(np.count_nonzero(values)) if todo.has_zeros else 0,
    )


def _summed(cells: Sequence[Tensor]) -> NDArray[np.int64]:
    if not cells:
        return np.zeros(CELLS + 2, dtype=np.int64)
    summed: NDArray[np.int64] = torch.stack(list(cells)).sum(0).cpu().numpy()
    return summed


def values_of(stretch: Tensor) -> NDArray[np.float64]:
    """The finite values of a stretch."""
    kept = [exact.cpu().numpy().copy() for exact, _ in _doubles(stretch, finite=False)]
    return np.concatenate([*kept, np.zeros(0)])


def cells_of(stretch: Tensor, todo: tuple[Grid, bool]) -> NDArray[np.int64]:
    """How many values of a stretch lie in each cell of a grid; with it, whether all are finite."""
    grid, finite = todo
    cells = []
    for exact, scratch in _doubles(stretch, finite=finite):
        in_units = exact if grid.unit == 1 else exact * grid.unit
        cells.append(torch.bincount(scratch.cells_of(in_units, grid), minlength=CELLS + 2))
    return _summed(cells)


def beyond(stretch: Tensor, limits: tuple[float, float]) -> int:
    """How many finite values of a stretch lie strictly below or above two limits."""
    return sum(
        int(torch.count_nonzero(exact < limits[0])) + int(torch.count_nonzero(exact > limits[1]))
        for exact, _ in _doubles(stretch, finite=False)
    )


def _doubles(stretch: Tensor, *, finite: bool) -> Iterator[tuple[Tensor, Scratch]]:
    """The finite values, block by block."""
    scratch = None
    for block in blocks(stretch):
        kept = block if finite else block[torch.isfinite(block)]
        if scratch is None:  # the first block is the largest
            scratch = scratch_of(block.numel(), block.device)
        if kept.numel():
            yield scratch.exact(kept), scratch


def _picked(values: Tensor, chosen: Tensor) -> NDArray[np.float64]:
    if values.device.type == "cpu":  # half the time of a mask
        return values.numpy()[np.flatnonzero(chosen.numpy())]
    picked: NDArray[np.float64] = values[chosen].cpu().numpy()
    return picked
