"""Real fits that log, and what was true while they ran."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from torch import Tensor

from lightning_weightwatch.files.bad_file import BadFile
from lightning_weightwatch.files.curves import Curves, read_curves
from tests.callbacks.fits import Perceptron, train_loader, trainer, val_loader

STEPS = 6  # batches in an epoch


class Logging(Perceptron):
    """Logs its training loss per step, as the mean of the epoch, or both; a rate that falls."""

    def __init__(self, on_step: bool, on_epoch: bool) -> None:
        super().__init__()
        self.on_step, self.on_epoch = on_step, on_epoch

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("train_loss", loss, on_step=self.on_step, on_epoch=self.on_epoch)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.08)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.95**step)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


@dataclass
class Validation:
    """What was true when a validation ended."""

    epoch: int
    value: float
    rate: float
    losses: list[float]


@dataclass
class Truth(Callback):
    """Follows a fit and asks no logger."""

    validations: list[Validation] = field(default_factory=list)
    losses: list[tuple[int, float]] = field(default_factory=list)
    rate: float = 0.0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.rate = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.losses.append((trainer.current_epoch, float(outputs["loss"])))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        epoch = trainer.current_epoch
        so_far = [loss for of, loss in self.losses if of == epoch]
        metric = trainer.callback_metrics["val_loss"]
        self.validations.append(Validation(epoch, float(metric), self.rate, so_far))

    def values(self) -> tuple[float, ...]:
        return tuple(validation.value for validation in self.validations)

    def epochs(self) -> tuple[int, ...]:
        return tuple(validation.epoch for validation in self.validations)

    def rates(self) -> Any:
        """Event files hold 32-bit floats."""
        return pytest.approx([validation.rate for validation in self.validations], rel=1e-6)

    def epoch_means(self) -> Any:
        """Of all batches of the epoch of each validation."""
        means = [fmean(loss for of, loss in self.losses if of == epoch) for epoch in self.epochs()]
        return pytest.approx(means, rel=1e-6)

    def means_so_far(self) -> Any:
        """Of the batches before each validation in its epoch."""
        return pytest.approx([fmean(v.losses) for v in self.validations], rel=1e-6)


def csv_logger(folder: Path) -> Logger:
    return CSVLogger(folder, name="", version=0)


def tensorboard_logger(folder: Path) -> Logger:
    return TensorBoardLogger(folder, name="", version=0)


LOGGERS = pytest.mark.parametrize(
    "logger", [csv_logger, tensorboard_logger], ids=["metrics.csv", "events"]
)
MakeLogger = Callable[[Path], Logger]


def fitted(
    folder: Path,
    module: LightningModule,
    logger: Logger,
    *callbacks: Callback,
    loaders: Any = None,
    checkpoint: Path | None = None,
    **options: Any,
) -> tuple[Truth, Trainer]:
    """A fit that logs every step, and what was true in it."""
    truth = Truth()
    watching = [truth, LearningRateMonitor("step"), *callbacks]
    fit = trainer(
        watching, folder, **{"logger": logger, "log_every_n_steps": 1, "max_epochs": 4, **options}
    )
    fit.fit(module, train_loader(), loaders or val_loader(), ckpt_path=checkpoint)
    return truth, fit


def told_about(path: Path | str, **asked: str) -> str:
    """The message of a log that cannot be read: one printable line, a reason and advice."""
    with pytest.raises(BadFile) as raised:
        read_curves(path, **asked)
    message = str(raised.value)
    assert message.isprintable()
    reason, _, advice = message.replace(str(path), "").partition(". ")
    assert reason
    assert advice.endswith(".")
    return message


def curves_of(folder: Path, text: str | bytes, **asked: str) -> Curves:
    """What is read from a table."""
    file = folder / "table.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_curves(file, **asked)
