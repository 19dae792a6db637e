"""The axes of the learning curves: which scale, which numbers."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lightning_weightwatch.views.log_ticks import set_log_axis
from lightning_weightwatch.views.margins import text_width
from lightning_weightwatch.views.symlog import set_symlog_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# An axis is logarithmic where the values span so many times the lowest, and half of those of the
# curve would lie within this share of a linear one: a first loss of a million hides all the others.
_SPAN, _FOOT = 1000, 0.02
# Decades that may be shown: beyond are subnormal numbers and infinity.
_DECADES = -307.0, 308.0
_LEAST = 1e-300
_WIDEST = 1e12
# Pixels: between the numbers of epochs, and the least width and height of the axes.
_BETWEEN, _WIDTH, _HEIGHT = 12, 470, 300
# Of a line of text.
_LINE = 26


def scale_values(axes: "Axes", values: Sequence[float], curve: Sequence[float]) -> None:
    """A vertical axis for some values on which a curve among them can be read.

    Args:
        axes: Their vertical axis is set.
        values: All that is shown on it, finite.
        curve: Those of them that matter most.
    """
    from matplotlib.ticker import MaxNLocator

    low, high, middle = min(values), max(values), float(np.median(curve))
    # Halves: the largest finite values have no finite difference.
    span = high / 2 - low / 2
    hidden = min(middle / 2 - low / 2, high / 2 - middle / 2) < _FOOT * span
    sizes = np.abs([value for value in curve if value])
    usual = float(np.quantile(sizes, 0.25)) if sizes.size else 0.0
    if hidden and 0 < low < high / _SPAN:
        first, last = math.log10(low), math.log10(high)
        margin = 0.05 * (last - first)
        first, last = max(first - margin, _DECADES[0]), min(last + margin, _DECADES[1])
        set_log_axis(axes.yaxis, 10.0**first, 10.0**last)
    elif hidden and low <= 0 < usual and _SPAN < span / max(usual, _LEAST) < _WIDEST:
        set_symlog_axis(axes.yaxis, low, max(high, 0.0), usual, 0.05)
        _thin(axes)
    else:
        # As many whatever the height: else fit_axes would not come to an end.
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))


def number_epochs(figure: "Figure", axes: "Axes", epochs: Sequence[float]) -> None:
    """Whole numbers along the bottom, the first and round ones, as many as have room."""
    from matplotlib.ticker import MaxNLocator

    first, last = epochs[0], epochs[-1]
    margin = max(0.03 * (last - first), 0.2) if last > first else 1
    axes.set_xlim(first - margin, last + margin)
    share = (text_width(figure, str(math.ceil(last))) + _BETWEEN) / _WIDTH
    locator = MaxNLocator(max(1, min(6, int(1 / share))), steps=[1, 2, 5, 10], integer=True)
    ticks = [round(tick) for tick in locator.tick_values(first, max(last, first + 1))]
    near = max((ticks[1] - ticks[0]) / 2, share * (last - first))
    whole = math.ceil(first)
    shown = [whole, *(tick for tick in ticks if whole + near <= tick <= last)]
    axes.set_xticks(shown, list(map(str, shown)))


def _thin(axes: "Axes") -> None:
    """Leave out the numbers that would touch others, those nearest to 0 last."""
    transform = axes.yaxis.get_transform().transform
    low, high = transform(axes.get_ylim())
    ticks = [
        (value, label.get_text(), float(transform([value])[0] - low) / (high - low) * _HEIGHT)
        for value, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
    ]
    kept: list[tuple[float, str, float]] = []
    for tick in sorted(ticks, key=lambda tick: abs(tick[0])):
        if all(abs(tick[2] - other[2]) >= _LINE for other in kept):
            kept.append(tick)
    axes.set_yticks([tick[0] for tick in kept], [tick[1] for tick in kept])
