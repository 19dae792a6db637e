"""Which metric the other callbacks of a Trainer go by, when ours is not told one."""

from collections.abc import Collection
from typing import Any, Literal

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
    chosen = next((wish for wish in _wishes(trainer, monitor) if wish in available), None)
    return chosen, mode or _modes(trainer).get(chosen or monitor or "", "min")


class FollowedMetric:
    """The one validation metric that a fit follows: the first of the wishes that is there.

    It is settled by the first validation and then kept: values of two metrics make no curve. The
    sanity check settles it only for what is wished most, since modules log less in it.

    Args:
        monitor: Its name; None: that of ModelCheckpoint or EarlyStopping, else `val_loss`.
        mode: Its mode; None: theirs.
    """

    def __init__(self, monitor: str | None, mode: Mode | None) -> None:
        self._asked = monitor, mode
        self.name: str | None = None
        self.mode: Mode = mode or "min"
        #: What a resumed fit had followed, if that was another metric or went in another direction.
        self.before: tuple[str, Mode] | None = None
        self._settled = False
        #: Whether the validation logs no more.
        self.complete = False
        self._old: dict[str, Tensor] = {}

    def begin(self, trainer: Trainer) -> None:
        """A validation begins."""
        self._old, self.complete = dict(trainer.callback_metrics), False

    def all_is_logged(self) -> None:
        """The validation logs no more: what was hoped for and is missing will not come."""
        self.complete = True

    def logged(self, trainer: Trainer) -> dict[str, Tensor]:
        """What the validation has logged by now, without keys of ours.

        `callback_metrics` keeps what earlier ones have logged.
        """
        ours = own_keys(trainer)
        return {
            name: value
            for name, value in trainer.callback_metrics.items()
            if value is not self._old.get(name) and name not in ours
        }

    def is_there(self, trainer: Trainer) -> bool:
        """Whether this validation has logged it."""
        logged = self.logged(trainer)
        if not self._settled:
            monitor, mode = self._asked
            # What was there before a first validation is no metric of validations.
            first = next((w for w in _wishes(trainer, monitor) if w not in self._old), None)
            if first is not None and first not in logged:
                as_before = (self.name, self.mode) == (first, mode or _modes(trainer).get(first))
                if as_before or not self.complete:
                    return False
            name, mode = choose_monitor(trainer, monitor, mode, logged)
            if name is None:
                return False
            if self.name is not None and (self.name, self.mode) != (name, mode):
                self.before = self.name, self.mode
            self.name, self.mode, self._settled = name, mode, True
        return self.name in logged

    def missed(self, trainer: Trainer) -> str | None:
        """A metric that was wished more, and that came when another was followed already."""
        wish = _wishes(trainer, self._asked[0])[0]
        late = self._settled and wish != self.name and wish in self.logged(trainer)
        return wish if late else None

    def may_be_there(self, trainer: Trainer) -> bool:
        """Whether this validation has logged it, or what may turn out to be it."""
        monitor, mode = self._asked
        wished = choose_monitor(trainer, monitor, mode, self.logged(trainer))[0]
        hoped = wished is not None and not (self._settled or self.complete)
        return self.is_there(trainer) or hoped

    def state(self) -> list[str | None]:
        """For a checkpoint."""
        return [self.name, self.mode]

    def restore(self, state: list[Any]) -> None:
        """What the fit before this one has followed."""
        self.name, self.mode = state


def _modes(trainer: Trainer) -> dict[str, Mode]:
    """What ModelCheckpoint and EarlyStopping monitor, with their modes."""
    ours = own_keys(trainer)
    return {
        watcher.monitor: watcher.mode
        for watcher in watchers(trainer)
        if watcher.monitor not in ours and getattr(watcher, "mode", None) in ("min", "max")
    }


def _wishes(trainer: Trainer, monitor: str | None) -> list[str]:
    return [monitor] if monitor is not None else [*_modes(trainer), "val_loss"]
