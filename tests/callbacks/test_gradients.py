"""The gradients of the last step before a measurement, unscaled and before clipping."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
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
        ({"check_val_every_n_epoch": None, "val_check_interval": 10}, [6, 10, 12, 18]),
        ({"accumulate_grad_batches": 4, "val_check_interval": 5}, [1, 2, 3, 4, 5, 6]),
        ({"check_val_every_n_epoch": 2, "val_check_interval": 0.5}, [6, 9, 12, 18]),
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


class Clipping(ManualPerceptron):
    """Clips the gradients of both halves between its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.halves: list[float] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        optimizers: Any = self.optimizers()
        loss = self.loss(batch)
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(loss)
        self.halves = [gradient_norm(half) for half in (self.net[0], self.net[2:])]
        for optimizer in optimizers:
            optimizer.step()
            self.clip_gradients(optimizer, 1e-3, "norm")
        return loss.detach()


def test_each_optimizer_has_the_gradients_of_its_own_parameters(tmp_path: Path) -> None:
    model, callback = Clipping(), WeightHistogram(gradients=True)
    trainer([callback], tmp_path, max_epochs=1).fit(model, train_loader(), val_loader())
    report = callback.gradient_report
    assert report is not None
    first = [p.moments.norm for p in report.parameters if p.name.startswith("net.0.")]
    others = [p.moments.norm for p in report.parameters if not p.name.startswith("net.0.")]
    assert len(first) + len(others) == 6
    found = [float(np.linalg.norm(norms)) for norms in (first, others)]
    assert found == pytest.approx(model.halves, rel=1e-12)
    assert report.total.norm == pytest.approx(float(np.linalg.norm(model.halves)), rel=1e-12)


def test_gradients_of_a_step_that_was_not_the_last_are_forgotten(tmp_path: Path) -> None:
    class Stopped(Watched):
        def on_train_batch_end(self, *arguments: Any) -> None:
            if self.trainer.global_step == 5:
                self.trainer.should_stop = True

    model, callback = Stopped(), Noting()
    fit = trainer([callback], tmp_path, val_check_interval=0.5, max_epochs=2)
    fit.fit(model, train_loader(), val_loader())
    assert callback.norms == [pytest.approx(model.seen[2]), None]


def test_nan_gradients_are_counted_and_have_no_norm(tmp_path: Path) -> None:
    class Broken(Perceptron):
        def loss(self, batch: list[Tensor]) -> Tensor:
            return super().loss(batch) * float("nan")

    logger = TensorBoardLogger(tmp_path)
    fit = trainer([WeightHistogram(gradients=True)], tmp_path, logger=logger, max_epochs=1)
    fit.fit(Broken(), train_loader(), val_loader())
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    tags = events.Tags()["scalars"]
    (event,) = events.Scalars("weightwatch/gradient_nonfinite")
    assert event.value == sum(p.numel() for p in Broken().parameters())
    assert not [tag for tag in tags if "gradient_norm" in tag or tag.startswith("weightwatch-norm")]


def test_top_k_chooses_by_the_weights_for_the_gradients_too(tmp_path: Path) -> None:
    model, callback = Perceptron(), WeightHistogram(gradients=True, top_k=1)
    model.large.requires_grad_(False)
    trainer([callback], tmp_path, max_epochs=1).fit(model, train_loader(), val_loader())
    assert callback.gradient_report is not None
    assert [item.name for item in callback.gradient_report.skipped] == ["net.2.weight"]
    assert callback.gradient_report.parameters == ()


def test_steps_behind_the_back_of_lightning_are_said_to_have_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback = WeightHistogram(gradients=True)
    with caplog.at_level(logging.INFO):
        trainer([callback], tmp_path, max_epochs=2).fit(
            ManualPerceptron(raw=True), train_loader(), val_loader()
        )
    assert callback.gradient_report is None
    assert len([said for said in caplog.messages if "no gradients to measure" in said]) == 1


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
