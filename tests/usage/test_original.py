"""What WeightUsageAnalyzer measures, by its own definition and with its own figures."""

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from torch import Tensor, nn

from lightning_weightwatch.usage.importance import importance
from lightning_weightwatch.usage.measurement import measure_usage
from tests.trials.layers import Conv1D, normal
from tests.usage.measured import (
    Attending,
    assert_importance,
    matrix,
    quick_start,
    rms,
    rows_of,
)


def test_the_quick_start_of_the_original() -> None:
    X_np = np.random.default_rng(0).random((100, 10)).astype(np.float32)
    model = quick_start()
    usage = measure_usage(model, X_np)
    first, second = usage.layers
    assert (usage.batches, usage.samples, usage.skipped) == (1, 100, ())
    assert_importance(first, matrix(model[0].weight) * rms(X_np))
    with torch.no_grad():
        weight, bias = (held.double().numpy() for held in model[0].parameters())
    hidden = np.maximum(X_np @ weight.T + bias, 0)
    assert_importance(second, matrix(model[2].weight) * rms(hidden))
    assert [layer.name for layer in usage.activations] == ["0", "1", "2"]


def test_the_twenty_weights_of_the_original() -> None:
    # WeightUsageAnalyzer's documentation: 20 weights with H = 2.7584 are 15.7751 effective ones.
    def entropy(ratio: float) -> float:
        p = ratio ** np.arange(20.0)
        p /= p.sum()
        return float(-(p * np.log(p)).sum())

    ratio = brentq(lambda r: entropy(r) - 2.7584, 0.5, 0.999)
    weights = torch.tensor(ratio ** np.arange(20.0)).view(1, 4, 5, 1)
    for of_the_original in (False, True):
        found = importance(weights, torch.ones(1, 1, 1, 1), of_the_original=of_the_original)
        assert found.entropy == pytest.approx(2.7584, abs=5e-7)
        assert found.effective_weights == pytest.approx(15.7751, abs=1e-3)


def test_the_entropy_of_the_original_is_of_shares_with_something_added() -> None:
    weights = normal(1, 30, 40, 1) ** 9
    scores = matrix(weights).flatten()
    p = scores / scores.sum() + 1e-8
    p /= p.sum()
    found = importance(weights, torch.ones(1, 1, 1, 1), of_the_original=True)
    assert found.entropy == pytest.approx(-(p * np.log(p)).sum(), rel=1e-12)
    assert found.participation_ratio == pytest.approx(1 / ((scores / scores.sum()) ** 2).sum())


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.Linear(5, 3), normal(4, 6, 5)),
        (nn.Conv2d(5, 3, 3), normal(2, 5, 6, 6)),
        (nn.ConvTranspose1d(5, 3, 2), normal(2, 5, 6)),
        (Conv1D(3, 5), normal(4, 5)),
    ],
)
def test_the_original_weighs_by_the_mean_output(layer: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        z = layer(x).double()
    axis = 1 if isinstance(layer, nn.Conv2d | nn.ConvTranspose1d) else -1
    means = z.movedim(axis, -1).flatten(0, -2).mean(0).abs().numpy()
    weight = layer.weight
    assert isinstance(weight, Tensor)
    if isinstance(layer, Conv1D | nn.ConvTranspose1d):
        weight = weight.transpose(0, 1)
    scores = matrix(weight).reshape(3, 5, -1) * means[:, None, None]
    p = scores / scores.sum() + 1e-8
    p /= p.sum()
    (found,) = rows_of(layer, x, mode="wua").values()
    assert found.output_importance.numpy() == pytest.approx(scores.sum((1, 2)), rel=1e-5)
    assert found.input_importance.numpy() == pytest.approx(scores.sum((0, 2)), rel=1e-5)
    assert found.entropy == pytest.approx(-(p * np.log(p)).sum(), rel=1e-6)


def test_the_original_knows_the_outputs_of_attention_and_names_what_it_does_not_see() -> None:
    model, x = Attending(), normal(3, 2, 8)
    with torch.no_grad():
        means = model(x, x, x).double().flatten(0, 1).mean(0).abs().numpy()
    report = measure_usage(model, (x, x, x), mode="wua")
    (found,) = report.layers
    weight = matrix(model.attention.out_proj.weight)
    assert found.output_importance.numpy() == pytest.approx(weight.sum(1) * means, rel=1e-4)
    assert "attention.in_proj_weight" in {item.name for item in report.skipped}
