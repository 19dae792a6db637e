"""The k-th smallest of many magnitudes, and quantiles: exact, in blocks, without sorting."""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

_DIGIT = 16  # bits: so many counts fit a core's cache, and float32 takes two readings


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

    `torch.quantile` sorts a copy, and refuses more than 16 million values.

    Args:
        blocks: Returns the blocks, of values of either sign, anew for each pass.
        share: From 0 to 1.
    """
    size = sum(block.numel() for block in blocks())
    below, above, weight = _ranks(size, share)
    (lower, _), (upper, _) = order_statistics(blocks, (below, above))
    return lower + (upper - lower) * weight


def order_statistics(
    blocks: Callable[[], Iterable[Tensor]], ranks: Sequence[int]
) -> list[tuple[float, int]]:
    """The magnitudes of some ranks, 0 being that of the smallest, in a few passes.

    A radix selection: floats that are not negative are in the order of their bit patterns, so
    counting the leading 16 bits tells in which of 65,536 bins a value lies, and counting the next
    16 of what lies there tells the rest. Nothing is sorted, nothing put together.

    Args:
        blocks: Returns the blocks, float32 or all float64, of values of either sign but no NaN,
            anew for each pass.
        ranks: Below the number of values.

    Returns:
        Of each rank the value, exact, and how many are smaller.

    Example::

        >>> import torch
        >>> order_statistics(lambda: [torch.tensor([3.0, -1.0]), torch.tensor([2.0, -2.0])], [2])
        [(2.0, 1)]
    """
    dtype = next(iter(blocks())).dtype
    integer, width = (torch.int64, 64) if dtype == torch.float64 else (torch.int32, 32)
    heads = [0] * len(ranks)  # the bits that are known
    smaller = [0] * len(ranks)  # how many begin with less
    for shift in range(width - _DIGIT, -1, -_DIGIT):
        counts = {head: torch.zeros(1 << _DIGIT, dtype=torch.int64) for head in heads}
        for block in blocks():
            digits = block.abs().view(integer).view(-1) >> shift
            for head, counted in counts.items():
                if shift + _DIGIT < width:
                    those = digits[digits >> _DIGIT == head] - (head << _DIGIT)
                else:
                    those = digits
                counted += torch.bincount(those, minlength=1 << _DIGIT).cpu()
        for at, head in enumerate(heads):
            up_to = counts[head].cumsum(0)
            digit = int(torch.searchsorted(up_to, ranks[at] - smaller[at], right=True))
            smaller[at] += int(up_to[digit] - counts[head][digit])
            heads[at] = (head << _DIGIT) + digit
    values = torch.tensor(heads, dtype=integer).view(dtype).tolist()
    return list(zip(values, smaller, strict=True))


def _ranks(size: int, share: float) -> tuple[int, int, float]:
    """The ranks around a quantile, and how far it is from the lower to the upper one."""
    place = share * (size - 1)
    below = min(math.floor(place), size - 1)
    return below, min(below + 1, size - 1), place - below
