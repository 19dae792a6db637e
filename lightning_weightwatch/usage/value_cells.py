"""Counts of values in cells that are as fine as the values are large, and what they tell.

A cell holds the float32 numbers of one sign that share their exponent and the first bits of their
mantissa. So no range has to be known beforehand, and counts of several tensors, calls or processes
are added up.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_weightwatch.values.blocks import stretches
from lightning_weightwatch.values.statistics import Histogram, bin_edges

#: So many values of a tensor are counted at most by `sampled_cells`; of more, every k-th.
SAMPLE = 1 << 17
#: A cell is at most so wide, as a share of the values in it: 6 bits of the mantissa.
RELATIVE_WIDTH = 2.0**-6
#: Sizes below the first are not told from 0, those from the second on not from each other.
SMALLEST, LARGEST = 2.0**-31, 2.0**33

_BITS = 23 - 6  # of the mantissa that are left out
_FINE = 64 * 2**6  # cells of a sign from SMALLEST to LARGEST
_FIRST = (127 - 31) * 2**6  # the one that begins with SMALLEST, among those of its sign
_BEYOND = _FIRST + _FINE  # the first one from LARGEST on
_INFINITE = 255 * 2**6  # the first one of what is not finite
_SIGN = 2**14  # cells of a sign

#: Cells in all: those of negative values in ascending order, that of 0, those of positive ones.
CELLS = 2 * (_FINE + 1) + 1

# The lower ends of the cells of positive values, and the end of the last but one.
_EDGES = np.ldexp(
    1 + np.arange(_FINE + 1) % 2**6 * RELATIVE_WIDTH, np.arange(_FINE + 1) // 2**6 - 31
)

_Floats = NDArray[np.float64]


def cells_of(values: Tensor) -> Tensor:
    """How many of some values lie in each cell; those that are not finite in none.

    Args:
        values: Flat, of any real dtype; float64 is rounded to float32.

    Returns:
        int64 [CELLS], where the values are.
    """
    if values.dtype == torch.float64:
        largest = torch.finfo(torch.float32).max
        values = torch.where(values.isfinite(), values.clamp(-largest, largest), values)
    bits = values.float().contiguous().view(torch.int32)
    raw = torch.bincount((bits >> _BITS) + _SIGN, minlength=2 * _SIGN)
    # The sign bit makes an int32 negative: cells of negative values come first.
    negative, positive = raw[:_INFINITE], raw[_SIGN : _SIGN + _INFINITE]
    zero = negative[:_FIRST].sum() + positive[:_FIRST].sum()
    fine, beyond = zip(
        *((of[_FIRST:_BEYOND], of[_BEYOND:].sum()) for of in (negative, positive)), strict=True
    )
    low, high = (end.view(1) for end in beyond)
    return torch.cat([low, fine[0].flip(0), zero.view(1), fine[1], high])


def sampled_cells(values: Tensor) -> Tensor:
    """The cells of every k-th value in memory, each k times."""
    size = values.numel()
    step = -(-size // SAMPLE)
    while math.gcd(step, size) > 1 and step > 1:  # else it might meet the same channels each time
        step += 1
    taken, offset = [], 0
    for stretch in stretches(values):
        flat = stretch.reshape(-1)
        taken.append(flat[offset::step].contiguous())  # torch.cat is slow with others
        offset = (offset - flat.numel()) % step
    return cells_of(torch.cat(taken)) * step


def size_quantile(cells: NDArray[np.int64], share: float, low: float, high: float) -> float:
    """The size |x| that a share of the values does not exceed.

    It lies in the cell of the value that it is to be, so it is off by `RELATIVE_WIDTH` of it at
    most; within the cell it is interpolated.

    Args:
        cells: Counts.
        share: Of the values, from 0 to 1.
        low: The smallest value.
        high: The largest value.
    """
    counts = cells[_FINE + 2 :] + cells[_FINE::-1]
    counts = np.concatenate([[cells[_FINE + 1]], counts])
    largest = max(-low, high)
    smallest = max(low, -high, 0.0)
    ends = np.concatenate([[0.0], _EDGES, [math.inf]]).clip(smallest, largest)
    rank = max(math.ceil(share * counts.sum()) - 1, 0)
    upto = np.cumsum(counts)
    cell = int(np.searchsorted(upto, rank, side="right"))
    within = (rank + 0.5 - (upto[cell] - counts[cell])) / counts[cell]
    return float(ends[cell] + min(within, 1.0) * (ends[cell + 1] - ends[cell]))


def histogram_of(cells: NDArray[np.int64], count: int, low: float, high: float) -> Histogram:
    """The histogram of `count` values, all of them or so many as the cells are a sample of.

    The counts add up to `count`. A cell that an edge cuts is shared out as if its values were
    spread evenly.

    Args:
        cells: Counts.
        count: Of all values.
        low: The smallest value.
        high: The largest value.
    """
    edges = bin_edges(low, high)
    # What is not told from 0 is at 0, which is below any edge but 0 itself.
    tiny = float(np.nextafter(0, 1))
    ends = np.concatenate([[-math.inf], -_EDGES[::-1], _EDGES, [math.inf]])
    ends[_FINE + 1 : _FINE + 3] = 0.0, tiny
    below = np.concatenate([[0], np.cumsum(cells)])
    inner = np.nextafter(edges[1:-1], -math.inf)  # a bin begins with its left edge
    places = np.interp(inner, ends.clip(low, high), below)
    upto = np.rint(np.concatenate([[0.0], places, [below[-1]]]) * (count / below[-1]))
    return Histogram(edges, tuple(int(number) for number in np.diff(upto)))
