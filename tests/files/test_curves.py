"""What is read from the logs of real fits is what was true in them."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from lightning_weightwatch import OverfittingMonitor
from lightning_weightwatch.files.curves import Curves, read_curves
from tests.callbacks.fits import Perceptron, train_loader, trainer, val_loader
from tests.files.runs import (
    LOGGERS,
    STEPS,
    Logging,
    MakeLogger,
    Truth,
    csv_logger,
    fitted,
    tensorboard_logger,
    told_about,
)

STYLES = pytest.mark.parametrize(
    ("style", "name"),
    [
        ({"on_step": False, "on_epoch": True}, "train_loss"),
        ({"on_step": True, "on_epoch": True}, "train_loss_epoch"),
        ({"on_step": True, "on_epoch": False}, "train_loss"),
    ],
    ids=["per epoch", "both", "per step"],
)


def stepwise(
    folder: Path, logger: MakeLogger, *callbacks: Callback, **options: Any
) -> tuple[Truth, Curves]:
    """A fit that logs its training loss per step alone, and what is read of it."""
    module = Logging(on_step=True, on_epoch=False)
    truth, _ = fitted(folder, module, logger(folder), *callbacks, **options)
    return truth, read_curves(folder)


class TwoLoaders(Perceptron):
    def validation_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", self.loss(batch) + dataloader_idx)


class SeveralMetrics(Perceptron):
    """Logs every validation metric under its own name, as given."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names = names

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        for place, name in enumerate(self.names):
            self.log(name, torch.tensor(float(place)))
        self.log("val_loss", self.loss(batch), logger=False)


@LOGGERS
@STYLES
def test_every_way_of_logging_gives_the_curves_that_were(
    logger: MakeLogger, style: dict[str, bool], name: str, tmp_path: Path
) -> None:
    truth, _ = fitted(tmp_path, Logging(**style), logger(tmp_path))
    curves = read_curves(tmp_path)
    assert curves.val_values == truth.values()
    assert curves.epochs == truth.epochs() == (0, 1, 2, 3)
    assert curves.train_losses == truth.epoch_means()
    assert curves.learning_rates["lr-SGD"] == truth.rates()
    assert (curves.monitor, curves.train) == ("val_loss", name)
    said = ["train_loss is the mean of the 6 logged steps of each epoch, which need not be all."]
    assert list(curves.notes) == (said if not style["on_epoch"] else [])


@LOGGERS
@STYLES
def test_several_validations_in_an_epoch_share_it(
    logger: MakeLogger, style: dict[str, bool], name: str, tmp_path: Path
) -> None:
    truth, _ = fitted(tmp_path, Logging(**style), logger(tmp_path), val_check_interval=0.5)
    curves = read_curves(tmp_path)
    assert curves.val_values == truth.values()
    assert curves.epochs == truth.epochs() == (0, 0, 1, 1, 2, 2, 3, 3)
    assert curves.learning_rates["lr-SGD"] == truth.rates()
    per_step = not style["on_epoch"]
    assert curves.train_losses == (truth.means_so_far() if per_step else truth.epoch_means())
    (note,) = curves.notes
    assert ("3 to 6 logged steps" in note) == per_step
    assert ("--train train_loss_step" in note) == (name == "train_loss_epoch")


@LOGGERS
@STYLES
def test_epochs_without_a_validation_are_no_part_of_the_curves(
    logger: MakeLogger, style: dict[str, bool], name: str, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"check_val_every_n_epoch": 2, "max_epochs": 5}
    truth, _ = fitted(tmp_path, Logging(**style), logger(tmp_path), **options)
    curves = read_curves(tmp_path)
    assert curves.epochs == truth.epochs() == (1, 3)
    assert curves.val_values == truth.values()
    assert curves.train_losses == truth.epoch_means()
    assert curves.train == name


@LOGGERS
def test_validations_by_steps_across_epochs_keep_their_epochs(
    logger: MakeLogger, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "check_val_every_n_epoch": None,
        "val_check_interval": 4,
        "max_epochs": 4,
    }
    truth, curves = stepwise(tmp_path, logger, **options)
    assert curves.epochs == truth.epochs() == (0, 1, 1, 2, 3, 3)
    assert curves.train_losses == truth.means_so_far()


@LOGGERS
def test_steps_that_were_not_logged_are_no_part_of_the_mean(
    logger: MakeLogger, tmp_path: Path
) -> None:
    truth, curves = stepwise(tmp_path, logger, log_every_n_steps=4)
    step = [loss for _, loss in truth.losses]  # logged: the 4th, 8th, 12th, ... of all
    expected = [step[3], (step[7] + step[11]) / 2, step[15], (step[19] + step[23]) / 2]
    assert curves.train_losses == pytest.approx(expected, rel=1e-6)
    assert "the mean of the 1 to 2 logged steps" in curves.notes[0]


@LOGGERS
def test_a_validation_whose_epoch_logged_no_training_loss_has_none(
    logger: MakeLogger, tmp_path: Path
) -> None:
    truth, curves = stepwise(tmp_path, logger, log_every_n_steps=20)
    assert [math.isnan(loss) for loss in curves.train_losses] == [True, True, True, False]
    assert curves.train_losses[3] == pytest.approx(truth.losses[19][1], rel=1e-6)
    assert curves.val_values == truth.values()
    assert "No train_loss was logged for 3 of 4 validations." in curves.notes


@LOGGERS
def test_the_mean_of_our_monitor_comes_before_single_steps_and_its_sub_runs_are_no_runs(
    logger: MakeLogger, tmp_path: Path
) -> None:
    monitor = OverfittingMonitor(verbose=False)
    options: dict[str, Any] = {"log_every_n_steps": 4, "val_check_interval": 0.5}
    truth, curves = stepwise(tmp_path, logger, monitor, **options)
    assert curves.train == "weightwatch/train_loss"
    assert curves.train_losses == truth.means_so_far()
    assert curves.val_values == truth.values()
    assert curves.notes == ()


@LOGGERS
def test_loaders_are_followed_when_one_is_named(logger: MakeLogger, tmp_path: Path) -> None:
    fit = trainer([], tmp_path, logger=logger(tmp_path), log_every_n_steps=1)
    fit.fit(TwoLoaders(), train_loader(), [val_loader(), val_loader()])
    told = told_about(tmp_path)
    assert "several validation metrics" in told
    assert "--monitor" in told
    first, second = "val_loss/dataloader_idx_0", "val_loss/dataloader_idx_1"
    assert f"'{first}'" in told
    assert f"'{second}'" in told
    values = [read_curves(tmp_path, monitor=name).val_values for name in (first, second)]
    assert values[1] == pytest.approx([value + 1 for value in values[0]], rel=1e-6)
    assert values[0][-1] == float(fit.callback_metrics[first])


@LOGGERS
@pytest.mark.parametrize("before", [False, True], ids=["after", "before"])
def test_validate_beside_the_fit_is_no_point_of_the_curves(
    before: bool, logger: MakeLogger, tmp_path: Path
) -> None:
    module, truth = Logging(on_step=True, on_epoch=False), Truth()
    fit = trainer([truth], tmp_path, logger=logger(tmp_path), log_every_n_steps=1)
    if before:
        fit.validate(module, val_loader(), verbose=False)
    fit.fit(module, train_loader(), val_loader())
    if not before:
        fit.validate(module, val_loader(), verbose=False)
    curves = read_curves(tmp_path)
    assert curves.epochs == (0, 1, 2)
    assert curves.val_values == truth.values()
    assert curves.train_losses == truth.epoch_means()
    assert f"the value at step {0 if before else 3 * STEPS}." in curves.notes[0]


@LOGGERS
def test_epochs_of_one_batch_are_all_points_of_the_curves(
    logger: MakeLogger, tmp_path: Path
) -> None:
    truth, curves = stepwise(tmp_path, logger, limit_train_batches=1)
    assert curves.val_values == truth.values()
    assert curves.train_losses == truth.epoch_means()
    assert len(curves.epochs) == 4


def kept(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder / "kept", save_top_k=-1, filename="{epoch}")


def test_a_resumed_run_goes_on_where_the_checkpoint_was(tmp_path: Path) -> None:
    module = Logging(on_step=True, on_epoch=True)
    first, _ = fitted(tmp_path, module, tensorboard_logger(tmp_path), kept(tmp_path))
    torch.manual_seed(1)
    second, _ = fitted(
        tmp_path,
        Logging(on_step=True, on_epoch=True),
        tensorboard_logger(tmp_path),
        kept(tmp_path),
        checkpoint=tmp_path / "kept" / "epoch=1.ckpt",
        max_epochs=6,
    )
    assert second.epochs() == (2, 3, 4, 5)
    assert len(list((tmp_path / "version_0").glob("events*"))) == 2
    curves = read_curves(tmp_path)
    assert curves.epochs == (0, 1, 2, 3, 4, 5)
    assert curves.val_values == (*first.values()[:2], *second.values())
    assert curves.train_losses[2:] == second.epoch_means()
    assert curves.learning_rates["lr-SGD"][2:] == second.rates()


def test_a_resumed_run_in_a_folder_of_its_own_keeps_its_epochs(tmp_path: Path) -> None:
    module, logger = Logging(on_step=True, on_epoch=False), csv_logger(tmp_path / "first")
    fitted(tmp_path / "first", module, logger, kept(tmp_path), max_epochs=1)
    truth, _ = fitted(
        tmp_path / "second",
        Logging(on_step=True, on_epoch=False),
        csv_logger(tmp_path / "second"),
        kept(tmp_path),
        checkpoint=tmp_path / "kept" / "epoch=0.ckpt",
    )
    curves = read_curves(tmp_path / "second")
    assert curves.epochs == truth.epochs() == (1, 2, 3)
    assert curves.train_losses == truth.epoch_means()


def test_metrics_csv_is_read_where_it_has_the_metric_and_else_the_events(tmp_path: Path) -> None:
    run = tmp_path / "version_0"
    truth, _ = fitted(tmp_path, Perceptron(), tensorboard_logger(tmp_path))
    (run / "metrics.csv").write_text("epoch,step,val_loss,val_acc\n0,5,0.1234567890123,1\n")
    exact = read_curves(run)
    assert exact.val_values == (0.1234567890123,)
    assert exact.source == str(run / "metrics.csv")
    (run / "metrics.csv").write_text("epoch,step,val_acc,val_f1\n0,5,1,1\n")
    events = read_curves(run)
    assert events.val_values == truth.values()
    assert events.source == str(run)
    assert "Read from the event files: has several validation metrics." in events.notes
    assert read_curves(run, monitor="val_f1").val_values == (1.0,)
    assert "'lr-SGD'" in told_about(run, monitor="val_auc")


def test_of_several_runs_one_is_to_be_named_and_the_only_one_is_found(tmp_path: Path) -> None:
    for version, age in [(1, 300), (10, 100), (2, 200)]:
        run = tmp_path / "lightning_logs" / f"version_{version}"
        run.mkdir(parents=True)
        (run / "metrics.csv").write_text(f"epoch,val_loss\n0,{version}\n")
        os.utime(run / "metrics.csv", (1e9 - age, 1e9 - age))
    told = told_about(tmp_path)
    named = [f"'lightning_logs/version_{version}'" for version in (1, 2, 10)]
    assert f"3 runs (the newest last): {', '.join(named)}. Give the folder of one" in told
    shutil.rmtree(tmp_path / "lightning_logs" / "version_1")
    shutil.rmtree(tmp_path / "lightning_logs" / "version_2")
    assert read_curves(tmp_path).val_values == (10.0,)


def test_many_runs_are_not_all_listed(tmp_path: Path) -> None:
    for version in range(30):
        run = tmp_path / f"version_{version}"
        run.mkdir()
        (run / "metrics.csv").write_text("val_loss\n1\n")
        os.utime(run / "metrics.csv", (1e9 + version, 1e9 + version))
    told = told_about(tmp_path)
    assert "30 runs (the last 8, the newest last): 'version_22'," in told
    assert "'version_29'. Give" in told


def test_an_event_file_can_be_given_itself(tmp_path: Path) -> None:
    truth, _ = fitted(tmp_path, Perceptron(), tensorboard_logger(tmp_path))
    (file,) = (tmp_path / "version_0").glob("events*")
    curves = read_curves(file)
    assert curves.val_values == truth.values()
    assert curves.source == str(file)


@LOGGERS
def test_a_diverged_fit_keeps_its_nan(logger: MakeLogger, tmp_path: Path) -> None:
    module = Logging(on_step=True, on_epoch=True)
    with torch.no_grad():
        module.large.weight.fill_(math.nan)
    fitted(tmp_path, module, logger(tmp_path), max_epochs=2)
    curves = read_curves(tmp_path)
    assert all(map(math.isnan, curves.val_values))
    assert all(map(math.isnan, curves.train_losses))
    assert curves.epochs == (0, 1)


def test_without_a_training_loss_the_curves_say_so(tmp_path: Path) -> None:
    class Silent(Perceptron):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return self.loss(batch)

    truth, _ = fitted(tmp_path, Silent(), csv_logger(tmp_path))
    curves = read_curves(tmp_path)
    assert curves.train is None
    assert all(map(math.isnan, curves.train_losses))
    assert curves.val_values == truth.values()
    assert "--train" in curves.notes[0]


def test_hyperparameters_with_metrics_leave_no_point_before_training(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="", version=0)
    logger.log_hyperparams({"rate": 0.1}, {"val_loss": 0.0})
    truth, _ = fitted(tmp_path, Perceptron(), logger)
    assert read_curves(tmp_path).val_values == truth.values()


def test_the_only_validation_metric_is_followed_and_of_several_one_is_named(
    tmp_path: Path,
) -> None:
    one, several = tmp_path / "one", tmp_path / "several"
    fitted(one, SeveralMetrics("val_acc"), csv_logger(one))
    curves = read_curves(one)
    assert (curves.monitor, curves.train) == ("val_acc", "train_loss")
    fitted(several, SeveralMetrics("val_acc", "val_f1"), csv_logger(several))
    told = told_about(several)
    assert "'val_acc', 'val_f1'" in told
    assert read_curves(several, monitor="val_f1").val_values == (1.0,) * 4
    assert "--train" in told_about(several, monitor="val_f1", train="loss")


def test_reading_events_writes_nothing_and_loads_no_framework(tmp_path: Path) -> None:
    truth, _ = fitted(tmp_path, Perceptron(), tensorboard_logger(tmp_path))
    heavy = {"torch", "lightning", "tensorflow", "numpy", "matplotlib"}
    code = f"""
import sys
from lightning_weightwatch.files.curves import read_curves
assert "tensorboard" not in sys.modules
print(*read_curves({str(tmp_path)!r}).val_values)
assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert tuple(map(float, done.stdout.split())) == truth.values()
