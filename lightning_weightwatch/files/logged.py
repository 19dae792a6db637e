"""A log of scalars, whatever its format: the points of each curve, in the order of training."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

#: What no count of epochs reaches, and a float still counts exactly.
MAX_EPOCH = 2**53


class Point(NamedTuple):
    """A value of a curve.

    Attributes:
        position: Its place in training: the step, or in a log without steps the row.
        epoch: 0-based; None in a log without epochs.
        value: As logged, NaN and infinite ones included.
        written: When, on a clock of the log: its row, or the time of its event.
    """

    position: float
    epoch: int | None
    value: float
    written: float = 0.0


@dataclass(frozen=True)
class Log:
    """An open log.

    Attributes:
        source: The file or folder.
        names: Of its curves, in its order.
        written: All points of one of them as they were written; raises `BadFile` for what is no
            number.
        has_steps: Whether positions are steps.
        first_epoch: The first that it tells of, 0-based; None where it tells no epochs.
        notes: Where its reading is an approximation, in sentences.
    """

    source: str
    names: tuple[str, ...]
    written: Callable[[str], list[Point]]
    has_steps: bool
    first_epoch: int | None
    notes: tuple[str, ...] = ()

    @property
    def has_epochs(self) -> bool:
        """Whether it tells epochs."""
        return self.first_epoch is not None

    def curve(self, name: str) -> list[Point]:
        """The points that count, by position; raises `BadFile` for what is no number."""
        return latest(self.written(name), has_steps=self.has_steps)


def latest(points: Iterable[Point], *, has_steps: bool) -> list[Point]:
    """The points without those that a resumed run went back behind, and logged anew.

    A point replaces all earlier written ones of its step or a later one, as TensorBoard has it, and
    all of a later epoch, with those of its own epoch: positions rise, and epochs never fall.

    >>> rerun = [Point(5, 0, 3.0), Point(11, 1, 2.0), Point(17, 2, 9.0), Point(11, 1, 1.0)]
    >>> [point.value for point in latest(rerun, has_steps=True)]
    [3.0, 1.0]
    """
    kept: list[Point] = []
    for point in points:
        while has_steps and kept and kept[-1].position >= point.position:
            kept.pop()
        if kept and _epoch(point) < _epoch(kept[-1]):
            while kept and _epoch(kept[-1]) >= _epoch(point):
                kept.pop()
        kept.append(point)
    return kept


def _epoch(point: Point) -> int:
    return 0 if point.epoch is None else point.epoch


def epoch_of_step(known: Mapping[float, int]) -> Callable[[float], int | None]:
    """The epoch of any step, from the steps whose epoch was logged: that of the last one before.

    >>> epoch = epoch_of_step({5: 0, 11: 1})
    >>> [epoch(step) for step in (0, 5, 8, 11, 40)]
    [0, 0, 0, 1, 1]
    """
    steps: Sequence[float] = sorted(known)

    def epoch(step: float) -> int | None:
        if not steps:
            return None
        return known[steps[max(bisect_right(steps, step) - 1, 0)]]

    return epoch
