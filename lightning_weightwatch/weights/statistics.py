"""Moments and histogram of a tensor in float64, block by block: never a copy of the whole."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: What TensorBoard shows is 30 bins; 64 keep its percentiles honest on heavy tails.
BINS = 64

# Blocks that stay in the cache of a core through the passes over them: three times as fast.
_CACHE_BLOCK = 1 << 16
# Blocks that are copied to float64 for numpy, and larger ones where launching a kernel costs more.
_COPY_BLOCK = 1 << 18
_GPU_BLOCK = 1 << 24


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

    Attributes:
        count: Finite values.
        nonfinite: NaN and infinite values.
        zeros: Values equal to zero.
        total: Sum of the finite values.
        sum_of_squares: Σx².
        deviation: Σ(x − mean)².
        min: Smallest finite value; NaN when there is none.
        max: Largest one.
    """

    count: int = 0
    nonfinite: int = 0
    zeros: int = 0
    total: float = 0.0
    sum_of_squares: float = 0.0
    deviation: float = 0.0
    min: float = math.nan
    max: float = math.nan

    @property
    def mean(self) -> float:
        """Mean of the finite values."""
        return self.total / self.count if self.count else math.nan

    @property
    def std(self) -> float:
        """Population standard deviation, as `numpy.std`."""
        return math.sqrt(self.deviation / self.count) if self.count else math.nan

    @property
    def norm(self) -> float:
        """Euclidean norm."""
        return math.sqrt(self.sum_of_squares)

    @property
    def zero_share(self) -> float:
        """Share of zeros among all values, non-finite ones included."""
        size = self.count + self.nonfinite
        return self.zeros / size if size else math.nan

    def __add__(self, other: "Moments") -> "Moments":
        """The statistics of both sets together (Chan, Golub and LeVeque, 1979)."""
        if not (self.count and other.count):
            one = self if self.count else other
            return Moments(
                one.count, self.nonfinite + other.nonfinite, one.zeros, one.total,
                one.sum_of_squares, one.deviation, one.min, one.max,
            )  # fmt: skip
        count = self.count + other.count
        shift = other.mean - self.mean
        return Moments(
            count=count,
            nonfinite=self.nonfinite + other.nonfinite,
            zeros=self.zeros + other.zeros,
            total=self.total + other.total,
            sum_of_squares=self.sum_of_squares + other.sum_of_squares,
            deviation=self.deviation
            + other.deviation
            + shift * shift * (self.count * other.count / count),
            min=min(self.min, other.min),
            max=max(self.max, other.max),
        )


def moments(values: Tensor) -> Moments:
    """The statistics of a tensor of any shape and any real or complex dtype.

    Sums are taken in float64. A complex number counts as its real and its imaginary part.
    """
    total = Moments()
    for block in _blocks(values, _CACHE_BLOCK):
        total += _block_moments(block)
    return total


def _block_moments(block: Tensor) -> Moments:
    """One pass over a block that lies in the cache, and one transfer of six numbers."""
    count = block.numel()
    exact = block.double()
    summed, squares = exact.sum(), torch.dot(exact, exact)
    low, high = block.aminmax() if count else (summed, summed)
    zeros = count - torch.count_nonzero(block)
    centred = exact - summed / max(count, 1)  # never in place: float64 weights are not copied
    deviation = torch.dot(centred, centred)
    numbers = [zeros.double(), summed, squares, deviation, low.double(), high.double()]
    first, *rest = torch.stack(numbers).tolist()
    if count and math.isfinite(rest[1]):
        return Moments(count, 0, int(first), *rest)
    finite = block[torch.isfinite(block)]
    if finite.numel() == count:  # empty, or squares beyond float64
        return Moments(count, 0, int(first), *rest) if count else Moments()
    return _block_moments(finite) + Moments(nonfinite=count - finite.numel())


def bin_edges(low: float, high: float, bins: int = BINS) -> tuple[float, ...]:
    """Equal bins from `low` to `high`; wider ones where those could not be told apart."""
    middle, half = low / 2 + high / 2, high / 2 - low / 2
    if half == 0:
        half = max(abs(middle), 1.0) / 2
        low, high = middle - half, middle + half
    elif half < bins * float(np.spacing(max(abs(low), abs(high)))):
        half = bins * float(np.spacing(max(abs(low), abs(high))))
        low, high = middle - half, middle + half
    if math.isinf(high - low):
        return tuple((2 * np.linspace(low / 2, high / 2, bins + 1)).tolist())
    return tuple(np.linspace(low, high, bins + 1).tolist())


def histogram(values: Tensor, edges: Sequence[float]) -> Histogram:
    """How many values fall into each bin, exactly as `numpy.histogram` counts them in float64.

    Args:
        values: A tensor of any shape and dtype; values outside the edges and those that are not
            finite are not counted.
        edges: Of equal bins, as `bin_edges` makes them.
    """
    counts = np.zeros(len(edges) - 1, dtype=np.int64)
    for block in _blocks(values, _COPY_BLOCK):
        if block.device.type == "cuda":
            counts += _counts_on_gpu(block.double(), edges)
        else:
            array, span = block.double().numpy(), (edges[0], edges[-1])
            if math.isinf(span[1] - span[0]):
                counts += np.histogram(array[np.isfinite(array)], bins=np.array(edges))[0]
            else:
                counts += np.histogram(array, bins=len(counts), range=span)[0]
    return Histogram(tuple(edges), tuple(counts.tolist()))


def _counts_on_gpu(block: Tensor, edges: Sequence[float]) -> NDArray[np.int64]:
    """By a search for each value: bincount, unlike histc, is allowed in deterministic mode."""
    bounds = torch.tensor(edges, dtype=torch.float64, device=block.device)
    inside = block[(block >= bounds[0]) & (block <= bounds[-1])]
    index = torch.bucketize(inside, bounds, right=True).sub_(1).clamp_(max=len(edges) - 2)
    counted: NDArray[np.int64] = torch.bincount(index, minlength=len(edges) - 1).cpu().numpy()
    return counted


def _blocks(values: Tensor, size: int) -> Iterator[Tensor]:
    """The values in flat blocks, where they lie; on the CPU if there is no float64 there."""
    flat = torch.view_as_real(values.detach()) if values.is_complex() else values.detach()
    on_cpu = flat.device.type not in ("cpu", "cuda")
    narrow = flat.dtype not in (torch.float32, torch.float64)  # fp8 can do next to nothing
    for block in torch.split(flat.reshape(-1), _GPU_BLOCK if flat.is_cuda else size):
        moved = block.cpu() if on_cpu else block
        yield moved.float() if narrow else moved
