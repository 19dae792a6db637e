"""Small layers, values to put in, and what compression should make of them, by other means."""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_weightwatch.model.weights import Weight, walk
from lightning_weightwatch.trials.compression import CompressedLayer
from lightning_weightwatch.trials.quantization import Quantization
from lightning_weightwatch.trials.scales import Clip


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def matrices(model: nn.Module) -> list[Weight]:
    found = [item for item in walk(model) if isinstance(item, Weight)]
    return [weight for weight in found if weight.parameter.ndim > 1]


def linear(values: Tensor) -> nn.Linear:
    layer = nn.Linear(1, 1, bias=False)
    layer.weight = nn.Parameter(values.clone())
    return layer


def applied(
    values: Tensor, bits: int = 4, clip: Clip = "absmax", **settings: Any
) -> tuple[Tensor, CompressedLayer]:
    """A matrix after its quantization, and what is said of it."""
    layer = linear(values)
    (compressed,) = Quantization(bits, clip=clip, **settings).apply(matrices(layer))
    return layer.weight.detach(), compressed


def by_torch(weight: Tensor, bits: int, axis: int = 0) -> Tensor:
    """torch's per-channel operator with the restricted symmetric range."""
    top = 2 ** (bits - 1) - 1
    others = [dim for dim in range(weight.ndim) if dim != axis]
    scale = weight.abs().amax(others) / top
    zero_point = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero_point, axis, -top, top)


def run_by_torch(values: Tensor, bits: int) -> Tensor:
    """torch's per-tensor operator with the restricted symmetric range."""
    top = 2 ** (bits - 1) - 1
    scale = float(values.abs().max() / top)
    return torch.fake_quantize_per_tensor_affine(values, scale, 0, -top, top)


class Conv1D(nn.Module):
    """A linear layer as transformers' GPT-2 has it."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(normal(inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


def kept_of_runs(row: NDArray[Any], kept: int, run: int) -> list[bool]:
    """An n:m pattern, run after run by sorting."""
    mask: list[bool] = []
    for start in range(0, len(row), run):
        part = np.abs(row[start : start + run])
        count = math.ceil(kept * len(part) / run)
        mask += np.isin(np.arange(len(part)), np.argsort(part, kind="stable")[-count:]).tolist()
    return mask
