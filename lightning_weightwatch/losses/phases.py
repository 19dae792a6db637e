"""The phases of a training run: rapid, slower, plateau, overfit."""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from lightning_weightwatch.losses.knee import find_knee
from lightning_weightwatch.losses.noise import noise_of
from lightning_weightwatch.losses.stopping import ROUNDING

PhaseName = Literal["rapid", "slower", "steady", "plateau", "overfit", "rise"]

#: A plateau begins no further from the best than this share, or three standard deviations of the
#: noise if those are more...
_FLAT_SHARE = 0.01
_FLAT_NOISE = 3.0
#: ...and lasts so many validations at least, and this share of the way to the best.
_PLATEAU_POINTS = 5
_PLATEAU_SHARE = 0.2
# Its level is a running median of no more validations.
_LEVEL_POINTS = 15
# In fewer the bends of a steep descent pass for noise, and all of it for flat.
_ENOUGH_FOR_NOISE = 12
#: Fewer validations after the best are no phase of their own, unless they are worse.
_TAIL_POINTS = 3


@dataclass(frozen=True)
class Phase:
    """A stretch of the run. From the end of the phase before to its own end: there is no gap.

    Attributes:
        name: `"rapid"` and `"slower"`, the descent before and after its knee; `"steady"`, a descent
            without one; `"plateau"`, the validation stays where it is; `"overfit"`, it gets worse
            while the training loss falls; `"rise"`, it gets worse while the training loss does not
            fall, or is not known.
        first: Index of its first validation.
        last: Index of its last.
        first_epoch: Epoch of the first, 0-based.
        last_epoch: Epoch of the last, 0-based.
        train_from: Training loss at the end of the phase before; NaN where unknown.
        train_to: Training loss at its own end.
        val_from: Validation metric at the end of the phase before.
        val_to: Validation metric at its own end.
        label: The name as a person would say it: an overfitting of less than 4 % is a mild rise.
    """

    name: PhaseName
    first: int
    last: int
    first_epoch: int
    last_epoch: int
    train_from: float
    train_to: float
    val_from: float
    val_to: float
    label: str

    def turned(self, train_sign: int, val_sign: int) -> "Phase":
        """With the losses multiplied by these signs."""
        return replace(
            self,
            train_from=train_sign * self.train_from,
            train_to=train_sign * self.train_to,
            val_from=val_sign * self.val_from,
            val_to=val_sign * self.val_to,
        )


@dataclass(frozen=True)
class Tail:
    """What becomes of the run after its best validation, and what to call it."""

    name: PhaseName | None
    label: str = ""


def find_phases(
    train: NDArray[np.float64],
    val: NDArray[np.float64],
    epochs: tuple[int, ...],
    scale: float,
    tail: Tail,
    knee: int | None,
) -> tuple[Phase, ...]:
    """Cut a run into its phases.

    Args:
        train: Training losses, NaN where unknown. Shape [n].
        val: The validation metric, to fall. Shape [n], finite.
        epochs: The epoch of each validation.
        scale: What the shares of `val` are shares of.
        tail: What comes after the best.
        knee: Index of the knee of the descent, None for none.
    """
    best, last = int(np.argmin(val)), len(val) - 1
    descent_end = best
    flat = _plateau_start(val[: best + 1], scale, knee or 0)
    if flat is not None:
        descent_end = flat
    stretches: list[tuple[PhaseName, int, str]] = []  # name, last index, label
    if descent_end > 0:
        if knee is not None and knee < descent_end:
            stretches += [("rapid", knee, "rapid"), ("slower", descent_end, "slower")]
        else:
            stretches.append(("steady", descent_end, "steady"))
    if flat is not None:
        stretches.append(("plateau", best, "plateau"))
    after = last - best
    if tail.name is not None and after:
        stretches.append((tail.name, last, tail.label))
    elif flat is None and (after >= _TAIL_POINTS or not stretches):
        stretches.append(("plateau", last, "plateau"))
    elif after and stretches:
        name, _, label = stretches[-1]
        stretches[-1] = (name, last, label)
    phases, start = [], 0
    for name, end, label in stretches:
        before = max(start - 1, 0)
        phases.append(
            Phase(
                name,
                start,
                end,
                epochs[start],
                epochs[end],
                float(train[before]),
                float(train[end]),
                float(val[before]),
                float(val[end]),
                label,
            )
        )
        start = end + 1
    return tuple(phases)


def _plateau_start(val: NDArray[np.float64], scale: float, knee: int) -> int | None:
    """The validation from which on the rest of the way to the best, the last, is flat.

    A curve that rises in between and falls again, as a double descent does, has left its plateau:
    it begins anew after the running median was above the best by more than twice its width. That
    median, over √n validations, is about three standard deviations above the lowest of 1000 noisy
    values, and wavers by one.
    """
    best = len(val) - 1
    if best < _PLATEAU_POINTS:
        return None
    noise = noise_of(val) if best >= _ENOUGH_FOR_NOISE else 0.0
    width = max((_FLAT_SHARE + ROUNDING) * scale, _FLAT_NOISE * noise)
    near = val <= float(val[best]) + width
    points = min(max(_PLATEAU_POINTS, math.isqrt(best)), _LEVEL_POINTS) | 1
    padded = np.pad(val, points // 2, mode="edge")
    level = np.median(sliding_window_view(padded, points), axis=1)
    left = np.flatnonzero(level > float(val[best]) + 2 * width)
    back = int(left[-1]) + 1 if len(left) else 0
    start = max(back + int(np.argmax(near[back:])), knee)
    return start if best - start >= max(_PLATEAU_POINTS, _PLATEAU_SHARE * best) else None


def knee_of(
    train: NDArray[np.float64], val: NDArray[np.float64], positions: NDArray[np.float64]
) -> int | None:
    """The knee of the training loss up to the best validation; of the validation without one.

    Args:
        train: Training losses, NaN where unknown. Shape [n].
        val: The validation metric. Shape [n], finite.
        positions: Epochs trained until each validation. A validation that is left out moves the
            others no nearer to each other. Shape [n].
    """
    known = np.flatnonzero(np.isfinite(train))
    if len(known) == 0:
        train, known = val, np.arange(len(val))
    apart = np.diff(positions)
    time = np.arange(len(val), dtype=np.float64)
    if len(apart) and apart.min() > 0:
        time = (positions - positions[0]) / float(np.median(apart))
    found = find_knee(train[known], time[known])
    return None if found is None else int(known[found])
