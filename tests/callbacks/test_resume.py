"""A resumed run carries on: its history, its verdict, and the values that others monitor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning_utilities.core.imports import RequirementCache

from lightning_weightwatch import OverfittingMonitor, SpectralMonitor, WeightHistogram
from tests.callbacks.fits import (
    Perceptron,
    WitnessStopper,
    train_loader,
    trainer,
    val_loader,
)

AT_THE_END: dict[str, Any] = {"save_on_train_epoch_end": True}
SAVED: dict[str, tuple[int, dict[str, Any]]] = {
    "at the end of the training epoch": (12, AT_THE_END),
    "after validation": (12, {"save_on_train_epoch_end": False}),
    "in the middle of an epoch": (8, {"every_n_train_steps": 4}),
    "after the last batch": (12, {"every_n_train_steps": 4}),
}


def monitors(
    every_n_epochs: int = 1,
) -> tuple[WeightHistogram, SpectralMonitor, OverfittingMonitor]:
    return (
        WeightHistogram(every_n_epochs=every_n_epochs),
        SpectralMonitor(every_n_epochs=every_n_epochs),
        OverfittingMonitor(every_n_epochs=every_n_epochs),
    )


def checkpoints(root: Path, options: dict[str, Any]) -> ModelCheckpoint:
    return ModelCheckpoint(dirpath=root, save_top_k=-1, filename="{step}", **options)


def saved_run(root: Path, options: dict[str, Any], step: int = 12) -> Path:
    """Two epochs of six batches with checkpoints; the path of that of a step."""
    fit = trainer([*monitors(), checkpoints(root, options)], root, max_epochs=2)
    fit.fit(Perceptron(), train_loader(), val_loader())
    return root / f"step={step}.ckpt"


def resumed(path: Path, options: dict[str, Any], callbacks: list[Any], max_epochs: int) -> Any:
    """The run that goes on from a checkpoint."""
    fit = trainer(
        [*callbacks, checkpoints(path.parent, options)], path.parent, max_epochs=max_epochs
    )
    fit.fit(Perceptron(), train_loader(), val_loader(), ckpt_path=path)
    return fit


# Lightning's own warning on a resume in the middle of an epoch.
pytestmark = pytest.mark.filterwarnings(
    "ignore:You're resuming from a checkpoint that ended before"
)


@pytest.mark.parametrize("saved", SAVED)
def test_history_continues_without_gap_or_repetition(saved: str, tmp_path: Path) -> None:
    step, options = SAVED[saved]
    path = saved_run(tmp_path, options, step)
    stopper = WitnessStopper("weightwatch/weight_norm")
    callbacks = monitors()
    resumed(path, options, [stopper, *callbacks], max_epochs=4)

    # Resumed after its last batch, an epoch is never ended: Lightning 2.6 calls no hook of its end.
    missed = saved == "after the last batch" and RequirementCache("lightning>=2.6")
    ended = [0, 2, 3] if missed else [0, 1, 2, 3]
    for monitor in callbacks:
        assert [entry["epoch"] for entry in monitor.history] == ended
        assert [entry["step"] for entry in monitor.history] == [6 * epoch + 5 for epoch in ended]
    values, truths = zip(*stopper.seen, strict=True)
    assert values == pytest.approx(truths, rel=1e-6)


def test_the_verdict_rests_on_the_whole_curve(tmp_path: Path) -> None:
    losses = OverfittingMonitor()
    resumed(saved_run(tmp_path, AT_THE_END), AT_THE_END, [losses], max_epochs=4)
    assert losses.report is not None
    assert losses.report.epochs == (0, 1, 2, 3)


def test_training_loss_of_an_epoch_that_was_cut_is_that_of_all_its_batches(tmp_path: Path) -> None:
    class Losses(Callback):
        """The losses of all batches, kept over both runs."""

        seen: list[tuple[int, float]] = []  # noqa: RUF012

        def on_train_batch_end(self, trainer: Any, _: Any, outputs: Any, *__: Any) -> None:
            self.seen.append((trainer.current_epoch, float(outputs["loss"])))

    seed_everything(3, verbose=False)
    options = {"every_n_train_steps": 4}
    saves = checkpoints(tmp_path, options)
    first = trainer([Losses(), OverfittingMonitor(), saves], tmp_path, max_steps=4)
    first.fit(Perceptron(), train_loader(), val_loader())
    losses = OverfittingMonitor()
    resumed(tmp_path / "step=4.ckpt", options, [Losses(), losses], max_epochs=1)

    of_epoch = [value for epoch, value in Losses.seen if epoch == 0]
    assert losses.history[-1]["train_loss"] == pytest.approx(sum(of_epoch) / len(of_epoch))


def test_a_monitor_that_is_new_in_the_resumed_run_measures_at_once(tmp_path: Path) -> None:
    options = {"save_on_train_epoch_end": False}
    saves = checkpoints(tmp_path, options)
    trainer([saves], tmp_path, max_epochs=1).fit(Perceptron(), train_loader(), val_loader())
    histogram = WeightHistogram(every_n_epochs=3)
    stopper = WitnessStopper("weightwatch/weight_norm", truth=lambda _: 0.0)
    resumed(tmp_path / "step=6.ckpt", options, [stopper, histogram], max_epochs=3)
    assert [entry["epoch"] for entry in histogram.history] == [0, 2]
    assert len(stopper.seen) == 3


def test_a_run_goes_on_without_its_monitors_and_without_a_warning(tmp_path: Path) -> None:
    fit = resumed(saved_run(tmp_path, AT_THE_END), AT_THE_END, [], max_epochs=3)
    assert fit.current_epoch == 3


def test_checkpoints_load_without_unpickling_code(tmp_path: Path) -> None:
    path = saved_run(tmp_path, AT_THE_END)
    state = torch.load(path, weights_only=True)["lightning_weightwatch"]
    assert len(state["SpectralMonitor[weightwatch]"]["history"]) == 2


def test_loading_a_checkpoint_to_test_leaves_the_history_of_the_fit(tmp_path: Path) -> None:
    class Tested(Perceptron):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.log("test_loss", self.loss(batch))

    checkpoint = ModelCheckpoint(dirpath=tmp_path, save_top_k=-1, filename="{epoch}")
    histogram, _, losses = monitors()
    fit = trainer([histogram, losses, checkpoint], tmp_path)
    model = Tested()
    fit.fit(model, train_loader(), val_loader())
    fit.test(model, val_loader(), ckpt_path=tmp_path / "epoch=0.ckpt", verbose=False)
    assert [entry["epoch"] for entry in histogram.history] == [0, 1, 2]
    assert losses.report is not None
    assert losses.report.epochs == (0, 1, 2)


def test_a_second_fit_of_the_same_trainer_continues_and_of_a_new_one_begins(tmp_path: Path) -> None:
    histogram = WeightHistogram()
    model = Perceptron()
    fit = trainer([histogram], tmp_path, max_epochs=2)
    fit.fit(model, train_loader(), val_loader())
    fit.fit_loop.max_epochs = 3
    fit.fit(model, train_loader(), val_loader())
    assert [entry["epoch"] for entry in histogram.history] == [0, 1, 2]
    trainer([histogram], tmp_path, max_epochs=1).fit(model, train_loader(), val_loader())
    assert [entry["epoch"] for entry in histogram.history] == [0]


def test_every_n_epochs_measures_the_first_and_then_in_lightnings_turn(tmp_path: Path) -> None:
    callbacks = monitors(every_n_epochs=2)
    stopper = WitnessStopper("weightwatch/weight_norm", truth=lambda _: 0.0)
    fit = trainer([stopper, *callbacks], tmp_path, max_epochs=6)
    fit.fit(Perceptron(), train_loader(), val_loader())
    for monitor in callbacks:
        assert [entry["epoch"] for entry in monitor.history] == [0, 1, 3, 5]
    measured = {entry["epoch"]: entry["weight_norm"] for entry in callbacks[0].history}
    latest = [measured[epoch] for epoch in (0, 1, 1, 3, 3, 5)]
    assert [value for value, _ in stopper.seen] == latest, "between them the last is repeated"


def test_at_start_adds_a_point_before_the_first_step(tmp_path: Path) -> None:
    seed_everything(0, verbose=False)
    model = Perceptron()
    squares = sum(float(p.detach().double().square().sum()) for p in model.parameters())
    histogram, losses = WeightHistogram(at_start=True), OverfittingMonitor(at_start=True)
    fit = trainer([histogram, losses], tmp_path, num_sanity_val_steps=0)
    expected = trainer([], tmp_path).validate(model, val_loader(), verbose=False)[0]["val_loss"]
    fit.fit(model, train_loader(), val_loader())
    assert [entry["epoch"] for entry in histogram.history] == [-1, 0, 1, 2]
    assert histogram.history[0]["weight_norm"] == pytest.approx(squares**0.5)
    assert losses.history[0]["val_metric"] == pytest.approx(expected)
    assert losses.report is not None
    assert losses.report.epochs == (0, 1, 2)
