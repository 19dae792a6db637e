"""Moments, range and zeros of channels, and how those of several tensors make one."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


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
