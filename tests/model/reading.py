"""The weights of a model by their names, and what was left out."""

from typing import Any

import numpy as np
from torch import nn

from lightning_weightwatch.model.effective import EffectiveWeight, effective_weights
from lightning_weightwatch.report import Skipped
from tests.model.zoo import numbers


def weights(model: nn.Module) -> dict[str, EffectiveWeight]:
    found = [item for item in effective_weights(model) if isinstance(item, EffectiveWeight)]
    assert len({item.name for item in found}) == len(found)
    return {item.name: item for item in found}


def skipped(model: nn.Module) -> list[Skipped]:
    return [item for item in effective_weights(model) if isinstance(item, Skipped)]


def value(model: nn.Module, name: str) -> Any:
    return numbers(weights(model)[name].read())


def holds(values: Any, expected: Any) -> bool:
    return values.shape == expected.shape and bool(np.allclose(values, expected, rtol=1e-5))
