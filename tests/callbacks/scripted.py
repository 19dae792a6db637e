"""A model whose validation metrics are written down, and that keeps its own account of the rest."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.callbacks.fits import Perceptron


class Scripted(Perceptron):
    """Logs the n-th value of each list in the n-th validation, and notes losses and weights.

    Attributes:
        sums: The loss of each sample that was trained on, by epoch.
        places: The epoch of each validation.
        means: The mean over the samples of the epoch so far at each validation.
        weights: The weights at each validation.
        rates: The learning rate of the first optimizer in the last step before each validation.
    """

    def __init__(self, **metrics: list[float]) -> None:
        torch.manual_seed(3)
        super().__init__()
        self.metrics = metrics
        self.sums: dict[int, list[float]] = {}
        self.places: list[int] = []
        self.means: list[float] = []
        self.weights: list[dict[str, Tensor]] = []
        self.rates: list[float] = []
        self._rate = float("nan")

    def parts(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Features and labels of a batch."""
        return batch[0], batch[1]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        x, y = self.parts(batch)
        each = nn.functional.cross_entropy(self(x), y, reduction="none")
        self.sums.setdefault(self.current_epoch, []).extend(each.detach().double().tolist())
        return each.mean()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self._rate = float(optimizer.param_groups[0]["lr"])

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        for name, values in self.metrics.items():
            self.log(name, values[len(self.weights)], batch_size=1)

    def on_validation_end(self) -> None:
        if self.trainer.sanity_checking:
            return
        seen = self.sums[self.current_epoch]
        self.places.append(self.current_epoch)
        self.means.append(sum(seen) / len(seen))
        self.rates.append(self._rate)
        self.weights.append({name: value.clone() for name, value in self.state_dict().items()})

    def holds(self, index: int, saved: dict[str, Any]) -> bool:
        """Whether these are the weights of the validation of that number."""
        mine = self.weights[index]
        return mine.keys() == saved.keys() and all(torch.equal(mine[k], saved[k]) for k in mine)
