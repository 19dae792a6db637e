"""Small real fits, and witnesses of what EarlyStopping and ModelCheckpoint see in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning_utilities.core.imports import RequirementCache
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

FEATURES, CLASSES = 12, 4
#: 2.4 trains on other batches after a resume within an epoch, and writes live weights in the
#: background. 2.6 does neither.
NEWER_LIGHTNING = pytest.mark.skipif(
    not RequirementCache("lightning>=2.6"), reason="a fault of older Lightning"
)
TRAIN, VALIDATION, BATCH = 48, 32, 8


class Perceptron(LightningModule):
    """40 eigenvalues in ``net.2``, so that the spectral summary has a layer."""

    def __init__(self, learning_rate: float = 0.05) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(FEATURES, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, CLASSES)
        )
        self.learning_rate = learning_rate

    @property
    def large(self) -> nn.Linear:
        """The layer with enough eigenvalues to count."""
        layer = self.net[2]
        assert isinstance(layer, nn.Linear)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits

    def loss(self, batch: list[Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor | None:
        loss = self.loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate, momentum=0.9)


class ConvNet(Perceptron):
    """Batch normalisation, dropout and a 4-D weight."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Unflatten(1, (1, 3, 4)),
            nn.Conv2d(1, 36, 3, padding=1),
            nn.BatchNorm2d(36),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Conv2d(36, 36, 3, padding=1),
            nn.BatchNorm2d(36),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(36 * 12, CLASSES),
        )


class ManualPerceptron(Perceptron):
    """Manual optimisation with two optimizers; ``raw`` steps them behind Lightning's back."""

    def __init__(self, raw: bool = False) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.raw = raw

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        first, second = self.optimizers(use_pl_optimizer=not self.raw)  # type: ignore[misc, attr-defined]
        loss = self.loss(batch)
        first.zero_grad()
        second.zero_grad()
        self.manual_backward(loss)
        first.step()
        second.step()
        self.log("train_loss", loss)
        return loss.detach()

    def configure_optimizers(self) -> Any:
        return (
            torch.optim.SGD(self.net[0].parameters(), lr=0.05),
            torch.optim.SGD(self.net[2:].parameters(), lr=0.05),
        )


def loader(samples: int, seed: int, shuffle: bool = False) -> DataLoader[tuple[Tensor, ...]]:
    """Random features; labels that can be learnt from them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, FEATURES, generator=generator)
    y = x[:, :CLASSES].argmax(1)
    return DataLoader(TensorDataset(x, y), batch_size=BATCH, shuffle=shuffle)


def train_loader() -> DataLoader[tuple[Tensor, ...]]:
    return loader(TRAIN, seed=1, shuffle=True)


def val_loader() -> DataLoader[tuple[Tensor, ...]]:
    return loader(VALIDATION, seed=2)


def trainer(callbacks: list[Callback], root: Any, **options: Any) -> Trainer:
    """A quiet Trainer on the CPU."""
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": False,
        "enable_checkpointing": any(isinstance(c, ModelCheckpoint) for c in callbacks),
        "max_epochs": 3,
        "num_sanity_val_steps": 1,
    }
    if options.get("barebones"):
        quiet = {"accelerator": "cpu", "max_epochs": 3}
    return Trainer(default_root_dir=root, callbacks=callbacks, **{**quiet, **options})


def weight_norm(module: nn.Module) -> float:
    """The norm of all parameters, by numpy in float64: the truth that a key is held against."""
    squares = [np.square(p.detach().double().numpy()).sum() for p in module.parameters()]
    return float(np.sqrt(np.sum(squares)))


class WitnessStopper(EarlyStopping):
    """Notes the monitored value and the truth each time that EarlyStopping looks."""

    def __init__(
        self, monitor: str, truth: Callable[[LightningModule], float] = weight_norm, **options: Any
    ) -> None:
        super().__init__(monitor=monitor, **{"patience": 10**6, **options})
        self.truth = truth
        self.seen: list[tuple[float, float]] = []

    def _run_early_stopping_check(self, trainer: Trainer) -> None:
        super()._run_early_stopping_check(trainer)
        value = float(trainer.callback_metrics[self.monitor])
        self.seen.append((value, self.truth(trainer.lightning_module)))


class WitnessCheckpoint(ModelCheckpoint):
    """Notes the monitored value and the truth each time that ModelCheckpoint ranks a file."""

    def __init__(
        self, monitor: str, truth: Callable[[LightningModule], float] = weight_norm, **options: Any
    ) -> None:
        super().__init__(monitor=monitor, save_top_k=-1, **options)
        self.truth = truth
        self.seen: list[tuple[float, float]] = []

    def _save_topk_checkpoint(
        self, trainer: Trainer, monitor_candidates: dict[str, Tensor]
    ) -> None:
        super()._save_topk_checkpoint(trainer, monitor_candidates)
        value = float(monitor_candidates[str(self.monitor)])
        self.seen.append((value, self.truth(trainer.lightning_module)))


def bits(module: nn.Module) -> dict[str, bytes]:
    """Every byte of the parameters and buffers."""
    return {
        name: value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()
        for name, value in module.state_dict().items()
    }
