"""What a validation logs in each of its batches, which Lightning itself adds up and forgets."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_weightwatch.callbacks._lightning import Trainer
from lightning_weightwatch.callbacks.epoch_mean import scalars_on
from lightning_weightwatch.trials.evaluation import Batches


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
        mine = means[name]
        counts = scalars_on(trainer, [len(mine.values)])
        longest = int(torch.as_tensor(strategy.all_gather(counts)).max())
        padding = [0.0] * (longest - len(mine.values))
        rows = scalars_on(trainer, [*mine.values, *padding, *mine.sizes, *padding])
        gathered = torch.as_tensor(strategy.all_gather(rows)).reshape(-1, 2, longest).cpu()
        values, sizes = gathered.double().numpy().transpose(1, 0, 2).reshape(2, -1)
        joined[name] = Batches(values[sizes > 0], sizes[sizes > 0])
    return joined
