"""The matrices of a weight are those that its layer multiplies with, row by row of the report."""

import numpy as np
import pytest
import torch
from torch import nn

from lightning_weightwatch.model.effective import EffectiveWeight, effective_weights
from lightning_weightwatch.model.matrices import Matrices, matrices
from lightning_weightwatch.model.weights import Kind
from tests.model.zoo import ALL, Animal, numbers


def found_in(model: nn.Module) -> dict[str, Matrices]:
    rows: dict[str, Matrices] = {}
    for item in effective_weights(model):
        parts = matrices(item) if isinstance(item, EffectiveWeight) else ""
        for part in () if isinstance(parts, str) else parts:
            assert part.name not in rows
            rows[part.name] = part
    return rows


def weight(*shape: int, kind: Kind = "other", name: str = "layer.weight") -> EffectiveWeight:
    values = torch.arange(float(np.prod(shape))).reshape(shape)
    layer = name.rpartition(".")[0]
    return EffectiveWeight(layer, 1, name, kind, shape, (), lambda: values)


@pytest.mark.parametrize("animal", ALL.values(), ids=ALL)
def test_every_layer_gives_the_matrices_that_it_multiplies_with(animal: Animal) -> None:
    model = animal.model()
    rows = {name: (part, part.of(part.weight.read())) for name, part in found_in(model).items()}
    expected = animal.expected(model)
    assert rows.keys() == expected.keys()
    for name, (part, stack) in rows.items():
        assert (part.count, part.rows, part.columns) == tuple(stack.shape)
        np.testing.assert_allclose(numbers(stack), np.stack(expected[name]), rtol=1e-5, atol=1e-6)
        assert part.kind == ("linear" if name.endswith("out_proj") else animal.kind)


@pytest.mark.parametrize(
    ("shape", "kind", "sizes"),
    [
        ((12, 9), "linear", (12, 9, 1, 9)),
        ((9, 12), "linear", (12, 9, 1, 9)),
        ((12, 9, 5), "conv1d", (12, 9, 5, 45)),
        ((12, 9, 3, 2), "conv2d", (12, 9, 6, 54)),
        ((9, 12, 2, 2, 2), "conv_transpose", (12, 9, 8, 72)),
        ((12, 1, 3, 3), "conv2d", (12, 1, 9, 9)),
        ((4, 9, 10), "bilinear", (10, 9, 4, 36)),
        ((1, 10, 9), "other", (10, 9, 1, 9)),
        ((10, 1, 1, 9, 1), "other", (10, 9, 1, 9)),
        ((1, 9), "other", (9, 1, 1, 1)),
        ((9, 1, 1), "other", (9, 1, 1, 1)),
        ((1, 1), "other", (1, 1, 1, 1)),
        ((12, 9), "conv1d", (12, 9, 1, 9)),
    ],
)
def test_sides_and_counts_of_a_shape(
    shape: tuple[int, ...], kind: Kind, sizes: tuple[int, int, int, int]
) -> None:
    found = matrices(weight(*shape, kind=kind))
    assert not isinstance(found, str)
    (part,) = found
    assert (part.N, part.M, part.count, part.num_evals) == sizes
    stack = part.of(part.weight.read())
    assert tuple(stack.shape) == (part.count, part.rows, part.columns)
    assert sorted(stack.flatten().tolist()) == list(range(int(np.prod(shape))))


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ((9,), "a 1-D weight has no spectrum"),
        ((), "a 0-D weight has no spectrum"),
        ((9, 8, 7), "of the 3 axes of (9, 8, 7) it is not known which two form a matrix"),
        ((2, 9, 1, 8), "of the 3 axes of (2, 9, 1, 8) it is not known which two form a matrix"),
    ],
)
def test_what_is_no_matrix_says_why(shape: tuple[int, ...], reason: str) -> None:
    assert matrices(weight(*shape)) == reason


@pytest.mark.parametrize(
    ("name", "row"),
    [("encoder.0.weight", "encoder.0"), ("encoder.0.lora_A", "encoder.0.lora_A")],
)
def test_a_row_is_called_like_its_layer_or_its_parameter(name: str, row: str) -> None:
    found = matrices(weight(12, 9, name=name))
    assert [part.name for part in found if isinstance(part, Matrices)] == [row]


def test_the_matrices_are_a_view_and_copy_nothing() -> None:
    for shape, kind in [((12, 9), "linear"), ((12, 9, 3, 2), "conv2d"), ((4, 9, 10), "bilinear")]:
        values = torch.randn(shape)
        found = matrices(weight(*shape, kind=kind))  # type: ignore[arg-type]
        assert not isinstance(found, str)
        assert found[0].of(values).data_ptr() == values.data_ptr()
        assert found[0].of(values).sum() == pytest.approx(float(values.sum()), abs=1e-3)


def test_gates_of_one_unit_are_rows() -> None:
    rows = found_in(nn.Sequential(nn.LSTM(5, 1)))
    assert [row.removeprefix("0.weight_ih_l0.") for row in list(rows)[:4]] == ["i", "f", "g", "o"]
    assert {(part.rows, part.columns) for part in rows.values()} == {(1, 5), (1, 1)}
