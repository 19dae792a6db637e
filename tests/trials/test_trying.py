"""Trials without a Trainer, and the arguments that they refuse."""

from typing import Any

import pytest
import torch
from torch import nn

from lightning_weightwatch import try_pruning, try_quantization
from lightning_weightwatch.trials.snapshot import digest

INPUTS = torch.randn(64, 16, generator=torch.Generator().manual_seed(1))


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))


TARGET = net()(INPUTS).detach()


def evaluate(model: nn.Module) -> dict[str, float]:
    with torch.no_grad():
        return {"loss": float((model(INPUTS) - TARGET).square().mean())}


def test_the_whole_grid_is_tried_and_the_model_comes_back() -> None:
    model = net()
    before = digest(model)
    report = try_quantization(
        model,
        evaluate,
        bits=(8, 4),
        granularity=("model", "tensor", "channel", "group"),
        clip=("absmax", "percentile", "mse"),
        scheme=("symmetric", "asymmetric"),
    )
    assert len(report.rows) == 1 + 2 * 4 * 3 * 2
    assert len({row.name for row in report.rows}) == len(report.rows)
    assert not any(row.error for row in report.rows)
    assert digest(model) == before
    loss = {row.name: row.metrics["loss"] for row in report.rows}
    assert loss["int4"] > loss["int8"] > loss["baseline"] == 0


def test_every_way_to_prune_is_tried_once() -> None:
    report = try_pruning(
        net(),
        evaluate,
        amounts=(0.5, 0.9, "2:4"),
        method=("magnitude", "wanda"),
        scope=("global", "layer"),
    )
    names = [row.name for row in report.rows]
    assert len(names) == len(set(names)) == 1 + 2 * 3 + 2
    assert not any(row.error for row in report.rows)
    for row in report.rows[1:]:
        target = 0.9 if "90" in row.name else 0.5
        assert row.sparsity == pytest.approx(target, abs=0.06), row.name


def test_a_single_value_is_a_list_of_one() -> None:
    assert [row.name for row in try_quantization(net(), evaluate, bits=8).rows] == [
        "baseline",
        "int8",
    ]
    assert [row.name for row in try_pruning(net(), evaluate, amounts=0.5).rows] == [
        "baseline",
        "pruned50",
    ]


@pytest.mark.parametrize(
    ("metrics", "options", "expected"),
    [
        ({"anything": 1.0}, {}, "anything"),
        ({"acc": 1.0, "val_loss": 2.0}, {}, "val_loss"),
        ({"acc": 1.0, "loss": 2.0}, {}, "loss"),
        ({"acc": 1.0, "loss": 2.0}, {"monitor": "acc", "mode": "max"}, "acc"),
    ],
)
def test_the_metric_is_the_one_asked_for_or_the_usual_one(
    metrics: dict[str, float], options: dict[str, Any], expected: str
) -> None:
    report = try_quantization(net(), lambda _: metrics, bits=8, **options)
    assert report.monitor == expected
    assert report.mode == options.get("mode", "min")


@pytest.mark.parametrize("options", [{}, {"monitor": "accuracy"}])
def test_a_metric_that_cannot_be_told_is_asked_for(options: dict[str, Any]) -> None:
    model = net()
    before = digest(model)
    with pytest.raises(ValueError, match=r"monitor must be one of .* \(acc, f1\)"):
        try_quantization(model, lambda _: {"acc": 1.0, "f1": 1.0}, bits=8, **options)
    assert digest(model) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 9}, "between 2 and 8, got 9"),
        ({"bits": ()}, "a value or a list such as"),
        ({"bits": (8, 8)}, "differ from each other"),
        ({"granularity": "row"}, "granularity must be .*got 'row'"),
        ({"clip": ("mse", "max")}, "clip must be .*got 'max'"),
        ({"scheme": "affine"}, "scheme must be .*got 'affine'"),
        ({"range": "wide"}, "range must be .*got 'wide'"),
        ({"group_size": 0}, "group_size must be .*got 0"),
        ({"percentile": 0}, "percentile must be .*got 0"),
        ({"percentile": 101}, "percentile must be .*got 101"),
        ({"per_layer": -1}, "per_layer must be .*got -1"),
        ({"per_layer": True}, "per_layer must be .*got True"),
        ({"mode": "up"}, "mode must be 'min'"),
        ({"max_seconds": 0}, "max_seconds must be a positive number"),
        ({"max_evaluations": 0}, "max_evaluations must be 1 or more"),
        ({"tolerance": -0.1}, "tolerance must be a share"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_runs(
    options: dict[str, Any], message: str
) -> None:
    def never(model: nn.Module) -> dict[str, float]:
        raise AssertionError("evaluated")

    with pytest.raises(ValueError, match=message):
        try_quantization(net(), never, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"amounts": (1.0,)}, "between 0 and 1, both excluded, got 1"),
        ({"amounts": "4:2"}, "got '4:2'"),
        ({"amounts": ["half"]}, "got 'half'"),
        ({"method": "random"}, "method must be .*got 'random'"),
        ({"scope": "row"}, "scope must be .*got 'row'"),
    ],
)
def test_wrong_arguments_of_pruning_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        try_pruning(net(), evaluate, **options)


def test_what_is_no_model_or_no_function_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be a torch\.nn\.Module, got dict"):
        try_quantization({}, evaluate)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="evaluate must be a function of the model"):
        try_quantization(net(), {"loss": 1.0})  # type: ignore[arg-type]
