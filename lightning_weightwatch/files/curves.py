"""The learning curves of a run, out of what it logged: one training loss to each validation."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from math import nan

from lightning_weightwatch.files.bad_file import BadFile, as_path
from lightning_weightwatch.files.beside_fit import beside_the_fit, without_returns
from lightning_weightwatch.files.curve_names import (
    choose_monitor,
    learning_rates,
    of_single_steps,
    training_curves,
)
from lightning_weightwatch.files.log_folder import logs_at
from lightning_weightwatch.files.logged import Log, Point, latest
from lightning_weightwatch.files.printable import in_one_line, printable
from lightning_weightwatch.files.training_curve import (
    choose_covering,
    counts_other_steps,
    in_epochs_of,
    training_losses,
)


@dataclass(frozen=True)
class Curves:
    """Learning curves as a log holds them. One entry per validation.

    Attributes:
        train_losses: Training loss of the epoch of each validation; NaN where unknown.
        val_values: The validation metric as logged, NaN and infinite values included.
        epochs: 0-based epoch of each validation; several validations in one epoch repeat it.
        monitor: Name of the validation metric.
        train: Name of the training curve; None when the log holds none.
        learning_rates: By name (`lr-Adam`, ...) the one in force when each validation ran; NaN
            where unknown.
        source: The file or folder that was read.
        notes: Where the reading is an approximation, in sentences.
        steps: Step of each validation as logged; empty for a log without steps.
    """

    train_losses: tuple[float, ...]
    val_values: tuple[float, ...]
    epochs: tuple[int, ...]
    monitor: str
    train: str | None
    learning_rates: Mapping[str, tuple[float, ...]]
    source: str
    notes: tuple[str, ...]
    steps: tuple[float, ...] = ()


def read_curves(
    path: str | os.PathLike[str], *, monitor: str | None = None, train: str | None = None
) -> Curves:
    r"""The learning curves in the log of a run.

    Args:
        path: The folder of a run, one that holds a single run, or a file: `metrics.csv` of
            Lightning's `CSVLogger` and other tables with a header, or an event file of TensorBoard.
            In a folder `metrics.csv` is preferred where it has the metric. Folders `train` and
            `validation` of event files, as Keras writes them, are one run.
        monitor: The validation metric; None for `val_loss` or another usual name.
        train: The training loss; None for `weightwatch/train_loss`, `train_loss_epoch`,
            `train_loss` or another usual name, else for the training's own values of the metric.

    Returns:
        The curves. Values of a curve that is logged per step become the mean over those of the
        epoch up to the validation, and a note says so.

    Raises:
        MissingFile: If there is nothing at the path: a `BadFile` and a `FileNotFoundError`.
        BadFile: A `ValueError`: if no log is there or several runs are, if it cannot be read, or if
            it has no such curves.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "metrics.csv")
        ...     _ = file.write_text("epoch,step,train_loss,val_loss\n0,5,,1.5\n0,5,1.25,\n")
        ...     curves = read_curves(folder)
        >>> curves.val_values, curves.train_losses, curves.epochs
        ((1.5,), (1.25,), (0,))
    """
    exact, *others = logs_at(as_path(path))
    try:
        return _curves(exact(), monitor, train)
    except BadFile as error:
        for opener in others:
            reason = str(error).partition(": ")[2].partition(". ")[0]
            return _curves(opener(), monitor, train, [f"Read from the event files: {reason}."])
        raise


def _curves(log: Log, monitor: str | None, train: str | None, notes: Sequence[str] = ()) -> Curves:
    name = choose_monitor(log.source, log.names, monitor)
    candidates = training_curves(log.source, log.names, train, name)
    said = [*notes, *log.notes]
    trained = _trained(log, candidates)
    all_written = log.written(name)
    written = without_returns(all_written, trained, has_steps=log.has_steps)
    validations = latest(written, has_steps=log.has_steps)
    if not validations:
        raise BadFile(
            f"{log.source}: holds no value of {name} yet. Wait for the first validation, or name "
            "another with --monitor (monitor=...)."
        )
    if not log.has_epochs:
        said.append("The log tells no epochs: validations are counted as epochs.")
        validations = [point._replace(epoch=number) for number, point in enumerate(validations)]

    def training_of(name: str) -> list[Point]:
        points = log.curve(name)
        return points if log.has_epochs else in_epochs_of(validations, points)

    training_name = choose_covering(candidates, training_of, validations, said)
    training = training_of(training_name) if training_name is not None else []
    said += _alone(all_written, written, log.has_steps)
    replaced = {name: (written, validations)}
    if training_name is not None:
        replaced[training_name] = (log.written(training_name), training)
    said += _replaced(replaced, log.has_steps)
    validations = _of_the_fit(log, validations, trained, said)
    said += _not_from_the_start(log, validations)
    losses = [nan] * len(validations)
    if training_name is None:
        said.append("The log has no training loss of a usual name. --train names another.")
    elif log.has_steps and not log.has_epochs and counts_other_steps(validations, training):
        said.append(
            f"{printable(training_name)} goes on to step {training[-1].position:.0f} and "
            f"{printable(name)} ends at step {validations[-1].position:.0f}: one seems to count "
            "batches and the other epochs, so they are not compared. Log both at the same steps."
        )
    else:
        losses = training_losses(log, training_name, training, validations, said)
    return Curves(
        train_losses=tuple(losses),
        val_values=tuple(point.value for point in validations),
        epochs=tuple(point.epoch or 0 for point in validations),
        monitor=name,
        train=training_name,
        learning_rates=_learning_rates(log, validations, said),
        source=log.source,
        notes=tuple(said),
        steps=tuple(point.position for point in validations) if log.has_steps else (),
    )


def _trained(log: Log, candidates: Sequence[str]) -> list[Point]:
    """All values of what may be the training curve, as they were written."""
    steps = [of_single_steps(log.names, name) for name in candidates]
    trained: list[Point] = []
    for name in dict.fromkeys([*candidates, *(name for name in steps if name)]):
        with suppress(BadFile):  # said where it is the one to follow
            trained += log.written(name)
    return trained


def _alone(written: list[Point], kept: list[Point], has_steps: bool) -> list[str]:
    """How many validations went back alone, as a note."""
    count = len(written) - len(kept)
    if not count:
        return []
    values = "a value" if count == 1 else f"{count} values"
    back = "a step" if has_steps else "an epoch"
    return [
        f"Left out: {values} written later for {back} long past, with no training: a validation "
        "beside the fit."
    ]


def _replaced(
    curves: Mapping[str, tuple[Sequence[Point], Sequence[Point]]], has_steps: bool
) -> list[str]:
    """How many values of the curves later ones took the place of, as a note.

    Args:
        curves: Of each its values as written, and those that are left.
        has_steps: Whether positions are steps.
    """
    lost = [
        f"{len(written) - len(kept)} of {len(written)} values of {printable(name)}"
        for name, (written, kept) in curves.items()
        if len(kept) < len(written)
    ]
    if not lost:
        return []
    # Where gradients are accumulated, validations of a fit that goes on share a step.
    if has_steps and not any(
        later.position < point.position or (later.epoch or 0) < (point.epoch or 0)
        for written, _ in curves.values()
        for point, later in pairwise(written)
    ):
        return [
            f"Left out: {' and '.join(lost)}, at a step that another one has: the last of each "
            "counts."
        ]
    return [
        f"Left out: {' and '.join(lost)}. Values written later go back to their steps or epochs, "
        "as those of a resumed or repeated run do."
    ]


def _of_the_fit(
    log: Log, validations: list[Point], trained: list[Point], said: list[str]
) -> list[Point]:
    """The validations without those beside the fit, which only Lightning logs, and with epochs."""
    if not (log.has_steps and log.has_epochs):
        return validations
    alien = dict.fromkeys(beside_the_fit(validations, trained))
    if alien:
        steps = ", ".join(f"{point.position:.0f}" for point in alien)
        said.append(f"Left out, as no training step led to it: the value at step {steps}.")
    return [point for point in validations if point not in alien]


def _not_from_the_start(log: Log, validations: list[Point]) -> list[str]:
    """A note where the epochs before the first validation must have been logged elsewhere."""
    epochs = sorted({point.epoch or 0 for point in validations})
    every = epochs[1] - epochs[0] if len(epochs) > 1 else 1
    if not log.first_epoch or epochs[0] < every:
        return []
    return [
        f"The log begins with epoch {log.first_epoch + 1}: earlier epochs are not in it, and a "
        "better one may be among them."
    ]


def _learning_rates(
    log: Log, validations: list[Point], said: list[str]
) -> dict[str, tuple[float, ...]]:
    """Of each learning rate the last value up to each validation."""
    rates: dict[str, tuple[float, ...]] = {}
    for name in learning_rates(log.names):
        try:
            points = log.curve(name)
        except BadFile as error:
            said.append(f"{printable(name)} is left out: {in_one_line(error)}.")
            continue
        positions = [point.position for point in points]
        before = [bisect_right(positions, point.position) for point in validations]
        rates[name] = tuple(points[count - 1].value if count else nan for count in before)
    return rates
