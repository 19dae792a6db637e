"""Moments and histogram of a tensor, in blocks: no float64 copy of more than 32 MB."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

#: What TensorBoard shows is 30 bins; 64 keep its percentiles honest on heavy tails.
BINS = 64

_BLOCK = 1 << 22


@dataclass(frozen=True)
class Histogram:
    """Counts over equal bins.

    Attributes:
        edges: ``len(counts) + 1`` ascending edges.
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
        """Population standard deviation, as ``numpy.std``."""
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

    A complex number counts as its real and its imaginary part.
    """
    total = Moments()
    for block in _finite_blocks(values):
        if not block.numel():
            continue
        mean = block.mean()
        low, high = block.aminmax()
        zeros, summed, squares, deviation, low_value, high_value = torch.stack(
            [
                (block == 0).sum().double(),
                block.sum(),
                block.square().sum(),
                (block - mean).square().sum(),
                low,
                high,
            ]
        ).tolist()  # one transfer a block
        total += Moments(
            block.numel(), 0, int(zeros), summed, squares, deviation, low_value, high_value
        )
    size = values.numel() * (2 if values.is_complex() else 1)
    return total + Moments(nonfinite=size - total.count)


def bin_edges(low: float, high: float, bins: int = BINS) -> tuple[float, ...]:
    """Equal bins from ``low`` to ``high``; around a single value, bins of a sensible width."""
    if not low < high:
        half = max(abs(low), 1.0) / 2
        low, high = low - half, high + half
    edges = torch.linspace(low, high, bins + 1, dtype=torch.float64)
    return tuple(edges.tolist())


def histogram(values: Tensor, edges: Sequence[float]) -> Histogram:
    """How many finite values fall into each bin, exactly as ``numpy.histogram`` counts them.

    Args:
        values: A tensor of any shape and dtype; values outside the edges are not counted.
        edges: Ascending, at least two.
    """
    counts = torch.zeros(len(edges) - 1, dtype=torch.int64)
    for block in _finite_blocks(values):
        bounds = torch.tensor(edges, dtype=torch.float64, device=block.device)
        inside = block[(block >= bounds[0]) & (block <= bounds[-1])]
        index = torch.bucketize(inside, bounds, right=True).sub_(1).clamp_(max=len(counts) - 1)
        counts += torch.bincount(index, minlength=len(counts)).cpu()
    return Histogram(tuple(edges), tuple(counts.tolist()))


def _finite_blocks(values: Tensor) -> Iterator[Tensor]:
    """The finite values as float64, a block at a time, on their device (CPU if it has none)."""
    flat = torch.view_as_real(values.detach()) if values.is_complex() else values.detach()
    for block in torch.split(flat.reshape(-1), _BLOCK):
        if block.device.type not in ("cpu", "cuda"):
            block = block.cpu()
        exact = block.double()
        finite = torch.isfinite(exact)
        yield exact if bool(finite.all()) else exact[finite]
