"""A scale for changes of which some are hundreds of times as large as others, to both sides of 0.

Linear up to a threshold, logarithmic beyond it.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lightning_weightwatch.views.log_ticks import power_of_ten

if TYPE_CHECKING:
    from matplotlib.axis import YAxis

# From here on a linear scale shows half of the changes within a tenth of it.
_SPREAD = 10
# Decades beyond the threshold, and labels besides the 0.
_DECADES, _LABELS = 4, 5
# Decades that what is linear takes to either side: what is close to 0 is mostly chance.
_LINEAR = 0.6
# Larger and smaller powers are written as such.
_PLAIN = 3


def threshold_of(changes: Sequence[float], reaches: Sequence[float] = ()) -> float | None:
    """Below which power of ten the scale is to be linear; None where all of it may be.

    Args:
        changes: What is shown.
        reaches: Of their confidence intervals: what is well within chance needs no room.
    """
    sizes = np.abs([change for change in changes if change and math.isfinite(change)])
    known = [reach for reach in reaches if math.isfinite(reach)]
    if not sizes.size or sizes.max() <= _SPREAD * np.median(sizes):
        return None
    least = max(np.quantile(sizes, 0.25), np.quantile(known, 0.25) if known else 0.0)
    # Subnormal numbers have no logarithm that is worth a decade.
    exponent = math.floor(math.log10(max(least, 1e-300)))
    top = math.floor(math.log10(sizes.max()))
    return 10.0 ** min(max(exponent, top - _DECADES), top - 1)


def set_symlog_axis(
    axis: "YAxis", low: float, high: float, threshold: float, margin: float
) -> None:
    """An axis from `low` to `high`, between which 0 is, and a share of that to both sides."""
    from matplotlib.ticker import NullLocator

    axis.axes.set_yscale("symlog", linthresh=threshold, linscale=_LINEAR)
    scale = axis.get_transform()
    ends = scale.transform([low, high])
    beyond = margin * (ends[1] - ends[0])
    low, high = map(float, scale.inverted().transform([ends[0] - beyond, ends[1] + beyond]))
    axis.axes.set_ylim(low, high)
    ticks = symlog_ticks(low, high, threshold)
    axis.set_ticks([value for value, _ in ticks], [label for _, label in ticks])
    axis.set_minor_locator(NullLocator())


def symlog_ticks(low: float, high: float, threshold: float) -> list[tuple[float, str]]:
    """Positions and labels: 0, and powers of ten from the threshold on.

    >>> [label for _, label in symlog_ticks(-0.02, 5, 0.01)]
    ['−0.01', '0', '0.01', '0.1', '1']
    >>> [label for _, label in symlog_ticks(0, 5e6, 1.0)]
    ['0', '1', '100', '10⁴', '10⁶']
    """
    first = round(math.log10(threshold))
    above, below = (
        range(first, math.floor(math.log10(end) + 1e-9) + 1) if end >= threshold else range(0)
        for end in (high, -low)
    )
    step = max(math.ceil((len(above) + len(below)) / _LABELS), 1)
    return [
        *((-(10.0**power), f"−{_power(power)}") for power in reversed(below[::step])),
        (0.0, "0"),
        *((10.0**power, _power(power)) for power in above[::step]),
    ]


def _power(exponent: int) -> str:
    return f"{10.0**exponent:g}" if abs(exponent) <= _PLAIN else power_of_ten(exponent)
