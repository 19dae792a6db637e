"""Whoever monitors our keys sees the value of the weights as they are at that moment."""

from __future__ import annotations

from csv import DictReader
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lightning_weightwatch import (
    OverfittingMonitor,
    PruningTrial,
    QuantizationTrial,
    SpectralMonitor,
    WeightHistogram,
    WeightUsageMonitor,
)
from tests.callbacks.fits import (
    ConvNet,
    ManualPerceptron,
    Perceptron,
    WitnessCheckpoint,
    WitnessStopper,
    train_loader,
    trainer,
    val_loader,
    weight_norm,
)

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "val_check_interval=0.5": {"val_check_interval": 0.5},
    "check_val_every_n_epoch=2": {"check_val_every_n_epoch": 2, "max_epochs": 5},
    "validation every 4 batches": {"val_check_interval": 4, "check_val_every_n_epoch": None},
    "limit_val_batches=0": {"limit_val_batches": 0},
    "no sanity check": {"num_sanity_val_steps": 0},
    "max_steps mid-epoch": {"max_steps": 8, "max_epochs": -1},
    "accumulate": {"accumulate_grad_batches": 4},
    "barebones": {"barebones": True},
    "one batch": {"limit_train_batches": 1},
}


def ours() -> list[Callback]:
    return [
        WeightHistogram(),
        SpectralMonitor(),
        OverfittingMonitor(monitor="val_loss"),
        WeightUsageMonitor(),
        QuantizationTrial(bits=(8,), verbose=False),
        PruningTrial(amounts=(0.5,), verbose=False),
    ]


def spectral_norm_of_net_2(module: LightningModule) -> float:
    """log10 of the squared Frobenius norm of the only large layer, by numpy."""
    assert isinstance(module, Perceptron)
    return float(np.log10(np.square(module.large.weight.detach().double().numpy()).sum()))


def watchers(**checkpoint: Any) -> list[Any]:
    return [
        WitnessStopper("weightwatch/weight_norm"),
        WitnessStopper("weightwatch/log_norm_mean", truth=spectral_norm_of_net_2),
        WitnessCheckpoint("weightwatch/weight_norm", **checkpoint),
    ]


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")  # barebones: Lightning's own
@pytest.mark.parametrize("first", ["ours first", "theirs first"])
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_monitored_values_are_those_of_the_current_weights(
    name: str, first: str, tmp_path: Path
) -> None:
    options = CONFIGURATIONS[name]
    theirs = watchers()[:2] if options.get("barebones") else watchers()
    callbacks = [*ours(), *theirs] if first == "ours first" else [*theirs, *ours()]
    fit = trainer(callbacks, tmp_path, **options)

    fit.fit(Perceptron(), train_loader(), val_loader())

    for witness in theirs:
        values, truths = zip(*witness.seen, strict=True)
        assert values == pytest.approx(truths, rel=1e-6), type(witness).__name__
        assert len(set(values)) > 1, "the weights moved, so must the values"


@pytest.mark.parametrize(
    "module", [ManualPerceptron(), ManualPerceptron(raw=True)], ids=["two optimizers", "raw"]
)
def test_manual_optimisation_is_followed(module: Perceptron, tmp_path: Path) -> None:
    stopper, *others = watchers()  # ModelCheckpoint saves nothing when global_step stands still
    trainer([stopper, *others, *ours()], tmp_path).fit(module, train_loader(), val_loader())
    values, truths = zip(*stopper.seen, strict=True)
    assert values == pytest.approx(truths, rel=1e-6)
    assert len(set(values)) == 3


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but")  # Lightning's own
def test_without_a_validation_loader_the_weight_keys_are_there(tmp_path: Path) -> None:
    theirs = watchers()
    trainer([*theirs, *ours()], tmp_path).fit(Perceptron(), train_loader())
    for witness in theirs:
        values, truths = zip(*witness.seen, strict=True)
        assert values == pytest.approx(truths, rel=1e-6)


def test_checkpoints_after_validation_see_the_weights_of_that_validation(tmp_path: Path) -> None:
    theirs = watchers(save_on_train_epoch_end=False)
    trainer([*ours(), *theirs], tmp_path).fit(Perceptron(), train_loader(), val_loader())
    for witness in theirs:
        values, truths = zip(*witness.seen, strict=True)
        assert values == pytest.approx(truths, rel=1e-6)


def test_a_checkpoint_in_the_middle_of_the_first_epoch_finds_the_key(tmp_path: Path) -> None:
    checkpoint = WitnessCheckpoint("weightwatch/weight_norm", every_n_train_steps=2)
    fit = trainer([checkpoint, *ours()], tmp_path, max_epochs=2)
    fit.fit(Perceptron(), train_loader(), val_loader())
    assert len(checkpoint.seen) == 6


def test_fast_dev_run_passes_through_every_hook(tmp_path: Path) -> None:
    callbacks = ours()
    theirs = WitnessStopper("weightwatch/weight_norm")
    fit = trainer([theirs, *callbacks], tmp_path, fast_dev_run=True, logger=CSVLogger(tmp_path))
    fit.fit(Perceptron(), train_loader(), val_loader())
    monitor = callbacks[0]
    assert isinstance(monitor, WeightHistogram)
    assert len(monitor.history) == 1
    assert float(fit.callback_metrics["weightwatch/weight_norm"]) > 0


def test_several_loggers_get_the_scalars_at_the_step_of_self_log(tmp_path: Path) -> None:
    csv, board = CSVLogger(tmp_path), TensorBoardLogger(tmp_path)
    fit = trainer(ours(), tmp_path, logger=[csv, board], log_every_n_steps=1)
    fit.fit(ConvNet(), train_loader(), val_loader())
    with (Path(csv.log_dir) / "metrics.csv").open() as file:
        rows = list(DictReader(file))
    validated = [row["step"] for row in rows if row["val_loss"]]
    measured = [row for row in rows if row["weightwatch/weight_norm"]]
    assert [row["step"] for row in measured] == validated == ["5", "11", "17"]
    assert [row["epoch"] for row in measured] == ["0", "1", "2"]


def test_early_stopping_on_a_weight_metric_stops_in_the_epoch_that_crosses(tmp_path: Path) -> None:
    plain = WeightHistogram()
    trainer([plain], tmp_path, max_epochs=4).fit(Perceptron(), train_loader(), val_loader())
    norms = [entry["weight_norm"] for entry in plain.history]
    threshold = norms[1]  # reached in the third epoch, if norms grow

    stopper = WitnessStopper("weightwatch/weight_norm", mode="max", stopping_threshold=threshold)
    fit = trainer([stopper, WeightHistogram()], tmp_path, max_epochs=4)
    fit.fit(Perceptron(), train_loader(), val_loader())

    reached = next(value for value, _ in stopper.seen if value > threshold)
    assert stopper.seen[-1][0] == reached, "nothing was trained after the value was reached"
    assert fit.should_stop


@pytest.mark.parametrize("first", [True, False])
def test_values_are_those_of_the_trained_weights_beside_weight_averaging(
    first: bool, tmp_path: Path
) -> None:
    averaging = pytest.importorskip("lightning.pytorch.callbacks.weight_averaging")

    class Norms(Callback):
        seen: list[float] = []  # noqa: RUF012

        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            self.seen.append(weight_norm(pl_module))

    histogram, norms = WeightHistogram(), Norms()
    norms.seen.clear()
    average = averaging.EMAWeightAveraging(decay=0.5)
    order = [histogram, average] if first else [average, histogram]
    trainer([norms, *order], tmp_path).fit(Perceptron(), train_loader(), val_loader())
    measured = [entry["weight_norm"] for entry in histogram.history]
    assert measured == pytest.approx([norms.seen[i] for i in (5, 11, 17)], rel=1e-6)


@pytest.mark.parametrize("interval", ["epoch", "step"])
def test_a_scheduler_that_monitors_our_key_finds_it(interval: str, tmp_path: Path) -> None:
    class Scheduled(Perceptron):
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
                optimizer, patience=0, mode="min"
            )
            monitor = {"monitor": "weightwatch/alpha_mean", "interval": interval}
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, **monitor}}

    fit = trainer([SpectralMonitor()], tmp_path)
    fit.fit(Scheduled(), train_loader(), val_loader())
    assert fit.current_epoch == 3
