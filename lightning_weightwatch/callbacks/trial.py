"""PostFitTrial: after training, compress the weights and run the validation loop on them."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from rich.console import Console
from torch import nn

from lightning_weightwatch.callbacks._lightning import (
    LightningModule,
    Trainer,
    rank_zero_info,
    rank_zero_warn,
)
from lightning_weightwatch.callbacks.hparams import declare, write_trials
from lightning_weightwatch.callbacks.keys import KeyedCallback
from lightning_weightwatch.callbacks.monitored import Mode, checked_monitor, choose_monitor
from lightning_weightwatch.callbacks.publish import logging_step, set_monitored
from lightning_weightwatch.callbacks.validation import can_evaluate, evaluate_isolated
from lightning_weightwatch.trials.trial import Compression, TrialReport, run_trials
from lightning_weightwatch.views.trials import trial_markdown, trial_terminal

_SHARDED = ("FSDP", "DeepSpeed", "ModelParallel")


class PostFitTrial(KeyedCallback):
    """Tries compressed weights on the trainer's own validation loop, after training.

    It runs in `on_train_end`, with the metrics that the module logs, on the batches of its
    validation; no callback or logger sees it, and the weights come back bit for bit. One evaluation
    for the baseline and one for each variant.

    Args:
        monitor: The metric to compare by. None: that of ModelCheckpoint or EarlyStopping, else
            `val_loss`.
        mode: `"min"` if it is to fall, `"max"` if it is to rise. None: that of ModelCheckpoint
            or EarlyStopping for this metric, else `"min"`.
        verbose: Print the table at the end of the fit.
        hparams: Show the variants, the best 10 of all trials, in TensorBoard's tab HParams, as runs
            of their own. The columns there are then those of the trials and of the module's
            hyperparameters, without `hp_metric`.
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
        verbose: bool = True,
        hparams: bool = False,
        prefix: str = "weightwatch",
    ) -> None:
        super().__init__(prefix=prefix)
        checked_monitor(monitor, mode)
        self.monitor = monitor
        self.mode = mode
        self.verbose = verbose
        self.hparams = hparams
        self.report: TrialReport | None = None

    @abstractmethod
    def compressions(self) -> Sequence[Compression]:
        """What is tried, in this order."""

    def description(self, tag: str) -> str:
        """What a card of TensorBoard is about."""
        if tag.endswith("_bytes"):
            return "Bytes of the model, stored so."
        return "The monitored metric of validation minus that of the model as it was trained."

    @property
    def logged_keys(self) -> tuple[str, ...]:
        """Delta and bytes of every variant."""
        return tuple(
            self.key(f"{self.AREA}_{tried.name}_{value}")
            for tried in self.compressions()
            for value in ("delta", "bytes")
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the combination, and forget the last run."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self.report = None
            self._warned = set()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Declare the columns of HParams, before Lightning declares those of the module."""
        super().on_fit_start(trainer, pl_module)
        if self.hparams:
            with self._guarded("could not write to a logger"):
                declare(trainer, self)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run the trials; whatever fails in them is a warning, and the weights stay."""
        if not can_evaluate(trainer):
            rank_zero_info(f"{type(self).__name__} tries nothing: the Trainer has no validation")
            return
        fault = self._refusal(trainer)
        if fault is None:
            try:
                self.report = self._tried(trainer, pl_module)
                fault = self.report.rows[0].error or None
            except Exception as error:
                fault = f"{type(error).__name__}: {error}"
        if fault is not None:
            rank_zero_warn(f"{type(self).__name__} has no result: {fault}")
        if self.report is not None:
            self._warn_without_metric(self.report)
            with self._guarded("could not write to a logger"):
                self._publish(trainer, self.report)
            if self.hparams:
                with self._guarded("could not write its rows for HParams"):
                    write_trials(trainer, self, logging_step(trainer))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table, now that no progress bar is in the way."""
        if self.report is not None and self.verbose and trainer.is_global_zero:
            with self._guarded("could not print its table"):
                Console().print(trial_terminal(self.report, type(self).__name__))
        super().on_fit_end(trainer, pl_module)

    def _refusal(self, trainer: Trainer) -> str | None:
        strategy = type(trainer.strategy).__name__
        if any(word in strategy for word in _SHARDED):
            return f"{strategy} shards the weights, which cannot be changed in place layer by layer"
        return None

    def _tried(self, trainer: Trainer, pl_module: LightningModule) -> TrialReport:
        def evaluate(model: nn.Module) -> Mapping[str, float]:
            return evaluate_isolated(trainer)

        def choose(metrics: Mapping[str, float]) -> tuple[str, Mode]:
            name, mode = choose_monitor(trainer, self.monitor, self.mode, metrics)
            return name or "", mode

        return run_trials(pl_module, evaluate, self.compressions(), choose_monitor=choose)

    def _warn_without_metric(self, report: TrialReport) -> None:
        baseline = report.rows[0]
        if baseline.metrics and not report.monitor:
            wanted = self.monitor or "val_loss"
            rank_zero_warn(
                f"{type(self).__name__} has no validation metric {wanted!r}: the validation logs "
                f"{', '.join(sorted(baseline.metrics))}. Set monitor to one of them"
            )

    def _publish(self, trainer: Trainer, report: TrialReport) -> None:
        values = {self.key(f"{self.AREA}_{name}"): v for name, v in report.summary().items()}
        set_monitored(trainer, values)
        step = logging_step(trainer)
        self.publisher.scalars(trainer, values, step)
        self.publisher.text(trainer, self.key(self.AREA), trial_markdown(report), step)
