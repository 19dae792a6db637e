"""How a table counts: the order of its rows, steps that begin anew, epochs from 0 or from 1."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise

# The share of an epoch by which a step may miss its end.
_NEAR = 0.3
# The share of rows below a later one from which a table has no order: a run that is resumed goes
# back once.
_UNSORTED = 0.25


def is_newest_first(*columns: Mapping[int, float]) -> bool:
    """Whether the rows are sorted from the end of training to its beginning.

    Args:
        columns: Of the epochs and of the steps the number in each row that has one.

    >>> is_newest_first({0: 2, 1: 1, 2: 1, 3: 0}, {}), is_newest_first({0: 0, 1: 1, 2: 0})
    (True, False)
    """
    numbers = [list(column.values()) for column in columns if column]
    return bool(numbers) and all(
        column[0] > column[-1] and all(later <= before for before, later in pairwise(column))
        for column in numbers
    )


def is_unsorted(epochs: Mapping[int, float], steps: Mapping[int, float], rows: int) -> bool:
    """Whether the rows are in no order of training, and no resumed or repeated run explains it.

    That logs epochs or steps a second time. Other rows of an epoch have steps of their own.

    Args:
        epochs: The number in each row that has one.
        steps: Likewise.
        rows: How many there are.

    >>> is_unsorted({0: 3, 1: 0, 2: 2}, {}, 3), is_unsorted({0: 0, 1: 1, 2: 0, 3: 1}, {}, 4)
    (True, False)
    """
    told = [column for column in (epochs, steps) if column]
    if not told or any(len(column) < rows for column in told):
        return False
    places = [tuple(column[row] for column in told) for row in range(rows)]
    back = sum(later < place for place, later in pairwise(places))
    if not back:
        return False
    if epochs and len(set(epochs.values())) == rows:
        return True
    if not steps or len(set(steps.values())) < rows or back < _UNSORTED * rows:
        return False
    by_step = sorted(range(rows), key=lambda row: steps[row])
    return all(epochs.get(row, 0) <= epochs.get(later, 0) for row, later in pairwise(by_step))


def is_step_of_epoch(epochs: Mapping[int, float], steps: Mapping[int, float]) -> bool:
    """Whether steps are counted within an epoch: where the epoch rises, the step does not.

    >>> is_step_of_epoch({0: 0, 1: 0, 2: 1}, {0: 0, 1: 50, 2: 0})
    True
    """
    rows = [(epochs[row], step) for row, step in steps.items() if row in epochs]
    return any(
        epoch > last_epoch and step <= last_step
        for (last_epoch, last_step), (epoch, step) in pairwise(rows)
    )


def counts_epochs_from_1(ends: Mapping[int, float]) -> bool | None:
    """Whether the first epoch is 1, by the steps that were done: twice as many after the second.

    Args:
        ends: The last step of each epoch, steps counted from 0 or from 1.

    Returns:
        None where the steps do not tell.

    >>> counts_epochs_from_1({1: 100, 2: 200}), counts_epochs_from_1({1: 199, 2: 299})
    (True, False)
    """
    epochs = sorted(ends)
    whole = epochs[:-1] if len(epochs) > 2 else epochs  # the last may be cut short
    if len(whole) < 2 or ends[whole[-1]] <= ends[whole[0]]:
        return None
    if all(ends[epoch] == epoch - 1 for epoch in epochs):
        return True  # the steps are epochs, from 0
    per_epoch = (ends[whole[-1]] - ends[whole[0]]) / (whole[-1] - whole[0])
    more_than_named = (ends[whole[0]] + 0.5) / per_epoch - whole[0]
    if abs(more_than_named) < _NEAR:
        return True
    return False if abs(more_than_named - 1) < _NEAR else None


def spaced_epochs_from_1(epochs: Iterable[int]) -> bool | None:
    """Whether the first epoch is 1, where only every few were logged: 5, 10, 15; from 0: 4, 9, 14.

    Returns:
        None where the epochs do not tell.

    >>> spaced_epochs_from_1([5, 10, 15]), spaced_epochs_from_1([4, 9, 14])
    (True, False)
    """
    first, *others = sorted(set(epochs))
    intervals = {later - epoch for epoch, later in pairwise([first, *others])}
    every = min(intervals, default=0)
    if len(intervals) != 1 or every == 1 or first not in (every - 1, every):
        return None
    return first == every
