"""Validations that are none of the fit: those of `Trainer.validate()`, and placeholders."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import inf

from lightning_weightwatch.files.logged import Point

# How far a validation is from the one before, in steps and in epochs.
_Interval = tuple[float, int]
_START = Point(-1, -1, 0.0)


def without_returns(
    points: Sequence[Point], trained: Sequence[Point], *, has_steps: bool
) -> list[Point]:
    """The values of a curve, as written, without those that go back alone.

    A run that is resumed or repeated goes back with its training. What goes back alone is beside
    the fit: a new Trainer validates a checkpoint at step 0, and TensorBoardLogger writes the
    metrics of `log_hyperparams` there. It must not replace the run.

    Args:
        points: As they were written.
        trained: The values of all training curves, as they were written.
        has_steps: Whether positions are steps; else epochs tell what goes back.
    """

    def place(point: Point) -> float:
        return point.position if has_steps else point.epoch or 0

    lowest: dict[float, float] = {}
    for point in trained:
        lowest[point.written] = min(lowest.get(point.written, inf), place(point))
    times = sorted(lowest)
    kept: list[Point] = []
    for index, point in enumerate(points):
        if kept and place(point) < place(kept[-1]):
            following = points[index + 1] if index + 1 < len(points) else None
            since = bisect_right(times, points[index - 1].written)
            until = bisect_right(times, following.written) if following else len(times)
            # A file of events may tell no times: all are the same.
            since = min(since, bisect_left(times, point.written))
            with_training = any(lowest[time] <= place(point) for time in times[since:until])
            goes_on = following and place(point) < place(following) <= place(kept[-1])
            # No fit is validated at step 0, but where its epochs have one batch.
            if not with_training and not (goes_on and (place(point) or not has_steps)):
                continue
        kept.append(point)
    return kept


def beside_the_fit(validations: list[Point], trained: Sequence[Point]) -> list[Point]:
    """The validations that no training step led to, as far as that is sure.

    `Trainer.validate()` logs the same metric at step 0 before all training, or after a fit one step
    after the last, in the next epoch, with the weights of any checkpoint. TensorBoardLogger writes
    placeholders of hyperparameter metrics at step 0 too. But where gradients are accumulated, or
    epochs are short, real validations are one step apart as well: only a point that breaks the
    intervals of all others is taken for one that is none.

    Args:
        validations: Of a log with steps and epochs, by position.
        trained: The values of all training curves; empty without one.
    """
    between = _between(validations, trained)
    left_out = set(between)
    fit = [point for point in validations if point not in left_out]
    last_trained = max((point.position for point in trained), default=None)
    may_be_after = _is_after(fit, last_trained)
    within = fit[:-1] if may_be_after else fit
    before = _is_before(within)
    places = [-1, *(point.position for point in within[before:])]
    after = may_be_after and all(later - place != 1 for place, later in pairwise(places))
    after = after or _is_untrained(fit[before:], trained)
    return fit[:before] + between + (fit[-1:] if after else [])


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


def _is_untrained(points: list[Point], trained: Sequence[Point]) -> bool:
    """Whether nothing was trained in the epoch of the last point, as after a fit has ended.

    A fit that was cut short has such an epoch too, until the training loss of it is logged. So the
    last point must break the intervals of the others as well.
    """
    if len(points) < 2 or not trained:
        return False
    *others, last = points
    often = Counter(point.epoch for point in trained)
    last_trained = max(point.position for point in trained)
    if last.epoch in often or last_trained >= last.position:
        return False
    if any(point.epoch not in often for point in others):
        return False  # too seldom logged to tell
    next_step = last.position == last_trained + 1
    begun = any(later.epoch != point.epoch for point, later in pairwise(others))
    alone = not begun and often.keys() == {last.epoch - 1 if last.epoch else None}
    if alone and next_step and last_trained > others[-1].position:
        return True  # the only epoch went on after its last validation
    intervals = {_interval(point, later) for point, later in pairwise(others)}
    to_first = _interval(_START, others[0])
    interval = _interval(others[-1], last)
    steps = {step for step, _ in intervals} | {to_first[0]}
    if interval in intervals or steps == {interval[0]} or (not begun and interval == to_first):
        return False
    # A mean is logged when its epoch is over, so the step after it is known; single steps may be
    # logged seldom, and tell no end: then two epochs are needed to know how others began.
    several = max(often.values()) > 1
    return next_step or (several and (begun or interval[0] < min(steps)))


def _between(points: list[Point], trained: Sequence[Point]) -> list[Point]:
    """The validations between two fits of a Trainer: without them the intervals go on."""
    by_time = sorted(trained, key=lambda point: point.written)
    times = [point.written for point in by_time]
    reached = list(accumulate((point.position for point in by_time), max))
    found: list[Point] = []
    before = _START
    seen: set[_Interval] = set()
    for point, later in pairwise(points):
        interval = _interval(before, point)
        count = bisect_left(times, point.written)
        if (
            count
            and interval not in seen
            and _interval(before, later) in seen
            and interval[1] > 0
            and point.position == reached[count - 1] + 1
        ):
            found.append(point)
            continue
        if before is not _START:
            seen.add(interval)
        before = point
    return found


def _interval(point: Point, later: Point) -> _Interval:
    return later.position - point.position, (later.epoch or 0) - (point.epoch or 0)
