"""OverfittingMonitor: the true training loss beside the validation loss, and what they say."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from lightning_weightwatch.callbacks._lightning import (
    LightningModule,
    Trainer,
    TrainerFn,
    rank_zero_info,
)
from lightning_weightwatch.callbacks.best.keeper import BestKeeper
from lightning_weightwatch.callbacks.dashboard import Chart, Pin
from lightning_weightwatch.callbacks.epoch_mean import EpochMean, loader_batch_size, scalars_on
from lightning_weightwatch.callbacks.fit_curves import FitCurves
from lightning_weightwatch.callbacks.learning_rates import LearningRates
from lightning_weightwatch.callbacks.monitored import (
    FollowedMetric,
    Mode,
    checked_monitor,
    choose_monitor,
)
from lightning_weightwatch.callbacks.validation import can_evaluate, evaluate_isolated
from lightning_weightwatch.losses.report import LossReport
from lightning_weightwatch.model.batch_size import known_batch_size
from lightning_weightwatch.report import Report, Skipped
from lightning_weightwatch.views.diagnosis import diagnosis_markdown, diagnosis_sentences
from lightning_weightwatch.views.diagnosis_skipped import name_in_prose
from lightning_weightwatch.views.loss_curve import loss_figure


class OverfittingMonitor(BestKeeper):
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
    `weightwatch/loss_curve` and the text `weightwatch/diagnosis`, whose gist the terminal shows;
    `weightwatch/seconds_losses` is what the bookkeeping took.

    It follows one metric. For several, add several, each with a `prefix` of its own.

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
            every checkpoint is written. They are kept in memory; after a resume they come from
            `best.pt` or a checkpoint, and when neither holds them, the last ones stay.
        verbose: Say the diagnosis in the terminal at the end of training.
        prefix: In place of `weightwatch`.

    Attributes:
        best_checkpoint: After training, the file of a ModelCheckpoint, whatever it monitors, that
            holds the weights of the best epoch; None when none is known to.
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
        self.verbose = verbose
        super().__init__(
            save_best=save_best,
            restore_best=restore_best,
            every_n_epochs=every_n_epochs,
            at_start=at_start,
            prefix=prefix,
        )

    def _reset(self) -> None:
        super()._reset()
        self.best_checkpoint: str | None = None
        self.diagnosis: tuple[str, ...] = ()
        self._training = EpochMean()
        self._silence_named = False
        self._first_epoch: int | None = None
        self._metric = FollowedMetric(self.monitor, self.mode)
        self._curves = FitCurves()
        self._rates = LearningRates()
        self._latest: dict[str, float] = {}

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the learning rates of the batch."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        with self._guarded("could not read the learning rates"):
            self._rates.note(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the loss of the batch."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if not isinstance(loss, Tensor):
            return
        with self._guarded("could not take the loss of a batch, which its mean now lacks"):
            # Lightning has divided the loss by it.
            factor = trainer.accumulate_grad_batches if pl_module.automatic_optimization else 1
            samples = known_batch_size(batch, loader_batch_size(trainer))
            self._training.add(trainer.current_epoch, loss, samples or 1, factor)
            if samples is None:
                self._warn(
                    "does not know how many samples a batch holds, and counts it as one",
                    f"nothing in a {type(batch).__name__} says so. An integer batch_size would",
                )

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the metrics of the last validation, which stay in `callback_metrics`."""
        self._metric.begin(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take a metric that the module logged in its own `on_validation_epoch_end`."""
        if not trainer.sanity_checking:
            self._metric.all_is_logged()
        self._observe(trainer, pl_module)
        if trainer.state.fn != TrainerFn.FITTING:
            return
        missed = self._metric.missed(trainer)
        if missed is not None:
            self._warn(
                f"goes on following {self._metric.name}",
                f"{missed} was not in the first validation. Set monitor={missed!r} to follow it",
            )
        if self._metric.may_be_there(trainer):
            return
        logged = self._metric.logged(trainer)
        if logged:
            wanted = self._metric.name or self.monitor or "val_loss"
            self._warn(
                f"has no validation metric {wanted!r}",
                f"this validation logged {', '.join(sorted(logged))}; set monitor to one of them",
            )
        elif not trainer.sanity_checking and not self._silence_named:
            self._silence_named = True
            rank_zero_info(
                "OverfittingMonitor has nothing to follow: the validation logs no metric"
            )

    def _name_skipped(self, skipped: tuple[Skipped, ...]) -> None:
        """Name the first of each reason, its epoch counted from 1; the report names them all."""
        first = {item.reason: item for item in reversed(skipped)}.values()
        super()._name_skipped(tuple(replace(item, name=name_in_prose(item)) for item in first))

    def _due(self, trainer: Trainer) -> bool:
        """During a validation, not before its metric is there on every rank.

        One that rank 0 alone logs would leave it waiting for the others in `measure`. The first
        epoch that is validated counts as the first.
        """
        if not trainer.validating:
            return super()._due(trainer)
        first = self._first_epoch in (None, trainer.current_epoch)
        if self._measured_at == trainer.fit_loop.total_batch_idx or not (
            first or self._in_turn(trainer)
        ):
            return False
        mine = self._metric.is_there(trainer)
        everywhere = trainer.strategy.reduce_boolean_decision(mine, all=True)
        if mine and not everywhere and self._metric.complete:
            self._warn(
                f"does not follow {self._metric.name}", "it is logged on some processes only"
            )
        return everywhere

    def measure(self, trainer: Trainer, pl_module: LightningModule) -> LossReport:
        """Add a point after a validation, and judge the curves."""
        if trainer.validating:
            self._stay_with(self._metric.before)
            local = float(trainer.callback_metrics[self._metric.name or ""])
            mean = trainer.strategy.reduce(scalars_on(trainer, [local]), reduce_op="mean")
            train, value = self._training.value(trainer), float(mean)
            epoch, rates = trainer.current_epoch, self._rates.values(trainer)
            trained = _epochs_trained(trainer)
            self._first_epoch = epoch if self._first_epoch is None else self._first_epoch
            self._curves.add(self._metric.mode, epoch, train, value, rates, trained)
            self._latest = {"train_loss": train, "val_metric": value}
            if math.isfinite(value) and self._curves.report().early_stop_epoch is None:
                self._keep_best(trainer, pl_module)
        elif self._measured_at is None and not self.history:
            metrics = evaluate_isolated(trainer).metrics if can_evaluate(trainer) else {}
            name, _ = choose_monitor(trainer, self.monitor, self.mode, metrics)
            self._latest = {"val_metric": metrics[name]} if name else {}
        else:
            self._latest = {"train_loss": self._training.value(trainer)}
        return self._curves.report()

    def _stay_with(self, before: tuple[str, Mode] | None) -> None:
        """Begin anew where the fit before this one has followed another metric."""
        if before is None:
            return
        self._metric.before = None
        self._curves = FitCurves()
        self._forget_best()
        self._warn(
            f"follows {self._metric.name} ({self._metric.mode}) from here on",
            f"the run before it was resumed was followed by {before[0]} ({before[1]}), and its "
            "curves are left out",
        )

    def _best_epoch(self) -> int | None:
        return None if self.report is None else self.report.best_epoch

    def scalars(self, report: Report) -> Mapping[str, float]:
        """The two losses beside the summary of the curves."""
        return {**report.summary(), **self._latest}

    def beside(self, report: Report) -> Mapping[str, Mapping[str, float]]:
        """The training loss, and the metric where it is one to fall too: one chart for both."""
        lines = {"train": self._latest.get("train_loss", math.nan)}
        if self._curves.mode == "min":
            lines["val"] = self._latest.get("val_metric", math.nan)
        return {run: {"loss": loss} for run, loss in lines.items() if math.isfinite(loss)}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what the curves say, in the terminal and in TensorBoard."""
        super().on_train_end(trainer, pl_module)
        report = self.report
        followed = self._metric.name
        if report is None or not len(self._curves) or followed is None:
            return
        with self._guarded("could not write its diagnosis"):
            self._best.moving_on(trainer)
            self.best_checkpoint = self._best.checkpoint(trainer)
            kept = self.best_checkpoint or self._best.own_file(trainer)
            name = Path(kept).name if kept else None
            step = int(self.history[-1]["step"])
            self.diagnosis = tuple(diagnosis_sentences(report, followed, name))
            if self.verbose:
                rank_zero_info("OverfittingMonitor: " + " ".join(self.diagnosis))
            if report.val_values:
                tag = self.key("loss_curve")
                self.publisher.figure(trainer, tag, lambda: loss_figure(report, followed), step)
            page = diagnosis_markdown(report, followed, name)
            self.publisher.text(trainer, self.key("diagnosis"), page, step)

    def pins(self) -> list[Pin]:
        """Both losses in a chart, and the verdict in a picture."""
        overlaid = "loss" if self._curves.mode == "min" else "val_metric"
        return [("scalars", overlaid), ("images", "loss_curve")]

    def _state(self) -> dict[str, Any]:
        return {
            **super()._state(),
            "curves": self._curves.state(),
            "training": self._training.state(),
            "metric": self._metric.state(),
            "first_epoch": self._first_epoch,
        }

    def _restore(self, state: dict[str, Any], source: str | None) -> None:
        super()._restore(state, source)
        self._curves.restore(state["curves"])
        self._training.restore(state["training"])
        self._metric.restore(state["metric"])
        self._first_epoch = state["first_epoch"]
        if len(self._curves):
            self.report = self._curves.report()


def _epochs_trained(trainer: Trainer) -> float:
    """How many, with the part of this one; NaN where it has no known end."""
    batches = trainer.num_training_batches
    if not 0 < batches < math.inf:
        return math.nan
    return trainer.current_epoch + (trainer.fit_loop.batch_idx + 1) / float(batches)
