"""Activations as a figure and as a table: where values lie, how many are 0, what is dead."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_weightwatch.usage.activations import LayerActivations
from lightning_weightwatch.views.layer_names import drawable, named_rows, short_names
from lightning_weightwatch.views.margins import PAD, legend_below, shortened_to_fit, text_width
from lightning_weightwatch.views.png import (
    BLACK,
    BLUE,
    DPI,
    GREY,
    HEIGHT,
    MAX_HEIGHT,
    MID_GREY,
    VERMILION,
    WIDTH,
    in_our_style,
    new_figure,
    whole_pixels,
    write,
)
from lightning_weightwatch.views.symlog import set_symlog_axis, symlog_ticks, threshold_of
from lightning_weightwatch.views.tables import markdown_table

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Of a table of activations, in this order.
COLUMNS = (
    "name", "type", "channels", "mean", "std", "min", "max", "p999", "zeros", "dead", "constant",
)  # fmt: skip

# Inches: a layer, what is above the rows, the labels of the ticks below them.
_ROW, _HEAD, _FOOT = 0.13, 0.21, 0.2
# Up to so many layers TensorBoard's small card is sharp.
_FEW = 10
# Names of 8 pt need so much; of more than so many layers fewer are named.
_LINE, _MANY, _SPARSE = 0.115, 64, 0.22
# The thickest bar and box, in inches and in rows.
_THICK, _FILLED = 0.12, 0.8
# Of the width the shares have so much; between them and the ranges.
_SHARES, _GAP = 0.8, 0.14
# Labels of ticks, in pixels.
_APART = 10
# Decades: more than a figure has room for.
_ALL = 99
_SKY = "#9CCDEB"


@in_our_style
def activation_figure(activations: Sequence[LayerActivations], title: str = "") -> "Figure":
    """Layers from top to bottom: the range of their outputs, and their zeros and dead channels.

    A thin line goes from the smallest to the largest value, a box from a standard deviation below
    the mean to one above it, and a mark stands where 99.9 % of the absolute values end, on the side
    or sides where values go so far. The scale is linear where that shows all layers; else it is
    logarithmic to both sides of 0. Beside it are the share of zeros and, within it, that of dead
    channels. Layers with dead channels are the first to be named where not all can be.

    Args:
        activations: Of the layers, in the order of the model.
        title: A line above.
    """
    tall = _HEAD + _FOOT + 2 * _LINE + _ROW * len(activations)
    few = len(activations) <= _FEW
    figure = new_figure(HEIGHT if few else whole_pixels(min(tall, MAX_HEIGHT)))
    handles = _handles(activations)
    foot = legend_below(figure, list(handles.values()), list(handles))
    height = figure.get_figheight()
    y0, y1 = whole_pixels(foot + _FOOT + PAD), whole_pixels(height - _HEAD)
    row = (y1 - y0) / max(len(activations), 1)
    x0 = _name_rows(figure, activations, y1, row)
    x1 = WIDTH - 3 * PAD - _SHARES
    rows = max(len(activations), 1) - 0.5
    ranges, shares = (
        figure.add_axes(
            (left / WIDTH, y0 / height, (right - left) / WIDTH, (y1 - y0) / height),
            ylim=(rows, -0.5),
        )
        for left, right in ((x0, x1 - _GAP), (x1, x1 + _SHARES))
    )
    for axes in (ranges, shares):
        axes.spines[["left"]].set_visible(False)
        axes.set_yticks([])
        axes.tick_params(length=3, pad=2)
    thick = min(_THICK / row, _FILLED) if activations else _FILLED
    _draw_ranges(figure, ranges, activations, thick)
    _draw_shares(shares, activations, thick)
    text = drawable(title) if activations else "no activations"
    above = height - _HEAD / 2
    shown = shortened_to_fit(figure, text, x1 - _GAP - PAD)
    write(figure, PAD, above, shown, va="center")
    write(figure, x1, above, "zeros", va="center")
    return figure


def activation_markdown(activations: Sequence[LayerActivations]) -> str:
    """A row a layer; `p999` is the 99.9 % quantile of |x|."""
    return markdown_table([activation_row(found) for found in activations], COLUMNS)


def activation_row(found: LayerActivations) -> dict[str, object]:
    """The numbers of a layer; `zeros` is a share, `dead` and `constant` are numbers of channels."""
    named = {key: getattr(found, key) for key in COLUMNS if hasattr(found, key)}
    return named | {
        "zeros": found.zero_share,
        "dead": len(found.dead),
        "constant": len(found.constant),
    }


def _name_rows(
    figure: "Figure", activations: Sequence[LayerActivations], top: float, row: float
) -> float:
    """Write the names that there is room for; where the rows begin, in inches."""
    dead = [len(found.dead) / found.channels for found in activations]
    first = sorted((at for at, share in enumerate(dead) if share), key=lambda at: -dead[at])
    apart = _SPARSE if len(activations) > _MANY else _LINE
    named = named_rows(len(activations), first, _LINE / row, apart / row)
    names = short_names([found.name for found in activations])
    widest = max((text_width(figure, names[at]) for at in named), default=0.0) / DPI
    x0 = whole_pixels(widest + 3 * PAD)
    for at in named:
        y = top - (at + 0.5) * row
        write(figure, x0 - PAD, y, names[at], ha="right", va="center_baseline")
    return x0


def _draw_ranges(
    figure: "Figure", axes: "Axes", activations: Sequence[LayerActivations], thick: float
) -> None:
    from matplotlib.ticker import MaxNLocator

    ends = [end for found in activations for end in (found.min, found.max, *_box(found))]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    if low == high:
        low, high = low - 1, high + 1
    threshold = threshold_of([*ends, *(found.p999 for found in activations)])
    if threshold is None:
        margin = 0.02 * (high - low)
        axes.set_xlim(low - margin, high + margin)
        places = MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(low, high)
        ticks = [float(place) for place in places if low <= place <= high]
        labelled = [(tick, f"{tick:.4g}".replace("-", "−")) for tick in ticks]
    else:
        set_symlog_axis(axes.xaxis, low, high, threshold, 0.02)
        labelled = symlog_ticks(*axes.get_xlim(), threshold, _ALL)
    _set_ticks(figure, axes, labelled)
    axes.axvline(0, color=MID_GREY, linewidth=1, zorder=0)
    rows = range(len(activations))
    lows, highs = ([found.min for found in activations], [found.max for found in activations])
    axes.hlines(rows, lows, highs, color=GREY, linewidth=1, zorder=1)
    boxes = [_box(found) for found in activations]
    axes.barh(
        rows,
        [right - left for left, right in boxes],
        left=[left for left, _ in boxes],
        height=thick,
        color=BLUE,
        linewidth=0,
        zorder=2,
    )
    marks = [
        (side * found.p999, at)
        for at, found in enumerate(activations)
        for side, reach in ((1, found.max), (-1, -found.min))
        if reach >= found.p999 > 0
    ]
    half = thick / 2
    axes.vlines(
        [x for x, _ in marks],
        [y - half for _, y in marks],
        [y + half for _, y in marks],
        color=VERMILION,
        linewidth=1.5,
        zorder=3,
    )


def _set_ticks(figure: "Figure", axes: "Axes", ticks: Sequence[tuple[float, str]]) -> None:
    """The 0, and from the ends on the ticks whose labels have room."""
    kept: list[tuple[float, float, float, str]] = []
    for value, text in sorted(ticks, key=lambda tick: -abs(tick[0]) if tick[0] else -math.inf):
        middle = float(axes.transData.transform((value, 0))[0])
        half = text_width(figure, text) / 2
        if all(abs(middle - at) > half + other + _APART for at, other, _, _ in kept):
            kept.append((middle, half, value, text))
    axes.set_xticks([value for *_, value, _ in kept], [text for *_, text in kept])


def _box(found: LayerActivations) -> tuple[float, float]:
    """From a standard deviation below the mean to one above it, as far as there are values."""
    return max(found.mean - found.std, found.min), min(found.mean + found.std, found.max)


def _draw_shares(axes: "Axes", activations: Sequence[LayerActivations], thick: float) -> None:
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 1], ["0", "100 %"])
    labels = axes.get_xticklabels()
    labels[0].set_horizontalalignment("left")
    labels[1].set_horizontalalignment("right")
    rows = range(len(activations))
    zeros = [found.zero_share for found in activations]
    dead = [len(found.dead) / found.channels for found in activations]
    axes.barh(rows, zeros, height=thick, color=_SKY, linewidth=0)
    axes.barh(rows, dead, height=thick, color=BLACK, linewidth=0)


def _handles(activations: Sequence[LayerActivations]) -> "dict[str, Artist]":
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    shown: dict[str, Artist] = {
        "min to max": Line2D([], [], color=GREY, linewidth=1),
        "mean ± std": Patch(facecolor=BLUE),
        "99.9 % of |x|": Line2D(
            [], [], color=VERMILION, marker="|", linestyle="", markersize=7, markeredgewidth=1.5
        ),
        "zeros": Patch(facecolor=_SKY),
    }
    if any(found.dead for found in activations):
        shown["dead channels"] = Patch(facecolor=BLACK)
    return shown
