"""What the curve of one run suggests for the next: patience, and the learning rate."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SHORTEST_PATIENCE = 2
_LONGEST_DECAY = 2
# A drop at least halves the learning rate, and comes out of the blue.
_DROP = 0.5
_UNCHANGED = 0.02


@dataclass(frozen=True)
class Drop:
    """A drop of the learning rate by half or more, after it had stood still.

    Attributes:
        name: Of the learning rate, as LearningRateMonitor logs it: `lr-Adam`.
        index: The first validation with the new one.
        before: The old learning rate.
        after: The new one.
    """

    name: str
    index: int
    before: float
    after: float


def patience_of(val: NDArray[np.float64]) -> tuple[int, int]:
    """How many validations an EarlyStopping should wait, at least and at most.

    One more than the longest time without a new best before the best of all: with less, this run
    would have been stopped before it.

    Args:
        val: The metric, to fall, up to its best. Shape [n].
    """
    records = np.minimum.accumulate(val)
    news = np.flatnonzero(np.r_[True, records[1:] < records[:-1]])
    waited = int(np.diff(news).max(initial=1)) - 1
    least = max(_SHORTEST_PATIENCE, waited + 1)
    return least, least + 1


def decay_window(knee: int | None, best: int) -> tuple[int, int] | None:
    """Where the learning rate may be lowered: from the knee on, within three validations."""
    return None if knee is None else (knee, min(knee + _LONGEST_DECAY, best))


def find_drops(rates: Mapping[str, Sequence[float]]) -> tuple[Drop, ...]:
    """The drops of each learning rate, in the order of time.

    A cosine that goes to 0 more than halves in its last steps: that is no drop, because it did not
    stand still before.

    Args:
        rates: Per name one value a validation, NaN where unknown.
    """
    found = []
    for name, values in rates.items():
        known = [(i, value) for i, value in enumerate(values) if math.isfinite(value)]
        for place in range(1, len(known)):
            (_, before), (index, after) = known[place - 1 : place + 1]
            earlier = known[place - 2][1] if place > 1 else before
            stood = abs(before - earlier) <= _UNCHANGED * abs(before)
            if stood and 0 <= after <= _DROP * before and before > 0:
                found.append(Drop(name, index, before, after))
    return tuple(sorted(found, key=lambda drop: drop.index))
