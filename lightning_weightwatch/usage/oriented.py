"""A weight by what its numbers connect: groups, outputs, inputs, and offsets of a kernel."""

import torch
from torch import Tensor

from lightning_weightwatch.model.weights import Weight
from lightning_weightwatch.usage.met import Convolution, TransposedConvolution


def oriented(weight: Weight, values: Tensor) -> Tensor:
    """The values of a weight as a view [g, O, I, K].

    The O outputs of each of g groups see I inputs, at K offsets of a kernel. The groups are those
    of a convolution; query, key and value of `in_proj_weight`; for all else there is one. An
    embedding is a linear layer for one-hot vectors: its inputs are its entries.

    Args:
        weight: What it is.
        values: Its values, in its shape, which has two axes or more.
    """
    groups = int(getattr(weight.module, "groups", 1))
    if isinstance(weight.module, TransposedConvolution):
        return values.reshape(groups, -1, values.shape[1], values[0, 0].numel()).transpose(1, 2)
    if isinstance(weight.module, Convolution):
        return values.reshape(groups, -1, values.shape[1], values[0, 0].numel())
    if weight.attribute == "in_proj_weight":
        return values.reshape(3, -1, values.shape[-1], 1)
    if weight.kind == "embedding" or weight.output_axis == 1:
        values = values.transpose(0, 1)
    return values.reshape(1, len(values), -1, 1)


def shape_of(weight: Weight) -> tuple[int, int, int, int]:
    """g, O, I and K."""
    groups, outputs, inputs, offsets = oriented(
        weight, torch.empty(weight.parameter.shape, device="meta")
    ).shape
    return groups, outputs, inputs, offsets
