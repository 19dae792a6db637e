"""A metric of all layers over all epochs as a heat map."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lightning_weightwatch.spectral.report import ALPHA_BAND
from lightning_weightwatch.views.layer_names import drawable, short_names
from lightning_weightwatch.views.margins import PAD, shortened_to_fit, text_width
from lightning_weightwatch.views.png import (
    BLACK,
    DPI,
    GREY,
    LIGHT_GREY,
    MAX_HEIGHT,
    VERMILION,
    WIDTH,
    in_our_style,
    new_figure,
    whole_pixels,
    write,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

FloatArray = NDArray[np.float64]

# Inches: a layer, a line of 8 pt, what is above the map and below.
_ROW, _LINE, _HEAD, _FOOT = 0.13, 0.13, 0.42, 0.34
# Cells from so many pixels on hold a cross.
_CROSS = 14
# The brightest sixth of cividis would draw the eye to what is healthy.
_CUT = 0.85
_STEPS = [digit * 10**power for power in range(9) for digit in (1, 2, 5)]


@in_our_style
def heat_map_figure(
    names: Sequence[str],
    epochs: Sequence[int],
    values: FloatArray,
    *,
    label: str = "alpha",
    band: tuple[float, float] = ALPHA_BAND,
) -> "Figure":
    """Layers from top to bottom, epochs from left to right.

    Within the band cividis from dark to light; below it vermilion, with a cross where there is
    room for it; above it light grey; hatched where the value is not known.

    Args:
        names: Of the layers, in the order of the model.
        epochs: 0-based; the axis counts from 1.
        values: [layers, epochs]; NaN for unknown.
        label: What the values are.
        band: Where they are healthy.
    """
    figure = new_figure(whole_pixels(min(_HEAD + _FOOT + _ROW * max(len(names), 3), MAX_HEIGHT)))
    axes = _placed(figure, short_names(names), [str(epoch + 1) for epoch in epochs])
    colours, norm = _colours(band)
    known = np.ma.masked_invalid(values)
    if known.mask.any():
        _hatch_behind(figure, axes)
    if values.size:
        axes.imshow(known, cmap=colours, norm=norm, aspect="auto", interpolation="nearest")
    width, height = axes.get_window_extent().size
    if values.size and min(width / len(epochs), height / len(names)) >= _CROSS:
        rows, columns = np.nonzero(known.filled(math.inf) < band[0])
        axes.plot(columns, rows, "x", color=BLACK, markersize=3.5, scalex=False, scaley=False)
    _draw_colour_bar(figure, colours, norm, label)
    return figure


def _colours(band: tuple[float, float]) -> "tuple[Colormap, Normalize]":
    import matplotlib
    from matplotlib.colors import ListedColormap, Normalize

    cividis = matplotlib.colormaps["cividis"](np.linspace(0, _CUT, 128))
    colours = ListedColormap(cividis).with_extremes(
        under=VERMILION, over=LIGHT_GREY, bad=(0, 0, 0, 0)
    )
    return colours, Normalize(*band)


def _hatch_behind(figure: "Figure", axes: "Axes") -> None:
    """What shows through where there is no value, and its word in the corner."""
    from matplotlib.patches import Rectangle

    look: dict[str, Any] = {
        "facecolor": "white", "edgecolor": GREY, "hatch": "////", "linewidth": 0,
    }  # fmt: skip
    axes.add_patch(Rectangle((0, 0), 1, 1, transform=axes.transAxes, zorder=-1, **look))
    height = figure.get_figheight()
    side = 0.1
    figure.add_artist(Rectangle((PAD / WIDTH, 0.06 / height), side / WIDTH, side / height, **look))
    figure.text((2 * PAD + side) / WIDTH, 0.11 / height, "no value", va="center")


def _placed(figure: "Figure", names: Sequence[str], epochs: Sequence[str]) -> "Axes":
    """Axes with as many names and epochs beside them as fit."""
    rows = figure.get_figheight() - _HEAD - _FOOT
    every = max(math.ceil(_LINE * len(names) / rows - 0.05), 1)
    widest = max((text_width(figure, name) for name in names[::every]), default=0) / DPI
    last = text_width(figure, max(epochs, key=len, default="")) / DPI
    x0, x1 = whole_pixels(widest + 3 * PAD), whole_pixels(WIDTH - max(last / 2, 2 * PAD) - PAD)
    y0, y1 = whole_pixels(_FOOT), whole_pixels(figure.get_figheight() - _HEAD)
    height = figure.get_figheight()
    place = (x0 / WIDTH, y0 / height, (x1 - x0) / WIDTH, (y1 - y0) / height)
    axes = figure.add_axes(
        place, ylim=(max(len(names), 1) - 0.5, -0.5), xlim=(-0.5, max(len(epochs), 1) - 0.5)
    )
    axes.set_axis_off()
    cell = (y1 - y0) / max(len(names), 1)
    for index in range(0, len(names), every):
        at = y1 - (index + 0.5) * cell
        write(figure, x0 - PAD, at, names[index], ha="right", va="center_baseline")
    cell = (x1 - x0) / max(len(epochs), 1)
    for index in _labelled(epochs, cell):
        write(figure, x0 + (index + 0.5) * cell, y0 - PAD, epochs[index], ha="center", va="top")
    write(figure, (x0 + x1) / 2, PAD / 2, "epoch", ha="center", va="bottom")
    return axes


def _labelled(epochs: Sequence[str], cell: float) -> Sequence[int]:
    """Which epochs have room for their number: 10, 20, 30 where none is left out."""
    width = 0.08 * (max(map(len, epochs), default=1) + 1)
    every = next(step for step in _STEPS if step * cell >= width)
    numbers = [int(epoch) for epoch in epochs]
    whole = [index for index, number in enumerate(numbers) if number % every == 0]
    steady = numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else False
    return whole if steady and len(whole) > 1 else range(0, len(epochs), every)


def _draw_colour_bar(figure: "Figure", colours: "Colormap", norm: "Normalize", label: str) -> None:
    """One line at the top: the label, the bar, and the words at its ends."""
    from matplotlib.cm import ScalarMappable

    height = figure.get_figheight()
    name = shortened_to_fit(figure, drawable(label), 1.2)
    words = ("over-trained", "under-trained") if label == "alpha" else ("", "")
    before = f"{name}: {words[0]}" if words[0] else name
    y, gap = 1 - 0.1 / height, 0.06
    x0 = PAD + text_width(figure, before) / DPI + gap
    x1 = WIDTH - PAD - text_width(figure, words[1]) / DPI - gap
    figure.text(PAD / WIDTH, y, before, va="center")
    figure.text(1 - PAD / WIDTH, y, words[1], va="center", ha="right")
    place = (x0 / WIDTH, 1 - 0.16 / height, (x1 - x0) / WIDTH, 0.12 / height)
    bar = figure.colorbar(
        ScalarMappable(norm, colours),
        cax=figure.add_axes(place),
        orientation="horizontal",
        extend="both",
        drawedges=False,
    )
    bar.set_ticks(np.linspace(norm.vmin or 0.0, norm.vmax or 1.0, 5).tolist())
    bar.outline.set_linewidth(1)
    bar.ax.tick_params(length=3, pad=2)
