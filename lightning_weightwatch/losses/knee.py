"""The knee of a learning curve: where it stops to fall fast."""

import math

import numpy as np
from numpy.typing import NDArray

#: Before the knee the curve must fall so many times as fast as after it.
STEEPER = 1.5
_MIN_POINTS = 4
# A fit is never taken to be better than rounding leaves it.
_ROUNDING = 1e-14


def find_knee(values: NDArray[np.float64]) -> int | None:
    """The index at which two lines meet that together fit a falling curve best.

    On the logarithm of the values, so that a loss that halves every epoch is one line; on the
    values themselves where some are not positive. The two lines meet at one of the points, the one
    with the least sum of squared errors. There is a knee if the first line falls 1.5 times as fast
    as the second, and the two are better than a single one by the Bayesian information criterion
    for the two numbers more: n ln(SSE₁ / SSE₂) > 2 ln n.

    All points are tried at once, in O(n): the sums of squares of the least-squares fit with the
    columns 1, x and max(0, x − x_k) are cumulative sums.

    Args:
        values: Shape [n], finite.

    Returns:
        From 1 to n − 2; None if there is no knee.
    """
    n = len(values)
    if n < _MIN_POINTS:
        return None
    y = np.log(values) if values.min() > 0 else values / max(np.abs(values).max(), 1e-300)
    y = y - y.mean()
    x = np.linspace(-1.0, 1.0, n)
    total = float(y @ y)
    fall = float(x @ y / (x @ x))
    one_line = total - fall * float(x @ y)
    if total == 0 or one_line <= _ROUNDING * total:
        return None
    y = y - fall * x  # what one line leaves: all further sums are of its size
    bends = x[1:-1]
    # Sums over the points beyond each bend of 1, x, x², y, xy.
    count = n - 1 - np.arange(1, n - 1)
    s_x, s_xx, s_y, s_xy = (_beyond(column) for column in (x, x * x, y, x * y))
    hinge = s_x - count * bends  # Σ h, with h = max(0, x − bend)
    hinge_x = s_xx - bends * s_x
    hinge_hinge = s_xx - 2 * bends * s_x + count * bends**2
    hinge_y = s_xy - bends * s_y
    # The part of h that 1 and x do not explain; y has none of them any more.
    own = hinge_hinge - hinge**2 / n - hinge_x**2 / float(x @ x)
    gain = hinge_y**2 / own
    best = int(np.argmax(gain))
    two_lines = max(one_line - float(gain[best]), _ROUNDING * total)
    change = float(hinge_y[best] / own[best])
    before = -(fall - change * float(hinge_x[best]) / float(x @ x))
    after = before - change
    steeper = before > STEEPER * max(after, 0.0)
    better = n * math.log(one_line / two_lines) > 2 * math.log(n)
    return best + 1 if steeper and better else None


def _beyond(column: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each inner point the sum over all points behind it."""
    sums: NDArray[np.float64] = column.sum() - np.cumsum(column)[1:-1]
    return sums
