"""Which metric the other callbacks of a Trainer go by, when ours is not told one."""

from collections.abc import Collection
from typing import Literal

from torch import Tensor

from lightning_weightwatch.callbacks._lightning import Trainer
from lightning_weightwatch.callbacks.keys import own_keys, watchers

#: Callbacks after which the weights are not those that the metric was of.
AVERAGING = ("WeightAveraging", "StochasticWeightAveraging")

Mode = Literal["min", "max"]


def checked_monitor(monitor: str | None, mode: Mode | None) -> None:
    """Refuse what cannot be a metric or a mode.

    Raises:
        ValueError: For an empty name or another mode.
    """
    if monitor is not None and (not isinstance(monitor, str) or not monitor):
        raise ValueError(
            f"monitor must be the name of a metric, such as 'val_loss', got {monitor!r}"
        )
    if mode not in (None, "min", "max"):
        raise ValueError(
            f"mode must be 'min' (the metric is to fall) or 'max' (to rise), got {mode!r}"
        )


def choose_monitor(
    trainer: Trainer, monitor: str | None, mode: Mode | None, available: Collection[str]
) -> tuple[str | None, Mode]:
    """The metric and its mode: as given, else those of ModelCheckpoint or EarlyStopping.

    Where those monitor nothing that is available, `val_loss`. The mode of a metric is that of
    the callback that monitors it, else `"min"`.

    Returns:
        The metric, None when none of the available ones is meant; and its mode.
    """
    ours = own_keys(trainer)
    modes: dict[str, Mode] = {
        watcher.monitor: watcher.mode
        for watcher in watchers(trainer)
        if watcher.monitor not in ours and getattr(watcher, "mode", None) in ("min", "max")
    }
    wishes = [monitor] if monitor is not None else [*modes, "val_loss"]
    chosen = next((wish for wish in wishes if wish in available), None)
    return chosen, mode or modes.get(chosen or monitor or "", "min")


class FreshMetrics:
    """What a validation has logged, told from what `callback_metrics` keeps of the last one."""

    def __init__(self) -> None:
        self._old: dict[str, Tensor] = {}

    def begin(self, trainer: Trainer) -> None:
        """A validation begins."""
        self._old = dict(trainer.callback_metrics)

    def so_far(self, trainer: Trainer) -> dict[str, Tensor]:
        """What it has logged by now, without keys of ours."""
        ours = own_keys(trainer)
        return {
            name: value
            for name, value in trainer.callback_metrics.items()
            if value is not self._old.get(name) and name not in ours
        }
