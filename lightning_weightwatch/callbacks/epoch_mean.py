"""The mean training loss of an epoch, over all its samples and all ranks."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_weightwatch.callbacks._lightning import Trainer


class EpochMean:
    """Sums the losses of the batches of one epoch on their device, without waiting for it."""

    def __init__(self) -> None:
        self._epoch = -1
        self._sum: Tensor | float = 0.0
        self._samples = 0

    def add(self, epoch: int, loss: Tensor, samples: int) -> None:
        """Count a batch; the first of another epoch begins anew.

        Args:
            epoch: Number of the epoch.
            loss: Mean loss of the batch, of any shape.
            samples: Its batch size, as a weight.
        """
        if epoch != self._epoch:
            self._epoch, self._sum, self._samples = epoch, 0.0, 0
        dtype = torch.float32 if loss.device.type == "mps" else torch.float64
        self._sum = self._sum + loss.detach().to(dtype).mean() * samples
        self._samples += samples

    def value(self, trainer: Trainer) -> float:
        """The mean over the current epoch so far; NaN when no batch had a loss. A collective."""
        mine = self._epoch == trainer.current_epoch
        sums = scalars_on(trainer, [float(self._sum) if mine else 0.0, self._samples * mine])
        total, samples = trainer.strategy.reduce(sums, reduce_op="sum").tolist()
        return total / samples if samples else math.nan

    def state(self) -> list[float]:
        """For a checkpoint in the middle of an epoch."""
        return [self._epoch, float(self._sum), self._samples]

    def restore(self, state: Iterable[float]) -> None:
        """Carry on with the epoch of a checkpoint."""
        epoch, self._sum, samples = state
        self._epoch, self._samples = int(epoch), int(samples)


def scalars_on(trainer: Trainer, values: Iterable[float]) -> Tensor:
    """Numbers as a tensor on the device whose ranks talk to each other."""
    device = trainer.strategy.root_device
    dtype = torch.float32 if device.type == "mps" else torch.float64
    return torch.tensor(list(values), dtype=dtype, device=device)


def batch_size(batch: Any) -> int:
    """The first dimension of the first tensor that has one, in a batch of any nesting; else 1."""
    size = _first_dimension(batch)
    return 1 if size is None else size


def _first_dimension(part: Any) -> int | None:
    if isinstance(part, Tensor):
        return part.shape[0] if part.ndim else None
    if is_dataclass(part) and not isinstance(part, type):
        part = [getattr(part, field.name) for field in fields(part)]
    if isinstance(part, Mapping):
        part = list(part.values())
    if isinstance(part, list | tuple):
        return next((size for size in map(_first_dimension, part) if size is not None), None)
    return None
