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

#: So many values of an output are counted at most; of more, every k-th.
SAMPLE = 1 << 15
#: A cell is at most so wide, as a share of the values in it, for sizes in `FINE`: 6 bits of the
#: mantissa. Beyond them it has 3 bits.
RELATIVE_WIDTH, FAR_WIDTH = 2.0**-6, 2.0**-3
FINE = 2.0**-31, 2.0**33
#: Smaller sizes are not told from 0; those of float64 from `LARGEST` on not from each other.
SMALLEST, LARGEST = 2.0**-126, 2.0**128

_BITS = 23 - 6  # of the mantissa that are left out
_SIGN = 2**14  # cells of a sign before those far out are put together
_NORMAL = 2**6  # the first one that is told from 0
_FINE, _COARSE = (127 - 31) * 2**6, (127 + 33) * 2**6  # the first one, and the first beyond
_INFINITE = 255 * 2**6  # the first one of what is not finite
_TOGETHER = 2**3  # cells far out

# The lower ends of the cells of positive values, and the end of the last one.
_ALL_EDGES = np.ldexp(
    1 + np.arange(_INFINITE + 1) % 2**6 * RELATIVE_WIDTH, np.arange(_INFINITE + 1) // 2**6 - 127
)
_EDGES = np.concatenate(
    [
        _ALL_EDGES[_NORMAL:_FINE:_TOGETHER],
        _ALL_EDGES[_FINE:_COARSE],
        _ALL_EDGES[_COARSE:_INFINITE:_TOGETHER],
        [math.inf],
    ]
)
_SIDE = len(_EDGES) - 1

#: Cells in all: those of negative values in ascending order, that of 0, those of positive ones.
CELLS = 2 * _SIDE + 1

_Floats = NDArray[np.float64]


def cells_of(values: Tensor) -> Tensor:
    """How many of some values lie in each cell; those that are not finite in none.

    Args:
        values: Flat, of any real dtype; float64 is rounded to float32.

    Returns:
        int64 [CELLS], where the values are.
    """
    return cells_of_codes(codes_of(values))


def sampled_cells(values: Tensor, sample: int = SAMPLE) -> Tensor:
    """The cells of every k-th value in memory, each k times.

    Args:
        values: As in `cells_of`, in any layout.
        sample: The most values to count.
    """
    codes, step = sampled_codes(values, sample)
    return cells_of_codes(codes) * step


def sampled_codes(values: Tensor, sample: int = SAMPLE) -> tuple[Tensor, int]:
    """The codes of every k-th value in memory, and k; see `sampled_cells`."""
    size = values.numel()
    step = -(-size // sample)
    while math.gcd(step, size) > 1 and step > 1:  # else it might meet the same channels each time
        step += 1
    return codes_of(_every(values, step)), step


def codes_of(values: Tensor) -> Tensor:
    """Of each value the sign, the exponent and the first bits of the mantissa, as an int16.

    Args:
        values: As in `cells_of`.
    """
    if values.dtype == torch.float64:
        largest = torch.finfo(torch.float32).max
        values = torch.where(values.isfinite(), values.clamp(-largest, largest), values)
    return (values.float().view(torch.int32) >> _BITS).short()


def cells_of_codes(codes: Tensor) -> Tensor:
    """The counts of `cells_of`; codes of several tensors are counted sooner at once."""
    both = torch.bincount(codes + _SIGN, minlength=2 * _SIGN).view(2, _SIGN)
    # The sign bit makes a number negative: cells of negative values come first.
    zero = both[:, :_NORMAL].sum().view(1)
    near = both[:, _NORMAL:_FINE].reshape(2, -1, _TOGETHER).sum(2)
    far = both[:, _COARSE:_INFINITE].reshape(2, -1, _TOGETHER).sum(2)
    negative, positive = torch.cat([near, both[:, _FINE:_COARSE], far], dim=1)
    return torch.cat([negative.flip(0), zero, positive])


def _every(values: Tensor, step: int) -> Tensor:
    if values.is_contiguous():
        return values.view(-1)[::step]
    taken, offset = [], 0
    for stretch in stretches(values):
        flat = stretch.reshape(-1)
        taken.append(flat[offset::step].contiguous())  # torch.cat is slow with others
        offset = (offset - flat.numel()) % step
    return torch.cat(taken)


def size_quantile(cells: NDArray[np.int64], share: float, low: float, high: float) -> float:
    """The size |x| that a share of the values does not exceed.

    It lies in the cell of the value that it is to be, so it is off by `RELATIVE_WIDTH` of it at
    most, or by `FAR_WIDTH` beyond `FINE`; within the cell it is interpolated. It is NaN where it is
    beyond float32.

    Args:
        cells: Counts.
        share: Of the values, from 0 to 1.
        low: The smallest value.
        high: The largest value.
    """
    counts = cells[_SIDE + 1 :] + cells[:_SIDE][::-1]
    counts = np.concatenate([[cells[_SIDE]], counts])
    largest = max(-low, high)
    smallest = max(low, -high, 0.0)
    ends = np.concatenate([[0.0], _EDGES]).clip(smallest, largest)
    rank = max(math.ceil(share * counts.sum()) - 1, 0)
    upto = np.cumsum(counts)
    cell = int(np.searchsorted(upto, rank, side="right"))
    if cell == _SIDE and largest >= LARGEST:
        return math.nan
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
    ends = np.concatenate([-_EDGES[::-1], _EDGES])
    ends[_SIDE : _SIDE + 2] = 0.0, tiny
    below = np.concatenate([[0], np.cumsum(cells)])
    inner = np.nextafter(edges[1:-1], -math.inf)  # a bin begins with its left edge
    places = np.interp(inner, ends.clip(low, high), below)
    upto = np.rint(np.concatenate([[0.0], places, [below[-1]]]) * (count / below[-1]))
    return Histogram(edges, tuple(int(number) for number in np.diff(upto)))
