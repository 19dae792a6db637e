"""Which of many values are the smallest in magnitude: exact, in blocks, without sorting."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

_DIGIT = 16  # bits: so many counts fit a core's cache, and float32 takes two readings


def blocks(values: Tensor) -> Iterator[Tensor]:
    """Views of a tensor, in the order of its elements: few enough to be copied without thought."""
    values = values.detach()
    limit = values_at_once(values.device)
    if values.is_contiguous():
        yield from torch.split(values.view(-1), limit)
    elif values.numel() <= limit:
        yield values
    else:
        rows = limit // (values.numel() // len(values))
        for part in torch.split(values, max(rows, 1)):
            yield from (part,) if rows else blocks(part[0])


def values_at_once(device: torch.device) -> int:
    """How many values are looked at together: on an accelerator launching a kernel costs more."""
    return 1 << 17 if device.type == "cpu" else 1 << 22


def has_doubles(device: torch.device) -> bool:
    """Whether float64 is known there; what lies elsewhere is moved to the CPU, block by block."""
    return device.type in ("cpu", "cuda")


def widest(tensors: Sequence[Tensor]) -> torch.dtype:
    """The dtype that holds the values of all of them exactly: float64, or float32 for the rest."""
    wide = any(tensor.dtype == torch.float64 for tensor in tensors)
    return torch.float64 if wide else torch.float32


def widened(block: Tensor, dtype: torch.dtype) -> Tensor:
    """A flat block in another dtype, on the CPU where its device lacks the means."""
    return (block if has_doubles(block.device) else block.cpu()).reshape(-1).to(dtype)


def kth_magnitude(tensors: Sequence[Tensor], k: int) -> tuple[float, int]:
    """The k-th smallest |x| of all values of some tensors.

    A radix selection: floats that are not negative are in the order of their bit patterns, so
    counting the leading 16 bits tells in which of 65,536 bins the value lies, and counting the next
    16 of what lies in it tells the rest. Nothing is sorted, nothing put together.

    Args:
        tensors: Real, without NaN; any shapes, dtypes and devices.
        k: From 1 to the number of values.

    Returns:
        The value, exact, and how many are smaller.

    Example::

        >>> import torch
        >>> kth_magnitude([torch.tensor([3.0, -1.0]), torch.tensor([2.0, -2.0])], 3)
        (2.0, 1)
    """
    dtype = widest(tensors)
    pattern, width = (torch.int64, 64) if dtype == torch.float64 else (torch.int32, 32)
    known = smaller = 0
    for shift in range(width - _DIGIT, -1, -_DIGIT):
        counts = torch.zeros(1 << _DIGIT, dtype=torch.int64)
        for block in (block for tensor in tensors for block in blocks(tensor)):
            bits = widened(block, dtype).abs().view(pattern)
            if shift + _DIGIT < width:
                bits = bits[bits >> (shift + _DIGIT) == known]
            digits = (bits >> shift) & ((1 << _DIGIT) - 1)
            counts += torch.bincount(digits, minlength=1 << _DIGIT).cpu()
        up_to = counts.cumsum(0)
        digit = int(torch.searchsorted(up_to, k - smaller))
        smaller += int(up_to[digit] - counts[digit])
        known = (known << _DIGIT) + digit
    return float(torch.tensor(known, dtype=pattern).view(dtype)), smaller


class Smallest:
    """The smallest magnitudes of some tensors; among equals those that stand first.

    Args:
        tensors: Real, without NaN; any shapes, dtypes and devices.
        count: How many.
    """

    def __init__(self, tensors: Sequence[Tensor], count: int) -> None:
        self._dtype = widest(tensors)
        self._value, smaller = kth_magnitude(tensors, count) if count else (-1.0, 0)
        self._equals = count - smaller

    def among(self, block: Tensor) -> Tensor:
        """A flat mask, True for those of a block. To be asked for all blocks, in their order."""
        magnitudes = widened(block, self._dtype).abs()
        mask = magnitudes <= self._value
        equals = (magnitudes == self._value).nonzero().squeeze(1)
        mask[equals[self._equals :]] = False
        self._equals = max(self._equals - len(equals), 0)
        return mask


def smallest_of_each(rows: Tensor, count: int) -> Tensor:
    """True for the `count` smallest of each row [r, n]; among equals for those that stand first."""
    if count == 0 or rows.numel() == 0:
        return torch.zeros_like(rows, dtype=torch.bool)
    lowest = rows.topk(count, dim=1, largest=False, sorted=False).values
    mask = rows <= lowest.amax(1, keepdim=True)
    tied = mask.sum(1) > count
    if tied.any():
        beyond = rows[tied].sort(dim=1, stable=True).indices[:, count:]
        mask[tied] = mask[tied].scatter(1, beyond, False)
    return mask
