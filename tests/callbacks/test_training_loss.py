"""The training loss of an epoch: however batches look, gradients gather, and losses go wrong."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, GradientAccumulationScheduler
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from lightning_weightwatch import OverfittingMonitor
from tests.callbacks.fits import BATCH, loader, train_loader, trainer, val_loader
from tests.callbacks.scripted import Scripted

NAN = math.nan
FALLS = [1.0, 0.9, 0.8, 0.7]
RISES = [1.0, 0.5, 0.6, 0.7, 0.8]


@pytest.mark.parametrize("factors", [{0: 1, 2: 4}, {0: 3}, {0: 2, 1: 5, 3: 1}], ids=str)
def test_accumulated_gradients_leave_the_training_loss_as_it_is(
    factors: dict[int, int], tmp_path: Path
) -> None:
    monitor, model = OverfittingMonitor(), Scripted(val_loss=FALLS)
    batches = loader(53, seed=1, shuffle=True)  # seven, the last holds 5
    callbacks = [monitor, GradientAccumulationScheduler(factors)]
    trainer(callbacks, tmp_path, max_epochs=4).fit(model, batches, val_loader())
    assert monitor.report is not None
    assert monitor.report.train_losses == pytest.approx(model.means, rel=1e-6)
    assert {len(losses) for losses in model.sums.values()} == {53}


def test_so_do_those_that_the_trainer_accumulates(tmp_path: Path) -> None:
    monitor, model = OverfittingMonitor(), Scripted(val_loss=FALLS)
    batches = loader(53, seed=1, shuffle=True)
    fit = trainer([monitor], tmp_path, max_epochs=4, accumulate_grad_batches=3)
    fit.fit(model, batches, val_loader())
    assert monitor.report is not None
    assert monitor.report.train_losses == pytest.approx(model.means, rel=1e-6)


@dataclass
class Pair:
    name: str
    scale: Tensor
    x: Tensor
    y: Tensor


class Graphs:
    """As PyTorch Geometric joins graphs: the nodes of all of them in one tensor."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x.reshape(3 * len(x), -1), y
        self.batch = torch.arange(len(y)).repeat_interleave(3)
        self.num_graphs = len(y)


def boxes(y: Tensor) -> list[dict[str, Tensor]]:
    return [{"boxes": torch.zeros(int(label), 4), "label": label} for label in y]


Shape = tuple[Callable[[Tensor, Tensor], Any], Callable[[Any], tuple[Tensor, Tensor]]]
SHAPES: dict[str, Shape] = {
    "dictionary": (lambda x, y: {"x": x, "y": y}, lambda b: (b["x"], b["y"])),
    "nested": (
        lambda x, y: {"in": {"deep": [x]}, "out": (y,)},
        lambda b: (b["in"]["deep"][0], b["out"][0]),
    ),
    "tuple of dictionaries": (
        lambda x, y: ({"x": x}, {"y": y}),
        lambda b: (b[0]["x"], b[1]["y"]),
    ),
    "text first": (lambda x, y: (["text"] * len(x), x, y), lambda b: (b[1], b[2])),
    "one string first": (lambda x, y: {"name": "text", "x": x, "y": y}, lambda b: (b["x"], b["y"])),
    "number first": (lambda x, y: {"t": 0.5, "x": x, "y": y}, lambda b: (b["x"], b["y"])),
    "scalar tensor first": (lambda x, y: (torch.tensor(0.5), x, y), lambda b: (b[1], b[2])),
    "nested scalar tensor first": (
        lambda x, y: {"info": {"t": torch.tensor(0.5), "none": None}, "x": x, "y": y},
        lambda b: (b["x"], b["y"]),
    ),
    "dataclass": (lambda x, y: Pair("text", torch.tensor(0.5), x, y), lambda b: (b.x, b.y)),
    "empty list first": (lambda x, y: ([], {}, x, y), lambda b: (b[2], b[3])),
    "detection": (
        lambda x, y: (list(x.view(-1, 3, 2, 2)), boxes(y)),
        lambda b: (torch.stack(b[0]).flatten(1), torch.stack([box["label"] for box in b[1]])),
    ),
    "samples": (
        lambda x, y: list(zip(x.view(-1, 3, 4), y, strict=True)),
        lambda b: (torch.stack([x for x, _ in b]).flatten(1), torch.stack([y for _, y in b])),
    ),
    "graphs": (Graphs, lambda b: (b.x.reshape(b.num_graphs, -1), b.y)),
    "arrays": (
        lambda x, y: (x.numpy(), y.numpy()),
        lambda b: (torch.from_numpy(b[0]), torch.from_numpy(b[1])),
    ),
    "class weights first": (
        lambda x, y: {"weights": torch.ones(5), "x": x, "y": y},
        lambda b: (b["x"], b["y"]),
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_short_last_batch_weighs_less_whatever_holds_it(shape: str, tmp_path: Path) -> None:
    pack, unpack = SHAPES[shape]

    class Unpacks(Scripted):
        def parts(self, batch: Any) -> tuple[Tensor, Tensor]:
            return unpack(batch)

    samples = loader(2 * BATCH + 1, seed=1).dataset
    batches: DataLoader[Any] = DataLoader(
        samples, batch_size=BATCH, collate_fn=lambda rows: pack(*default_collate(rows))
    )
    monitor, model = OverfittingMonitor(), Unpacks(val_loss=FALLS)
    trainer([monitor], tmp_path, max_epochs=1).fit(model, batches, val_loader())
    # The sample that is alone would count for a third of the mean instead of a 17th.
    losses = model.sums[0]
    unweighted = (sum(losses[:8]) / 8 + sum(losses[8:16]) / 8 + losses[16]) / 3
    assert unweighted != pytest.approx(model.means[0], rel=1e-3)
    assert monitor.history[0]["train_loss"] == pytest.approx(model.means[0], rel=1e-6)


class Closed:
    """A batch that nothing but its model can look into."""

    __slots__ = ("parts",)

    def __init__(self, *parts: Tensor) -> None:
        self.parts = parts

    @property
    def batch_size(self) -> int:
        raise RuntimeError("ask my model")


def test_a_batch_that_cannot_be_looked_into_counts_as_one_sample(tmp_path: Path) -> None:
    class Opens(Scripted):
        def parts(self, batch: Any) -> tuple[Tensor, Tensor]:
            x, y = batch.parts
            return x, y

    samples = loader(2 * BATCH + 1, seed=1).dataset
    batches: DataLoader[Any] = DataLoader(
        samples, batch_size=BATCH, collate_fn=lambda rows: Closed(*default_collate(rows))
    )
    monitor, model = OverfittingMonitor(), Opens(val_loss=FALLS)
    with pytest.warns(UserWarning, match="does not know how many samples a batch holds"):
        trainer([monitor], tmp_path, max_epochs=1).fit(model, batches, val_loader())
    losses = model.sums[0]
    unweighted = (sum(losses[:8]) / 8 + sum(losses[8:16]) / 8 + losses[16]) / 3
    assert monitor.history[0]["train_loss"] == pytest.approx(unweighted, rel=1e-6)


class GoesWrong(Scripted):
    """The loss of a batch of an epoch is not finite; the weights hear nothing of it."""

    value = NAN
    wrong: tuple[int, ...] = (1,)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        loss = super().training_step(batch, batch_idx)
        assert loss is not None
        return loss * self.value if self.current_epoch in self.wrong and batch_idx == 2 else loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        for parameter in self.parameters():
            if parameter.grad is not None and not parameter.grad.isfinite().all():
                parameter.grad.zero_()


def said(caplog: pytest.LogCaptureFixture, words: str) -> list[str]:
    return [message for message in caplog.messages if words in message]


@pytest.mark.parametrize("value", [NAN, math.inf])
def test_a_training_loss_that_is_not_finite_is_told_once_and_does_not_spread(
    value: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monitor, model = OverfittingMonitor(), GoesWrong(val_loss=RISES)
    model.value = value
    watching = EarlyStopping(monitor="weightwatch/train_loss", patience=99, check_finite=True)
    csv_logger, tensorboard = CSVLogger(tmp_path / "csv"), TensorBoardLogger(tmp_path)
    fit = trainer([watching, monitor], tmp_path, max_epochs=5, logger=[tensorboard, csv_logger])
    with caplog.at_level(logging.INFO):
        fit.fit(model, train_loader(), val_loader())
    report = monitor.report
    assert report is not None
    assert report.epochs == (0, 1, 2, 3, 4), "the fit goes on, and no validation is left out"
    expected = [NAN if epoch == 1 else mean for epoch, mean in enumerate(model.means)]
    if value == math.inf:
        expected[1] = value
    assert report.train_losses == pytest.approx(expected, rel=1e-6, nan_ok=True)
    assert report.severity == "severe"
    assert report.rise == pytest.approx(0.8 / 0.5 - 1)
    assert "train_loss" not in monitor.history[1]
    (told,) = said(caplog, "leaves out")
    assert f"training loss of epoch 2: it is {value}" in told
    (verdict,) = said(caplog, "severe overfitting")
    assert "1 training loss was unknown, NaN or infinite: epoch 2." in verdict

    ours = {k: v for k, v in fit.callback_metrics.items() if k.startswith("weightwatch/")}
    assert all(map(torch.isfinite, ours.values()))
    with (Path(csv_logger.log_dir) / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["weightwatch/val_metric"]]
    losses = [row["weightwatch/train_loss"] for row in rows]
    assert [loss == "" for loss in losses] == [False, True, False, False, False]
    for run, tags in (("", ("train_loss", "val_metric")), ("train", ("loss",)), ("val", ("loss",))):
        events = EventAccumulator(str(Path(tensorboard.log_dir, run)))
        events.Reload()
        for tag in tags:
            values = [event.value for event in events.Scalars(f"weightwatch/{tag}")]
            assert len(values) == (4 if "train" in (run, tag[:5]) else 5)
            assert all(map(math.isfinite, values))


def test_training_losses_that_go_wrong_again_are_told_no_second_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monitor, model = OverfittingMonitor(), GoesWrong(val_loss=RISES)
    model.wrong = (1, 2, 3)
    with caplog.at_level(logging.INFO):
        trainer([monitor], tmp_path, max_epochs=5).fit(model, train_loader(), val_loader())
    assert len(said(caplog, "leaves out")) == 1
    assert monitor.report is not None
    named = [item.name for item in monitor.report.skipped]
    assert named == [f"training loss of epoch {epoch}" for epoch in (1, 2, 3)]
    assert math.isfinite(monitor.report.train_losses[4])


def test_a_validation_of_nan_is_left_out_of_the_verdict_and_of_best_pt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monitor = OverfittingMonitor(save_best=True, restore_best=True)
    model = Scripted(val_loss=[1.0, 0.5, NAN, 0.6, NAN, 0.7])
    with caplog.at_level(logging.INFO):
        fit = trainer([monitor], tmp_path, max_epochs=6)
        fit.fit(model, train_loader(), val_loader())
    report = monitor.report
    assert report is not None
    assert report.epochs == (0, 1, 3, 5)
    assert report.val_values == pytest.approx([1.0, 0.5, 0.6, 0.7])
    kept = [model.means[epoch] for epoch in report.epochs]
    assert report.train_losses == pytest.approx(kept, rel=1e-6)
    assert (report.severity, report.best_epoch) == ("severe", 1)
    assert len(said(caplog, "leaves out")) == 1
    assert len(monitor.history) == 6
    measured = [entry["epoch"] for entry in monitor.history if "val_metric" in entry]
    assert measured == [0, 1, 3, 5]
    ours = [v for k, v in fit.callback_metrics.items() if k.startswith("weightwatch/")]
    assert all(map(torch.isfinite, ours))
    saved = torch.load(tmp_path / "weightwatch" / "best.pt", weights_only=True)
    assert model.holds(1, saved)
    assert model.holds(1, model.state_dict())


def test_a_fit_whose_validations_are_all_nan_has_no_verdict_and_keeps_its_weights(
    tmp_path: Path,
) -> None:
    monitor = OverfittingMonitor(save_best=True, restore_best=True)
    model = Scripted(val_loss=[NAN, math.inf, -math.inf])
    fit = trainer([monitor], tmp_path)
    fit.fit(model, train_loader(), val_loader())
    report = monitor.report
    assert report is not None
    assert (report.val_values, report.best_epoch, report.severity) == ((), None, "unknown")
    assert [item.name for item in report.skipped] == ["epoch 0", "epoch 1", "epoch 2"]
    assert monitor.best_checkpoint is None
    assert not list(tmp_path.rglob("*.pt"))
    assert model.holds(2, model.state_dict())
    assert float(fit.callback_metrics["weightwatch/overfit_alarm"]) == 0
    assert [entry["train_loss"] for entry in monitor.history] == pytest.approx(model.means)


@pytest.mark.parametrize("factor", [1, 4])
def test_small_losses_beside_a_large_one_are_not_lost(factor: int, tmp_path: Path) -> None:
    large, small = 1e8, float(torch.tensor(0.1))

    class Uneven(Scripted):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
            super().training_step(batch, batch_idx)
            still = torch.cat([p.flatten() for p in self.parameters()]).sum() * 0.0
            return still + (small if batch_idx else large)

    monitor = OverfittingMonitor()
    fit = trainer([monitor], tmp_path, max_epochs=1, accumulate_grad_batches=factor)
    batches = loader(40 * BATCH, seed=1)
    fit.fit(Uneven(val_loss=FALLS), batches, val_loader())
    losses = [large] + [small] * 39
    single = torch.zeros((), dtype=torch.float32)
    for loss in losses:
        single += loss
    truth = math.fsum(losses) / 40
    assert float(single) / 40 != pytest.approx(truth, rel=1e-9), "in float32 they would be"
    assert monitor.history[0]["train_loss"] == pytest.approx(truth, rel=1e-12, abs=0)
