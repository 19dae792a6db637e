"""Validations that are none of the fit: those of `Trainer.validate()`, and placeholders."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from lightning_weightwatch.files.logged import Point


def beside_the_fit(validations: list[Point], last_trained: float | None) -> list[Point]:
    """The validations that no training step led to, as far as that is sure: at most two.

    `Trainer.validate()` logs the same metric at step 0 before all training, or one step after the
    last validation, in the next epoch, with the weights of any checkpoint. TensorBoardLogger writes
    placeholders of hyperparameter metrics at step 0 too. But where gradients are accumulated, or
    epochs are short, real validations are one step apart as well: only a point that breaks the
    intervals of all others is taken for one that is none.

    Args:
        validations: Of a log with steps and epochs, by position.
        last_trained: The last step with a value of the training curve; None without one.
    """
    may_be_after = _is_after(validations, last_trained)
    within = validations[:-1] if may_be_after else validations
    before = _is_before(within)
    places = [-1, *(point.position for point in within[before:])]
    after = may_be_after and all(later - place != 1 for place, later in pairwise(places))
    return validations[:before] + (validations[-1:] if after else [])


def _is_before(points: list[Point]) -> bool:
    """Whether the first point breaks the intervals of the others."""
    if len(points) < 3 or points[0].position != 0:
        return False
    to_second, *intervals = (later.position - point.position for point, later in pairwise(points))
    if to_second in intervals:
        return False
    # The steps of a fit begin with 0: so many were done until the second.
    if to_second + 1 in intervals:
        return True
    often = Counter(point.epoch for point in points)
    often.pop(points[-1].epoch)  # it may be cut short
    in_first = often.pop(points[0].epoch, 0)
    return bool(often) and in_first == max(often.values()) + 1


def _is_after(points: list[Point], last_trained: float | None) -> bool:
    """Whether the last point may be one after the fit, by its own step and epoch."""
    if len(points) < 2:
        return False
    before, last = points[-2:]
    next_step = last.position == before.position + 1 and last.epoch != before.epoch
    return next_step and (last_trained is None or last_trained <= before.position)
