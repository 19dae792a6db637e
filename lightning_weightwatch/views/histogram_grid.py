"""The histograms of a model's parameters as small multiples with logarithmic counts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lightning_weightwatch.views.layer_names import drawable, short_names
from lightning_weightwatch.views.log_ticks import power_of_ten
from lightning_weightwatch.views.margins import PAD, shortened_to_fit, text_width
from lightning_weightwatch.views.png import (
    BLACK,
    BLUE,
    DPI,
    WIDTH,
    in_our_style,
    new_figure,
    whole_pixels,
    write,
)
from lightning_weightwatch.weights.description import ParameterStatistics, WeightReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST = 12
_COLUMNS = 2
# Inches: a line of text with its space, the height of a panel, what is between columns, a tick.
_LINE, _PANEL, _GAP, _TICK = 0.17, 0.5, 0.17, 0.04
# A few parameters may have higher panels.
_ROOMY, _ROOMY_PANEL = 6, 0.8
# Bars begin at a third of one value, so that a single value is seen.
_FOOT = -0.5
# From this share on zeros are worth a word.
_ZEROS = 0.01


@dataclass(frozen=True)
class _Panel:
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
        return self.y + (power - _FOOT) / (self.top - _FOOT) * self.height


@in_our_style
def histogram_figure(report: WeightReport, *, title: str = "") -> "Figure":
    """A panel for each parameter, of the 12 largest if there are more, in the order of the model.

    Counts are logarithmic, on one scale for all: one outlier is seen beside a million weights. The
    panels are drawn as they are: twelve Axes take 200 ms, nearly all of it for their ticks.

    Args:
        report: The weights.
        title: Goes before what is shown.
    """
    chosen = _largest(report.parameters)
    names = short_names([parameter.name for parameter in chosen])
    columns = max(min(len(chosen), _COLUMNS), 1)
    height = _ROOMY_PANEL if len(chosen) <= _ROOMY else _PANEL
    row = height + 2 * _LINE + 0.07
    head = _LINE + 0.02
    figure = new_figure(
        whole_pixels(head + max(math.ceil(len(chosen) / columns), 1) * row + _LINE + PAD)
    )
    total = len(report.parameters)
    what = f"{len(chosen)} largest of {total:,}" if total > len(chosen) else f"all {total}"
    heading = f"{f'{drawable(title)}: ' if title else ''}{what} parameters, log counts"
    heading = shortened_to_fit(figure, heading, WIDTH - 2 * PAD)
    write(figure, PAD, figure.get_figheight() - PAD, heading, va="top")
    write(figure, WIDTH / 2, PAD, "value of the weights", ha="center", va="bottom")
    top = math.log10(max((max(_counts(each), default=1) for each in chosen), default=1)) + 0.3
    if any(map(_note, chosen)):
        top = _FOOT + (top - _FOOT) * height / (height - _LINE)
    powers = range(0, math.floor(top) + 1, max(math.ceil(top / 3), 1))
    left = max(text_width(figure, power_of_ten(power)) for power in powers) / DPI + _TICK + 2 * PAD
    width = (WIDTH - left - 2 * PAD - _GAP * (columns - 1)) / columns
    for place, (parameter, name) in enumerate(zip(chosen, names, strict=True)):
        down, right = divmod(place, columns)
        x = whole_pixels(left + right * (width + _GAP))
        y = whole_pixels(figure.get_figheight() - head - _LINE - height - down * row)
        panel = _Panel(
            x, y, whole_pixels(width), whole_pixels(height), top, powers, numbered=not right
        )
        _draw(figure, panel, parameter, name)
    return figure


def _largest(parameters: Sequence[ParameterStatistics]) -> list[ParameterStatistics]:
    """Which are shown: of those that are equally large some from everywhere in the model."""
    sizes = [math.prod(parameter.shape) for parameter in parameters]
    if len(sizes) <= _MOST:
        return list(parameters)
    least = sorted(sizes, reverse=True)[_MOST - 1]
    larger = [index for index, size in enumerate(sizes) if size > least]
    equal = [index for index, size in enumerate(sizes) if size == least]
    free = _MOST - len(larger)
    spread = [equal[round(at * (len(equal) - 1) / max(free - 1, 1))] for at in range(free)]
    return [parameters[index] for index in sorted([*larger, *spread])]


def _counts(parameter: ParameterStatistics) -> Sequence[int]:
    return parameter.histogram.counts if parameter.histogram is not None else ()


def _draw(figure: "Figure", panel: _Panel, parameter: ParameterStatistics, name: str) -> None:
    """Name, bars, axes."""
    from matplotlib.collections import LineCollection
    from matplotlib.patches import StepPatch
    from matplotlib.transforms import Affine2D

    title = shortened_to_fit(figure, name, panel.width)
    write(figure, panel.x, panel.y + panel.height + PAD, title)
    right = panel.x + panel.width
    write(figure, right, panel.y + panel.height, _note(parameter), ha="right", va="top")
    lines = [
        [(panel.x, panel.y + panel.height), (panel.x, panel.y)],
        [(panel.x, panel.y), (right, panel.y)],
    ]
    for power in panel.powers:
        lines.append([(panel.x - _TICK, panel.level(power)), (panel.x, panel.level(power))])
        if panel.numbered:
            at = panel.x - _TICK - PAD / 2
            write(figure, at, panel.level(power), power_of_ten(power), ha="right", va="center")
    histogram = parameter.histogram
    if histogram is not None and math.isfinite(histogram.edges[-1] - histogram.edges[0]):
        low, high = histogram.edges[0], histogram.edges[-1]
        scale = panel.width / (high - low)
        bars = [math.log10(count) if count else _FOOT for count in histogram.counts]
        unit = panel.height / (panel.top - _FOOT)
        place = Affine2D().translate(-low, -_FOOT).scale(scale, unit).translate(panel.x, panel.y)
        figure.add_artist(
            StepPatch(
                bars, histogram.edges, baseline=_FOOT, fill=True, facecolor=BLUE, linewidth=0,
                antialiased=False, transform=place + figure.dpi_scale_trans, label=name,
            )
        )  # fmt: skip
        for value, label, align in _ticks(figure, low, high, panel.width):
            at = panel.x + (value - low) * scale
            lines.append([(at, panel.y), (at, panel.y - _TICK)])
            write(figure, at, panel.y - _TICK - PAD / 2, label, ha=align, va="top")
    figure.add_artist(
        LineCollection(lines, colors=BLACK, linewidths=1, transform=figure.dpi_scale_trans)
    )


def _note(parameter: ParameterStatistics) -> str:
    """What the bars do not tell."""
    moments = parameter.moments
    if parameter.histogram is None:
        return "no finite value"
    if math.isinf(parameter.histogram.edges[-1] - parameter.histogram.edges[0]):
        return "range beyond float64"
    if moments.nonfinite:
        return f"{moments.nonfinite:,} not finite"
    share = moments.zero_share
    return f"{100 * share:.0f} % zeros" if share >= _ZEROS else ""


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
