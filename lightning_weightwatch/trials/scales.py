"""Finding scales: up to the largest value, to a percentile, or those of the least squared error."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lightning_weightwatch.trials.memory import Memory
from lightning_weightwatch.trials.order_statistics import quantile_of_blocks, quantile_of_rows
from lightning_weightwatch.trials.quantizer import Codes, Scales, scales_between, squared_error

Clip = Literal["absmax", "percentile", "mse"]

#: Returns blocks of [rows, n], anew for each pass, of the dtype that is asked for. The rows of all
#: blocks are the same: where there is more than one block, row 0 of the second continues row 0.
Blocks = Callable[[torch.dtype], Iterable[Tensor]]

# Candidates of the clip from the largest down to the least, and how often the search goes on with
# steps a third as long around the best of them.
_CANDIDATES = 12
_REFINEMENTS = 4


@dataclass(frozen=True)
class _Extent:
    """The ends of each row, [rows] in float64.

    Attributes:
        low: At most 0.
        high: At least 0.
        floor: The least ratio by which they may have to be shrunk.
    """

    low: Tensor
    high: Tensor
    floor: Tensor

    @property
    def largest(self) -> Tensor:
        return torch.maximum(-self.low, self.high)

    def shrunk(self, ratio: Tensor) -> tuple[Tensor, Tensor]:
        return ratio * self.low, ratio * self.high


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
    extent = _extent(blocks(dtype), codes, memory if clip == "mse" else None)
    if clip == "percentile":
        extent = _cut(extent, _quantiles(blocks, dtype, percentile / 100))
    dtype = _dtype_for(extent, codes, dtype)
    if clip == "mse":
        extent = _least_squares(blocks, extent, codes, dtype, memory)
    return scales_between(extent.low, extent.high, codes, dtype)


def _extent(blocks: Iterable[Tensor], codes: Codes, memory: Memory | None) -> _Extent:
    """One pass. Zero is within the ends, so that it has a code. Without memory the floor is 1."""
    lows, highs, sums, counts = [], [], [], []
    for rows in blocks:
        lows.append(rows.amin(-1))
        highs.append(rows.amax(-1))
        if memory is not None:
            sums.append(torch.abs(rows, out=memory.like("steps", rows)).sum(-1).double())
            nonzero = torch.ne(rows, 0, out=memory.like("flags", rows, torch.bool))
            counts.append(nonzero.sum(-1))
    low = torch.stack(lows).amin(0).double().clamp_(max=0)
    high = torch.stack(highs).amax(0).double().clamp_(min=0)
    largest = torch.maximum(-low, high)
    if codes.symmetric:
        low, high = -largest, largest
    if memory is None:
        return _Extent(low, high, torch.ones_like(largest))
    # For given codes the best scale is s = Σ|w|q / Σq², q their magnitudes, so that s max q is at
    # least the mean of |w| weighted with q. As q grows with |w|, Chebyshev's sum inequality puts
    # that above the plain mean of the values that are not zero. The clip is 3/4 of s max q or more.
    mean = torch.stack(sums).sum(0) / torch.stack(counts).sum(0).clamp_(min=1)
    floor = torch.where(largest > 0, 0.75 * (mean / largest).clamp_(max=1), 1.0)
    return _Extent(low, high, floor)


def _dtype_for(extent: _Extent, codes: Codes, dtype: torch.dtype) -> torch.dtype:
    """float64 where float32 has no normal number for a scale, or for its inverse."""
    if dtype == torch.float64:
        return dtype
    tiny = torch.finfo(torch.float32).tiny
    steps = extent.high / codes.steps - extent.low / codes.steps
    odd = (steps > 1 / tiny) | ((steps * extent.floor < tiny) & (steps > 0))
    return torch.float64 if bool(odd.any()) else dtype


def _quantiles(blocks: Blocks, dtype: torch.dtype, share: float) -> Tensor:
    """The quantile of the magnitudes of each row, in float64."""
    if sum(1 for _ in blocks(dtype)) > 1:
        return torch.tensor([quantile_of_blocks(lambda: blocks(dtype), share)]).double()
    return torch.cat([quantile_of_rows(rows.abs(), share) for rows in blocks(dtype)])


def _cut(extent: _Extent, clip: Tensor) -> _Extent:
    clip = torch.where(clip > 0, clip.to(extent.high.device), extent.largest)
    low, high = torch.maximum(extent.low, -clip), torch.minimum(extent.high, clip)
    return _Extent(low, high, extent.floor)


def _least_squares(
    blocks: Blocks, extent: _Extent, codes: Codes, dtype: torch.dtype, memory: Memory
) -> _Extent:
    """The extent shrunk, row by row, to where the squared error is least.

    Geometric candidates from the largest clip down to the floor, then around the best of them, each
    time closer. The largest itself is the first, and is kept unless another is truly better.
    """
    best = torch.ones_like(extent.floor)
    least = torch.full_like(best, torch.inf)
    step = extent.floor.log() / (_CANDIDATES - 1)
    places = torch.arange(_CANDIDATES).to(step)
    for _ in range(1 + _REFINEMENTS):
        ratios = (places.unsqueeze(-1) * step).exp_().mul_(best).clamp_(max=1)
        scales = scales_between(*extent.shrunk(ratios), codes, dtype)
        found, at = _errors(blocks(dtype), scales, len(places), memory).min(
            0
        )  # the first of equals
        best = torch.where(found < least, ratios.gather(0, at.unsqueeze(0)).squeeze(0), best)
        least = torch.minimum(found, least)
        places, step = torch.tensor([-2, -1, 1, 2]).to(step), step / 3
    return _Extent(*extent.shrunk(best), extent.floor)


def _errors(blocks: Iterable[Tensor], scales: Scales, candidates: int, memory: Memory) -> Tensor:
    """Σ (w − ŵ)² over all blocks, [candidates, rows]."""
    total: Tensor | None = None
    for rows in blocks:
        errors = torch.stack([squared_error(rows, scales[at], memory) for at in range(candidates)])
        total = errors if total is None else total.add_(errors)
    assert total is not None
    return total
