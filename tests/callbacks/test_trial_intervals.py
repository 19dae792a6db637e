"""Differences have an interval where the metric is logged batch by batch, and only there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics
from scipy import stats
from torch import Tensor, nn

from lightning_weightwatch import PruningTrial, QuantizationTrial
from lightning_weightwatch.callbacks.validation import evaluate_isolated
from lightning_weightwatch.trials.report import TrialReport
from tests.callbacks.fits import ConvNet, Perceptron, loader, train_loader, trainer

SAMPLES = 76  # nine batches of 8 and one of 4


class Logging(Perceptron):
    """Logs in all the ways there are."""

    def __init__(self) -> None:
        super().__init__()
        self.accuracy = torchmetrics.classification.MulticlassAccuracy(4, average="micro")

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        loss = self.loss(batch)
        self.log("val_loss", loss)
        self.log("forked", loss, on_step=True, on_epoch=True)
        self.log("weighted", loss, batch_size=1)
        self.log("largest", loss, reduce_fx="max")
        self.log("total", loss, reduce_fx="sum")
        self.log("hits", (self(batch[0]).argmax(1) == batch[1]).sum())
        self.accuracy(self(batch[0]), batch[1])
        self.log("val_acc", self.accuracy)

    def on_validation_batch_end(self, *_: Any) -> None:
        self.log("late", torch.tensor(1.0))

    def on_validation_epoch_end(self) -> None:
        self.log("val_norm", torch.stack([p.norm() for p in self.parameters()]).norm())


def tried(trial: Any, root: Path, model: Any = None, **options: Any) -> TrialReport:
    torch.manual_seed(0)
    fit = trainer([trial], root, **options)
    fit.fit(model or Logging(), train_loader(), loader(SAMPLES, seed=2))
    assert isinstance(trial.report, TrialReport)
    return trial.report


@pytest.mark.filterwarnings("ignore:You called `self.log.'hits', ...:UserWarning")
def test_metrics_that_are_means_over_batches_are_known_batch_by_batch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    found: list[Any] = []

    class Looking(QuantizationTrial):
        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            found.append(evaluate_isolated(trainer))

    model = Logging()
    data = loader(SAMPLES, seed=2)
    trainer([Looking()], tmp_path).fit(model, train_loader(), data)
    (evaluation,) = found
    assert set(evaluation.batches) == {
        "val_loss", "forked", "forked_epoch", "weighted", "hits", "late",
        "val_norm",
    }  # fmt: skip
    with torch.no_grad():
        losses = [float(nn.functional.cross_entropy(model(x), y)) for x, y in data]
    sizes = [8.0] * 9 + [4.0]
    for name in ("val_loss", "forked", "forked_epoch"):
        assert evaluation.batches[name].values == pytest.approx(losses, rel=1e-5)
        assert evaluation.batches[name].sizes.tolist() == sizes
        mean = np.average(losses, weights=sizes)
        assert evaluation.metrics[name] == pytest.approx(mean, rel=1e-5)
    assert evaluation.batches["weighted"].sizes.tolist() == [1.0] * 10
    assert len(evaluation.batches["val_norm"].values) == 1


@pytest.mark.filterwarnings("ignore:You called `self.log.'hits', ...:UserWarning")
def test_the_middle_of_the_interval_is_the_difference(tmp_path: Path) -> None:
    trial = PruningTrial(amounts=(0.5, 0.9), verbose=False)
    report = tried(trial, tmp_path)
    for row in report.rows[1:]:
        assert row.interval is not None
        middle = sum(row.interval) / 2
        assert middle == pytest.approx(report.delta(row), rel=1e-4, abs=1e-6)
    assert report.rows[0].interval is None
    assert report.no_interval == ""


def test_the_interval_is_students_for_batches_of_one_size(tmp_path: Path) -> None:
    trial = PruningTrial(amounts=(0.7,), verbose=False)
    model = Perceptron()
    torch.manual_seed(0)
    data = loader(64, seed=2)
    trainer([trial], tmp_path).fit(model, train_loader(), data)
    report = trial.report
    assert isinstance(report, TrialReport)
    pruned = Perceptron()
    pruned.load_state_dict(model.state_dict())
    every = torch.cat([p.detach().abs().flatten() for p in pruned.parameters() if p.ndim > 1])
    threshold = every.kthvalue(round(0.7 * every.numel())).values
    with torch.no_grad():
        for p in pruned.parameters():
            if p.ndim > 1:
                p[p.abs() <= threshold] = 0
        first, second = (
            [float(nn.functional.cross_entropy(net(x), y)) for x, y in data]
            for net in (model, pruned)
        )
    expected = stats.ttest_rel(second, first).confidence_interval(0.95)
    assert report.rows[1].interval == pytest.approx((expected.low, expected.high), rel=1e-3)


@pytest.mark.filterwarnings("ignore:You called `self.log.'hits', ...:UserWarning")
@pytest.mark.parametrize(
    ("monitor", "reason"),
    [
        ("val_acc", "the values of val_acc are not known batch by batch"),
        ("largest", "the values of largest are not known batch by batch"),
        ("total", "the values of total are not known batch by batch"),
        ("val_norm", "val_norm has 1 batch, and an interval needs 5"),
    ],
)
def test_where_there_is_no_interval_the_reason_is_said(
    monitor: str, reason: str, tmp_path: Path
) -> None:
    report = tried(PruningTrial(amounts=(0.5,), monitor=monitor, verbose=False), tmp_path)
    assert report.rows[1].interval is None
    assert report.no_interval == reason


def test_too_few_batches_have_none(tmp_path: Path) -> None:
    trial = PruningTrial(amounts=(0.5,), limit_batches=4, verbose=False)
    report = tried(trial, tmp_path, Perceptron())
    assert report.rows[1].interval is None
    assert report.no_interval == "val_loss has 4 batches, and an interval needs 5"


@pytest.mark.filterwarnings("ignore:Your `val_dataloader`.s sampler has shuffling:UserWarning")
@pytest.mark.parametrize("shuffle", [False, True])
def test_baseline_and_trials_see_the_same_batches(shuffle: bool, tmp_path: Path) -> None:
    """In the same order too, whatever the loader shuffles: else no difference is paired."""
    seen: list[list[float]] = [[]]

    class Looking(ConvNet):
        def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
            super().validation_step(batch, batch_idx)
            seen[-1].append(float(batch[0].double().sum()))

        def on_validation_epoch_end(self) -> None:
            seen.append([])

    trial = QuantizationTrial(bits=(8, 4), verbose=False)
    torch.manual_seed(0)
    fit = trainer([trial], tmp_path, max_epochs=1, num_sanity_val_steps=0)
    fit.fit(Looking(), train_loader(), loader(SAMPLES, seed=2, shuffle=shuffle))
    own, baseline, first, second, rest = seen
    assert baseline == first == second
    assert rest == []
    assert len(baseline) == 10
    assert (own == baseline) is not shuffle


@pytest.mark.parametrize(("limit", "expected"), [(3, 3), (100, 10), (0.5, 5), (0.01, 1), (1.0, 10)])
def test_fewer_batches_where_that_is_asked_for(limit: float, expected: int, tmp_path: Path) -> None:
    count: list[int] = []

    class Counting(Perceptron):
        def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
            super().validation_step(batch, batch_idx)
            count.append(batch_idx)

    trial = QuantizationTrial(bits=(8,), limit_batches=limit, verbose=False)
    tried(trial, tmp_path, Counting(), max_epochs=1, num_sanity_val_steps=0)
    assert count == [*range(10), *range(expected), *range(expected)]
