"""What quantization does to the values of weights: histograms before and after, and the range."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_weightwatch.views.layer_names import short_names
from lightning_weightwatch.views.log_ticks import power_of_ten
from lightning_weightwatch.views.margins import PAD, shortened_to_fit, text_width
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
from lightning_weightwatch.weights.statistics import Histogram

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST, _COLUMNS = 6, 2
# Inches: a line of text, the height of a panel, between columns, a tick, the legend.
_LINE, _PANEL, _GAP, _TICK, _LEGEND = 0.17, 0.75, 0.17, 0.04, 0.17
# The foot of the axis: a third of one value, so that a single one is seen.
_FOOT = 0.3
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
    row = _PANEL + 2 * _LINE + 0.07
    figure = new_figure(whole_pixels(rows * row + _LEGEND + PAD))
    most = max(max(counts) for each in layers for counts in (each.before.counts, each.after.counts))
    top = 3.0 * max(most, 1)
    powers = range(0, math.floor(math.log10(top)) + 1, max(math.ceil(math.log10(top) / 3), 1))
    left = max(text_width(figure, power_of_ten(power)) for power in powers) / DPI + _TICK + 2 * PAD
    width = whole_pixels((WIDTH - left - 2 * PAD - _GAP * (columns - 1)) / columns)
    tall, height = figure.get_figheight(), whole_pixels(_PANEL)
    for place, (layer, name) in enumerate(
        zip(layers, short_names([layer.name for layer in layers]), strict=True)
    ):
        down, right = divmod(place, columns)
        x = whole_pixels(left + right * (width + _GAP))
        y = whole_pixels(tall - PAD - _LINE - height - down * row)
        axes = figure.add_axes((x / WIDTH, y / tall, width / WIDTH, height / tall))
        axes.set_yscale("log")
        axes.set_ylim(_FOOT, top)
        _draw(axes, layer)
        _set_ticks(figure, axes, powers if right == 0 else [], width)
        sqnr = f", {layer.sqnr:.1f} dB".replace("-", "−") if math.isfinite(layer.sqnr) else ""
        room = width - text_width(figure, sqnr) / DPI
        write(figure, x, y + height + PAD, shortened_to_fit(figure, name, room) + sqnr)
    _draw_legend(figure)
    return figure


def _is_finite(layer: QuantizedLayer) -> bool:
    """Its values have a range that can be drawn."""
    edges = (*layer.before.edges, *layer.after.edges, layer.low, layer.high)
    return bool(np.isfinite(edges).all()) and math.isfinite(max(edges) - min(edges))


def _draw(axes: "Axes", layer: QuantizedLayer) -> None:
    look: dict[str, Any] = {"baseline": _FOOT, "antialiased": False}
    axes.stairs(layer.before.counts, layer.before.edges, fill=True, color=MID_GREY, **look)
    counts, edges = np.array(layer.after.counts), np.array(layer.after.edges)
    filled = counts > 0
    if filled.mean() <= _FEW:
        middles = (edges[1:] + edges[:-1])[filled] / 2
        axes.vlines(middles, _FOOT, counts[filled], color=BLUE, linewidth=1)
    else:
        axes.stairs(counts, edges, baseline=_FOOT, color=BLUE, linewidth=1)
    for end in {layer.low, layer.high}:
        axes.axvline(end, color=VERMILION, linestyle="--", linewidth=1)
    low = min(layer.before.edges[0], layer.after.edges[0], layer.low)
    high = max(layer.before.edges[-1], layer.after.edges[-1], layer.high)
    margin = 0.02 * (high - low) or 1.0
    axes.set_xlim(low - margin, high + margin)


def _set_ticks(figure: "Figure", axes: "Axes", powers: Sequence[int], width: float) -> None:
    """As many as have labels that keep apart and within the panel."""
    from matplotlib.ticker import MaxNLocator, NullLocator

    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_yticks([10.0**power for power in powers], [power_of_ten(power) for power in powers])
    axes.tick_params(pad=2)
    low, high = axes.get_xlim()
    kept: list[tuple[float, str]] = []
    for most in (4, 3, 2, 5, 6, 8):
        found, ends = [], [-PAD]
        for tick in MaxNLocator(most, steps=[1, 2, 5, 10]).tick_values(low, high):
            text = f"{tick:.4g}".replace("-", "−").replace("e+", "e")
            middle, half = (tick - low) / (high - low) * width, text_width(figure, text) / DPI / 2
            if middle - half >= -PAD and middle + half <= width + PAD:
                found.append((tick, text))
                ends += [middle - half, middle + half + 2 * PAD]
        if ends == sorted(ends) and len(found) > len(kept):
            kept = found
        if len(kept) >= 2:
            break
    axes.set_xticks([tick for tick, _ in kept], [text for _, text in kept])


def _draw_legend(figure: "Figure") -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    figure.legend(
        [
            Patch(color=MID_GREY),
            Line2D([], [], color=BLUE),
            Line2D([], [], color=VERMILION, linestyle="--"),
        ],
        ["before", "after", "range of the codes"],
        loc="lower center",
        bbox_to_anchor=(0.5, 0),
        ncols=3,
        handlelength=1.5,
        handletextpad=0.4,
        columnspacing=1.0,
        borderpad=0,
        borderaxespad=0.2,
    )
