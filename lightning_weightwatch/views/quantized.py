"""What quantization does to the values of weights: histograms before and after, and the range."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_weightwatch.values.statistics import Histogram
from lightning_weightwatch.views.histogram_panel import (
    FOOT,
    GAP,
    LINE,
    Panel,
    draw_frame,
    left_of_panels,
    powers_below,
)
from lightning_weightwatch.views.layer_names import short_names
from lightning_weightwatch.views.margins import PAD, legend_below, shortened_to_fit, text_width
from lightning_weightwatch.views.png import (
    BLUE,
    DPI,
    MID_GREY,
    VERMILION,
    WIDTH,
    in_our_style,
    new_figure,
    whole_pixels,
    write,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST, _COLUMNS = 6, 2
# Inches: the height of a panel, the legend.
_PANEL, _LEGEND = 0.75, 0.17
# Powers of ten above the highest count, and a share of the values at both ends.
_ABOVE, _BESIDE = 0.48, 0.02
# Where more of the bins hold values, codes are too close to stand as lines of their own.
_FEW = 0.5


@dataclass(frozen=True)
class QuantizedLayer:
    """The values of a weight before and after it was quantized.

    Attributes:
        name: Dotted path.
        before: Of its values as they were trained.
        after: Of those that codes stand for.
        low: The least value that a code stands for.
        high: The largest one. Values beyond them are clipped.
        sqnr: In dB.
    """

    name: str
    before: Histogram
    after: Histogram
    low: float
    high: float
    sqnr: float


@in_our_style
def quantized_figure(layers: Sequence[QuantizedLayer]) -> "Figure | None":
    """A panel for each weight, of the first 6: grey before, blue after, the range of the codes.

    Counts are logarithmic, on one scale for all. Where codes are far apart each is a line.

    Args:
        layers: What to show.

    Returns:
        None without any.
    """
    layers = [layer for layer in layers if _is_finite(layer)][:_MOST]
    if not layers:
        return None
    columns = min(len(layers), _COLUMNS)
    rows = math.ceil(len(layers) / columns)
    row = _PANEL + 2 * LINE + 0.07
    figure = new_figure(whole_pixels(rows * row + _LEGEND + PAD))
    most = max(max(counts) for each in layers for counts in (each.before.counts, each.after.counts))
    top = math.log10(max(most, 1)) + _ABOVE
    powers = powers_below(top)
    left = left_of_panels(figure, powers)
    width = whole_pixels((WIDTH - left - 2 * PAD - GAP * (columns - 1)) / columns)
    tall, height = figure.get_figheight(), whole_pixels(_PANEL)
    for place, (layer, name) in enumerate(
        zip(layers, short_names([layer.name for layer in layers]), strict=True)
    ):
        down, right = divmod(place, columns)
        x = whole_pixels(left + right * (width + GAP))
        y = whole_pixels(tall - PAD - LINE - height - down * row)
        _draw(figure, Panel(x, y, width, height, top, powers, numbered=not right), layer)
        sqnr = f", {layer.sqnr:.1f} dB".replace("-", "−") if math.isfinite(layer.sqnr) else ""
        room = width - text_width(figure, sqnr) / DPI
        write(figure, x, y + height + PAD, shortened_to_fit(figure, name, room) + sqnr)
    _draw_legend(figure)
    return figure


def _is_finite(layer: QuantizedLayer) -> bool:
    """Its values have a range that can be drawn."""
    edges = (*layer.before.edges, *layer.after.edges, layer.low, layer.high)
    return bool(np.isfinite(edges).all()) and math.isfinite(max(edges) - min(edges))


def _draw(figure: "Figure", panel: Panel, layer: QuantizedLayer) -> None:
    """The counts before and after, the range, axes."""
    from matplotlib.collections import LineCollection
    from matplotlib.patches import StepPatch

    low = min(layer.before.edges[0], layer.after.edges[0], layer.low)
    high = max(layer.before.edges[-1], layer.after.edges[-1], layer.high)
    margin = _BESIDE * (high - low) or 1.0
    ends = low - margin, high + margin
    look: dict[str, Any] = {"transform": panel.transform(figure, *ends), "label": layer.name}
    steps = StepPatch(_levels(layer.before), layer.before.edges, baseline=FOOT, fill=True,
                      facecolor=MID_GREY, linewidth=0, antialiased=False, **look)  # fmt: skip
    figure.add_artist(steps)
    tops, edges = np.array(_levels(layer.after)), np.array(layer.after.edges)
    filled = tops > FOOT
    if filled.mean() <= _FEW:
        middles = (edges[1:] + edges[:-1])[filled] / 2
        stems = [[(x, FOOT), (x, top)] for x, top in zip(middles, tops[filled], strict=True)]
        figure.add_artist(LineCollection(stems, colors=BLUE, linewidths=1, **look))
    else:
        figure.add_artist(
            StepPatch(tops, edges, baseline=FOOT, fill=False, edgecolor=BLUE, linewidth=1, **look)
        )
    limits = [[(end, FOOT), (end, panel.top)] for end in sorted({layer.low, layer.high})]
    figure.add_artist(
        LineCollection(limits, colors=VERMILION, linestyles="--", linewidths=1, **look)
    )
    draw_frame(figure, panel, ends)


def _levels(histogram: Histogram) -> list[float]:
    return [math.log10(count) if count else FOOT for count in histogram.counts]


def _draw_legend(figure: "Figure") -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Patch(color=MID_GREY),
        Line2D([], [], color=BLUE),
        Line2D([], [], color=VERMILION, linestyle="--"),
    ]
    legend_below(figure, handles, ["before", "after", "range of the codes"])
