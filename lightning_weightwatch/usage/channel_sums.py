"""Moments, range and zeros of each channel of a tensor, exactly, in one reading of its blocks."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lightning_weightwatch.values.blocks import STRETCH, WRITTEN_BLOCK, has_doubles

# Along fewer values than these adding up takes longer than across them.
_SHORT = 32
# Of Σx² so much more than of Σ(x − mean)² costs as many digits of the difference.
_DWARFED = 1e5
# Sums of blocks that are kept: with many channels they are not much smaller than the blocks.
_PARTS = 16

_Reduction = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class ChannelSums:
    """What is known of the values of each channel; tensors are float64 [channels].

    Attributes:
        seen: All values of a channel, the same for every channel.
        counts: The finite ones.
        means: Of the finite ones; 0 where there is none.
        deviations: Σ (x − mean)².
        lows: The smallest; infinite where there is none.
        highs: The largest; −infinite where there is none.
        zeros: Values that are 0.
    """

    seen: int
    counts: Tensor
    means: Tensor
    deviations: Tensor
    lows: Tensor
    highs: Tensor
    zeros: Tensor

    def __len__(self) -> int:
        return len(self.counts)

    def __add__(self, other: "ChannelSums") -> "ChannelSums":
        """Both together (Chan, Golub & LeVeque 1979); one channel of all if theirs differ."""
        if len(self) != len(other):
            return self.in_one() + other.in_one()
        counts = self.counts + other.counts
        share = other.counts / counts.clamp(min=1)
        apart = other.means - self.means
        return ChannelSums(
            self.seen + other.seen,
            counts,
            self.means + apart * share,
            self.deviations + other.deviations + apart * apart * self.counts * share,
            torch.minimum(self.lows, other.lows),
            torch.maximum(self.highs, other.highs),
            self.zeros + other.zeros,
        )

    def in_one(self) -> "ChannelSums":
        """The same values, taken for those of a single channel."""
        if len(self) == 1:
            return self
        count = self.counts.sum(0, keepdim=True)
        mean = (self.counts * self.means).sum(0, keepdim=True) / count.clamp(min=1)
        between = self.counts * (self.means - mean).square()
        return ChannelSums(
            self.seen * len(self),
            count,
            mean,
            (self.deviations + between).sum(0, keepdim=True),
            self.lows.amin(0, keepdim=True),
            self.highs.amax(0, keepdim=True),
            self.zeros.sum(0, keepdim=True),
        )

    def settled(self) -> "ChannelSums":
        """With the exact moments of channels whose values are all the same."""
        same = self.lows == self.highs
        return replace(
            self,
            means=torch.where(same, self.lows, self.means),
            deviations=self.deviations.masked_fill(same, 0),
        )

    def to(self, device: torch.device) -> "ChannelSums":
        """The same on a device."""
        return ChannelSums(self.seen, *(each.to(device) for each in self._tensors))

    @property
    def _tensors(self) -> tuple[Tensor, ...]:
        return self.counts, self.means, self.deviations, self.lows, self.highs, self.zeros


def nothing(channels: int, device: torch.device) -> ChannelSums:
    """Of no values."""
    zeros = torch.zeros(channels, dtype=torch.float64, device=device)
    return ChannelSums(0, zeros, zeros, zeros, zeros + math.inf, zeros - math.inf, zeros)


def merged(
    sums: Sequence[ChannelSums], reduce: Callable[[Tensor, str], Tensor]
) -> list[ChannelSums]:
    """Those of all processes together, where each has given its own.

    Args:
        sums: With as many channels everywhere.
        reduce: `"sum"` or `"min"` of a tensor over all processes; called three times.
    """
    sizes = [len(each) for each in sums]

    def joined(columns: Callable[[ChannelSums], Tensor]) -> Tensor:
        return torch.cat([columns(each) for each in sums], dim=-1)

    def totals(each: ChannelSums) -> Tensor:
        seen = torch.full_like(each.counts, each.seen)
        return torch.stack([each.counts, each.counts * each.means, each.zeros, seen])

    counts, totals_, zeros, seen = reduce(joined(totals), "sum")
    means = totals_ / counts.clamp(min=1)
    apart = joined(lambda each: each.means) - means
    within = joined(lambda each: each.deviations)
    deviations = reduce(within + joined(lambda each: each.counts) * apart.square(), "sum")
    ends = reduce(joined(lambda each: torch.stack([each.lows, -each.highs])), "min")
    parts = (part.split(sizes) for part in (counts, means, deviations, ends[0], -ends[1], zeros))
    firsts = seen.split(sizes)
    return [ChannelSums(int(first[0]), *of) for first, *of in zip(firsts, *parts, strict=True)]


class Scratch:
    """Memory for a block, kept from call to call: fresh memory costs more than its use."""

    def __init__(self) -> None:
        self._kept: dict[tuple[torch.dtype, torch.device, str], Tensor] = {}

    def doubles(self, block: Tensor) -> Tensor:
        """A copy of a block in float64."""
        return self._like(block, torch.float64, "copy").copy_(block)

    def zeros(self, block: Tensor) -> Tensor:
        """1 where a block is 0, else 0."""
        return torch.eq(block, 0, out=self._like(block, block.dtype, "zeros"))

    def _like(self, block: Tensor, dtype: torch.dtype, use: str) -> Tensor:
        kept = self._kept.get((dtype, block.device, use))
        if kept is None or kept.numel() < block.numel():
            kept = torch.empty(block.numel(), dtype=dtype, device=block.device)
            self._kept[dtype, block.device, use] = kept
        return kept[: block.numel()].view(block.shape)


def channel_sums(values: Tensor, axis: int, scratch: Scratch) -> ChannelSums:
    """Read a tensor; once on the CPU, unless a value is not finite or a mean dwarfs its spread.

    Args:
        values: Real floating-point numbers in any layout.
        axis: Of the channels.
        scratch: Memory for blocks.
    """
    if values.device.type == "cpu":  # elsewhere to ask would mean to wait for the answer
        sums = _read_fast(values, axis, scratch)
        close = sums.means.square() * sums.counts > _DWARFED * sums.deviations
        varied = sums.lows < sums.highs
        ends = (sums.lows.sum() + sums.highs.sum()).masked_fill((close & varied).any(), math.nan)
        if math.isfinite(ends.item()):
            return sums.settled()
    return _read(values, axis, scratch).settled()


def _read_fast(values: Tensor, axis: int, scratch: Scratch) -> ChannelSums:
    """By Σx and Σx², as though all values were finite."""
    found: dict[int, list[tuple[Tensor, ...]]] = {}
    for first, block in _blocks(values, axis):
        exact, zeros = scratch.doubles(block), scratch.zeros(block)
        sums = _over(torch.sum, exact), _over(_norm, exact).square_(), _over(torch.sum, zeros)
        ends = _over(torch.amin, block), _over(torch.amax, block)
        parts = found.setdefault(first, [])
        parts.append(sums + ends)
        if len(parts) == _PARTS:
            parts[:] = [tuple(_together(parts))]
    columns = zip(*(_together(found[first]) for first in sorted(found)), strict=True)
    totals, squares, zeros, lows, highs = (torch.cat(column).double() for column in columns)
    seen = values.numel() // len(totals)
    means = totals / seen
    counts = torch.full_like(totals, seen)
    deviations = (squares - totals * means).clamp_(min=0)
    return ChannelSums(seen, counts, means, deviations, lows, highs, zeros)


def _together(parts: Sequence[tuple[Tensor, ...]]) -> Iterator[Tensor]:
    """Of the blocks of the same channels."""
    if len(parts) == 1:
        yield from parts[0]
        return
    reductions: tuple[_Reduction, ...] = (torch.sum, torch.sum, torch.sum, torch.amin, torch.amax)
    for reduction, column in zip(reductions, zip(*parts, strict=True), strict=True):
        yield reduction(torch.stack(column), 0)


def _read(values: Tensor, axis: int, scratch: Scratch) -> ChannelSums:
    """By sums about a value of each channel, of the finite values alone."""
    channels = values.shape[axis]
    device = values.device if has_doubles(values.device) else torch.device("cpu")
    zero = torch.zeros(channels, dtype=torch.float64, device=device)
    counts, totals, squares, zeros = (zero.clone() for _ in range(4))
    lows, highs = zero + math.inf, zero - math.inf
    shifts: dict[int, Tensor] = {}
    for first, block in _blocks(values, axis):
        own = slice(first, first + block.shape[1])
        infinite = torch.isfinite(block).logical_not_()
        count = block.numel() // block.shape[1] - _over(torch.sum, infinite.double())
        exact = scratch.doubles(block).masked_fill_(infinite, 0)
        if first not in shifts:
            shifts[first] = _over(torch.sum, exact) / count.clamp(min=1)
        exact.sub_(shifts[first].view(-1, 1)).masked_fill_(infinite, 0)
        counts[own] += count
        totals[own] += _over(torch.sum, exact)
        squares[own] += _over(_norm, exact).square_()
        zeros[own] += _over(torch.sum, scratch.zeros(block))
        low = _over(torch.amin, block.masked_fill(infinite, math.inf)).double()
        high = _over(torch.amax, block.masked_fill(infinite, -math.inf)).double()
        lows[own] = torch.minimum(lows[own], low)
        highs[own] = torch.maximum(highs[own], high)
    apart = totals / counts.clamp(min=1)
    shift = torch.cat([shifts[first] for first in sorted(shifts)])
    means = torch.where(counts > 0, shift + apart, 0)
    deviations = (squares - totals * apart).clamp_(min=0)
    return ChannelSums(values.numel() // channels, counts, means, deviations, lows, highs, zeros)


def _norm(values: Tensor, axis: int) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(values, dim=axis)
    return norm


def _over(reduction: _Reduction, block: Tensor) -> Tensor:
    """[c] from [a, c, l]: along the longer stretches first."""
    a, c, length = block.shape
    if length == 1:
        return reduction(block[..., 0], 0)
    if length < _SHORT < a:
        return reduction(reduction(block.view(a, -1), 0).view(c, length), 1)
    along = reduction(block.view(-1, length), 1)
    return along if a == 1 else reduction(along.view(a, c), 0)


def _blocks(values: Tensor, axis: int) -> Iterator[tuple[int, Tensor]]:
    """Contiguous blocks [a, c, l] of a tensor, each with the number of its first channel.

    What lies in memory in another order, but for channels that come last there, is copied, a few
    samples at a time.
    """
    limit = WRITTEN_BLOCK if values.device.type == "cuda" else STRETCH
    if axis == 0:
        values, axis = values.unsqueeze(0), 1
    channels = values.shape[axis]
    if not values.is_contiguous() and values.movedim(axis, -1).is_contiguous():
        values, axis = values.movedim(axis, -1), values.dim() - 1
    samples = max(limit // max(math.prod(values.shape[1:]), 1), 1)
    parts = (values,) if values.is_contiguous() else torch.split(values, samples)
    for part in parts:
        dense = part.contiguous()
        length = math.prod(dense.shape[axis + 1 :])
        for first, block in _cut(dense.view(-1, channels, length), limit):
            moved = block if has_doubles(block.device) else block.cpu()
            known = moved.dtype in (torch.float32, torch.float64)
            yield first, moved if known else moved.float()


def _cut(values: Tensor, limit: int) -> Iterator[tuple[int, Tensor]]:
    _, channels, length = values.shape
    if channels * length <= limit:
        for block in torch.split(values, limit // (channels * length)):
            yield 0, block
        return
    together = max(limit // length, 1)
    for sample in torch.split(values, 1):
        for at, some in enumerate(torch.split(sample, together, dim=1)):
            for block in torch.split(some, limit, dim=2):
                yield at * together, block
