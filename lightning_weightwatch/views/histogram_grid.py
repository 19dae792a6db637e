"""The histograms of a model's parameters as small multiples with logarithmic counts."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_weightwatch.views.histogram_panel import (
    FOOT,
    GAP,
    LINE,
    Panel,
    draw_frame,
    left_of_panels,
    powers_below,
)
from lightning_weightwatch.views.layer_names import drawable, short_names
from lightning_weightwatch.views.margins import PAD, shortened_to_fit
from lightning_weightwatch.views.png import (
    BLUE,
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
# The height of a panel in inches; a few parameters may have higher ones.
_PANEL = 0.5
_ROOMY, _ROOMY_PANEL = 6, 0.8
# From this share on zeros are worth a word.
_ZEROS = 0.01


@in_our_style
def histogram_figure(report: WeightReport, *, title: str = "") -> "Figure":
    """A panel for each parameter, of the 12 largest if there are more, in the order of the model.

    Counts are logarithmic, on one scale for all: one outlier is seen beside a million weights.

    Args:
        report: The weights.
        title: Goes before what is shown.
    """
    chosen = _largest(report.parameters)
    names = short_names([parameter.name for parameter in chosen])
    columns = max(min(len(chosen), _COLUMNS), 1)
    height = _ROOMY_PANEL if len(chosen) <= _ROOMY else _PANEL
    row = height + 2 * LINE + 0.07
    head = LINE + 0.02
    figure = new_figure(
        whole_pixels(head + max(math.ceil(len(chosen) / columns), 1) * row + LINE + PAD)
    )
    total = len(report.parameters)
    what = f"{len(chosen)} largest of {total:,}" if total > len(chosen) else f"all {total}"
    heading = f"{f'{drawable(title)}: ' if title else ''}{what} parameters, log counts"
    heading = shortened_to_fit(figure, heading, WIDTH - 2 * PAD)
    write(figure, PAD, figure.get_figheight() - PAD, heading, va="top")
    write(figure, WIDTH / 2, PAD, "value of the weights", ha="center", va="bottom")
    top = math.log10(max((max(_counts(each), default=1) for each in chosen), default=1)) + 0.3
    if any(map(_note, chosen)):
        top = FOOT + (top - FOOT) * height / (height - LINE)
    powers = powers_below(top)
    left = left_of_panels(figure, powers)
    width = (WIDTH - left - 2 * PAD - GAP * (columns - 1)) / columns
    for place, (parameter, name) in enumerate(zip(chosen, names, strict=True)):
        down, right = divmod(place, columns)
        x = whole_pixels(left + right * (width + GAP))
        y = whole_pixels(figure.get_figheight() - head - LINE - height - down * row)
        panel = Panel(
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


def _draw(figure: "Figure", panel: Panel, parameter: ParameterStatistics, name: str) -> None:
    """Name, bars, axes."""
    from matplotlib.patches import StepPatch

    title = shortened_to_fit(figure, name, panel.width)
    write(figure, panel.x, panel.y + panel.height + PAD, title)
    right, above = panel.x + panel.width, panel.y + panel.height
    write(figure, right, above, _note(parameter), ha="right", va="top")
    histogram, ends = parameter.histogram, None
    if histogram is not None and math.isfinite(histogram.edges[-1] - histogram.edges[0]):
        ends = histogram.edges[0], histogram.edges[-1]
        bars = [math.log10(count) if count else FOOT for count in histogram.counts]
        figure.add_artist(
            StepPatch(
                bars, histogram.edges, baseline=FOOT, fill=True, facecolor=BLUE, linewidth=0,
                antialiased=False, transform=panel.transform(figure, *ends), label=name,
            )
        )  # fmt: skip
    draw_frame(figure, panel, ends)


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
