"""Lightning's EarlyStopping does in such a run what is said of it."""

import logging
import math
import re
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from torch.utils.data import DataLoader

from lightning_weightwatch.losses.diagnosis import diagnose
from lightning_weightwatch.losses.report import Mode
from lightning_weightwatch.views.diagnosis_recommendations import recommendations
from tests.views.diagnosis_curves import NAN


class Told(LightningModule):
    """Its validation metric is what it is told."""

    def __init__(self, val: list[float]) -> None:
        super().__init__()
        self.val = val
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        loss: torch.Tensor = self.layer(batch).mean()
        return loss

    def validation_step(self, batch: torch.Tensor, index: int) -> None:
        self.log("metric", torch.tensor(self.val[self.current_epoch]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.0)


def epochs_run(val: list[float], stopping: EarlyStopping) -> int:
    """How many validations there were."""
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=len(val),
        callbacks=[stopping],
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data: DataLoader[Any] = DataLoader([torch.zeros(1)])  # type: ignore[arg-type]
    trainer.fit(Told(val), data, data)
    return trainer.current_epoch


def stopping_of(sentence: str, less: int = 0) -> EarlyStopping:
    """The callback that stands in it, with less patience."""
    found = re.match(
        r"`EarlyStopping\(monitor='metric'(, mode='max')?, patience=(\d+)"
        r"(, check_finite=False)?\)`",
        sentence,
    )
    assert found is not None, sentence
    mode = "max" if found[1] else "min"
    return EarlyStopping("metric", 0, int(found[2]) - less, mode=mode, check_finite=not found[3])


RUNS: dict[str, tuple[list[float], Mode]] = {
    "all finite": ([0.9, 0.8, 0.85, 0.86, 0.5, 0.6, 0.7], "min"),
    "a NaN before the best": ([0.9, 0.8, NAN, 0.6, 0.5, 0.6, 0.7], "min"),
    "waiting through several": ([0.9, NAN, 0.95, NAN, math.inf, 0.8, 0.6, 0.7, 0.7], "min"),
    "NaN at first": ([NAN, NAN, NAN, 0.9, 0.8, 0.7, 0.8], "min"),
    "to rise": ([0.1, NAN, -math.inf, 0.05, 0.2, 0.3, 0.2], "max"),
    "NaN after the best": ([0.9, 0.8, 0.7, 0.75, NAN, 0.9], "min"),
    "the least of all after the best": ([0.9, NAN, 0.8, 0.7, 0.75, -math.inf, 0.9], "min"),
}


@pytest.mark.parametrize("run", RUNS)
def test_the_early_stopping_that_is_told_reaches_the_best(
    run: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    val, mode = RUNS[run]
    report = diagnose([0.5] * len(val), val, mode=mode)
    assert report.best_epoch is not None
    sentence = recommendations(report, "metric")[0]
    assert ("check_finite" in sentence) is not all(map(math.isfinite, val[: report.best_epoch]))
    assert epochs_run(val, stopping_of(sentence)) > report.best_epoch
    if stopping_of(sentence).patience > 2:
        assert epochs_run(val, stopping_of(sentence, less=1)) <= report.best_epoch


def test_where_an_infinity_was_the_best_for_early_stopping_it_is_not_recommended() -> None:
    val = [0.9, -math.inf, 0.8, 0.7, 0.6, 0.7]
    assert epochs_run(val, EarlyStopping("metric", patience=3, check_finite=False)) == 5
    found = recommendations(diagnose([0.5] * 6, val), "metric")
    assert not any("EarlyStopping" in sentence for sentence in found)


def test_where_nobody_knows_how_long_it_would_have_waited_it_is_not_recommended() -> None:
    val = [0.9, 0.95, NAN, 0.8, 0.7, 0.6]
    report = diagnose([0.5] * 6, val, epochs=[0, 0, 1, 1, 2, 2])
    assert not any("EarlyStopping" in sentence for sentence in recommendations(report, "metric"))
