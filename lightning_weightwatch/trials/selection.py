"""Which of many values are the smallest in magnitude: exact, in blocks, without sorting."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lightning_weightwatch.trials.order_statistics import order_statistics
from lightning_weightwatch.values.blocks import has_doubles, values_at_once, views


def blocks(values: Tensor) -> Iterator[Tensor]:
    """Views of a tensor, in the order of its elements: few enough to be copied without thought."""
    return views(values.detach(), values_at_once(values.device))


def widest(tensors: Sequence[Tensor]) -> torch.dtype:
    """The dtype that holds the values of all of them exactly: float64, or float32 for the rest."""
    wide = any(tensor.dtype == torch.float64 for tensor in tensors)
    return torch.float64 if wide else torch.float32


def widened(block: Tensor, dtype: torch.dtype) -> Tensor:
    """A flat block in another dtype, on the CPU where its device lacks the means."""
    return (block if has_doubles(block.device) else block.cpu()).reshape(-1).to(dtype)


class Smallest:
    """The smallest magnitudes of some tensors; among equals those that stand first.

    Args:
        tensors: Real, without NaN; any shapes, dtypes and devices.
        count: How many.
    """

    def __init__(self, tensors: Sequence[Tensor], count: int) -> None:
        self._dtype = widest(tensors)
        self._value, smaller = -1.0, 0
        if count:
            ((self._value, smaller),) = order_statistics(
                lambda: (widened(part, self._dtype) for each in tensors for part in blocks(each)),
                [count - 1],
            )
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
