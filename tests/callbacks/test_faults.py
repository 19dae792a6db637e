"""A fault in a measurement is one warning; it never ends a fit and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lightning_weightwatch import (
    OverfittingMonitor,
    PruningTrial,
    QuantizationTrial,
    SpectralMonitor,
    WeightHistogram,
    WeightUsageMonitor,
)
from lightning_weightwatch.callbacks import cost
from tests.callbacks.fits import (
    ConvNet,
    Perceptron,
    WitnessStopper,
    bits,
    train_loader,
    trainer,
    val_loader,
)


class Failing(WeightHistogram):
    """Raises in every measurement but the first."""

    def measure(self, trainer: Any, pl_module: Any) -> Any:
        if self.history:
            raise RuntimeError("the solver did not converge")
        return super().measure(trainer, pl_module)


def test_a_failing_measurement_is_one_warning_and_a_repeated_value(tmp_path: Path) -> None:
    callback = Failing()
    stopper = WitnessStopper("weightwatch/weight_norm", truth=lambda _: 0.0)
    fit = trainer([stopper, callback], tmp_path, max_epochs=4)
    with pytest.warns(UserWarning, match="could not measure.*did not converge") as warned:
        fit.fit(Perceptron(), train_loader(), val_loader())
    assert fit.current_epoch == 4
    assert len([w for w in warned if "did not converge" in str(w.message)]) == 1
    assert len({value for value, _ in stopper.seen}) == 1
    assert [entry["epoch"] for entry in callback.history] == [0]


def test_a_failing_logger_is_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = TensorBoardLogger(tmp_path)

    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(logger.experiment, "add_histogram_raw", full)
    histogram = WeightHistogram()
    fit = trainer([histogram], tmp_path, logger=logger)
    with pytest.warns(UserWarning, match="could not write to a logger.*no space left"):
        fit.fit(Perceptron(), train_loader(), val_loader())
    assert len(histogram.history) == 3


def test_a_failing_logger_does_not_starve_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, csv = CSVLogger(tmp_path, name="broken"), CSVLogger(tmp_path, name="csv")

    def down(metrics: dict[str, float], step: int | None = None) -> None:
        if any(key.startswith("weightwatch/") for key in metrics):
            raise OSError("net down")

    monkeypatch.setattr(broken, "log_metrics", down)
    trial = PruningTrial(verbose=False)
    fit = trainer([WeightHistogram(), trial], tmp_path, logger=[broken, csv], max_epochs=1)
    with pytest.warns(UserWarning, match="could not write to a logger: OSError: net down") as seen:
        fit.fit(Perceptron(), train_loader(), val_loader())
    assert not [w for w in seen if "no result" in str(w.message)]
    written = (Path(csv.log_dir) / "metrics.csv").read_text()
    assert "weightwatch/weight_norm" in written
    assert "weightwatch/pruning_pruned50_delta" in written


def test_a_loss_that_cannot_be_taken_is_a_warning(tmp_path: Path) -> None:
    class Exotic(torch.Tensor):
        def __getattribute__(self, name: str) -> Any:
            if name == "detach":
                raise RuntimeError("no numbers")
            return super().__getattribute__(name)

    class Monitor(OverfittingMonitor):
        def on_train_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            outputs = torch.zeros(()).as_subclass(Exotic)
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    monitor = Monitor()
    fit = trainer([monitor], tmp_path, max_epochs=1)
    with pytest.warns(UserWarning, match="could not take the loss of a batch.*no numbers"):
        fit.fit(Perceptron(), train_loader(), val_loader())
    assert monitor.report is not None
    assert monitor.report.severity == "unknown"


class BreaksWhenQuantized(ConvNet):
    """Its validation fails on weights that are not the trained ones."""

    trained: dict[str, bytes] | None = None

    def on_train_end(self) -> None:
        self.log_lines = "attributes of the user stay"

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        if self.trained is not None and bits(self) != self.trained:
            raise ValueError("unexpected weights")
        super().validation_step(batch, batch_idx)

    def on_train_epoch_end(self) -> None:
        self.trained = bits(self)


@pytest.mark.parametrize(
    "trial",
    [QuantizationTrial(bits=(8,), verbose=False), PruningTrial(amounts=(0.5,), verbose=False)],
)
def test_a_trial_that_raises_is_a_row_and_the_weights_are_back(trial: Any, tmp_path: Path) -> None:
    model = BreaksWhenQuantized()
    fit = trainer([trial], tmp_path, max_epochs=1)
    fit.fit(model, train_loader(), val_loader())
    baseline, tried = trial.report.rows
    assert baseline.error == ""
    assert tried.error == "ValueError: unexpected weights"
    assert bits(model) == model.trained
    assert all(part.training for part in model.modules())
    assert fit.state.status == "finished"


def test_a_baseline_that_raises_is_a_warning(tmp_path: Path) -> None:
    class Broken(Perceptron):
        def on_train_end(self) -> None:
            pass

        def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
            if self.trainer.current_epoch == 1:  # on_train_end has counted the epoch
                raise ValueError("no data")

    trial = PruningTrial(verbose=False)
    with pytest.warns(UserWarning, match="PruningTrial has no result: ValueError: no data"):
        trainer([trial], tmp_path, max_epochs=1).fit(Broken(), train_loader(), val_loader())


def test_a_costly_monitor_says_so_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "BUDGET_SECONDS", 0.0)
    monkeypatch.setattr(cost, "BUDGET_SHARE", 0.0)
    fit = trainer([SpectralMonitor()], tmp_path)
    with pytest.warns(UserWarning, match="SpectralMonitor takes long.*every_n_epochs") as warned:
        fit.fit(Perceptron(), train_loader(), val_loader())
    assert len([w for w in warned if "takes long" in str(w.message)]) == 1


def test_an_exception_in_training_reaches_the_user_unchanged(tmp_path: Path) -> None:
    class Crashing(Perceptron):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if self.trainer.global_step == 8:
                raise KeyError("theirs")
            return super().training_step(batch, batch_idx)

    callbacks: list[Any] = [WeightHistogram(), OverfittingMonitor(), QuantizationTrial()]
    with pytest.raises(KeyError, match="theirs"):
        trainer(callbacks, tmp_path).fit(Crashing(), train_loader(), val_loader())
    assert len(callbacks[0].history) == 1
    assert callbacks[2].report is None


def test_a_fit_of_no_epochs_leaves_no_report(tmp_path: Path) -> None:
    callbacks: list[Any] = [WeightHistogram(), OverfittingMonitor(), PruningTrial()]
    trainer(callbacks, tmp_path, max_epochs=0).fit(Perceptron(), train_loader(), val_loader())
    assert [callback.report for callback in callbacks] == [None, None, None]


def test_validating_and_testing_measure_nothing(tmp_path: Path) -> None:
    callbacks: list[Any] = [SpectralMonitor(), OverfittingMonitor(), WeightUsageMonitor()]
    run: Trainer = trainer(callbacks, tmp_path)
    run.validate(Perceptron(), val_loader(), verbose=False)
    assert all(callback.history == [] for callback in callbacks)
