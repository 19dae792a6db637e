"""Finding scales: up to the largest value, to a percentile, or those of the least squared error."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Literal

import torch
from torch import Tensor

from lightning_weightwatch.trials.memory import Memory
from lightning_weightwatch.trials.order_statistics import quantile_of_blocks, quantile_of_rows
from lightning_weightwatch.trials.quantizer import Codes, Scales, scales_between, squared_errors

Clip = Literal["absmax", "percentile", "mse"]

#: Returns blocks of [rows, n], anew for each pass, of the dtype that is asked for. The rows of all
#: blocks are the same: where there is more than one block, row 0 of the second continues row 0.
Blocks = Callable[[torch.dtype], Iterable[Tensor]]

# Candidates are so far apart in the logarithm of the clip, or this share of what has to be searched
# where that is less; so many are tried before it is asked which others can be better still; and so
# often the search goes on in between, with steps half as long.
_APART, _SHARE = 0.25, 1 / 5
_AT_ONCE = 2
_HALVINGS = 5
# Of rows of up to 2^32 values no less can be best.
_LEAST_RATIO = 2.0**-33


@dataclass(frozen=True)
class _Extent:
    """The ends of each row, [rows] in float64.

    Attributes:
        low: At most 0.
        high: At least 0.
    """

    low: Tensor
    high: Tensor

    @property
    def largest(self) -> Tensor:
        return torch.maximum(-self.low, self.high)

    def shrunk(self, ratio: Tensor) -> "_Extent":
        return _Extent(ratio * self.low, ratio * self.high)

    def scales(self, codes: Codes, dtype: torch.dtype) -> Scales:
        return scales_between(self.low, self.high, codes, dtype)


def find_scales(
    blocks: Blocks,
    dtype: torch.dtype,
    codes: Codes,
    clip: Clip,
    percentile: float,
    memory: Memory,
) -> Scales:
    """The scales of each row.

    `"absmax"` has no value clipped. `"percentile"` cuts what is beyond that percentile of |w|; of
    a row that is zero up to there, nothing. `"mse"` is argmin_c Σ (w − Q_c(w))² over clips c in
    (0, max|w|]; asymmetric ranges shrink at both ends by one ratio.

    Args:
        blocks: What the values are read from.
        dtype: float32 or float64: that is computed in. Where a scale or its inverse would not be a
            normal number of float32, it is float64 all the same.
        codes: The codes.
        clip: How.
        percentile: From 0 to 100.
        memory: For what is in between.
    """
    extent = _extent(blocks(dtype), codes)
    if clip == "percentile":
        extent = _cut(extent, _quantiles(blocks, dtype, percentile / 100))
    dtype = _dtype_for(extent, codes, dtype)
    if clip == "mse":
        extent = _least_squares(blocks, extent, codes, dtype, memory)
    return extent.scales(codes, dtype)


def _extent(blocks: Iterable[Tensor], codes: Codes) -> _Extent:
    """One pass. Zero is within the ends, so that it has a code."""
    ends = [(rows.amin(-1), rows.amax(-1)) for rows in blocks]
    low = torch.stack([end for end, _ in ends]).amin(0).double().clamp_(max=0)
    high = torch.stack([end for _, end in ends]).amax(0).double().clamp_(min=0)
    extent = _Extent(low, high)
    return _Extent(-extent.largest, extent.largest) if codes.symmetric else extent


def _dtype_for(extent: _Extent, codes: Codes, dtype: torch.dtype) -> torch.dtype:
    """float64 where float32 may have no normal number for a scale, shrunk, or for its inverse."""
    if dtype == torch.float64:
        return dtype
    tiny = torch.finfo(torch.float32).tiny
    steps = extent.high / codes.steps - extent.low / codes.steps
    odd = (steps > 1 / tiny) | ((steps < tiny / _LEAST_RATIO) & (steps > 0))
    return torch.float64 if bool(odd.any()) else dtype


def _quantiles(blocks: Blocks, dtype: torch.dtype, share: float) -> Tensor:
    """The quantile of the magnitudes of each row, in float64."""
    if sum(1 for _ in blocks(dtype)) > 1:
        return torch.tensor([quantile_of_blocks(lambda: blocks(dtype), share)]).double()
    return torch.cat([quantile_of_rows(rows.abs(), share) for rows in blocks(dtype)])


def _cut(extent: _Extent, clip: Tensor) -> _Extent:
    clip = torch.where(clip > 0, clip.to(extent.high.device), extent.largest)
    low, high = torch.maximum(extent.low, -clip), torch.minimum(extent.high, clip)
    return _Extent(low, high)


def _least_squares(
    blocks: Blocks, extent: _Extent, codes: Codes, dtype: torch.dtype, memory: Memory
) -> _Extent:
    """The extent shrunk, row by row, to where the squared error is least.

    Geometric candidates from the largest clip down to where none can be better, then around the
    best of them, each time closer. The largest is the first, kept unless another is truly better.
    What is found for a row does not depend on the rows beside it, for which it may go on longer.
    """

    def errors(ratios: Tensor) -> Tensor:
        scales = extent.shrunk(ratios).scales(codes, dtype)
        return _total(squared_errors(rows, scales, memory) for rows in blocks(dtype))

    def better(ratios: Tensor) -> tuple[Tensor, Tensor]:
        found, at = errors(ratios).min(0)  # the first of equals
        ratio = ratios.gather(0, at.unsqueeze(0)).squeeze(0)
        return torch.where(found < least, ratio, best), torch.minimum(found, least)

    bound = _bound(blocks(dtype), extent, codes, dtype, memory)
    best = torch.ones_like(extent.high)
    least = errors(best.unsqueeze(0)).squeeze(0)
    floor = bound.ratio(least)
    step = (floor.log() * _SHARE).clamp_(min=-_APART)
    places, reached = torch.arange(1, _AT_ONCE + 1).to(step).unsqueeze(-1), 0
    while bool((reached * step > floor.log()).any()):
        best, least = better(torch.maximum(((reached + places) * step).exp_(), floor))
        floor = torch.maximum(floor, bound.ratio(least))
        reached += _AT_ONCE
    sides = torch.tensor([[-1.0], [1.0]]).to(step)
    for _ in range(_HALVINGS):
        step = step / 2
        best, least = better((sides * step).exp_().mul_(best).clamp_(max=1))
    return extent.shrunk(best)


@dataclass(frozen=True)
class _Bound:
    """From where on a clip can have a squared error less than a given one.

    For weights v ≥ 0, Σ v (|w| − |ŵ|) ≤ ‖v‖ ‖w − ŵ‖ (Cauchy and Schwarz), so that codes have to
    reach (Σ v|w| − ‖v‖ ‖w − ŵ‖) / Σ v. Here v is 1 at the largest value alone, which says most of
    a few values or many bits; |w|², which says most of many values; and |w|, of which the bound is
    above 0 whatever the values: zero would do better than a clip that is worse.

    Attributes:
        unit: The largest magnitude of each row, in which all else is measured.
        moments: Σ |w|, Σ |w|², Σ |w|³ and Σ |w|⁴.
        beyond: How far codes may reach for a clip of 1.
    """

    unit: Tensor
    moments: tuple[Tensor, Tensor, Tensor, Tensor]
    beyond: float

    def ratio(self, error: Tensor) -> Tensor:
        """The least ratio to the largest magnitude, [rows]; 1 where all values are zero."""
        one, two, three, four = self.moments
        distance = error.sqrt() / self.unit
        reach = torch.maximum((two - two.sqrt() * distance) / one, 1 - distance)
        reach = torch.maximum(reach, (three - four.sqrt() * distance) / two)
        # The sums are of float32.
        return (0.999 * reach / self.beyond).nan_to_num_(1.0).clamp_(_LEAST_RATIO, 1)


def _bound(
    blocks: Iterable[Tensor], extent: _Extent, codes: Codes, dtype: torch.dtype, memory: Memory
) -> _Bound:
    """One pass."""
    unit = extent.largest.clamp(min=torch.finfo(dtype).tiny)
    inverse = unit.to(dtype).reciprocal_().unsqueeze(-1)

    def sums(rows: Tensor) -> Tensor:
        sizes = torch.mul(rows, inverse, out=memory.like("steps", rows)).abs_()
        powers = memory.like("codes", rows).copy_(sizes)
        first = powers.sum(-1)
        return torch.stack([first, *(powers.mul_(sizes).sum(-1) for _ in range(3))]).double()

    one, two, three, four = _total(map(sums, blocks)).unbind()
    # The full range has a code more below zero, and a zero point is moved by half a step at most.
    return _Bound(unit, (one, two, three, four), 1 + 1 / codes.steps)


def _total(parts: Iterable[Tensor]) -> Tensor:
    return reduce(torch.add, parts)
