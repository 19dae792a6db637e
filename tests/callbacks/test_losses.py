"""The training loss that OverfittingMonitor reports is the mean over the samples of the epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_weightwatch import OverfittingMonitor
from tests.callbacks.fits import (
    ManualPerceptron,
    Perceptron,
    loader,
    train_loader,
    trainer,
    val_loader,
)


class SumOfSamples(Perceptron):
    """Sums the loss of each sample by itself, epoch by epoch: the independent truth."""

    def __init__(self) -> None:
        super().__init__()
        self.sums: dict[int, list[float]] = {}

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor | None:
        each = nn.functional.cross_entropy(self(batch[0]), batch[1], reduction="none")
        self.sums.setdefault(self.current_epoch, []).extend(each.detach().double().tolist())
        return each.mean()

    def mean(self, epoch: int) -> float:
        return sum(self.sums[epoch]) / len(self.sums[epoch])


@pytest.mark.parametrize(
    "options", [{}, {"accumulate_grad_batches": 4}, {"check_val_every_n_epoch": 2}], ids=str
)
def test_training_loss_is_the_mean_over_samples_with_a_short_last_batch(
    options: dict[str, Any], tmp_path: Path
) -> None:
    model, monitor = SumOfSamples(), OverfittingMonitor()
    uneven = loader(43, seed=1, shuffle=True)  # the last batch holds 3
    trainer([monitor], tmp_path, max_epochs=4, **options).fit(model, uneven, val_loader())
    for entry in monitor.history:
        assert entry["train_loss"] == pytest.approx(model.mean(int(entry["epoch"])), rel=1e-6)
    assert len(monitor.history) == 4


def test_validation_values_are_those_of_the_same_epoch(tmp_path: Path) -> None:
    class Values(Callback):
        seen: list[float] = []  # noqa: RUF012

        def on_validation_end(self, trainer: Any, *_: Any) -> None:
            if not trainer.sanity_checking:
                self.seen.append(float(trainer.callback_metrics["val_loss"]))

    monitor = OverfittingMonitor(monitor="val_loss")
    fit = trainer([monitor, Values()], tmp_path, max_epochs=5, val_check_interval=0.5)
    fit.fit(Perceptron(), train_loader(), val_loader())
    assert monitor.report is not None
    assert monitor.report.val_values == tuple(Values.seen)
    assert monitor.report.epochs == (0, 0, 1, 1, 2, 2, 3, 3, 4, 4)


def test_a_metric_logged_at_the_end_of_the_validation_epoch_is_not_read_stale(
    tmp_path: Path,
) -> None:
    class LogsLate(Perceptron):
        """Its metric is new in each epoch, and logged after the callbacks' own hook."""

        def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
            self.log("seen", 1.0)

        def on_validation_epoch_end(self) -> None:
            self.log("late", 1.0 + self.current_epoch)

    monitor = OverfittingMonitor(monitor="late")
    trainer([monitor], tmp_path).fit(LogsLate(), train_loader(), val_loader())
    assert monitor.report is not None
    assert monitor.report.val_values == (1.0, 2.0, 3.0)
    assert [entry["val_metric"] for entry in monitor.history] == [1.0, 2.0, 3.0]


class Scripted(Perceptron):
    """Validation losses as given; the training loss falls when the weights are trained."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.values = values

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.values[self.current_epoch])


def test_the_alarm_rises_with_the_rule_and_early_stopping_hears_it(tmp_path: Path) -> None:
    # Medians of three: 1.0, 0.9, 0.8, 0.8, 0.82, 0.83, 0.86: 7.5 % above their best, four ago.
    values = [1.0, 0.8, 0.78, 0.82, 0.83, 0.86, 0.9, 0.9]
    monitor = OverfittingMonitor()
    stopper = EarlyStopping(
        monitor="weightwatch/overfit_alarm", mode="max", stopping_threshold=0.5, patience=10**6
    )
    fit = trainer([stopper, monitor], tmp_path, max_epochs=8)
    fit.fit(Scripted(values), train_loader(), val_loader())
    assert [entry["overfit_alarm"] for entry in monitor.history] == [0, 0, 0, 0, 0, 0, 1]
    assert [entry["val_loss_rise"] for entry in monitor.history] == pytest.approx(
        [0, 0, 0, 0.82 / 0.78 - 1, 0.83 / 0.78 - 1, 0.86 / 0.78 - 1, 0.9 / 0.78 - 1]
    )
    assert monitor.report is not None
    assert monitor.report.best_epoch == 2
    assert monitor.report.epochs_since_best == 4


def test_the_checkpoint_of_the_best_epoch_is_named_or_said_to_be_missing(tmp_path: Path) -> None:
    values = [1.0, 0.5, 0.9]
    for every, expected in ((1, "epoch=1"), (3, None)):
        monitor = OverfittingMonitor()
        checkpoint = ModelCheckpoint(
            dirpath=tmp_path / str(every),
            monitor="val_loss",
            filename="{epoch}",
            every_n_epochs=every,
        )
        fit = trainer([monitor, checkpoint], tmp_path)
        fit.fit(Scripted(values), train_loader(), val_loader())
        found = monitor.best_checkpoint
        assert (Path(found).stem if found else None) == expected


def test_monitor_and_mode_default_to_those_of_the_other_callbacks(tmp_path: Path) -> None:
    class Accurate(Perceptron):
        def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
            self.log("val_acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    monitor = OverfittingMonitor()
    checkpoint = ModelCheckpoint(dirpath=tmp_path, monitor="val_acc", mode="max")
    trainer([monitor, checkpoint], tmp_path).fit(Accurate(), train_loader(), val_loader())
    assert monitor.report is not None
    assert monitor.report.mode == "max"
    assert monitor.report.best_value == max(monitor.report.val_values)
    assert "loss_gap" not in monitor.history[-1]


def test_manual_optimisation_without_a_returned_loss_has_no_training_loss(tmp_path: Path) -> None:
    class Silent(ManualPerceptron):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> None:  # type: ignore[override]
            super().training_step(batch, batch_idx)

    monitor = OverfittingMonitor()
    trainer([monitor], tmp_path).fit(Silent(), train_loader(), val_loader())
    assert monitor.report is not None
    assert "train_loss" not in monitor.history[-1]
    assert monitor.report.severity == "unknown"
    assert not monitor.report.overfitting


def test_manual_optimisation_with_a_returned_loss_has_one(tmp_path: Path) -> None:
    monitor = OverfittingMonitor()
    trainer([monitor], tmp_path).fit(ManualPerceptron(), train_loader(), val_loader())
    assert monitor.history[-1]["train_loss"] > 0


def test_several_validation_loaders_are_listed_when_the_name_is_not_theirs(tmp_path: Path) -> None:
    class Two(Perceptron):
        def validation_step(
            self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0
        ) -> None:
            super().validation_step(batch, batch_idx)

    both: list[DataLoader[Any]] = [val_loader(), val_loader()]
    with pytest.warns(UserWarning, match="val_loss/dataloader_idx_0, val_loss/dataloader_idx_1"):
        trainer([OverfittingMonitor()], tmp_path, max_epochs=1).fit(Two(), train_loader(), both)
    monitor = OverfittingMonitor(monitor="val_loss/dataloader_idx_1")
    trainer([monitor], tmp_path, max_epochs=1).fit(Two(), train_loader(), both)
    assert monitor.history[-1]["val_metric"] > 0


def test_a_validation_that_logs_nothing_gives_no_verdict_and_no_fault(tmp_path: Path) -> None:
    class Quiet(Perceptron):
        def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
            self.loss(batch)

    monitor = OverfittingMonitor(monitor="val_loss")
    trainer([monitor], tmp_path).fit(Quiet(), train_loader(), val_loader())
    assert [set(entry) for entry in monitor.history] == [{"epoch", "step", "train_loss"}] * 3
    assert monitor.diagnosis == ()
