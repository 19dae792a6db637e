"""Ticks of a logarithmic axis: powers of ten where there are some, few plain numbers elsewhere."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axis import XAxis, YAxis

_MOST = 5
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def power_of_ten(exponent: int) -> str:
    """10 to a power, in characters: setting it as mathematics takes longer than the axis.

    >>> print(power_of_ten(-12))
    10⁻¹²
    """
    return f"10{str(exponent).translate(_RAISED)}"


def set_log_axis(axis: "XAxis | YAxis", low: float, high: float) -> None:
    """A logarithmic axis from `low` to `high` with at most about five labels and no minor ones."""
    from matplotlib.ticker import NullLocator

    axes = axis.axes
    (axes.set_xscale if axis is axes.xaxis else axes.set_yscale)("log")
    (axes.set_xlim if axis is axes.xaxis else axes.set_ylim)(low, high)
    ticks = log_ticks(low, high)
    axis.set_ticks([value for value, _ in ticks], [label for _, label in ticks])
    axis.set_minor_locator(NullLocator())


def log_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Positions and labels from `low` to `high`.

    >>> log_ticks(0.5, 30)
    [(0.5, '0.5'), (1.0, '1'), (2.0, '2'), (5.0, '5'), (10.0, '10'), (20.0, '20')]
    >>> [label for _, label in log_ticks(2e-5, 3e4)]
    ['10⁻⁴', '10⁻²', '10⁰', '10²', '10⁴']
    """
    first, last = math.ceil(math.log10(low)), math.floor(math.log10(high))
    if last - first >= 2:
        step = math.ceil((last - first + 1) / _MOST)
        return [
            (10.0**power, power_of_ten(power))
            for power in range(first, last + 1)
            if power % step == 0
        ]
    plain = [
        factor * 10.0**power
        for power in range(first - 1, last + 1)
        for factor in (1, 2, 5)
        if low <= factor * 10.0**power <= high
    ]
    if len(plain) < 2:
        from matplotlib.ticker import MaxNLocator

        plain = [tick for tick in MaxNLocator(4).tick_values(low, high) if low <= tick <= high]
    return [(value, f"{value:.4g}") for value in plain]
