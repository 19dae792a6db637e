"""How many inputs layers need: all that read the same, and channels of the layer before them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lightning_weightwatch.usage.importance import most_important
from lightning_weightwatch.usage.report import LayerUsage


def suggested(
    rows: Sequence[LayerUsage], groups: Mapping[str, int], keep: float
) -> list[LayerUsage]:
    """The rows with `suggested_inputs`: of what several read, all that one of them needs.

    Args:
        rows: Of all weights.
        groups: Of convolutions in groups, by the names of their rows. The width is a multiple of
            them; but depthwise ones have a group a channel, fewer where there are fewer.
        keep: The share of importance to carry.
    """
    together: dict[tuple[str, int], list[LayerUsage]] = {}
    for row in rows:
        together.setdefault(_what_it_reads(row), []).append(row)
    widths: dict[tuple[str, int], int] = {}
    for read, readers in together.items():
        needed = torch.stack([_needed(row, keep) for row in readers]).any(0)
        steps = [groups.get(row.name, 1) for row in readers]
        step = math.lcm(*(count for count in steps if count < read[1]))
        widths[read] = -(-int(needed.sum()) // step) * step
    return [replace(row, suggested_inputs=widths[_what_it_reads(row)]) for row in rows]


def dead_channels(dead_inputs: Tensor, channels: int) -> tuple[int, ...]:
    """Of the channels that are read those with no input that is not dead.

    Args:
        dead_inputs: [inputs], bool.
        channels: As `Order.read` tells it.
    """
    if not channels:
        return ()
    if channels > 0:
        dead = dead_inputs.view(channels, -1).all(1)
    else:
        dead = dead_inputs.view(-1, -channels).all(0)
    return tuple(dead.nonzero().flatten().tolist())


def _what_it_reads(row: LayerUsage) -> tuple[str, int]:
    return row.shares_input_with or row.name, row.inputs


def _needed(row: LayerUsage, keep: float) -> Tensor:
    """[inputs], bool."""
    alive = row.input_importance.clone()
    alive[list(row.dead_inputs)] = 0
    return most_important(alive, keep)
