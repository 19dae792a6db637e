"""Global magnitude pruning: the smallest weights of the whole model become zero."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_weightwatch.model.weights import Weight


def magnitude_masks(weights: Sequence[Tensor], amount: float) -> list[Tensor]:
    """Which entries stay when the share `amount` of least magnitude is removed over all tensors.

    Exactly `round(amount · n)` entries go; among equals, those that stand first.

    Args:
        weights: Real and finite, any shapes, on one device or several.
        amount: Between 0 and 1.

    Returns:
        Boolean masks of the same shapes, on the same devices, True where an entry stays.
    """
    sizes = [weight.numel() for weight in weights]
    exact = torch.float64 if any(w.dtype == torch.float64 for w in weights) else torch.float32
    magnitudes = torch.cat([w.detach().abs().flatten().to("cpu", exact) for w in weights])
    keep = _all_but_smallest(magnitudes, round(amount * sum(sizes)))
    return [
        part.view(weight.shape).to(weight.device)
        for part, weight in zip(torch.split(keep, sizes), weights, strict=True)
    ]


def _all_but_smallest(magnitudes: Tensor, count: int) -> Tensor:
    """True for all but `count` entries; selecting is ten times as fast as sorting."""
    if count == 0:
        return torch.ones_like(magnitudes, dtype=torch.bool)
    threshold = magnitudes.kthvalue(count).values
    keep = magnitudes > threshold
    equal = (magnitudes == threshold).nonzero().flatten()
    smaller = magnitudes.numel() - int(keep.sum()) - equal.numel()
    keep[equal[count - smaller :]] = True
    return keep


def packed_bytes(mask: Tensor, element_size: int) -> int:
    """Bytes of a pruned tensor: its live values and a bitmap, or all its values if that is less."""
    live = int(mask.sum()) * element_size + math.ceil(mask.numel() / 8)
    return min(live, mask.numel() * element_size)


@dataclass(frozen=True)
class Pruning:
    """The same share of all weights pruned, wherever they stand.

    Attributes:
        amount: Between 0 and 1.
    """

    amount: float

    @property
    def name(self) -> str:
        """`pruned50` for half of the weights."""
        return f"pruned{100 * self.amount:.10g}"

    def compress(self, weights: Sequence[Weight]) -> Iterator[tuple[Weight, Tensor, int]]:
        """Each weight with its new values and its packed bytes."""
        originals = [weight.parameter.detach() for weight in weights]
        masks = magnitude_masks(originals, self.amount) if originals else []
        for weight, values, mask in zip(weights, originals, masks, strict=True):
            size = packed_bytes(mask, values.element_size())
            yield weight, torch.where(mask, values, torch.zeros_like(values)), size
