"""The knee of a learning curve: where it stops to fall fast."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Before the knee the curve must fall so many times as fast as after it.
STEEPER = 1.5
_MIN_POINTS = 4
# The levels that a loss may fall towards and never reach, as shares of its lowest value.
_FLOORS = tuple(1 - 0.6**place for place in range(1, 10))
# A fit is never taken to be better than rounding leaves it, of its sums and of each value...
_SUM_ROUNDING = 1e-14
_VALUE_ROUNDING = 16 * float(np.finfo(np.float64).eps)
# ...and of bends that differ by less the first is taken: another unit has the same knee.
_TIE = 1e-9
# A hinge that a line explains but for so little of it has no place of its own.
_LEAST_OWN = 1e-12
# What is e^100 times as high as the lowest value has no weight beside it.
_HIGHEST = 100.0


@dataclass(frozen=True)
class Bend:
    """Two lines that meet at a point, beside a single one.

    Attributes:
        index: Of the point.
        one_line: Sum of squared errors of the single line that fits best.
        two_lines: That of the two.
        steeper: Whether the first falls 1.5 times as fast as the second.
    """

    index: int
    one_line: float
    two_lines: float
    steeper: bool


def find_knee(values: NDArray[np.float64], time: NDArray[np.float64] | None = None) -> int | None:
    """The index at which two lines meet that together fit a falling curve best.

    Two lines of the loss itself, with errors as shares of it, or of its logarithm, in which a loss
    that halves every epoch is one line. There is a knee if the first line falls 1.5 times as fast
    as the second, and the better of the two fits beats the better single line by the Bayesian
    information criterion for the two numbers more: n ln(SSE₁ / SSE₂) > 2 ln n.

    Where it is, other scales may tell better: the logarithm of how far the loss is above a floor,
    and logarithms of both loss and time, in which a power law is one line. One of them is believed
    if its two lines beat, by the same criterion, the first fit and the single lines of all these
    scales: a curve that one of them explains without a bend bends smoothly in the others.

    Of values that are not all positive, only lines of the values themselves.

    Args:
        values: Shape [n], finite.
        time: When each value was, from 0 on and rising; 0, 1, 2, ... when not given. Shape [n].

    Returns:
        From 1 to n − 2; None if there is no knee.
    """
    n = len(values)
    if n < _MIN_POINTS:
        return None
    time, even = np.arange(n, dtype=np.float64) if time is None else time, np.ones(n)
    if values.min() <= 0:
        bends = [best_bend(time, values / max(float(np.abs(values).max()), 1e-300), even)]
    else:
        logs = np.log(values)
        heights = np.exp(np.minimum(logs - logs.min(), _HIGHEST))
        bends = [best_bend(time, logs, even), best_bend(time, heights, 1 / heights)]
    found = min(bends, key=lambda bend: bend.two_lines)
    one_line = min(bend.one_line for bend in bends)
    if not (found.steeper and _gain(n, one_line, found.two_lines) > 2):
        return None
    if values.min() > 0:
        bends = [best_bend(time, np.log(heights - floor), 1 - floor / heights) for floor in _FLOORS]
        bends.append(best_bend(np.log1p(time), logs, even))
        one_line = min(bend.one_line for bend in bends)
        for bend in bends:
            sharp = bend.steeper and _gain(n, one_line, bend.two_lines) > 2
            if sharp and _gain(n, found.two_lines, bend.two_lines) > 1:
                found = bend
    return found.index


def _gain(n: int, worse: float, better: float) -> float:
    """How many further numbers in a fit the smaller sum of squared errors is worth."""
    return n * math.log(worse / better) / math.log(n)


def best_bend(x: NDArray[np.float64], y: NDArray[np.float64], weights: NDArray[np.float64]) -> Bend:
    """The best two lines that meet at one of the points.

    All points are tried at once, in O(n): the sums of squares of the least-squares fit with the
    columns 1, x and max(0, x − x_k) are cumulative sums.

    Args:
        x: Shape [n], rising.
        y: Shape [n].
        weights: What each error is multiplied with. Shape [n].

    Returns:
        The bend with the least squares, the first of equals.
    """
    n, w = len(x), weights * weights
    whole = float(w.sum())
    rounding = _VALUE_ROUNDING * max(float(np.abs(weights * y).max()), 1.0)
    exact = n * rounding**2
    x = x - float(w @ x) / whole
    x = x / float(np.abs(x).max())
    y = y - float(w @ y) / whole
    spread = float(w @ (x * x))
    fall = float(w @ (x * y)) / spread
    exact = max(exact, _SUM_ROUNDING * float(w @ (y * y)))
    level = _TIE * math.sqrt(float(w @ (y * y)) / whole) + rounding
    y = y - fall * x  # what one line leaves: all further sums are of its size
    one_line = max(float(w @ (y * y)), exact)
    bends = x[1:-1]
    # Sums over the points beyond each bend of 1, x, x², y, xy.
    count, s_x, s_xx, s_y, s_xy = (
        _beyond(column) for column in (w, w * x, w * x * x, w * y, w * x * y)
    )
    hinge = s_x - count * bends  # Σ h, with h = max(0, x − bend)
    hinge_x = s_xx - bends * s_x
    hinge_hinge = s_xx - 2 * bends * s_x + count * bends**2
    hinge_y = s_xy - bends * s_y
    # The part of h that 1 and x do not explain; y has none of them any more.
    own = hinge_hinge - hinge**2 / whole - hinge_x**2 / spread
    own = np.where(own > _LEAST_OWN * hinge_hinge, own, math.inf)
    gain = hinge_y**2 / own
    best = int(np.argmax(gain >= (1 - _TIE) * gain.max()))
    two_lines = max(one_line - float(gain[best]), exact)
    change = float(hinge_y[best] / own[best])
    before = -(fall - change * float(hinge_x[best]) / spread)
    after = before - change
    steeper = before > (1 + _TIE) * STEEPER * max(after, 0.0) + level
    return Bend(best + 1, one_line, two_lines, steeper)


def _beyond(column: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each inner point the sum over all points behind it."""
    sums: NDArray[np.float64] = np.cumsum(column[::-1])[::-1][2:]
    return sums
