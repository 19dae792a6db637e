"""Importance of single weights, I = |w| × size: how it is spread over a layer, in few numbers."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_weightwatch.values.blocks import BLOCK

#: Rows and columns of the sums for a diagram.
SIDE = 32
#: A weight below this share of the layer's mean importance contributes little.
LOW = 0.01
#: The share of importance that `top90_share` is about.
CARRIED = 0.9

# Added to each share in the original's entropy.
_WUA_EPSILON = 1e-8
# Of a sum of shares: as many equal ones as make up 0.9 are not to be one more for rounding.
_ROUNDING = 1e-12
# Leading bits of a float32 by which it is counted.
_DIGIT = 16


@dataclass(frozen=True)
class Importance:
    """How the importance of a layer's weights is spread; see `LayerUsage` for the attributes."""

    entropy: float
    effective_weights: float
    participation_ratio: float
    low_share: float
    top90_share: float
    inputs: Tensor
    outputs: Tensor
    blocks: Tensor


def importance(weights: Tensor, sizes: Tensor, *, of_the_original: bool = False) -> Importance:
    """Statistics of I = |w| · size over all weights of a layer, read in blocks.

    With p = I / ΣI, in float64: H = −Σ p ln p, exp(H), the participation ratio 1 / Σ p², the share
    of weights with p < 0.01 / n, and the least share of weights with Σ p >= 0.9. For the last one
    weights are told apart in float32 only. All but the sums do not depend on the scale of I.

    Args:
        weights: [g, O, I, K]; see `usage.oriented`.
        sizes: Not negative, of a shape that expands to that of the weights.
        of_the_original: Whether H is that of WeightUsageAnalyzer: of p + 1e-8, made to add up to 1.

    Returns:
        The statistics, on the CPU; NaN where all importance is 0.

    Raises:
        ValueError: If the sum of all importance is not finite.

    Example::

        >>> import torch
        >>> found = importance(torch.tensor([[[[1.0], [-3.0]]]]), torch.tensor([[[[3.0], [1.0]]]]))
        >>> round(found.effective_weights, 6), found.inputs.tolist()
        (2.0, [3.0, 3.0])
    """
    # The blocks go along the axis that comes first in memory.
    turned = weights.stride(2) > weights.stride(1)
    layer = _Layer(weights.transpose(1, 2), sizes.transpose(1, 2)) if turned else None
    layer = layer or _Layer(weights, sizes)
    first, second, blocks = layer.sums()
    total = float(first.sum())
    if not math.isfinite(total):
        raise ValueError("its importance is not finite")
    if turned:
        first, second, blocks = second, first, blocks.t().contiguous()
    spread = layer.spread(total, of_the_original) if total > 0 else [math.nan] * 5
    entropy, effective, ratio, low, top = spread
    return Importance(entropy, effective, ratio, low, top, second, first, blocks)


def most_important(importances: Tensor, share: float) -> Tensor:
    """Which of some importances, as few as possible, carry a share of their sum; none of no sum."""
    chosen = torch.zeros(len(importances), dtype=torch.bool, device="cpu")
    total = float(importances.sum())
    if total > 0:
        ordered = importances.sort(descending=True)
        carried = ordered.values.cumsum(0)
        needed = int((carried < total * share * (1 - _ROUNDING)).sum()) + 1
        chosen[ordered.indices[: min(needed, int((importances > 0).sum()))]] = True
    return chosen


class _Layer:
    """The weights [g, A, B, K] of a layer, the axis A before B in memory."""

    def __init__(self, weights: Tensor, sizes: Tensor) -> None:
        self._weights = weights.detach()
        self._sizes = sizes.detach().to("cpu", torch.float64).expand(weights.shape)

    def _blocks(self, scale: float = 1.0) -> Iterator[tuple[slice, slice, Tensor]]:
        """Groups, rows of each, and their I · scale [g, a, B, K] in float64."""
        groups, rows, *rest = self._weights.shape
        width = max(math.prod(rest), 1)
        together = max(BLOCK // max(rows * width, 1), 1)  # groups, all rows of them
        at_once = rows if together > 1 else max(BLOCK // width, 1)
        for group in range(0, groups, together):
            for row in range(0, rows, at_once):
                some = slice(group, group + together), slice(row, min(row + at_once, rows))
                block = self._weights[some].cpu()
                values = (block.abs() if block.is_complex() else block).to(torch.float64)
                values = values.abs_() if values is not block else values.abs()
                sizes = self._sizes[some]
                yield *some, values.mul_(sizes if scale == 1 else sizes * scale)

    def sums(self) -> tuple[Tensor, Tensor, Tensor]:
        """ΣI of each of A, of each of B, and of runs of A × runs of B."""
        groups, rows, columns, _ = self._weights.shape
        runs, of_runs = _runs(groups * rows), _runs(groups * columns)
        sides = min(groups * rows, SIDE), min(groups * columns, SIDE)
        first = torch.zeros(groups, rows, dtype=torch.float64, device="cpu")
        second = torch.zeros(groups, columns, dtype=torch.float64, device="cpu")
        blocks = torch.zeros(sides, dtype=torch.float64, device="cpu")
        # With one group whole rows are added up first, which takes far fewer single additions.
        by_rows = torch.zeros(sides[0], columns, dtype=torch.float64, device="cpu")
        for some, of_them, values in self._blocks():
            summed = values.sum(-1) if values.shape[-1] > 1 else values.squeeze(-1)
            first[some, of_them] += summed.sum(-1)
            second[some] += summed.sum(1)
            run = runs.view(groups, rows)[some, of_them]
            if groups == 1:
                by_rows.index_add_(0, run[0], summed[0])
            else:
                of_run = of_runs.view(groups, columns)[some]
                place = run.unsqueeze(-1) * sides[1] + of_run.unsqueeze(1)
                blocks.view(-1).index_add_(0, place.flatten(), summed.flatten())
        if groups == 1:
            blocks.index_add_(1, of_runs, by_rows)
        return first.flatten(), second.flatten(), blocks

    def spread(self, total: float, of_the_original: bool) -> list[float]:
        """H, exp(H), the participation ratio, the share of the low, that of the top 90 %."""
        size = self._weights.numel()
        entropy, squares, low = 0.0, 0.0, 0
        top = _Top()
        for *_, shares in self._blocks(1 / total):
            p = shares.flatten()
            squares += float(p @ p)
            low += int((p < LOW / size).sum())
            top.count(p)
            if of_the_original:
                p = (p + _WUA_EPSILON) / (1 + size * _WUA_EPSILON)
            entropy += float(torch.special.entr(p).sum())
        entropy = min(max(entropy, 0.0), math.log(size))
        effective = min(max(math.exp(entropy), 1.0), float(size))
        ratio = min(max(1 / squares, 1.0), effective)
        for *_, shares in self._blocks(1 / total):
            top.count_closer(shares.flatten())
        return [entropy, effective, ratio, low / size, top.fewest() / size]


class _Top:
    """Finds how few of some shares add up to 0.9, in two readings and without sorting.

    Floats that are not negative are in the order of their bit patterns. The first reading adds up
    the shares by the leading 16 bits of their float32, the second those that share the 16 bits in
    question by the other 16.
    """

    def __init__(self) -> None:
        self._counts = torch.zeros(2, 1 << _DIGIT, dtype=torch.int64, device="cpu")
        self._sums = torch.zeros(2, 1 << _DIGIT, dtype=torch.float64, device="cpu")
        self._needed = CARRIED * (1 - _ROUNDING)
        self._head: int | None = None

    def count(self, shares: Tensor) -> None:
        """The first reading."""
        self._count(0, shares.float().view(torch.int32) >> _DIGIT, shares)

    def count_closer(self, shares: Tensor) -> None:
        """The second reading, of the same shares."""
        if self._head is None:
            self._head = self._bin(0, self._needed)[0]
        bits = shares.float().view(torch.int32)
        those = bits >> _DIGIT == self._head
        self._count(1, bits[those] & ((1 << _DIGIT) - 1), shares[those])

    def fewest(self) -> int:
        """How few, once all was read twice."""
        _, more, missing = self._bin(0, self._needed)
        last, and_more, missing = self._bin(1, missing)
        each = float(self._sums[1, last] / self._counts[1, last])
        return more + and_more + max(math.ceil(missing / each * (1 - _ROUNDING)), 1)

    def _count(self, reading: int, digits: Tensor, shares: Tensor) -> None:
        bins = 1 << _DIGIT
        self._counts[reading] += torch.bincount(digits, minlength=bins)
        self._sums[reading] += torch.bincount(digits, shares, minlength=bins)

    def _bin(self, reading: int, needed: float) -> tuple[int, int, float]:
        """The bin in which, from the top, a sum is reached; how many are above, what is missing."""
        above = self._sums[reading].flip(0).cumsum(0)
        filled = self._counts[reading].flip(0) > 0
        reached = ((above >= needed) & filled).nonzero()
        at = int(reached[0]) if len(reached) else int(filled.nonzero()[-1])
        more = int(self._counts[reading].flip(0)[:at].sum())
        before = float(above[at - 1]) if at else 0.0
        return (1 << _DIGIT) - 1 - at, more, needed - before


def _runs(size: int) -> Tensor:
    """Of each of some neurons the number of the run that it is in: 32 runs of about one length."""
    return torch.arange(size, device="cpu") * min(size, SIDE) // max(size, 1)
