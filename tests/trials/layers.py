"""Small layers, values to put in, the weights of a model, and a pattern written out."""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_weightwatch.model.weights import Weight, walk


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def matrices(model: nn.Module) -> list[Weight]:
    found = [item for item in walk(model) if isinstance(item, Weight)]
    return [weight for weight in found if weight.parameter.ndim > 1]


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
