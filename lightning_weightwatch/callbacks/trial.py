"""PostFitTrial: after training, compress the weights and run the validation loop on them."""

import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from functools import partial
from typing import ClassVar, Literal

from rich.console import Console
from torch import nn

from lightning_weightwatch.callbacks._lightning import (
    LightningModule,
    Trainer,
    rank_zero_info,
    rank_zero_warn,
)
from lightning_weightwatch.callbacks.best.checkpoint import best_weights, has_best
from lightning_weightwatch.callbacks.dashboard import Pin
from lightning_weightwatch.callbacks.hparams import declare, write_trials
from lightning_weightwatch.callbacks.keys import KeyedCallback, TrainerConfigurationError, keyed
from lightning_weightwatch.callbacks.monitored import (
    AVERAGING,
    Mode,
    checked_monitor,
    choose_monitor,
)
from lightning_weightwatch.callbacks.publish import logging_step, set_monitored
from lightning_weightwatch.callbacks.ranks import TrainerRanks
from lightning_weightwatch.callbacks.trial_files import write_files
from lightning_weightwatch.callbacks.trial_pictures import comparable, pictures
from lightning_weightwatch.callbacks.trial_progress import TrialProgress
from lightning_weightwatch.callbacks.trial_surprises import refusal, surprises
from lightning_weightwatch.callbacks.validation import (
    BatchLimit,
    can_evaluate,
    check_limit_batches,
    evaluate_isolated,
)
from lightning_weightwatch.trials.bench import Bench
from lightning_weightwatch.trials.compression import Compression
from lightning_weightwatch.trials.evaluation import Evaluation
from lightning_weightwatch.trials.plan import Limits
from lightning_weightwatch.trials.report import TrialReport
from lightning_weightwatch.trials.snapshot import NotRestored
from lightning_weightwatch.trials.trial import Given, Interrupted, run_trials
from lightning_weightwatch.trials.trying import check_bench
from lightning_weightwatch.views.quantized import QuantizedLayer
from lightning_weightwatch.views.trial_pareto import pareto_figure
from lightning_weightwatch.views.trials import trial_markdown, trial_terminal

Which = Literal["last", "best"]
#: Before a fit.
NOTHING = Given()


class PostFitTrial(KeyedCallback):
    """Tries compressed weights on the trainer's own validation loop, after training.

    It runs in `on_train_end`, with the metrics that the module logs, on the batches of its
    validation; no callback or logger sees it, and the weights come back bit for bit. One evaluation
    for the baseline and one for each variant, all with the same random numbers.

    A difference comes with a 95 % confidence interval where the metric is logged batch by batch as
    a plain value, in five batches at least: paired, batch against batch. There is none for
    torchmetrics objects and for what is logged once at the end; the table says so.

    Args:
        monitor: The metric to compare by. None: that of ModelCheckpoint or EarlyStopping, else
            `val_loss`.
        mode: `"min"` if it is to fall, `"max"` if it is to rise. None: that of ModelCheckpoint
            or EarlyStopping for this metric, else `"min"`.
        weights: `"last"` for those at the end of training, or `"best"` for those of the best
            checkpoint, which are loaded for the trials alone.
        limit_batches: Of each validation loader take so many batches at most (an integer), or such
            a share (a float up to 1.0). None: all that the fit validates on.
        max_seconds: No evaluation begins that would probably end later; None for no limit.
        max_evaluations: At most so many, the baseline included; None for no limit.
        per_layer: So many of the largest weights are also compressed alone, for the heat map.
        tolerance: The share of its baseline by which the metric may be worse in `report.best`.
        verbose: Print the table at the end of the fit.
        hparams: Show the best variants in TensorBoard's tab HParams, as runs of their own: ten of
            the Trainer, shared evenly between its trials. The columns there are then those of the
            trials and of the module's hyperparameters, without `hp_metric`.
        prefix: The first part of every key and tag.

    Attributes:
        report: The results; None before the end of training.
    """

    #: What the keys begin with.
    AREA: ClassVar[str]
    DURING_FIT = False

    def __init__(
        self,
        *,
        monitor: str | None = None,
        mode: Mode | None = None,
        weights: Which = "last",
        limit_batches: BatchLimit | None = None,
        max_seconds: float | None = None,
        max_evaluations: int | None = None,
        per_layer: int = 0,
        tolerance: float = 0.01,
        verbose: bool = True,
        hparams: bool = False,
        prefix: str = "weightwatch",
    ) -> None:
        super().__init__(prefix=prefix)
        checked_monitor(monitor, mode)
        check_bench(per_layer, tolerance)
        if weights not in ("last", "best"):
            raise ValueError(
                "weights must be 'last' (those at the end of training) or 'best' (those of the "
                f"best checkpoint), got {weights!r}"
            )
        check_limit_batches(limit_batches)
        self.limits = Limits(max_seconds, max_evaluations)
        self.monitor = monitor
        self.mode = mode
        self.weights = weights
        self.limit_batches = limit_batches
        self.per_layer = per_layer
        self.tolerance = tolerance
        self.verbose = verbose
        self.hparams = hparams
        self.report: TrialReport | None = None
        #: What its table, figures and files are called: a second trial of its kind has a number.
        self.area = self.AREA
        self._before_after: Sequence[QuantizedLayer] = ()
        self._started = time.time()

    @abstractmethod
    def compressions(self, given: Given = NOTHING) -> Sequence[Compression]:
        """What is tried, in this order."""

    @property
    def needs_norms(self) -> bool:
        """Whether any of it goes by the norms of the inputs of layers."""
        return False

    @property
    def needs_ranges(self) -> bool:
        """Whether any of it goes by the ranges of the inputs of layers."""
        return False

    def description(self, tag: str) -> str:
        """What a card of TensorBoard is about."""
        if tag.endswith("_bytes"):
            return "Bytes of the model, stored so."
        if tag.endswith("_delta"):
            return "The monitored metric of validation minus that of the model as it was trained."
        return super().description(tag.replace(f"/{self.area}_", f"/{self.AREA}_"))

    @property
    def logged_keys(self) -> tuple[str, ...]:
        """Delta and bytes of every variant."""
        return tuple(
            self.key(f"{self.AREA}_{tried.name}_{value}")
            for tried in self.compressions()
            for value in ("delta", "bytes")
        )

    def pins(self) -> list[Pin]:
        """All trials in a picture; the last of them has it."""
        return [("images", "pareto")]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the combination, and forget the last run.

        Raises:
            TrainerConfigurationError: If weights are averaged only after the trials, or there is no
                best checkpoint.
        """
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        self.report, self._before_after, self._started = None, (), time.time()
        alike = [
            other
            for other in _trials_on(trainer)
            if (other.AREA, other.prefix) == (self.AREA, self.prefix)
        ]
        number = alike.index(self) + 1
        self.area = self.AREA if number == 1 else f"{self.AREA}_{number}"
        self._warned = set()
        callbacks = list(trainer.callbacks)  # type: ignore[attr-defined]
        for later in callbacks[callbacks.index(self) + 1 :]:
            if {base.__name__ for base in type(later).__mro__}.intersection(AVERAGING):
                name = type(later).__name__
                raise TrainerConfigurationError(
                    f"{name} is listed after {type(self).__name__}: at the end of training it puts "
                    "the averaged weights into the model, and the trials would be of others. List "
                    f"{name} first"
                )
        if self.weights == "best" and not has_best(trainer):
            raise TrainerConfigurationError(
                f"{type(self).__name__}(weights='best') needs a ModelCheckpoint with a monitor, "
                "such as ModelCheckpoint(monitor='val_loss'); or write weights='last'"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Declare the columns of HParams, before Lightning declares those of the module."""
        super().on_fit_start(trainer, pl_module)
        if self.hparams:
            with self._guarded("could not write to a logger"):
                declare(trainer, self)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run the trials; whatever fails in them is a warning, and the weights stay.

        Raises:
            NotRestored: If the validation has changed large weights that no trial touches, so that
                the model is not the trained one any more.
        """
        if not can_evaluate(trainer):
            rank_zero_info(
                f"{type(self).__name__} tries nothing: no validation of this fit has run"
            )
            return
        fault = refusal(trainer)
        if fault is None:
            try:
                self.report = self._tried(trainer, pl_module)
                fault = self.report.rows[0].error or None
            except Interrupted as interrupted:
                self.report = interrupted.report
                with self._guarded("could not write its files"):
                    write_files(trainer, self.prefix, self.area, self.report)
                raise
            except NotRestored:  # whatever is saved from now on would be of other weights
                raise
            except Exception as error:
                fault = f"{type(error).__name__}: {error}"
        if fault is not None:
            rank_zero_warn(f"{type(self).__name__} has no result: {fault}")
        if self.report is not None:
            for sentence in surprises(self.report, self.monitor):
                rank_zero_warn(f"{type(self).__name__}: {sentence}")
            with self._guarded("could not write to a logger"):
                self._publish(trainer, self.report)
            with self._guarded("could not write its files"):
                write_files(trainer, self.prefix, self.area, self.report)
            if self.hparams:
                with self._guarded("could not write its rows for HParams"):
                    write_trials(trainer, self, logging_step(trainer))
        self._publish_all(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table, now that no progress bar is in the way."""
        if self.report is not None and self.verbose and trainer.is_global_zero:
            with self._guarded("could not print its table"):
                Console().print(trial_terminal(self.report, type(self).__name__))
        super().on_fit_end(trainer, pl_module)

    def _tried(self, trainer: Trainer, pl_module: LightningModule) -> TrialReport:
        def evaluate(model: nn.Module) -> Evaluation:
            return evaluate_isolated(trainer, self.limit_batches)

        def choose(metrics: Mapping[str, float]) -> tuple[str, Mode]:
            name, mode = choose_monitor(trainer, self.monitor, self.mode, metrics)
            return name or "", mode

        progress = TrialProgress(trainer, type(self).__name__, str(self.limits))
        bench = Bench(
            evaluate,
            choose,
            self.limits,
            per_layer=self.per_layer,
            tolerance=self.tolerance,
            ranks=TrainerRanks(trainer),
            watcher=progress,
        )
        monitor, _ = choose_monitor(trainer, self.monitor, self.mode, trainer.callback_metrics)
        best = best_weights(trainer, pl_module, monitor, self._started)
        with closing(progress), best if self.weights == "best" else nullcontext():
            report = run_trials(
                pl_module,
                bench,
                self.compressions,
                needs_norms=self.needs_norms,
                needs_ranges=self.needs_ranges,
            )
            if trainer.is_global_zero and self.publisher.takes_figures(trainer):
                with self._guarded("could not look at single weights"):
                    self._before_after = self._looked_at(pl_module, report)
        return report

    def _looked_at(
        self, pl_module: LightningModule, report: TrialReport
    ) -> Sequence[QuantizedLayer]:
        """Some weights before and after, for a figure; nothing unless a trial has such."""
        return ()

    def _publish(self, trainer: Trainer, report: TrialReport) -> None:
        values = {self.key(f"{self.AREA}_{name}"): v for name, v in report.summary().items()}
        set_monitored(trainer, values)
        step = logging_step(trainer)
        self.publisher.scalars(trainer, values, step)
        self.publisher.text(trainer, self.key(self.area), trial_markdown(report), step)
        drawn = pictures(self.area, report, self._before_after)
        for name, draw in drawn.items():
            with self._guarded("could not draw a figure"):
                self.publisher.figure(trainer, self.key(name), draw, step)

    def _publish_all(self, trainer: Trainer) -> None:
        """Draw the trials of the Trainer together, from the last of them."""
        trials = [other for other in _trials_on(trainer) if other.prefix == self.prefix]
        together = comparable([other.report for other in trials])
        if trials[-1] is self and together:
            with self._guarded("could not draw a figure"):
                step, draw = logging_step(trainer), partial(pareto_figure, together)
                self.publisher.figure(trainer, self.key("pareto"), draw, step)


def _trials_on(trainer: Trainer) -> list[PostFitTrial]:
    return [found for found in keyed(trainer) if isinstance(found, PostFitTrial)]
