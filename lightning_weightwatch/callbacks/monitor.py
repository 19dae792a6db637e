"""EpochMonitor: measures once per state of the weights, in time for whoever monitors it."""

import math
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch

from lightning_weightwatch.callbacks._lightning import (
    LightningModule,
    Trainer,
    TrainerFn,
    rank_zero_info,
)
from lightning_weightwatch.callbacks.cost import EpochCost
from lightning_weightwatch.callbacks.keys import KeyedCallback
from lightning_weightwatch.callbacks.looks import share_done
from lightning_weightwatch.callbacks.publish import logging_step, set_monitored
from lightning_weightwatch.callbacks.schedule import MOST_FIGURES, MOST_HISTOGRAMS, Schedule
from lightning_weightwatch.report import Report, Skipped

_CHECKPOINT_KEY = "lightning_weightwatch"
_NAMES_PER_REASON = 10


class EpochMonitor(KeyedCallback):
    """A callback that turns the model, or its losses, into a report at the end of an epoch.

    The values are in `trainer.callback_metrics` before EarlyStopping and ModelCheckpoint look,
    whatever the order of the callbacks and wherever those look: after validation, or at the end
    of the training epoch. Between measurements the last values are repeated there.

    A fault in a measurement is one warning, never an exception. The state goes into checkpoints,
    and a resumed run carries on with it.

    Args:
        every_n_epochs: Measure in the first epoch and then in every n-th, counted as Lightning
            does: with 2 in the epochs 0, 1, 3, 5, ...
        at_start: Measure also before the first training step.
        prefix: The first part of every key and tag.

    Attributes:
        report: The last report; None before the first.
        history: A dictionary per measurement: `epoch` (0-based), `step` (the x of the
            logger) and the values of the keys without their prefix. `epoch` is −1 for the one
            before training.
    """

    #: Whether the weights alone are measured: then before a validation, and once before training
    #: if somebody monitors a key, which a first epoch of NaN would leave without a value.
    OF_WEIGHTS: ClassVar[bool] = True
    #: What makes it cheaper, beside measuring less often.
    CHEAPER: ClassVar[str] = "choose fewer layers"
    #: The last word of the key under which the seconds of each call are logged.
    AREA: ClassVar[str]

    def __init__(
        self, *, every_n_epochs: int = 1, at_start: bool = False, prefix: str = "weightwatch"
    ) -> None:
        super().__init__(prefix=prefix)
        if isinstance(every_n_epochs, bool) or not isinstance(every_n_epochs, int):
            raise ValueError(f"every_n_epochs must be an integer, got {every_n_epochs!r}")
        if every_n_epochs < 1:
            raise ValueError(
                f"every_n_epochs must be 1 or more, got {every_n_epochs}; to measure nothing, "
                f"leave {type(self).__name__} out of the callbacks"
            )
        self.every_n_epochs = every_n_epochs
        self.at_start = at_start
        self._reset()

    def _reset(self) -> None:
        """Forget the last run."""
        self.report: Report | None = None
        self.history: list[dict[str, float]] = []
        self._values: dict[str, float] = {}
        self._measured_at: int | None = None
        self._named: set[str] = set()
        self._warned = set()
        self._order: dict[str, int] = {}
        self._cost = EpochCost()
        self._histograms, self._figures = Schedule(MOST_HISTOGRAMS), Schedule(MOST_FIGURES)
        #: Seconds that were spent on the next measurement before it began.
        self.seconds_before = 0.0

    @abstractmethod
    def measure(self, trainer: Trainer, pl_module: LightningModule) -> Report:
        """Measure now. Runs on every rank, without gradients; may raise."""

    def scalars(self, report: Report) -> Mapping[str, float]:
        """The values of the keys, by their names without prefix."""
        return report.summary()

    def position(self, name: str) -> int:
        """The number of a layer in its tags, which it keeps when another drops out."""
        return self._order.setdefault(name, len(self._order))

    def remember(self, report: Report, epoch: int) -> None:
        """Keep what later figures need of a report; −1 is the epoch before training."""

    def charts(self, report: Report) -> Mapping[str, float]:
        """Numbers to log that are no keys, by their full tags: those of layers."""
        return {}

    def beside(self, report: Report) -> Mapping[str, Mapping[str, float]]:
        """Numbers for runs of TensorBoard below that of the logger: names by run."""
        return {}

    def publish_histograms(self, trainer: Trainer, report: Report, step: int) -> None:
        """Write histograms, at most 51 times in a fit."""

    def publish_figures(self, trainer: Trainer, report: Report, step: int) -> None:
        """Write figures and tables, at most 10 times in a fit."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start anew, unless the same Trainer goes on with a fit."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and trainer.global_step == 0:
            self._reset()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure before training, on request; or when a first epoch may go wrong.

        A run whose weights turn NaN in the first epoch has no value for a monitored key, which
        would end it: it then keeps the value from before training.
        """
        first = self._measured_at is None and not self.history
        if first and self.at_start and trainer.global_step == 0:
            self._measure_and_publish(trainer, pl_module, epoch=-1)
        elif first and self.OF_WEIGHTS and self.watched(trainer):
            _, self._values = self._measured(trainer, pl_module)
        self._repeat(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock that our own seconds are compared with."""
        self._cost.begin()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure what a validation does not change, before WeightAveraging exchanges it."""
        if self.OF_WEIGHTS:
            self._observe(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure, if this epoch is due, before anyone monitors after validation."""
        self._observe(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure, if this state of the weights has not been."""
        self._observe(trainer, pl_module)
        self._warn_if_costly()

    def _observe(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        if self._due(trainer):
            self._measured_at = trainer.fit_loop.total_batch_idx
            self._measure_and_publish(trainer, pl_module, epoch=trainer.current_epoch)
        self._repeat(trainer)

    def _due(self, trainer: Trainer) -> bool:
        """Once per batch that was trained on.

        Not once per `global_step`, which stands still where a module steps its own optimizers.
        """
        in_turn = self._measured_at is None or self._in_turn(trainer)
        return in_turn and self._measured_at != trainer.fit_loop.total_batch_idx

    def _in_turn(self, trainer: Trainer) -> bool:
        return (trainer.current_epoch + 1) % self.every_n_epochs == 0

    def _measure_and_publish(
        self, trainer: Trainer, pl_module: LightningModule, epoch: int
    ) -> None:
        started, step = time.perf_counter(), logging_step(trainer)
        drawn_before = self.publisher.drawing
        report, values = self._measured(trainer, pl_module)
        if report is None:
            return
        self.report = report
        self._values.update(values)
        self.history.append({"epoch": epoch, "step": step, **values})
        self._name_skipped(report.skipped)
        with self._guarded("could not keep a value for its figures"):
            self.remember(report, epoch)
        progress = share_done(trainer) if epoch >= 0 else 0.0
        if self._histograms.due(progress):
            self._show(self.publish_histograms, trainer, report, step)
        if self._figures.due(progress, affordable=self.publisher.can_afford_figures):
            self._show(self.publish_figures, trainer, report, step)
        numbers = {self.key(name): value for name, value in values.items()}
        with self._guarded("could not write to a logger"):
            numbers.update(self.charts(report))
        seconds = time.perf_counter() - started
        seconds += self.seconds_before
        self.seconds_before = 0.0
        self._cost.add(seconds - (self.publisher.drawing - drawn_before))  # figures have a budget
        with self._guarded("could not write to a logger"):
            numbers[self.key(f"seconds_{self.AREA}")] = seconds
            self.publisher.scalars(trainer, numbers, step)
        with self._guarded("could not write to a logger"):
            for run, lines in self.beside(report).items():
                tagged = {self.key(name): value for name, value in lines.items()}
                self.publisher.beside(trainer, run, tagged, step)

    def _show(
        self,
        write: Callable[[Trainer, Report, int], None],
        trainer: Trainer,
        report: Report,
        step: int,
    ) -> None:
        with self._guarded("could not write to a logger"):
            write(trainer, report, step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the last measurement, if it was none of those that were shown."""
        if self.report is None or not self.history:
            return
        step = int(self.history[-1]["step"])
        if self._histograms.last():
            self._show(self.publish_histograms, trainer, self.report, step)
        if self._figures.last():
            self._show(self.publish_figures, trainer, self.report, step)

    def _measured(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> tuple[Report | None, dict[str, float]]:
        """A report and its finite values; None and nothing when the measurement failed."""
        report: Report | None = None
        values: dict[str, float] = {}
        with self._guarded("could not measure, the last values are kept"), torch.no_grad():
            found = self.measure(trainer, pl_module)
            values = {k: float(v) for k, v in self.scalars(found).items() if math.isfinite(v)}
            report = found
        return report, values

    def _repeat(self, trainer: Trainer) -> None:
        """The last values, and 0 for alarms that nothing has been heard of."""
        resting = {self.key(name): 0.0 for name in self.ALARMS}
        known = {self.key(name): value for name, value in self._values.items()}
        set_monitored(trainer, {**resting, **known})

    def _name_skipped(self, skipped: tuple[Skipped, ...]) -> None:
        """Name each thing left out, once, grouped by reason."""
        groups: dict[str, list[str]] = {}
        for item in skipped:
            if item.name not in self._named:
                self._named.add(item.name)
                groups.setdefault(item.reason, []).append(item.name)
        for reason, names in groups.items():
            more = len(names) - _NAMES_PER_REASON
            tail = f" and {more} more, all in callback.report.skipped" if more > 0 else ""
            shown = ", ".join(names[:_NAMES_PER_REASON])
            rank_zero_info(f"{type(self).__name__} leaves out {shown}{tail}: {reason}")

    def _warn_if_costly(self) -> None:
        cost = self._cost.complaint()
        if cost is not None:
            self._warn(
                "takes long",
                f"{cost}. Raise every_n_epochs (now {self.every_n_epochs}) or {self.CHEAPER}",
            )

    @property
    def _state_name(self) -> str:
        return f"{type(self).__name__}[{self.prefix}]"

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the state under a key of our own, as plain numbers, lists and dictionaries.

        Not through `state_dict`: Lightning then refuses two callbacks of a class before we can
        say what to do, and warns for ever when a run goes on without a monitor.
        """
        checkpoint.setdefault(_CHECKPOINT_KEY, {})[self._state_name] = self._state()

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Carry on with the state of the checkpoint, when it is a fit that is resumed."""
        state = checkpoint.get(_CHECKPOINT_KEY, {}).get(self._state_name)
        if not state or trainer.state.fn != TrainerFn.FITTING:
            return
        restored = False
        with self._guarded("starts anew, its state in the checkpoint is not one of this version"):
            self._restore(state, None if trainer.ckpt_path is None else str(trainer.ckpt_path))
            restored = True
        if not restored:
            self._reset()

    def _state(self) -> dict[str, Any]:
        return {
            "history": [dict(entry) for entry in self.history],
            "values": dict(self._values),
            "measured_at": self._measured_at,
            "order": list(self._order),
            "shown": [self._histograms.state(), self._figures.state()],
        }

    def _restore(self, state: dict[str, Any], source: str | None) -> None:
        """Carry on with a state, of the checkpoint at `source`."""
        self.history = [dict(entry) for entry in state.get("history", [])]
        self._values = dict(state.get("values", {}))
        self._measured_at = state.get("measured_at")
        self._order = {name: index for index, name in enumerate(state.get("order", []))}
        if "shown" in state:
            for schedule, shown in zip(
                (self._histograms, self._figures), state["shown"], strict=True
            ):
                schedule.restore(shown)


def when(epoch: int) -> str:
    """An epoch in words, for titles."""
    return "before training" if epoch < 0 else f"epoch {epoch + 1}"
