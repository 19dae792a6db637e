"""A weight of a kind that few programs expect is read rightly, or named with its reason."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from lightning_weightwatch.report import Skipped
from tests.model.reading import holds, skipped, value, weights
from tests.model.zoo import numbers, pruned


class Scaled(Tensor):
    """A quantized tensor as torchao makes them: it says that it is of floats, and holds bytes."""

    def dequantize(self) -> Tensor:
        return self.as_subclass(Tensor).round() * 0.5


class Marked(Tensor):
    """A tensor with another name for its class, and values like any other's."""


class Broken(Tensor):
    """A tensor that can be looked at, but not read."""

    def detach(self) -> Any:
        raise RuntimeError("the disk is gone")


class Sealed(Tensor):
    """A tensor that cannot even be looked at."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError("sealed")


def with_weight(values: Tensor) -> nn.Module:
    layer = nn.Linear(9, 12)
    layer._parameters["weight"] = values  # type: ignore[assignment]
    return layer


def test_a_quantized_subclass_is_measured_as_it_is_multiplied_with() -> None:
    values = torch.randn(12, 9) * 5
    layer = with_weight(values.as_subclass(Scaled))
    assert holds(value(layer, "weight"), np.round(numbers(values)) * 0.5)


def test_a_subclass_keeps_its_double_precision() -> None:
    values = torch.randn(12, 9, dtype=torch.float64)
    layer = with_weight(values.as_subclass(Marked))
    assert np.array_equal(value(layer, "weight"), values.numpy())


def test_a_tensor_that_cannot_be_looked_at_is_named() -> None:
    layer = with_weight(torch.ones(12, 9))
    layer._parameters["weight"] = torch.ones(12, 9).as_subclass(Sealed)  # type: ignore[assignment]
    assert skipped(nn.Sequential(layer)) == [Skipped("0", "cannot be read: sealed")]


def test_a_module_with_attributes_of_its_own_making_is_walked_past() -> None:
    class Settings(nn.Module):
        def __getattr__(self, name: str) -> Any:
            raise KeyError(name)

    assert list(weights(nn.Sequential(Settings(), nn.Linear(9, 9)))) == ["1.weight"]


def test_nothing_is_read_before_it_is_asked_for() -> None:
    layer = with_weight(torch.ones(12, 9).as_subclass(Broken))
    weight = weights(layer)["weight"]
    assert weight.shape == (12, 9)
    with pytest.raises(RuntimeError, match="the disk is gone"):
        weight.read()


@pytest.mark.parametrize(
    ("make", "name", "reason"),
    [
        (nn.CrossEntropyLoss, "0", "CrossEntropyLoss has weight=None"),
        (lambda: nn.BatchNorm1d(9, affine=False), "0", "BatchNorm1d has weight=None"),
        (lambda: nn.LazyLinear(9), "0", "lazy: it has no shape before the first forward pass"),
        (lambda: nn.LSTM(9, 9, device="meta"), "0", "on the meta device: it has no values"),
        (
            lambda: parametrizations.weight_norm(nn.Linear(9, 9, device="meta")),
            "0",
            "on the meta device: it has no values",
        ),
        (
            lambda: pruned(nn.Linear(9, 9), "l1").to("meta"),
            "0",
            "on the meta device: it has no values",
        ),
        (lambda: with_weight(torch.ones(0, 9)), "0", "empty: shape (0, 9)"),
        (lambda: with_weight(torch.eye(9).to_sparse()), "0", "sparse (torch.sparse_coo)"),
        (
            lambda: with_weight(torch.ones(9, 9, dtype=torch.int8)),
            "0",
            "quantized or integer (torch.int8)",
        ),
        (
            lambda: nn.ParameterList([nn.Parameter(torch.ones(9, 0))]),
            "0.0",
            "empty: shape (9, 0)",
        ),
    ],
)
def test_what_has_no_values_is_named_with_its_reason(
    make: Callable[[], nn.Module], name: str, reason: str
) -> None:
    model = nn.Sequential(make(), nn.Linear(9, 9))
    assert list(dict.fromkeys(skipped(model))) == [Skipped(name, reason)]
    assert list(weights(model)) == ["1.weight"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_layers_quantized_by_torch_are_measured_or_named() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(9, 12), nn.LSTM(9, 9), nn.LSTMCell(9, 9))
    floats = numbers(model[0].weight)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize = pytest.importorskip("torch.ao.quantization").quantize_dynamic
        packed = quantize(model, {nn.Linear, nn.LSTM, nn.LSTMCell}, torch.qint8)
    ((name, weight),) = weights(packed).items()
    assert (name, weight.kind, weight.shape) == ("0.weight", "linear", (12, 9))
    values = numbers(weight.read())
    step = np.abs(floats).max() / 127
    assert np.abs(values - floats).max() <= step
    assert [skip.name for skip in skipped(packed)] == ["1", "2"]
    assert all("packed" in skip.reason for skip in skipped(packed))
