"""What a validation logs in each of its batches, which Lightning itself adds up and forgets."""

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_weightwatch.callbacks._lightning import Trainer
from lightning_weightwatch.callbacks.epoch_mean import scalars_on
from lightning_weightwatch.trials.evaluation import Batches

# Values of a batch that tell it from others.
_FIRST = 1024


@contextmanager
def recorded(results: Any) -> Iterator[dict[str, Batches]]:
    """Note the values of the metrics that are means over batches, by their final names.

    Values of torchmetrics objects, sums and maxima are no means, and are not noted. It listens
    where Lightning's collection of results takes a value: a private place, the same from 2.4 on;
    elsewhere nothing is noted.

    Args:
        results: The collection of the validation loop.

    Yields:
        A dictionary that is filled when the block ends.
    """
    values: dict[str, list[Tensor]] = {}
    sizes: dict[str, list[int]] = {}
    update = getattr(results, "update_metrics", None)
    filled: dict[str, Batches] = {}
    if not callable(update):
        yield filled
        return

    def listening(key: str, value: Any, batch_size: int) -> None:
        update(key, value, batch_size)
        item = results[key]
        if item.is_tensor and item.meta.on_epoch and item.meta.is_mean_reduction:
            for name in set(results._forked_name(item, on_step=False)):
                values.setdefault(name, []).append(value.detach().clone())
                sizes.setdefault(name, []).append(batch_size)

    results.update_metrics = listening
    try:
        yield filled
    finally:
        del results.update_metrics
    for name, found in values.items():
        numbers = [float(value if value.numel() == 1 else value.float().mean()) for value in found]
        filled[name] = Batches(np.array(numbers), np.array(sizes[name], dtype=np.float64))


@contextmanager
def fingerprinted(loop: Any) -> Iterator[list[int]]:
    """Note a checksum of every batch that a validation loop gives to its step.

    Of the first values of the first tensor in it; nothing for steps that fetch their own batches.

    Args:
        loop: The loop, whose private `_evaluation_step` is listened to.
    """
    step = getattr(loop, "_evaluation_step", None)
    noted: list[int] = []
    if not callable(step):
        yield noted
        return

    def listening(batch: Any, *arguments: Any) -> Any:
        noted.append(_checksum(batch))
        return step(batch, *arguments)

    loop._evaluation_step = listening
    try:
        yield noted
    finally:
        del loop._evaluation_step


def _checksum(batch: Any) -> int:
    tensor = next(_tensors(batch), None)
    if tensor is None or tensor.numel() == 0 or tensor.layout != torch.strided:
        return 0
    values = tensor.detach().reshape(-1)[:_FIRST].cpu().contiguous().view(torch.uint8)
    return zlib.crc32(values.numpy().tobytes())


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for part in batch.values():
            yield from _tensors(part)
    elif isinstance(batch, list | tuple):
        for part in batch:
            yield from _tensors(part)


def over_all_ranks(trainer: Trainer, means: dict[str, Batches]) -> dict[str, Batches]:
    """The batches of all ranks behind each other; none where the ranks noted different metrics.

    A collective: every rank calls it.
    """
    if trainer.world_size == 1:
        return means
    strategy = trainer.strategy
    names = strategy.broadcast(sorted(means))
    if not strategy.reduce_boolean_decision(names == sorted(means), all=True):
        return {}
    joined = {}
    for name in names:
        mine, own = means[name], trainer.global_rank
        lengths = np.zeros(trainer.world_size)
        lengths[own] = len(mine.values)
        lengths = _summed(trainer, lengths)
        # A slot for each rank, and zeros in those of the others: an all_gather by its sum.
        slots = np.zeros((trainer.world_size, 2, int(lengths.max())))
        slots[own, :, : len(mine.values)] = mine.values, mine.sizes
        values, sizes = _summed(trainer, slots).transpose(1, 0, 2).reshape(2, -1)
        filled = (np.arange(slots.shape[2]) < lengths[:, None]).reshape(-1)
        joined[name] = Batches(values[filled], sizes[filled])
    return joined


def _summed(trainer: Trainer, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over all ranks."""
    local = scalars_on(trainer, numbers.reshape(-1).tolist())
    total = torch.as_tensor(trainer.strategy.reduce(local, reduce_op="sum"))
    return total.double().cpu().numpy().reshape(numbers.shape)
