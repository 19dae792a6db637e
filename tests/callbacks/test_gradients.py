"""The gradients of the last step before a measurement, unscaled and before clipping."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from lightning_weightwatch import WeightHistogram
from tests.callbacks.fits import (
    ManualPerceptron,
    Perceptron,
    bits,
    loader,
    train_loader,
    trainer,
    val_loader,
)


def gradient_norm(module: nn.Module) -> float:
    """By numpy in float64, of what `.grad` holds now."""
    gradients = [p.grad.double().numpy() for p in module.parameters() if p.grad is not None]
    return float(np.sqrt(sum(np.square(gradient).sum() for gradient in gradients)))


class Watched(Perceptron):
    """Notes the norm of the gradients before each step; Lightning clips after this hook."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.seen.append(gradient_norm(self))


class Noting(WeightHistogram):
    """Keeps the norm of each measurement."""

    def __init__(self, **options: Any) -> None:
        super().__init__(gradients=True, **options)
        self.norms: list[float | None] = []

    def measure(self, *arguments: Any) -> Any:
        report = super().measure(*arguments)
        gradients = self.gradient_report
        self.norms.append(None if gradients is None else gradients.total.norm)
        return report


STEPS = 6  # of an epoch


@pytest.mark.parametrize(
    ("options", "last_steps"),
    [
        ({}, [6, 12, 18]),
        ({"gradient_clip_val": 0.001}, [6, 12, 18]),
        ({"val_check_interval": 0.5}, [3, 6, 9, 12, 15, 18]),
        ({"accumulate_grad_batches": 4}, [2, 4, 6]),
        ({"max_epochs": -1, "max_steps": 8}, [6, 8]),
        ({"limit_val_batches": 0}, [6, 12, 18]),
        ({"limit_train_batches": 4}, [4, 8, 12]),
        ({"check_val_every_n_epoch": 2}, [6, 12, 18]),
        ({"precision": "bf16-mixed"}, [6, 12, 18]),
    ],
    ids=str,
)
def test_they_are_those_of_the_last_step_before_clipping(
    options: dict[str, Any], last_steps: list[int], tmp_path: Path
) -> None:
    model, callback = Watched(), Noting()
    trainer([callback], tmp_path, **options).fit(model, train_loader(), val_loader())
    expected = [model.seen[step - 1] for step in last_steps]
    assert callback.norms == pytest.approx(expected, rel=1e-12)


def test_they_are_measured_in_epochs_that_are_due_and_in_no_other(tmp_path: Path) -> None:
    model, callback = Watched(), Noting(every_n_epochs=3)
    trainer([callback], tmp_path, max_epochs=6).fit(model, train_loader(), val_loader())
    assert callback.norms == pytest.approx([model.seen[6 * e - 1] for e in (1, 3, 6)], rel=1e-12)


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """Samples without a length."""

    def __iter__(self) -> Any:
        for batch in loader(48, seed=1):
            yield from zip(*batch, strict=True)


def test_a_stream_without_a_length_has_a_last_step_too(tmp_path: Path) -> None:
    model, callback = Watched(), Noting()
    fit = trainer([callback], tmp_path, max_epochs=2)
    fit.fit(model, DataLoader(Stream(), batch_size=8), val_loader())
    assert callback.norms == pytest.approx([model.seen[5], model.seen[11]], rel=1e-12)


def test_with_several_optimizers_all_parameters_have_theirs(tmp_path: Path) -> None:
    callback = WeightHistogram(gradients=True)
    trainer([callback], tmp_path, max_epochs=1).fit(
        ManualPerceptron(), train_loader(), val_loader()
    )
    assert callback.gradient_report is not None
    assert len(callback.gradient_report.parameters) == 6


def test_a_frozen_parameter_has_none_and_is_named(tmp_path: Path) -> None:
    model, callback = Perceptron(), WeightHistogram(gradients=True)
    model.net[0].requires_grad_(False)
    trainer([callback], tmp_path, max_epochs=1).fit(model, train_loader(), val_loader())
    assert callback.gradient_report is not None
    skipped = {item.name for item in callback.gradient_report.skipped}
    assert skipped == {"net.0.weight", "net.0.bias"}


def test_without_the_argument_there_are_none(tmp_path: Path) -> None:
    callback = WeightHistogram()
    trainer([callback], tmp_path).fit(Perceptron(), train_loader(), val_loader())
    assert callback.gradient_report is None


def test_a_fault_in_them_is_one_warning_and_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of order")

    monkeypatch.setattr("lightning_weightwatch.callbacks.weights.describe_gradients", fail)
    fit = trainer([WeightHistogram(gradients=True)], tmp_path)
    with pytest.warns(UserWarning, match="could not measure the gradients: RuntimeError") as caught:
        fit.fit(Perceptron(), train_loader(), val_loader())
    assert len([each for each in caught if "gradients" in str(each.message)]) == 1
    assert fit.current_epoch == 3


def test_looking_at_them_changes_no_bit_of_the_training(tmp_path: Path) -> None:
    trained = []
    for callbacks in ([], [WeightHistogram(gradients=True)]):
        torch.manual_seed(3)
        model = Perceptron()
        trainer(list(callbacks), tmp_path, gradient_clip_val=0.1).fit(
            model, train_loader(), val_loader()
        )
        trained.append(bits(model))
    assert trained[0] == trained[1]
