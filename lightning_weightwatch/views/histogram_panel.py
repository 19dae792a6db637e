"""The panels of figures of histograms: places, scales and ticks without the cost of Axes.

Twelve Axes take 200 ms, nearly all of it for their ticks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lightning_weightwatch.views.log_ticks import power_of_ten
from lightning_weightwatch.views.margins import PAD, text_width
from lightning_weightwatch.views.png import BLACK, DPI, write

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.transforms import Transform

#: Where the logarithmic counts begin: at a third of one value, so that a single value is seen.
FOOT = -0.5
#: A line of text with its space, and what is between columns, in inches.
LINE, GAP = 0.17, 0.17

# Inches.
_TICK = 0.04


@dataclass(frozen=True)
class Panel:
    """A place in the figure, in inches, and the scale of its counts."""

    x: float
    y: float
    width: float
    height: float
    top: float
    powers: Sequence[int]
    numbered: bool

    def level(self, power: float) -> float:
        """Where 10 to a power is."""
        return self.y + (power - FOOT) / (self.top - FOOT) * self.height

    def transform(self, figure: "Figure", low: float, high: float) -> "Transform":
        """From values and the logarithms of counts to pixels, `low` and `high` at the ends."""
        from matplotlib.transforms import Affine2D

        scale, unit = self.width / (high - low), self.height / (self.top - FOOT)
        place = Affine2D().translate(-low, -FOOT).scale(scale, unit).translate(self.x, self.y)
        return place + figure.dpi_scale_trans


def powers_below(top: float) -> range:
    """The powers of ten that are labelled: about four."""
    return range(0, math.floor(top) + 1, max(math.ceil(top / 3), 1))


def left_of_panels(figure: "Figure", powers: Sequence[int]) -> float:
    """What the labels of the counts take, in inches."""
    return max(text_width(figure, power_of_ten(power)) for power in powers) / DPI + _TICK + 2 * PAD


def draw_frame(figure: "Figure", panel: Panel, ends: tuple[float, float] | None) -> None:
    """The axes of a panel with their ticks, those of the values if there are any."""
    from matplotlib.collections import LineCollection

    right = panel.x + panel.width
    lines = [
        [(panel.x, panel.y + panel.height), (panel.x, panel.y)],
        [(panel.x, panel.y), (right, panel.y)],
    ]
    for power in panel.powers:
        lines.append([(panel.x - _TICK, panel.level(power)), (panel.x, panel.level(power))])
        if panel.numbered:
            at = panel.x - _TICK - PAD / 2
            write(figure, at, panel.level(power), power_of_ten(power), ha="right", va="center")
    if ends is not None:
        low, high = ends
        for value, label, align in _ticks(figure, low, high, panel.width):
            at = panel.x + (value - low) * (panel.width / (high - low))
            lines.append([(at, panel.y), (at, panel.y - _TICK)])
            write(figure, at, panel.y - _TICK - PAD / 2, label, ha=align, va="top")
    figure.add_artist(
        LineCollection(lines, colors=BLACK, linewidths=1, transform=figure.dpi_scale_trans)
    )


def _ticks(figure: "Figure", low: float, high: float, width: float) -> list[tuple[float, str, str]]:
    """Two to five round values whose labels keep apart, within the panel; else its ends."""
    from matplotlib.ticker import MaxNLocator

    for most in (4, 3, 2, 5, 6, 8):
        found: list[tuple[float, str, str]] = []
        ends = [-math.inf]
        for value in MaxNLocator(most, steps=[1, 2, 5, 10]).tick_values(low, high):
            label = _number(value)
            middle, half = (value - low) / (high - low) * width, text_width(figure, label) / DPI / 2
            if middle - half >= -PAD and middle + half <= width + PAD:
                found.append((value, label, "center"))
                ends += [middle - half, middle + half + 2 * PAD]
        if len({label for _, label, _ in found}) == len(found) >= 2 and ends == sorted(ends):
            return found
    first, last = _number(low), _number(high)
    return [(low, first, "left"), (high, f"+{high - low:.2g}" if first == last else last, "right")]


def _number(value: float) -> str:
    return f"{value:.4g}".replace("-", "−").replace("e+", "e")
