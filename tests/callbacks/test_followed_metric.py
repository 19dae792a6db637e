"""Which metric is followed: the one that is wished most, and the same from first to last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor
from torchmetrics import MeanMetric

from lightning_weightwatch import OverfittingMonitor
from tests.callbacks.fits import Perceptron, train_loader, trainer, val_loader
from tests.callbacks.scripted import Scripted

LOSS = [1.0, 0.5, 0.6, 0.7]
F1 = [0.1, 0.2, 0.3, 0.4]


class LateF1(Scripted):
    """The loss in each step, the F1 when the validation is over, as modules with metrics do."""

    def __init__(self, f1: list[float | None]) -> None:
        super().__init__(val_loss=LOSS)
        self.f1 = f1

    def on_validation_epoch_end(self) -> None:
        value = None if self.trainer.sanity_checking else self.f1[len(self.weights)]
        if value is not None:
            self.log("val_f1", value)


@pytest.mark.parametrize("sanity", [0, 2])
def test_a_metric_that_comes_late_is_followed_where_it_is_the_monitored_one(
    sanity: int, tmp_path: Path
) -> None:
    monitor = OverfittingMonitor(restore_best=True)
    keeps = ModelCheckpoint(dirpath=tmp_path, monitor="val_f1", mode="max")
    model = LateF1(list(F1))
    fit = trainer([monitor, keeps], tmp_path, max_epochs=4, num_sanity_val_steps=sanity)
    fit.fit(model, train_loader(), val_loader())
    report = monitor.report
    assert report is not None
    assert report.val_values == pytest.approx(F1)
    assert (report.mode, report.best_epoch) == ("max", 3)
    assert monitor.best_checkpoint == keeps.best_model_path
    assert model.holds(3, model.state_dict())


def test_a_metric_of_some_epochs_leaves_gaps_and_no_other_takes_its_place(tmp_path: Path) -> None:
    monitor = OverfittingMonitor(verbose=False)
    follows = EarlyStopping("val_f1", mode="max", patience=99, strict=False)
    model = LateF1([0.1, None, 0.3, None])
    with pytest.warns(UserWarning, match="has no validation metric 'val_f1': this .* logged val_l"):
        trainer([monitor, follows], tmp_path, max_epochs=4, num_sanity_val_steps=0).fit(
            model, train_loader(), val_loader()
        )
    assert monitor.report is not None
    assert monitor.report.val_values == pytest.approx((0.1, 0.3))
    assert monitor.report.epochs == (0, 2)


@pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.")
@pytest.mark.parametrize("told", [True, False], ids=["told", "by EarlyStopping"])
def test_a_resumed_fit_that_follows_another_metric_begins_its_curves_anew(
    told: bool, tmp_path: Path
) -> None:
    def fit(model: Scripted, monitor: OverfittingMonitor, epochs: int, **options: Any) -> None:
        saves = ModelCheckpoint(dirpath=tmp_path, filename="saved", enable_version_counter=False)
        watch = EarlyStopping("val_loss" if epochs == 2 or told else "val_acc", mode="min")
        if epochs > 2 and not told:
            watch = EarlyStopping("val_acc", mode="max", patience=99)
        fit = trainer([monitor, watch, saves], tmp_path, max_epochs=epochs)
        fit.fit(model, train_loader(), val_loader(), **options)

    fit(Scripted(val_loss=LOSS, val_acc=F1), OverfittingMonitor(), 2)
    later = OverfittingMonitor(monitor="val_acc", mode="max") if told else OverfittingMonitor()
    source = str(tmp_path / "saved.ckpt")
    with pytest.warns(UserWarning, match=r"follows val_acc \(max\) from .* by val_loss \(min\)"):
        fit(Scripted(val_loss=LOSS, val_acc=F1), later, 4, ckpt_path=source)
    assert later.report is not None
    assert later.report.val_values == pytest.approx(F1[:2])  # its own script begins anew too
    assert later.report.epochs == (2, 3)


@pytest.mark.parametrize(
    ("every", "validates", "measured"), [(2, 3, [2, 5]), (3, 2, [1, 5]), (2, 2, [1, 3, 5, 7])]
)
def test_the_first_validation_counts_where_few_epochs_have_one(
    every: int, validates: int, measured: list[int], tmp_path: Path
) -> None:
    """So that a key is there when EarlyStopping first looks."""
    monitor = OverfittingMonitor(every_n_epochs=every, verbose=False)
    stopper = EarlyStopping("weightwatch/val_metric", patience=99)
    model = Scripted(val_loss=[1.0] * 9)
    options = {"max_epochs": 8, "check_val_every_n_epoch": validates, "num_sanity_val_steps": 0}
    trainer([stopper, monitor], tmp_path, **options).fit(model, train_loader(), val_loader())
    assert monitor.report is not None
    assert list(monitor.report.epochs) == measured


def test_all_validations_of_an_epoch_that_is_due_are_measured(tmp_path: Path) -> None:
    monitor = OverfittingMonitor(every_n_epochs=2, verbose=False)
    model = Scripted(val_loss=[1.0] * 20)
    fit = trainer([monitor], tmp_path, max_epochs=4, val_check_interval=0.5)
    fit.fit(model, train_loader(), val_loader())
    assert monitor.report is not None
    assert monitor.report.epochs == (0, 0, 1, 1, 3, 3)


class MeanOfMore(Perceptron):
    """Logs a torchmetrics object, which it updates once more when the epoch is over."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = MeanMetric()
        self.seen: list[Tensor] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor | None:
        self.mean.update(1.0)
        self.log("mean", self.mean, on_step=False, on_epoch=True)
        return self.loss(batch)

    def on_train_epoch_end(self) -> None:
        self.mean.update(100.0)

    def on_train_end(self) -> None:
        self.seen.append(self.trainer.callback_metrics["mean"])


def test_what_the_module_adds_to_its_metrics_at_the_end_of_the_epoch_counts(
    tmp_path: Path,
) -> None:
    seen = []
    for callbacks in ([], [OverfittingMonitor(verbose=False)]):
        torch.manual_seed(0)
        model = MeanOfMore()
        trainer(list(callbacks), tmp_path, max_epochs=1).fit(model, train_loader(), val_loader())
        seen.append(float(model.seen[0]))
    assert seen == [pytest.approx(106 / 7)] * 2


def test_a_resumed_fit_waits_for_the_metric_that_it_has_followed(tmp_path: Path) -> None:
    def fit(model: LateF1, epochs: int, **options: Any) -> OverfittingMonitor:
        monitor = OverfittingMonitor(verbose=False)
        follows = EarlyStopping("val_f1", mode="max", patience=99, strict=False)
        saves = ModelCheckpoint(dirpath=tmp_path, filename="{epoch}", save_top_k=-1)
        callbacks = [monitor, follows, saves]
        run = trainer(callbacks, tmp_path, max_epochs=epochs, num_sanity_val_steps=0)
        with pytest.warns(UserWarning, match="has no validation metric 'val_f1'"):
            run.fit(model, train_loader(), val_loader(), **options)
        return monitor

    fit(LateF1([0.1, None, 0.3]), 3)
    monitor = fit(LateF1([None, 0.2]), 5, ckpt_path=str(tmp_path / "epoch=2.ckpt"))
    assert monitor.report is not None
    assert monitor.report.val_values == pytest.approx((0.1, 0.3, 0.2))


def test_a_monitored_training_metric_holds_nothing_up(tmp_path: Path) -> None:
    """EarlyStopping stands before us, and looks right after the first validation."""
    stopper = EarlyStopping("weightwatch/val_metric", patience=99)
    monitor = OverfittingMonitor(verbose=False)
    keeps = ModelCheckpoint(dirpath=tmp_path, monitor="train_loss")

    class Logs(Scripted):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
            loss = super().training_step(batch, batch_idx)
            assert loss is not None
            self.log("train_loss", loss)
            return loss

    fit = trainer([stopper, monitor, keeps], tmp_path, max_epochs=2, val_check_interval=0.5)
    fit.fit(Logs(val_loss=LOSS), train_loader(), val_loader())
    assert monitor.report is not None
    assert monitor.report.val_values == pytest.approx(LOSS)


def test_a_wish_that_comes_true_too_late_is_told(tmp_path: Path) -> None:
    monitor = OverfittingMonitor(verbose=False)
    follows = EarlyStopping("val_f1", mode="max", patience=99, strict=False)
    with pytest.warns(UserWarning, match="goes on following val_loss: .* Set monitor='val_f1'"):
        trainer([monitor, follows], tmp_path, max_epochs=3, num_sanity_val_steps=0).fit(
            LateF1([None, 0.2, 0.3]), train_loader(), val_loader()
        )
    assert monitor.report is not None
    assert monitor.report.val_values == pytest.approx(LOSS[:3])


@pytest.mark.parametrize("argument", ["save_best", "restore_best"])
def test_what_is_neither_true_nor_false_is_refused(argument: str) -> None:
    with pytest.raises(ValueError, match=f"{argument} must be True or False, got 'no'"):
        OverfittingMonitor(**{argument: "no"})  # type: ignore[arg-type]
