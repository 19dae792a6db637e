"""How a table counts: the order of its rows, steps that begin anew, epochs from 0 or from 1."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

# The share of an epoch by which a step may miss its end.
_NEAR = 0.3


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
    per_epoch = (ends[whole[-1]] - ends[whole[0]]) / (whole[-1] - whole[0])
    more_than_named = (ends[whole[0]] + 0.5) / per_epoch - whole[0]
    if abs(more_than_named) < _NEAR:
        return True
    return False if abs(more_than_named - 1) < _NEAR else None
