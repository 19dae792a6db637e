"""OverfittingMonitor: the true training loss beside the validation loss, and what they say."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from lightning_weightwatch.callbacks._lightning import (
    LightningModule,
    Trainer,
    TrainerFn,
    rank_zero_info,
)
from lightning_weightwatch.callbacks.best_copy import BestCopy, write_weights
from lightning_weightwatch.callbacks.dashboard import Chart, Pin
from lightning_weightwatch.callbacks.epoch_mean import EpochMean, batch_size, scalars_on
from lightning_weightwatch.callbacks.keys import TrainerConfigurationError, own_keys
from lightning_weightwatch.callbacks.monitor import EpochMonitor
from lightning_weightwatch.callbacks.monitored import (
    AVERAGING,
    Mode,
    checked_monitor,
    choose_monitor,
)
from lightning_weightwatch.callbacks.trial_files import log_folder
from lightning_weightwatch.callbacks.validation import can_evaluate, evaluate_isolated
from lightning_weightwatch.losses.growing import GrowingCurves
from lightning_weightwatch.losses.report import LossReport
from lightning_weightwatch.report import Report, Skipped
from lightning_weightwatch.views.diagnosis import diagnosis_sentences
from lightning_weightwatch.views.loss_curve import loss_figure
from lightning_weightwatch.views.tables import escape_markdown


class OverfittingMonitor(EpochMonitor):
    """Follow training and validation loss, and say whether and since when the model overfits.

    The training loss is the mean over the samples of the epoch so far, weighted by batch size: what
    `self.log("train_loss", loss)` keeps is the last batch alone. It is taken from what
    `training_step` returns; a manual optimisation that returns nothing has no training loss here,
    and then no verdict.

    | key                         | meaning                                                       |
    |-----------------------------|---------------------------------------------------------------|
    | `weightwatch/train_loss`    | mean training loss of the epoch                               |
    | `weightwatch/val_metric`    | the validation metric that is followed, as it was read        |
    | `weightwatch/val_loss_rise` | share by which it is worse than its best: 0.04 is 4 % (alarm) |
    | `weightwatch/loss_gap`      | validation minus training loss; absent for `mode="max"`       |
    | `weightwatch/overfit_alarm` | 1 while the model overfits, by the rule below, else 0 (alarm) |
    | `weightwatch/prechelt_gl`   | Prechelt's generalization loss GL: the rise in percent (alarm)|
    | `weightwatch/prechelt_pq`   | GL by the progress of training in five validations (alarm)    |
    | `weightwatch/prechelt_up`   | strips of five validations in a row that ended worse (alarm)  |

    The alarm goes by the running median of the metric, over the square root of the number of
    validations so far (three at least): it is 1 while that is more than 5 % above its own best,
    which is as many validations ago, and the median training loss fell since.

    The verdict at the end goes by single values: from the third validation on a model overfits
    when the metric is more than 4 % worse than its best, by more than its noise, and the training
    loss fell since that. GL, PQ and UP are those of Prechelt, "Early stopping - but when?" (1998).

    In TensorBoard one chart, `weightwatch/loss`, has both losses (for `mode="min"`): the runs
    `train` and `val` below that of the logger. At the end of training also the figure
    `weightwatch/loss_curve` and the text `weightwatch/diagnosis`, which the terminal shows too;
    `weightwatch/seconds_losses` is what the bookkeeping took.

    The alarm stops nothing by itself. To stop on it, write
    `EarlyStopping(monitor="weightwatch/overfit_alarm", mode="max", stopping_threshold=0.5,
    patience=1_000_000)`.

    A metric that the module logs in its own `on_validation_epoch_end` comes too late for an
    EarlyStopping that looks right after validation and stands before this callback: list it after.

    Args:
        monitor: The validation metric. None: that of ModelCheckpoint or EarlyStopping, else
            `val_loss`.
        mode: `"min"` if it is to fall, `"max"` if it is to rise. None: that of ModelCheckpoint
            or EarlyStopping for this metric, else `"min"`.
        every_n_epochs: Measure in the first epoch and then in every n-th, counted as Lightning
            does: with 2 in the epochs 0, 1, 3, 5, ...
        at_start: Run the validation loop once before training, for the value to start from. It is
            logged and kept in `history`, and is no part of the verdict.
        save_best: Write the weights of the best epoch, and nothing else, to `best.pt` in the
            folder `<prefix>` of the log folder, at each new best.
        restore_best: Put the weights of the best epoch back into the model in `on_fit_end`, after
            every checkpoint is written. They are kept in memory; of a run that is resumed after its
            best epoch there are none, which is said.
        verbose: Say the diagnosis in the terminal at the end of training.
        prefix: In place of `weightwatch`.

    Attributes:
        best_checkpoint: After training, the file of ModelCheckpoint that holds the best epoch;
            None when no file does.
        diagnosis: After training, what the curves say, in sentences.

    Raises:
        ValueError: For an argument out of its range.
    """

    AREA = "losses"
    OF_WEIGHTS = False
    KEYS: ClassVar[dict[str, str]] = {
        "train_loss": "mean training loss of the epoch",
        "val_metric": "the validation metric that is followed",
        "val_loss_rise": "share by which it is worse than its best",
        "loss_gap": "validation minus training loss",
        "overfit_alarm": "1 while the model overfits",
        "prechelt_gl": "Prechelt's generalization loss GL: the rise in percent",
        "prechelt_pq": "Prechelt's PQ: GL by the progress of training in five validations",
        "prechelt_up": "Prechelt's UP: strips of five validations in a row that ended worse",
    }
    ALARMS = frozenset(
        {"val_loss_rise", "overfit_alarm", "prechelt_gl", "prechelt_pq", "prechelt_up"}
    )
    CHARTS: ClassVar[dict[str, str]] = {
        "loss": "mean loss of the epoch: of training in the run `train`, of validation in `val`",
        "loss_curve": "both curves, the best epoch, and where the model overfits",
        "seconds_losses": "seconds that the bookkeeping took",
    }
    CUSTOM_CHARTS: ClassVar[dict[str, Chart]] = {
        "training and validation loss": ("Multiline", ("loss",)),
    }
    RUNS_BESIDE = ("train", "val")

    report: LossReport | None

    def __init__(
        self,
        *,
        monitor: str | None = None,
        mode: Mode | None = None,
        every_n_epochs: int = 1,
        at_start: bool = False,
        save_best: bool = False,
        restore_best: bool = False,
        verbose: bool = True,
        prefix: str = "weightwatch",
    ) -> None:
        checked_monitor(monitor, mode)
        self.monitor = monitor
        self.mode = mode
        self.save_best = save_best
        self.restore_best = restore_best
        self.verbose = verbose
        super().__init__(every_n_epochs=every_n_epochs, at_start=at_start, prefix=prefix)

    def _reset(self) -> None:
        super()._reset()
        self.best_checkpoint: str | None = None
        self.diagnosis: tuple[str, ...] = ()
        self._training = EpochMean()
        self._followed: str | None = None
        self._direction: Mode = "min"
        self._silence_named = False
        self._points: list[tuple[int, float, float]] = []
        self._curves = GrowingCurves()
        self._copy = BestCopy()
        self._latest: dict[str, float] = {}
        self._old_metrics: dict[str, Tensor] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the combination with the other callbacks.

        Raises:
            TrainerConfigurationError: If another callback averages weights, which are then not
                those that were validated.
        """
        super().setup(trainer, pl_module, stage)
        asked = [name for name in ("save_best", "restore_best") if getattr(self, name)]
        if stage != "fit" or not asked:
            return
        for other in trainer.callbacks:  # type: ignore[attr-defined]
            if {base.__name__ for base in type(other).__mro__}.intersection(AVERAGING):
                raise TrainerConfigurationError(
                    f"OverfittingMonitor({asked[0]}=True) beside {type(other).__name__}: it "
                    "validates averaged weights, or puts an average into the model at the end. "
                    f"Leave out {asked[0]}, and let ModelCheckpoint keep the best"
                )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the loss of the batch."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if not isinstance(loss, Tensor):
            return
        with self._guarded("could not take the loss of a batch, which its mean now lacks"):
            if pl_module.automatic_optimization:
                loss = loss * trainer.accumulate_grad_batches  # Lightning has divided by it
            self._training.add(trainer.current_epoch, loss, batch_size(batch))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the metrics of the last validation, which stay in `callback_metrics`."""
        self._old_metrics = dict(trainer.callback_metrics)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take a metric that the module logged in its own `on_validation_epoch_end`."""
        self._observe(trainer, pl_module)
        if trainer.state.fn != TrainerFn.FITTING or self._choice(trainer)[0] is not None:
            return
        logged = self._fresh_metrics(trainer)
        if logged:
            self._warn(
                f"has no validation metric {self.monitor or 'val_loss'!r}",
                f"this validation logged {', '.join(sorted(logged))}; set monitor to one of them",
            )
        elif not trainer.sanity_checking and not self._silence_named:
            self._silence_named = True
            rank_zero_info(
                "OverfittingMonitor has nothing to follow: the validation logs no metric"
            )

    def _name_skipped(self, skipped: tuple[Skipped, ...]) -> None:
        """Name the first of each reason; the report names them all."""
        first = {item.reason: item for item in reversed(skipped)}
        super()._name_skipped(tuple(first.values()))

    def _fresh_metrics(self, trainer: Trainer) -> dict[str, Tensor]:
        """What the current validation has logged so far."""
        ours = own_keys(trainer)
        return {
            name: value
            for name, value in trainer.callback_metrics.items()
            if value is not self._old_metrics.get(name) and name not in ours
        }

    def _choice(self, trainer: Trainer) -> tuple[str | None, Mode]:
        return choose_monitor(trainer, self.monitor, self.mode, self._fresh_metrics(trainer))

    def _due(self, trainer: Trainer) -> bool:
        """During a validation, not before its metric is there on every rank.

        One that rank 0 alone logs would leave it waiting for the others in `measure`.
        """
        if not super()._due(trainer):
            return False
        there = not trainer.validating or self._choice(trainer)[0] is not None
        return trainer.strategy.reduce_boolean_decision(there, all=True)

    def measure(self, trainer: Trainer, pl_module: LightningModule) -> LossReport:
        """Add a point after a validation, and judge the curves."""
        if trainer.validating:
            self._followed, direction = self._choice(trainer)
            if direction != self._direction:
                self._direction = direction
                self._draw_anew()
            local = float(trainer.callback_metrics[self._followed or ""])
            mean = trainer.strategy.reduce(scalars_on(trainer, [local]), reduce_op="mean")
            train, value = self._training.value(trainer), float(mean)
            self._points.append((trainer.current_epoch, train, value))
            self._curves.add(*self._points[-1])
            self._latest = {"train_loss": train, "val_metric": value}
            if math.isfinite(value) and self._curves.report().early_stop_epoch is None:
                self._keep(trainer, pl_module)
        elif self._measured_at is None and not self.history:
            metrics = evaluate_isolated(trainer).metrics if can_evaluate(trainer) else {}
            name, _ = choose_monitor(trainer, self.monitor, self.mode, metrics)
            self._latest = {"val_metric": metrics[name]} if name else {}
        else:
            self._latest = {"train_loss": self._training.value(trainer)}
        return self._curves.report()

    def _keep(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the weights of a new best, in memory or in a file, as was asked for."""
        if self.restore_best:
            with self._guarded("could not keep the weights of the best epoch"):
                self._copy.take(pl_module)
        if self.save_best and trainer.log_dir is not None:
            with self._guarded("could not write best.pt"):
                file = log_folder(trainer.log_dir, self.prefix) / "best.pt"
                write_weights(pl_module, file, here=trainer.is_global_zero)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the best weights back, on request: every checkpoint is written by now."""
        if self.restore_best and self.report is not None and self.report.best_epoch is not None:
            best = self.report.best_epoch + 1
            if not self._copy:
                self._warn(
                    "keeps the weights as they are",
                    f"those of its best epoch, {best}, were before this run was resumed",
                )
            with self._guarded("could not put the best weights back"):
                if self._copy:
                    self._copy.put_back(pl_module)
                    rank_zero_info(f"OverfittingMonitor put the weights of epoch {best} back")
        self._copy = BestCopy()
        super().on_fit_end(trainer, pl_module)

    def _draw_anew(self) -> None:
        self._curves = GrowingCurves(self._direction)
        for point in self._points:
            self._curves.add(*point)

    def scalars(self, report: Report) -> Mapping[str, float]:
        """The two losses beside the summary of the curves."""
        return {**report.summary(), **self._latest}

    def beside(self, report: Report) -> Mapping[str, Mapping[str, float]]:
        """The training loss, and the metric where it is one to fall too: one chart for both."""
        lines = {"train": self._latest.get("train_loss", math.nan)}
        if self._direction == "min":
            lines["val"] = self._latest.get("val_metric", math.nan)
        return {run: {"loss": loss} for run, loss in lines.items() if math.isfinite(loss)}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what the curves say, in the terminal and in TensorBoard."""
        super().on_train_end(trainer, pl_module)
        report = self.report
        if report is None or not report.val_values or self._followed is None:
            return
        with self._guarded("could not write its diagnosis"):
            self.best_checkpoint = self._checkpoint_of_the_best(trainer, report)
            name = Path(self.best_checkpoint).name if self.best_checkpoint else None
            followed, step = self._followed, int(self.history[-1]["step"])
            self.diagnosis = tuple(diagnosis_sentences(report, followed, name))
            if self.verbose:
                rank_zero_info("OverfittingMonitor: " + " ".join(self.diagnosis))
            tag = self.key("loss_curve")
            self.publisher.figure(trainer, tag, lambda: loss_figure(report, followed), step)
            text = "\n\n".join(map(escape_markdown, self.diagnosis))
            self.publisher.text(trainer, self.key("diagnosis"), text, step)

    def pins(self) -> list[Pin]:
        """Both losses in a chart, and the verdict in a picture."""
        overlaid = "loss" if self._direction == "min" else "val_metric"
        return [("scalars", overlaid), ("images", "loss_curve")]

    def _checkpoint_of_the_best(self, trainer: Trainer, report: LossReport) -> str | None:
        for callback in trainer.checkpoint_callbacks:
            if getattr(callback, "monitor", None) != self._followed:
                continue
            score = getattr(callback, "best_model_score", None)
            path = getattr(callback, "best_model_path", None)
            kept = math.nan if score is None else float(score)
            if path and math.isclose(kept, report.best_value, rel_tol=1e-6):
                return str(path)
        return None

    def _state(self) -> dict[str, Any]:
        return {
            **super()._state(),
            "points": [list(point) for point in self._points],
            "training": self._training.state(),
            "followed": self._followed,
            "direction": self._direction,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        super()._restore(state)
        self._points = [
            (int(epoch), float(train), float(value))
            for epoch, train, value in state.get("points", [])
        ]
        if "training" in state:
            self._training.restore(state["training"])
        self._followed = state.get("followed")
        self._direction = state.get("direction", "min")
        self._draw_anew()
        if self._points:
            self.report = self._curves.report()
