"""Small models, what measuring them gives, and how importance is told from its definition."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_weightwatch.usage.measurement import measure_usage
from lightning_weightwatch.usage.report import LayerUsage

Array = NDArray[np.float64]


def rows_of(model: nn.Module, batches: Any, **settings: Any) -> dict[str, LayerUsage]:
    return {layer.name: layer for layer in measure_usage(model, batches, **settings).layers}


def rms(x: Any) -> Array:
    """Of the columns, over all else."""
    values = np.asarray(x, dtype=np.float64)
    return np.asarray(np.sqrt((values.reshape(-1, values.shape[-1]) ** 2).mean(0)))


def matrix(weight: Tensor | nn.Module) -> Array:
    """The magnitudes of a weight."""
    assert isinstance(weight, Tensor)
    return np.asarray(weight.detach().abs().double().numpy())


def assert_importance(layer: LayerUsage, expected: Array) -> None:
    """Against [outputs, inputs] or [outputs, inputs, offsets]."""
    expected = expected.reshape(*expected.shape[:2], -1)
    assert layer.weights == expected.size
    assert layer.output_importance.numpy() == pytest.approx(expected.sum((1, 2)), rel=1e-5)
    assert layer.input_importance.numpy() == pytest.approx(expected.sum((0, 2)), rel=1e-5)
    p = expected[expected > 0] / expected.sum()
    assert layer.entropy == pytest.approx(-(p * np.log(p)).sum(), rel=1e-6)


class Attending(nn.Module):
    """Attention with whatever else it is given."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, **options)
        self.given: dict[str, Any] = {}

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return self.attention(query, key, value, **self.given)[0]  # type: ignore[no-any-return]


def quick_start() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 1))
