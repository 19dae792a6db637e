"""The learning rates in force."""

from collections import Counter
from typing import Any

from torch import Tensor

from lightning_weightwatch.callbacks._lightning import Trainer


class LearningRates:
    """Those of the last batch: by its validation a scheduler may have moved on to the next epoch.

    The largest of each optimizer, named as LearningRateMonitor names optimizers: `lr-SGD`, and
    `lr-SGD-1` for a second one of that class.
    """

    def __init__(self) -> None:
        self._of_batch: dict[str, list[Any]] = {}

    def note(self, trainer: Trainer) -> None:
        """Take those of a batch that begins, without waiting for its device."""
        self._of_batch = _now(trainer)

    def values(self, trainer: Trainer) -> dict[str, float]:
        """As numbers; before any batch those that are set now."""
        rates = self._of_batch or _now(trainer)
        return {name: max(map(float, known)) for name, known in rates.items()}


def _now(trainer: Trainer) -> dict[str, list[Any]]:
    seen: Counter[str] = Counter()
    rates = {}
    for optimizer in trainer.optimizers:
        known = [group["lr"] for group in optimizer.param_groups if "lr" in group]
        kind = type(optimizer).__name__
        if known:
            name = f"lr-{kind}-{seen[kind]}" if seen[kind] else f"lr-{kind}"
            rates[name] = [r.detach().clone() if isinstance(r, Tensor) else r for r in known]
        seen[kind] += 1
    return rates
