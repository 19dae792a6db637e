"""Which weights are tried, and that the trained ones are there afterwards, in files too."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from lightning_weightwatch import PruningTrial, QuantizationTrial
from lightning_weightwatch.callbacks.keys import TrainerConfigurationError
from lightning_weightwatch.callbacks.trial import PostFitTrial
from lightning_weightwatch.trials.snapshot import NotRestored
from tests.callbacks.fits import ConvNet, Perceptron, bits, train_loader, trainer, val_loader


class Diverging(ConvNet):
    """Best after the first epoch: then its learning rate blows it up."""

    def on_train_epoch_start(self) -> None:
        if self.current_epoch > 0:
            for group in self.optimizers().param_groups:  # type: ignore[union-attr]
                group["lr"] = 2.0


def loss_of(model: nn.Module) -> float:
    model.eval()
    with torch.no_grad():
        pairs = [(model(x), y) for x, y in val_loader()]
    logits, labels = (torch.cat(list(parts)) for parts in zip(*pairs, strict=True))
    return float(nn.functional.cross_entropy(logits, labels))


def test_the_best_weights_are_tried_and_the_last_ones_put_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    best = QuantizationTrial(bits=(8, 4), weights="best", verbose=False)
    last = QuantizationTrial(bits=(8,), prefix="last", verbose=False)
    checkpoint = ModelCheckpoint(dirpath=tmp_path, monitor="val_loss")
    trained: list[dict[str, bytes]] = []

    class Seen(Callback):
        def on_train_end(self, *_: Any) -> None:
            trained.append(bits(model))

    model = Diverging()
    fit = trainer([Seen(), best, last, Seen(), checkpoint], tmp_path)
    fit.fit(model, train_loader(), val_loader())
    assert trained[0] == trained[1] == bits(model)
    assert best.report is not None
    assert last.report is not None
    of_best = Diverging()
    saved = torch.load(checkpoint.best_model_path, weights_only=True)["state_dict"]
    of_best.load_state_dict(saved)
    assert best.report.baseline == pytest.approx(loss_of(of_best), rel=1e-5)
    assert last.report.baseline == pytest.approx(loss_of(model), rel=1e-5)
    assert last.report.baseline > 1.5 * best.report.baseline, "else the test tells nothing"
    assert best.report.monitor == "val_loss"


def test_the_best_weights_need_a_checkpoint_that_knows_them(tmp_path: Path) -> None:
    trial = QuantizationTrial(weights="best")
    for callbacks in ([trial], [trial, ModelCheckpoint(dirpath=tmp_path)]):
        fit = trainer([*callbacks], tmp_path)
        with pytest.raises(TrainerConfigurationError, match=r"ModelCheckpoint\(monitor='val_loss'"):
            fit.fit(Perceptron(), train_loader(), val_loader())


def test_a_best_checkpoint_that_is_gone_is_a_warning(tmp_path: Path) -> None:
    class Removing(Callback):
        def on_train_end(self, *_: Any) -> None:
            Path(checkpoint.best_model_path).unlink()

    checkpoint = ModelCheckpoint(dirpath=tmp_path, monitor="val_loss")
    trial = QuantizationTrial(bits=(8,), weights="best", verbose=False)
    model = Perceptron()
    fit = trainer([Removing(), trial, checkpoint], tmp_path)
    with pytest.warns(UserWarning, match="QuantizationTrial has no result: MissingFile"):
        fit.fit(model, train_loader(), val_loader())
    assert trial.report is None


@pytest.mark.parametrize("damage", ["fewer", "shape"])
def test_a_best_checkpoint_of_another_model_changes_nothing(damage: str, tmp_path: Path) -> None:
    class Damaging(Callback):
        def on_train_end(self, *_: Any) -> None:
            self.trained = bits(model)
            saved = torch.load(checkpoint.best_model_path, weights_only=True)
            if damage == "fewer":
                saved["state_dict"].pop("net.4.weight")
            else:
                saved["state_dict"]["net.4.weight"] = torch.zeros(2, 2)
            torch.save(saved, checkpoint.best_model_path)

    checkpoint = ModelCheckpoint(dirpath=tmp_path, monitor="val_loss")
    trial = QuantizationTrial(bits=(8,), weights="best", verbose=False)
    model, damaging = Perceptron(), Damaging()
    fit = trainer([damaging, trial, checkpoint], tmp_path)
    with pytest.warns(UserWarning, match=r"has no result: BadFile: .*net\.4\.weight"):
        fit.fit(model, train_loader(), val_loader())
    assert bits(model) == damaging.trained


def averaging() -> Any:
    callbacks = pytest.importorskip("lightning.pytorch.callbacks")
    if not hasattr(callbacks, "EMAWeightAveraging"):
        pytest.skip("this Lightning has no EMAWeightAveraging")
    return callbacks.EMAWeightAveraging(decay=0.5)


def test_averaged_weights_are_tried_where_the_average_comes_first(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trial = QuantizationTrial(bits=(8,), verbose=False)
    model = Perceptron(learning_rate=0.5)
    fit = trainer([averaging(), trial], tmp_path)
    fit.fit(model, train_loader(), val_loader())
    assert trial.report is not None
    assert trial.report.baseline == pytest.approx(loss_of(model), rel=1e-5)


def test_an_average_that_comes_after_the_trial_is_refused(tmp_path: Path) -> None:
    model = Perceptron()
    fit = trainer([PruningTrial(), averaging()], tmp_path)
    with pytest.raises(TrainerConfigurationError, match="List EMAWeightAveraging first"):
        fit.fit(model, train_loader(), val_loader())


def test_a_stochastic_average_that_comes_after_the_trial_is_refused(tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import StochasticWeightAveraging

    fit = trainer([PruningTrial(), StochasticWeightAveraging(swa_lrs=0.1)], tmp_path)
    with pytest.raises(TrainerConfigurationError, match="List StochasticWeightAveraging first"):
        fit.fit(Perceptron(), train_loader(), val_loader())


def test_the_last_checkpoint_holds_the_trained_weights(tmp_path: Path) -> None:
    """Also the one that is written at the end of training, after the trials."""
    torch.manual_seed(0)
    trials = [QuantizationTrial(bits=(2,), verbose=False), PruningTrial(verbose=False)]
    saved: dict[str, Any] = {}

    class AtTheEnd(Callback):
        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            trainer.save_checkpoint(tmp_path / "end.ckpt")

    checkpoint = ModelCheckpoint(
        dirpath=tmp_path, save_last=True, every_n_epochs=1, save_on_train_epoch_end=True
    )
    plain, watched = (ConvNet(), ConvNet())
    watched.load_state_dict(plain.state_dict())
    listed: list[Callback] = [*trials, AtTheEnd(), checkpoint]
    for model, callbacks in ((plain, []), (watched, listed)):
        torch.manual_seed(1)
        trainer(callbacks, tmp_path).fit(model, train_loader(), val_loader())
    assert bits(watched) == bits(plain)
    for name in ("last.ckpt", "end.ckpt"):
        saved = torch.load(tmp_path / name, weights_only=True)["state_dict"]
        holder = ConvNet()
        holder.load_state_dict(saved)
        assert bits(holder) == bits(plain), name


class Interrupted(Perceptron):
    """Raises in the midst of the third validation after training, the second variant."""

    def __init__(self, fault: BaseException) -> None:
        super().__init__()
        self.fault, self.after, self.trained = fault, 0, b""

    def on_train_end(self) -> None:
        """Comes after the callbacks'."""

    def on_validation_epoch_start(self) -> None:
        if self.trainer.current_epoch == self.trainer.max_epochs:
            self.after += 1

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        if self.after == 3 and batch_idx == 2:
            raise self.fault


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize(
    "fault", [ValueError("half-way"), KeyboardInterrupt()], ids=["error", "interrupt"]
)
def test_digests_are_equal_whatever_ends_a_trial(
    fault: BaseException, mode: str, tmp_path: Path
) -> None:
    model = Interrupted(fault)
    trained: list[dict[str, bytes]] = []
    flags: list[list[bool]] = []

    class Before(Callback):
        def on_train_end(self, *_: Any) -> None:
            model.train(mode == "train")
            trained.append(bits(model))
            flags.append([part.training for part in model.modules()])

    trial = QuantizationTrial(bits=(4, 2), verbose=False)
    fit = trainer([Before(), trial], tmp_path)
    if isinstance(fault, KeyboardInterrupt):
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            fit.fit(model, train_loader(), val_loader())
        assert trial.report is not None
        assert [row.name for row in trial.report.rows] == ["baseline", "int4"]
        assert trial.report.stopped == "interrupted"
        lines = (tmp_path / "weightwatch" / "quantization.jsonl").read_text().splitlines()
        assert len(lines) == 2
    else:
        fit.fit(model, train_loader(), val_loader())
        assert trial.report is not None
        assert [row.error for row in trial.report.rows] == ["", "", "ValueError: half-way"]
    assert bits(model) == trained[0]
    assert [part.training for part in model.modules()] == flags[0]
    assert isinstance(trial, PostFitTrial)


class ModuleWithAverage(Perceptron):
    """Exchanges its net for an average of it while it validates, and may break in between."""

    def __init__(self, breaks: bool) -> None:
        super().__init__()
        self.average = copy.deepcopy(self.net).requires_grad_(False)
        self.breaks, self.after = breaks, 0

    def on_validation_start(self) -> None:
        self.after += self.trainer.current_epoch == self.trainer.max_epochs
        self.net, self.average = self.average, self.net

    def on_validation_end(self) -> None:
        self.net, self.average = self.average, self.net

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        if self.breaks and self.after == 2 and batch_idx == 2:
            raise ValueError("half-way")


@pytest.mark.parametrize("breaks", [False, True])
def test_a_module_that_validates_with_an_average_of_its_own_comes_back(
    breaks: bool, tmp_path: Path
) -> None:
    model = ModuleWithAverage(breaks)
    trained: list[dict[str, bytes]] = []

    class Before(Callback):
        def on_train_end(self, *_: Any) -> None:
            trained.append(bits(model))

    trial = QuantizationTrial(bits=(4, 2), verbose=False)
    fit = trainer([Before(), trial, Before()], tmp_path)
    with pytest.warns(UserWarning, match="no variant has changed any metric"):
        fit.fit(model, train_loader(), val_loader())
    assert trained[0] == trained[1] == bits(model)
    assert trial.report is not None
    assert [bool(row.error) for row in trial.report.rows] == [False, breaks, False]


def test_large_weights_that_the_validation_changes_end_the_fit_loudly(tmp_path: Path) -> None:
    class Teacher(Perceptron):
        def __init__(self) -> None:
            super().__init__()
            self.teacher = nn.Linear(600, 600).requires_grad_(False)

        def on_validation_epoch_end(self) -> None:
            self.teacher.weight.mul_(0.5)

    fit = trainer([QuantizationTrial(bits=(8,), verbose=False)], tmp_path, max_epochs=1)
    with pytest.raises(NotRestored, match="does not have the bits it had before"):
        fit.fit(Teacher(), train_loader(), val_loader())


def test_a_checkpoint_that_a_validation_saves_is_not_of_compressed_weights(tmp_path: Path) -> None:
    class Saving(Perceptron):
        def on_validation_epoch_end(self) -> None:
            if not self.trainer.sanity_checking:
                self.trainer.save_checkpoint(tmp_path / "own.ckpt")

    model, saves = Saving(), tmp_path / "own.ckpt"
    fit = trainer([PruningTrial(verbose=False)], tmp_path, max_epochs=1)
    fit.fit(model, train_loader(), val_loader())
    saved = Saving()
    saved.load_state_dict(torch.load(saves, weights_only=True)["state_dict"])
    assert bits(saved) == bits(model)
    assert "save_checkpoint" not in vars(fit)


@dataclass
class Schedule:
    warm_up: int = 3


class WithHyperparameters(Perceptron):
    """Keeps what `torch.load(weights_only=True)` refuses to read."""

    def __init__(self, schedule: Schedule, folder: Path) -> None:
        super().__init__()
        self.save_hyperparameters()


def test_hyperparameters_of_any_kind_do_not_hide_the_best_weights(tmp_path: Path) -> None:
    trial = QuantizationTrial(bits=(8,), weights="best", verbose=False)
    checkpoint = ModelCheckpoint(dirpath=tmp_path, monitor="val_loss")
    fit = trainer([trial, checkpoint], tmp_path, max_epochs=1)
    fit.fit(WithHyperparameters(Schedule(), tmp_path), train_loader(), val_loader())
    assert trial.report is not None
    assert trial.report.rows[0].metrics
