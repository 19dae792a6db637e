"""Exact quantiles of magnitudes, of the rows of a block or of all values of many blocks."""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

_DIGIT = 16


def quantile_of_rows(magnitudes: Tensor, share: float) -> Tensor:
    """The quantile of each row with linear interpolation, as `numpy.quantile`, in float64.

    Args:
        magnitudes: [rows, n].
        share: From 0 to 1.
    """
    below, above, weight = _ranks(magnitudes.shape[-1], share)
    largest = magnitudes.topk(magnitudes.shape[-1] - below, -1).values.double()
    lower = largest[..., -1]
    return lower if above == below else lower + (largest[..., -2] - lower) * weight


def quantile_of_blocks(blocks: Callable[[], Iterable[Tensor]], share: float) -> float:
    """The same of all values in blocks together, in a few passes and the memory of a block.

    Magnitudes are ordered as their bits are: the bits are found 16 at a time, the highest first,
    by counting. `torch.quantile` sorts a copy, and refuses more than 16 million values.

    Args:
        blocks: Returns the blocks, of values of either sign, anew for each pass.
        share: From 0 to 1.
    """
    size = sum(block.numel() for block in blocks())
    below, above, weight = _ranks(size, share)
    lower, upper = _order_statistics(blocks, (below, above))
    return lower + (upper - lower) * weight


def _ranks(size: int, share: float) -> tuple[int, int, float]:
    """The ranks around a quantile, and how far it is from the lower to the upper one."""
    place = share * (size - 1)
    below = min(math.floor(place), size - 1)
    return below, min(below + 1, size - 1), place - below


def _order_statistics(
    blocks: Callable[[], Iterable[Tensor]], ranks: Sequence[int]
) -> tuple[float, ...]:
    """The magnitudes of some ranks, 0 being that of the smallest."""
    dtype = next(iter(blocks())).dtype
    integer, width = (torch.int64, 64) if dtype == torch.float64 else (torch.int32, 32)
    heads = [0] * len(ranks)  # the bits that are known
    left = list(ranks)  # the rank among the values that begin with those bits
    for shift in range(width - _DIGIT, -1, -_DIGIT):
        counts = {head: torch.zeros(1 << _DIGIT, dtype=torch.int64) for head in heads}
        for block in blocks():
            bits = block.abs().view(integer)
            for head, counted in counts.items():
                digits = bits >> shift
                if shift + _DIGIT < width:
                    digits = digits[digits >> _DIGIT == head] - (head << _DIGIT)
                counted += torch.bincount(digits.view(-1), minlength=1 << _DIGIT).cpu()
        for at, head in enumerate(heads):
            upto = counts[head].cumsum(0)
            digit = int(torch.searchsorted(upto, left[at], right=True))
            left[at] -= int(upto[digit] - counts[head][digit])
            heads[at] = (head << _DIGIT) + digit
    return tuple(torch.tensor(heads, dtype=integer).view(dtype).tolist())
