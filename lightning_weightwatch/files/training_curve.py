"""The training loss of each validation, out of a curve that was logged in steps or in epochs."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise
from math import nan

from lightning_weightwatch.files.bad_file import BadFile
from lightning_weightwatch.files.curve_names import is_mean_of_epoch, of_single_steps
from lightning_weightwatch.files.logged import Log, Point
from lightning_weightwatch.files.printable import printable

# A curve that has values for this share of the epochs with a validation, or less, gives way...
_SPARSE = 0.5
# ...to one that has them for this share or more.
_DENSE = 0.9


def choose_covering(
    names: Sequence[str],
    read: Callable[[str], list[Point]],
    validations: list[Point],
    said: list[str],
) -> str | None:
    """The first of several training curves that is there for the validations.

    A final summary, as the `train_loss` of Hugging Face's Trainer, is no curve.

    Args:
        names: The likeliest first.
        read: Gives the points of one, with epochs.
        validations: With epochs.
        said: Takes a note where it is not the likeliest.

    Raises:
        BadFile: If the likeliest cannot be read.
    """
    if not names:
        return None
    first, *others = names
    if not others or (share := _coverage(read(first), validations)) > _SPARSE:
        return first
    for name in others:
        try:
            dense = _coverage(read(name), validations) >= _DENSE
        except BadFile:
            continue
        if dense:
            said.append(
                f"{printable(first)} has values in {share:.0%} of the epochs with a validation: "
                f"{printable(name)} is taken for the training curve."
            )
            return name
    return first


def _coverage(training: list[Point], validations: list[Point]) -> float:
    epochs = {point.epoch for point in validations}
    return len(epochs & {point.epoch for point in training}) / len(epochs)


def in_epochs_of(validations: list[Point], training: list[Point]) -> list[Point]:
    """Training points numbered by the first validation that does not come before them."""
    positions = [point.position for point in validations]
    return [point._replace(epoch=bisect_left(positions, point.position)) for point in training]


def counts_other_steps(validations: list[Point], training: list[Point]) -> bool:
    """Whether steps of the training curve are none of the validations, as batches and epochs.

    Only then it goes on for so long after the last validation.
    """
    if len(validations) < 2 or len(training) < 2:
        return False
    places = [-1, *(point.position for point in validations)]
    widest = max(later - place for place, later in pairwise(places))
    after = training[-1].position - places[-1]
    return after > 2 * widest and 3 * after > training[-1].position - training[0].position


def training_losses(
    log: Log, name: str, training: list[Point], validations: list[Point], said: list[str]
) -> list[float]:
    """The training loss of each validation; NaN where none was logged.

    Args:
        log: The log.
        name: Of the training curve.
        training: Its points, with epochs.
        validations: With epochs.
        said: Takes notes where the reading is an approximation.
    """
    shown = printable(name)
    epochs: dict[int | None, list[Point]] = {}
    for point in training:
        epochs.setdefault(point.epoch, []).append(point)
    if not log.has_steps and (beside := _in_the_same_rows(log, training, validations)):
        return beside
    of_steps = not is_mean_of_epoch(name) and _is_of_steps(log, epochs, validations)
    read = _mean_up_to if of_steps else _value_at
    at = {epoch: read(points) for epoch, points in epochs.items()}
    losses = [
        at[point.epoch](point.position) if point.epoch in at else None for point in validations
    ]
    here = [point.epoch for point in validations]
    if of_steps:
        said += _about_means(shown, epochs, validations)
    elif len(set(here)) < len(here) and {len(epochs[at]) for at in here if at in epochs} == {1}:
        steps = of_single_steps(log.names, name)
        closer = f" --train {printable(steps)} follows it more closely." if steps else ""
        said.append(f"{shown} has one value for all validations of an epoch.{closer}")
    if missing := losses.count(None):
        said.append(f"No {shown} was logged for {missing} of {len(losses)} validations.")
    return [nan if loss is None else loss for loss in losses]


def _in_the_same_rows(
    log: Log, training: list[Point], validations: list[Point]
) -> list[float] | None:
    """The training losses of a table that holds them beside the validations.

    None where it does not, or has more of them in an epoch: those of steps.
    """
    rows = {point.position: point.value for point in training}
    places = {point.position for point in validations}
    epochs = {point.epoch for point in validations}
    others = [p for p in training if p.epoch in epochs and p.position not in places]
    if not places <= rows.keys() or (log.has_epochs and others):
        return None
    return [rows[point.position] for point in validations]


def _about_means(
    shown: str, epochs: Mapping[int | None, list[Point]], validations: list[Point]
) -> list[str]:
    """Of how many steps the means are, as a note."""
    positions = {at: [point.position for point in points] for at, points in epochs.items()}
    known = [point for point in validations if point.epoch in epochs]
    used = [bisect_right(positions[point.epoch], point.position) for point in known]
    counts = {count for count in used if count}
    if not counts:
        return []
    count = f"{min(counts)} to {max(counts)}" if len(counts) > 1 else str(*counts)
    whole = used == [len(epochs[point.epoch]) for point in known]
    several = len({point.epoch for point in validations}) < len(validations)
    of = "of each epoch" if whole and not several else "of the epoch up to each validation"
    return [f"{shown} is the mean of the {count} logged steps {of}, which need not be all."]


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
