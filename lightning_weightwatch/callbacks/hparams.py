"""TensorBoard's HParams page for trials: a row each, under columns declared before training.

TensorBoard takes the columns of a whole log directory from one run, and the first that a run
declares count. So all columns, those of the user's own hyperparameters too, are declared before
Lightning declares its own, and once more in the run of every trial.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from lightning_weightwatch.callbacks._lightning import Trainer, flat_hyperparameters
from lightning_weightwatch.callbacks.keys import keyed
from lightning_weightwatch.callbacks.loggers import loggers_of
from lightning_weightwatch.callbacks.loggers.hparams import Scalar, columns, write_row
from lightning_weightwatch.callbacks.loggers.tensorboard import events_of, log_dir_of
from lightning_weightwatch.trials.compression import Compression
from lightning_weightwatch.trials.report import BASELINE, TrialReport, TrialRow

if TYPE_CHECKING:
    from tensorboard.compat.proto.summary_pb2 import Summary

#: A run of TensorBoard stands in the list of every tab: so many trials of a fit have one at most.
MOST_RUNS = 10

_GROUP = "weightwatch-trial"
# By their names in the records of a report.
_METRICS = {
    "value": "monitored metric",
    "delta": "delta",
    "packed_bytes": "packed bytes",
    "size_ratio": "size ratio",
}
_DESCRIPTIONS = {
    f"{_GROUP}/value": "The monitored metric of validation, with the weights of this trial.",
    f"{_GROUP}/delta": "That metric minus its value with the weights as they were trained.",
    f"{_GROUP}/packed_bytes": "Bytes of the model, were it stored so.",
    f"{_GROUP}/size_ratio": "Those bytes as a share of the bytes of the trained model.",
}


class Trial(Protocol):
    """What is asked of a callback whose trials are shown: `PostFitTrial` has it."""

    @property
    def AREA(self) -> str:
        """What its keys begin with."""
        ...

    @property
    def prefix(self) -> str:
        """What its keys begin with before that."""
        ...

    @property
    def report(self) -> TrialReport | None:
        """The results; None before there are any."""
        ...

    def compressions(self) -> Sequence[Compression]:
        """What is tried."""
        ...


def declare(trainer: Trainer, callback: Trial) -> None:
    """Write the columns of all trials of a Trainer; in `on_fit_start`, for each of its callbacks.

    Lightning writes the user's hyperparameters right after that hook. `hp_metric` and metrics given
    to `log_hyperparams` are no columns then.

    Args:
        trainer: Callbacks on it have their trials shown if their attribute `hparams` is True.
        callback: Any of those; the first does it for all.
    """
    shown = _shown(trainer)
    if shown[0] is callback:
        head = _head(shown, user_hparams(trainer))
        for logger in loggers_of(trainer):
            events = events_of(getattr(logger, "experiment", None))
            if events is not None:
                events.add_summary(head)


def write_trials(trainer: Trainer, callback: Trial, step: int) -> None:
    """Write a run `trials/<name>` below that of the fit for the baseline and for each trial.

    For the best `MOST_RUNS` of all callbacks together: those that do least harm to the metric, the
    smaller first among equals. Trials that failed have none. A prefix other than `weightwatch` is a
    folder in between.

    Args:
        trainer: The one that `declare` was given.
        callback: One whose trials are done.
        step: The x of the numbers.
    """
    if callback.report is None:
        return
    shown, mine = _shown(trainer), user_hparams(trainer)
    head, report = _head(shown, mine), callback.report
    rows = best_rows(report, max(MOST_RUNS // len(shown), 1))
    first = next(other for other in shown if other.report is not None)
    if first is callback and not report.rows[0].error:
        rows = [report.rows[0], *rows]
    folder = "trials" if callback.prefix == "weightwatch" else f"trials/{callback.prefix}"
    for logger in loggers_of(trainer):
        log_dir = log_dir_of(getattr(logger, "experiment", None))
        for row in rows if log_dir is not None else []:
            write_row(
                f"{log_dir}/{folder}/{row.name}",
                head,
                f"{row.name} [{log_dir}]",  # the path keeps fits apart
                {**mine, **_trial_hparams(callback, row.name)},
                _metrics(report, row),
                _DESCRIPTIONS,
                step,
                row.seconds,
            )


def best_rows(report: TrialReport, most: int) -> list[TrialRow]:
    """The variants that do least harm to the metric; of those that do the same, the smaller."""

    def harm(row: TrialRow) -> tuple[float, int]:
        delta = report.delta(row) * (1 if report.mode == "min" else -1)
        return (math.inf if math.isnan(delta) else delta, row.packed_bytes)

    return sorted((row for row in report.rows[1:] if not row.error), key=harm)[:most]


def user_hparams(trainer: Trainer) -> dict[str, Scalar]:
    """What Lightning shows of `save_hyperparameters` on the module and on the datamodule."""
    saved: dict[str, Any] = {}
    parts: tuple[Any, ...] = (trainer.lightning_module, getattr(trainer, "datamodule", None))
    for part in parts:
        if getattr(part, "_log_hyperparams", False):
            saved.update(part.hparams_initial)
    saved.pop("_class_path", None)  # LightningCLI's own
    return flat_hyperparameters(saved)


def _shown(trainer: Trainer) -> list[Any]:
    """Told by their attribute: their class imports this module."""
    return [found for found in keyed(trainer) if getattr(found, "hparams", False)]


def _head(shown: Sequence[Trial], mine: Mapping[str, Scalar]) -> "Summary":
    """The columns of every trial of every callback, and the user's."""
    ours: dict[str, Scalar] = {}
    for callback in shown:
        for tried in callback.compressions():
            ours.update(_trial_hparams(callback, tried.name))
    titles = {name: name.replace(f"{_GROUP}/", "trial ") for name in ours}
    metrics = {f"{_GROUP}/{name}": title for name, title in _METRICS.items()}
    return columns({**ours, **mine}, titles, metrics)


def _trial_hparams(callback: Trial, name: str) -> dict[str, Scalar]:
    """What was tried, and its settings; "method" is that of pruning there."""
    if name == BASELINE:
        return {f"{_GROUP}/kind": "none"}
    (tried,) = (found for found in callback.compressions() if found.name == name)
    settings: dict[str, Scalar] = {f"{_GROUP}/{k}": v for k, v in tried.settings.items()}
    return {f"{_GROUP}/kind": callback.AREA, **settings}


def _metrics(report: TrialReport, row: TrialRow) -> dict[str, float]:
    record = next(found for found in report.records() if found["trial"] == row.name)
    values = {f"{_GROUP}/{name}": float(record[name]) for name in _METRICS}
    return {tag: value for tag, value in values.items() if math.isfinite(value)}
