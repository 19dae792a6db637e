"""Which values of a weight share a scale, in blocks of memory that can be written to."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lightning_weightwatch.model.weights import Weight
from lightning_weightwatch.trials.memory import Memory
from lightning_weightwatch.values.blocks import has_doubles, values_at_once

Granularity = Literal["model", "tensor", "channel", "group"]


@dataclass(frozen=True)
class Rows:
    """Values in rows that have a scale each.

    Attributes:
        parts: Views of the weights. Of several all values are one row; of one, the first axes
            taken together are the rows.
        count: How many rows there are.
    """

    parts: tuple[Tensor, ...]
    count: int

    def blocks(self, dtype: torch.dtype, memory: Memory) -> Iterator[Tensor]:
        """Each part as [rows, n]; the weights themselves where they are so: not to be written to.

        All on one device: the CPU where theirs has no float64.
        """
        device = self.parts[0].device
        device = device if has_doubles(device) else torch.device("cpu")
        for part in self.parts:
            yield as_block(part, self.count, dtype, device, memory)


def as_block(
    part: Tensor, rows: int, dtype: torch.dtype, device: torch.device, memory: Memory
) -> Tensor:
    """A part of `Rows` as [rows, n], itself where it is that already."""
    if part.dtype == dtype and part.device == device and part.is_contiguous():
        return part.view(rows, -1)
    return memory.empty("values", part.shape, dtype, device).copy_(part).view(rows, -1)


def scale_groups(weight: Weight, granularity: Granularity, group_size: int) -> Iterator[Rows]:
    """All values of a weight, together with those that they share a scale with.

    `"channel"`: a scale for each output channel, in transposed convolutions for each of each group.
    `"group"`: one for each `group_size` values along the inputs of an output channel, the last of
    which may be fewer. Else: one. What is written to some has to be there before the next are
    asked for.
    """
    channels = _channels(weight)
    if granularity == "group":
        for piece in _pieces(channels, group_size):
            yield from _runs(piece, group_size)
    elif granularity != "channel":
        yield Rows(tuple(_pieces(channels)), 1)
    elif channels[0, 0].numel() <= values_at_once(channels.device):
        for piece in _pieces(channels):
            yield Rows((piece,), piece.shape[0] * piece.shape[1])
    else:
        for group in torch.split(channels, 1):
            for channel in torch.split(group, 1, 1):
                yield Rows(tuple(_pieces(channel)), 1)


def scales_of(weight: Weight, granularity: Granularity, group_size: int) -> int:
    """How many scales a weight has; one where it shares it with others."""
    groups, outputs, *inputs = _channels(weight).shape
    if granularity == "group":
        return groups * outputs * math.ceil(math.prod(inputs) / group_size)
    return groups * outputs if granularity == "channel" else 1


def _channels(weight: Weight) -> Tensor:
    """A view [groups, outputs of a group, inputs of a group, ...]."""
    values = weight.parameter.detach()
    if weight.output_axis == 0:
        return values.unsqueeze(0)
    groups = int(getattr(weight.module, "groups", 1))
    return torch.unflatten(values, 0, (groups, -1)).transpose(1, 2)


def _pieces(channels: Tensor, multiple: int = 1) -> Iterator[Tensor]:
    """Views of whole groups; where those are too large, of outputs; and at last of inputs.

    Inputs are cut at multiples of `multiple`.
    """
    limit = values_at_once(channels.device)
    group, channel = channels[0].numel(), channels[0, 0].numel()
    if group <= limit:
        yield from torch.split(channels, limit // group)
    elif channel <= limit:
        for one in torch.split(channels, 1):
            yield from torch.split(one, limit // channel, 1)
    else:
        step = limit // channels[0, 0, 0].numel() // multiple * multiple
        for one in torch.split(channels, 1):
            for alone in torch.split(one, 1, 1):
                yield from torch.split(alone, max(step, multiple), 2)


def _runs(piece: Tensor, size: int) -> Iterator[Rows]:
    """The runs of full length, and the tails; what is written to them is put into the weight."""
    channels = piece.shape[0] * piece.shape[1]
    flat = piece.reshape(channels, -1)  # a copy where the weight is not kept in this order
    whole = flat.shape[1] // size
    if whole:
        yield Rows((flat[:, : whole * size],), channels * whole)
    if whole * size < flat.shape[1]:
        yield Rows((flat[:, whole * size :],), channels)
    if flat.data_ptr() != piece.data_ptr():
        piece.copy_(flat.view(piece.shape))
