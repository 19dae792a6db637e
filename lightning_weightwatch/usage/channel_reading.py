"""Reading a tensor channel by channel, in few operations and few passes over its blocks."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_weightwatch.usage.channel_sums import ChannelSums
from lightning_weightwatch.values.blocks import STRETCH, WRITTEN_BLOCK, has_doubles

# Along fewer values than these adding up takes longer than across them.
_SHORT = 32
# Of fewer values both axes are reduced in one operation: starting a second one costs more.
_SMALL = 1 << 13
# Of Σx² so much more than of Σ(x − mean)² costs as many digits of the difference.
_DWARFED = 32
# Sums of blocks that are kept: with many channels they are not much smaller than the blocks.
_PARTS = 16

_Reduction = Callable[[Tensor, int | tuple[int, int]], Tensor]


@dataclass(frozen=True)
class Reading:
    """Of one tensor; all tensors [channels].

    Attributes:
        seen: All values of a channel.
        shift: What was taken from each value before it was added up; None for 0.
        totals: Σ (x − shift).
        squares: Σ (x − shift)².
        lows: The smallest.
        highs: The largest.
        zeros: Values that are 0.
    """

    seen: int
    shift: Tensor | None
    totals: Tensor
    squares: Tensor
    lows: Tensor
    highs: Tensor
    zeros: Tensor

    @property
    def means(self) -> Tensor:
        """In the dtype of the values."""
        apart = self.totals / self.seen
        near = apart if self.shift is None else apart + self.shift
        return near.to(self.lows.dtype)

    def is_exact_enough(self) -> bool:
        """Whether Σx² has the digits of Σ(x − mean)²; not where a value is not finite."""
        spread = torch.addcmul(self.squares, self.totals, self.totals, value=-1 / self.seen)
        # Of less than that the squares of single values are 0, or short of digits.
        least = torch.finfo(self.lows.dtype).tiny * 2.0**30 * self.seen
        enough = torch.sub(spread, self.squares, alpha=1 / _DWARFED) >= 0  # not of ∞ − ∞
        good = enough.logical_and_(self.squares >= least)
        if bool(good.all()):
            return True
        return bool((good | (self.lows == self.highs)).all())


class Scratch:
    """Memory for a block, kept from call to call: fresh memory costs more than its use."""

    def __init__(self) -> None:
        self._kept: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def like(self, block: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """As large as a block, of its dtype or another."""
        dtype = dtype or block.dtype
        kept = self._kept.get((dtype, block.device))
        if kept is None or kept.numel() < block.numel():
            kept = torch.empty(block.numel(), dtype=dtype, device=block.device)
            self._kept[dtype, block.device] = kept
        return kept[: block.numel()].view(block.shape)

    def forget(self) -> None:
        """Give the memory back."""
        self._kept.clear()


def read(
    values: Tensor, axis: int, scratch: Scratch, shift: Tensor | None = None
) -> Reading | ChannelSums:
    """Read a tensor.

    On the CPU values are added up in their own width, or in float32 if that is wider, about a value
    near the mean where the mean dwarfs the spread: means are off by 1e-6 of the standard deviation
    and the mean together at most, standard deviations by 1e-5. Where that is not enough, because a
    value or a square is not finite, they are added up in float64, which other devices do always.

    Args:
        values: Real floating-point numbers in any layout.
        axis: Of the channels.
        scratch: Memory for blocks.
        shift: Something near the mean of each channel, where that of an earlier tensor was needed.
    """
    if values.device.type == "cpu":  # elsewhere to ask would mean to wait for the answer
        found = _read_fast(values, axis, scratch, shift)
        if found.is_exact_enough():
            return found
        if math.isfinite((found.lows.sum() + found.highs.sum()).item()):
            found = _read_fast(values, axis, scratch, found.means)
            if found.is_exact_enough():
                return found
    return _read_doubles(values, axis, scratch).settled()


def _read_fast(values: Tensor, axis: int, scratch: Scratch, shift: Tensor | None) -> Reading:
    """By Σx and Σx², as though all values were finite."""
    found: dict[int, list[tuple[Tensor, ...]]] = {}
    for first, block in _blocks(values, axis):
        about = block
        if shift is not None:
            own = shift[first : first + block.shape[1]].to(block.dtype).view(-1, 1)
            about = torch.sub(block, own, out=scratch.like(block))
        total = _over(torch.sum, about)
        square = _over(torch.sum, torch.mul(about, about, out=scratch.like(block)))
        lows, highs = _over(torch.amin, block), _over(torch.amax, block)
        # That none is 0 is known sooner than how many are.
        smallest = scratch.like(block) if shift is None else torch.abs(block, out=about)
        zeros = torch.zeros_like(total)
        if not smallest.amin().item() > 0:
            zeros = _over(torch.sum, torch.eq(block, 0, out=scratch.like(block)))
        parts = found.setdefault(first, [])
        parts.append((total, square, lows, highs, zeros))
        if len(parts) == _PARTS:
            parts[:] = [_of_parts(parts)]
    of_all = [_of_parts(found[first]) for first in sorted(found)]
    columns = of_all[0] if len(of_all) == 1 else map(torch.cat, zip(*of_all, strict=True))
    totals, squares, lows, highs, zeros = columns
    return Reading(values.numel() // len(totals), shift, totals, squares, lows, highs, zeros)


def _of_parts(parts: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Of the blocks of the same channels; in float64 if there are several."""
    if len(parts) == 1:
        return parts[0]
    totals, squares, lows, highs, zeros = map(torch.stack, zip(*parts, strict=True))
    total, square, zero = (each.sum(0, dtype=torch.float64) for each in (totals, squares, zeros))
    return total, square, lows.amin(0), highs.amax(0), zero


def together(readings: Sequence[Reading]) -> ChannelSums:
    """Of several tensors with as many channels, on the CPU (Chan, Golub & LeVeque 1979)."""
    first = readings[0].totals
    seen = torch.tensor([[each.seen] for each in readings], dtype=torch.float64)
    columns = zip(*((r.totals, r.squares, r.lows, r.highs, r.zeros) for r in readings), strict=True)
    totals, squares, lows, highs, zeros = (torch.stack(column).double() for column in columns)
    apart = totals / seen
    deviations = (squares - totals * apart).clamp_(min=0)
    if any(each.shift is not None for each in readings):
        none = torch.zeros_like(first)
        apart += torch.stack([none if r.shift is None else r.shift for r in readings])
    same = lows == highs
    means = torch.where(same, lows, apart)
    deviations.masked_fill_(same, 0)
    count = sum(each.seen for each in readings)
    mean = means[0] if len(readings) == 1 else (means * seen).sum(0) / count
    deviations += seen * (means - mean).square()
    return ChannelSums(
        count,
        torch.full_like(mean, count),
        mean,
        deviations.sum(0),
        lows.amin(0),
        highs.amax(0),
        zeros.sum(0),
    )


def _read_doubles(values: Tensor, axis: int, scratch: Scratch) -> ChannelSums:
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
        zeros[own] += _over(torch.sum, torch.eq(block, 0, out=scratch.like(block)))
        low = _over(torch.amin, block.masked_fill(infinite, math.inf)).double()
        high = _over(torch.amax, block.masked_fill(infinite, -math.inf)).double()
        exact = scratch.like(block, torch.float64).copy_(block).masked_fill_(infinite, 0)
        if first not in shifts:
            shifts[first] = _over(torch.sum, exact) / count.clamp(min=1)
        exact.sub_(shifts[first].view(-1, 1)).masked_fill_(infinite, 0)
        counts[own] += count
        totals[own] += _over(torch.sum, exact)
        squares[own] += _over(torch.sum, exact.mul_(exact))
        lows[own] = torch.minimum(lows[own], low)
        highs[own] = torch.maximum(highs[own], high)
    apart = totals / counts.clamp(min=1)
    shift = torch.cat([shifts[first] for first in sorted(shifts)])
    means = torch.where(counts > 0, shift + apart, 0)
    deviations = (squares - totals * apart).clamp_(min=0)
    return ChannelSums(values.numel() // channels, counts, means, deviations, lows, highs, zeros)


def _over(reduction: _Reduction, block: Tensor) -> Tensor:
    """[c] from [a, c, l]: along the longer stretches first."""
    a, c, length = block.shape
    if length == 1:
        return reduction(block[..., 0], 0)
    if block.numel() < _SMALL:
        return reduction(block, (0, 2))
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
