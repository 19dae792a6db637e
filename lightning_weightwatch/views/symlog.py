"""A scale for changes of which some are hundreds of times as large as others, to both sides of 0.

Linear up to a threshold, logarithmic beyond it.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lightning_weightwatch.views.log_ticks import power_of_ten

if TYPE_CHECKING:
    from matplotlib.axis import XAxis, YAxis

# From here on a linear scale shows half of the changes within a tenth of it.
_SPREAD = 10
# Decades beyond the threshold, and labels besides the 0.
_DECADES, _LABELS = 4, 5
# Decades that what is linear takes to either side: what is close to 0 is mostly chance.
_LINEAR = 0.6
# Larger and smaller powers are written as such.
_PLAIN = 3


def noise_of(reaches: Sequence[float], tolerance: float) -> float:
    """How large changes are that say nothing: the median half of an interval, or the tolerance.

    Args:
        reaches: Half the widths of the confidence intervals.
        tolerance: What is no harm anyway; the least that is returned.

    >>> noise_of([0.002, 0.003, 0.1], 0.001), noise_of([], 0.001)
    (0.003, 0.001)
    """
    known = [reach for reach in reaches if math.isfinite(reach)]
    return max(float(np.median(known)) if known else 0.0, tolerance)


def threshold_of(changes: Sequence[float], noise: float = 0.0) -> float | None:
    """Up to which size of a change the scale is to be linear; None where all of it may be.

    Args:
        changes: What is shown.
        noise: As far the scale is linear: what says nothing stays close to 0. Where it is 0 the
            lower quartile of the changes takes its place.
    """
    sizes = np.abs([change for change in changes if change and math.isfinite(change)])
    if not sizes.size or sizes.max() <= _SPREAD * max(np.median(sizes), noise):
        return None
    # Subnormal numbers have no logarithm that is worth a decade.
    quartile = math.log10(max(np.quantile(sizes, 0.25), 1e-300))
    decades = math.floor(math.log10(sizes.max())) - _DECADES
    return max(noise or 10.0 ** math.floor(quartile), 10.0**decades)


def set_symlog_axis(
    axis: "XAxis | YAxis", low: float, high: float, threshold: float, margin: float
) -> None:
    """An axis from `low` to `high`, between which 0 is, and a share of that to both sides."""
    from matplotlib.ticker import NullLocator

    axes, across = axis.axes, axis is axis.axes.xaxis
    set_scale = axes.set_xscale if across else axes.set_yscale
    set_scale("symlog", linthresh=threshold, linscale=_LINEAR)
    scale = axis.get_transform()
    ends = scale.transform([low, high])
    beyond = margin * (ends[1] - ends[0])
    low, high = map(float, scale.inverted().transform([ends[0] - beyond, ends[1] + beyond]))
    (axes.set_xlim if across else axes.set_ylim)(low, high)
    ticks = symlog_ticks(low, high, threshold)
    axis.set_ticks([value for value, _ in ticks], [label for _, label in ticks])
    axis.set_minor_locator(NullLocator())


def symlog_ticks(
    low: float, high: float, threshold: float, most: int = _LABELS
) -> list[tuple[float, str]]:
    """Positions and labels: 0, and at most about so many powers of ten beyond the threshold.

    >>> [label for _, label in symlog_ticks(-0.02, 5, 0.01)]
    ['−0.01', '0', '0.01', '0.1', '1']
    >>> [label for _, label in symlog_ticks(0, 5e6, 1.0)]
    ['0', '1', '100', '10⁴', '10⁶']
    >>> [label for _, label in symlog_ticks(-0.004, 2, 0.003)]
    ['0', '0.01', '0.1', '1']
    """
    first = math.ceil(math.log10(threshold) - 1e-9)
    above, below = (
        range(first, math.floor(math.log10(end) + 1e-9) + 1) if end >= threshold else range(0)
        for end in (high, -low)
    )
    step = max(math.ceil((len(above) + len(below)) / most), 1)
    return [
        *((-(10.0**power), f"−{_power(power)}") for power in reversed(below[::step])),
        (0.0, "0"),
        *((10.0**power, _power(power)) for power in above[::step]),
    ]


def _power(exponent: int) -> str:
    return f"{10.0**exponent:g}" if abs(exponent) <= _PLAIN else power_of_ten(exponent)
