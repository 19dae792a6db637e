"""The learning curves of a run, out of what it logged: one training loss to each validation."""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import nan

from lightning_weightwatch.files.bad_file import BadFile, as_path
from lightning_weightwatch.files.curve_names import (
    choose_monitor,
    choose_training,
    is_mean_of_epoch,
    learning_rates,
    of_single_steps,
)
from lightning_weightwatch.files.log_folder import logs_at
from lightning_weightwatch.files.logged import Log, Point
from lightning_weightwatch.files.printable import in_one_line, printable


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
    """

    train_losses: tuple[float, ...]
    val_values: tuple[float, ...]
    epochs: tuple[int, ...]
    monitor: str
    train: str | None
    learning_rates: Mapping[str, tuple[float, ...]]
    source: str
    notes: tuple[str, ...]


def read_curves(
    path: str | os.PathLike[str], *, monitor: str | None = None, train: str | None = None
) -> Curves:
    r"""The learning curves in the log of a run.

    Args:
        path: The folder of a run, one that holds a single run, or a file: `metrics.csv` of
            Lightning's `CSVLogger` and other tables with a header, or an event file of TensorBoard.
            In a folder `metrics.csv` is preferred where it has the metric.
        monitor: The validation metric; None for `val_loss` or another usual name.
        train: The training loss; None for `weightwatch/train_loss`, `train_loss_epoch`,
            `train_loss` or another usual name.

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
    training_name = choose_training(log.source, log.names, train, name)
    said = [*notes, *log.notes]
    validations = _of_training(log.curve(name), log, said)
    if not validations:
        raise BadFile(
            f"{log.source}: holds no value of {name} yet. Wait for the first validation, or name "
            "another with --monitor (monitor=...)."
        )
    training: list[Point] = []
    if training_name is not None:
        training = log.curve(training_name)
    if not log.has_epochs:
        said.append("The log tells no epochs: validations are counted as epochs.")
        validations = [point._replace(epoch=number) for number, point in enumerate(validations)]
        training = _in_epochs_of(validations, training)
    losses = [nan] * len(validations)
    if training_name is None:
        said.append("The log holds no training loss of a usual name: --train names another.")
    else:
        losses = _training_losses(log, training_name, training, validations, said)
    return Curves(
        train_losses=tuple(losses),
        val_values=tuple(point.value for point in validations),
        epochs=tuple(point.epoch or 0 for point in validations),
        monitor=name,
        train=training_name,
        learning_rates=_learning_rates(log, validations, said),
        source=log.source,
        notes=tuple(said),
    )


def _of_training(points: list[Point], log: Log, said: list[str]) -> list[Point]:
    """The validations of the fit.

    `Trainer.validate()` logs the same metric one step after the last validation, with the weights
    of any checkpoint, or at step 0 before all training. TensorBoardLogger writes placeholders of
    hyperparameter metrics there too.
    """
    if not points or not log.has_steps:
        return points
    before: list[Point | None] = [None, *points[:-1]]
    alien = [
        point
        for point, last in zip(points, before, strict=True)
        if point.position - (last.position if last else -1) == 1
        and (last is None or last.epoch != point.epoch or point.epoch is None)
    ]
    # Where most validations are one step apart, an epoch is one step.
    if not alien or 2 * len(alien) > len(points):
        return points
    left_out = {point.position for point in alien}
    steps = ", ".join(f"{step:.0f}" for step in sorted(left_out))
    said.append(f"Left out, as no training step led to it: the value at step {steps}.")
    return [point for point in points if point.position not in left_out]


def _in_epochs_of(validations: list[Point], training: list[Point]) -> list[Point]:
    """Training points numbered by the first validation that does not come before them."""
    positions = [point.position for point in validations]
    return [point._replace(epoch=bisect_left(positions, point.position)) for point in training]


def _training_losses(
    log: Log, name: str, training: list[Point], validations: list[Point], said: list[str]
) -> list[float]:
    """The training loss of each validation."""
    shown = printable(name)
    epochs: dict[int | None, list[Point]] = {}
    for point in training:
        epochs.setdefault(point.epoch, []).append(point)
    rows = {point.position: point.value for point in training}
    if not log.has_steps and all(point.position in rows for point in validations):
        return [rows[point.position] for point in validations]  # a table with both in every row
    of_steps = not is_mean_of_epoch(name) and _is_of_steps(log, epochs, validations)
    read = _mean_up_to if of_steps else _value_at
    at = {epoch: read(points) for epoch, points in epochs.items()}
    losses = [
        at[point.epoch](point.position) if point.epoch in at else None for point in validations
    ]
    here = [point.epoch for point in validations]
    counts = {len(epochs[epoch]) for epoch in here if epoch in epochs}
    if of_steps and counts:
        count = f"{min(counts)} to {max(counts)}" if len(counts) > 1 else str(*counts)
        said.append(
            f"{shown} is the mean of the {count} logged steps of each epoch, which need not be all."
        )
    elif len(set(here)) < len(here) and counts == {1}:
        steps = of_single_steps(log.names, name)
        closer = f" --train {printable(steps)} follows it more closely." if steps else ""
        said.append(f"{shown} has one value for all validations of an epoch.{closer}")
    if missing := losses.count(None):
        said.append(f"No {shown} was logged for {missing} of {len(losses)} validations.")
    return [nan if loss is None else loss for loss in losses]


def _is_of_steps(
    log: Log, epochs: Mapping[int | None, list[Point]], validations: list[Point]
) -> bool:
    """Whether a training curve is logged per step: several times, or within an epoch.

    Lightning writes a mean at the step of the last validation of the epoch.
    """
    ends = {point.epoch: point.position for point in validations}
    return any(len(points) > 1 for points in epochs.values()) or (
        log.has_steps
        and any(points[0].position < ends.get(epoch, 0) for epoch, points in epochs.items())
    )


def _mean_up_to(points: list[Point]) -> Callable[[float], float | None]:
    """The mean of the values up to a position; None where there is none."""
    positions = [point.position for point in points]
    sums = list(accumulate(point.value for point in points))

    def mean(position: float) -> float | None:
        count = bisect_right(positions, position)
        return sums[count - 1] / count if count else None

    return mean


def _value_at(points: list[Point]) -> Callable[[float], float | None]:
    """The last value up to a position, or the first: a mean is written when the epoch is over."""
    positions = [point.position for point in points]
    return lambda position: points[max(bisect_right(positions, position) - 1, 0)].value


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
