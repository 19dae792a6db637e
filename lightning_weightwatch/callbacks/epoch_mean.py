"""The mean training loss of an epoch, over all its samples and all ranks."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from lightning_weightwatch.callbacks._lightning import Trainer


class EpochMean:
    """Sums the losses of the batches of one epoch on their device, without waiting for it."""

    def __init__(self) -> None:
        self._epoch = -1
        self._sum: Tensor | float = 0.0
        self._samples = 0

    def add(self, epoch: int, loss: Tensor, samples: int, factor: float = 1) -> None:
        """Count a batch; the first of another epoch begins anew.

        Args:
            epoch: Number of the epoch.
            loss: Mean loss of the batch, of any shape.
            samples: Its batch size, as a weight.
            factor: What the loss was divided by.
        """
        if epoch != self._epoch:
            self._epoch, self._sum, self._samples = epoch, 0.0, 0
        dtype = torch.float32 if loss.device.type == "mps" else torch.float64
        mean = loss.detach().to(dtype)
        self._sum = self._sum + (mean.mean() if mean.ndim else mean) * (samples * factor)
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


def loader_batch_size(trainer: Trainer) -> int | None:
    """How many samples the training loaders put in a batch, the largest of them; None if unknown.

    A DataLoader with a `batch_sampler` of its own says no size, and neither does any other loader.
    """
    try:
        loaders = trainer.fit_loop._combined_loader.flattened  # type: ignore[union-attr]
        return max(int(loader.batch_size) for loader in loaders)
    except Exception:
        return None
