"""A metric of all layers over all epochs as a heat map."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lightning_weightwatch.spectral.report import ALPHA_BAND
from lightning_weightwatch.views.layer_names import drawable, named_rows, short_names
from lightning_weightwatch.views.margins import PAD, shortened_to_fit, text_width
from lightning_weightwatch.views.png import (
    BLACK,
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

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

FloatArray = NDArray[np.float64]

# Inches: a layer, what is above the map, below it, words at the foot, a sample of the hatching.
_ROW, _HEAD, _FOOT, _WORDS, _SWATCH = 0.13, 0.42, 0.21, 0.15, 0.1
# Up to so many layers TensorBoard's small card is sharp.
_FEW = 12
# Names of 8 pt need so much; of more than so many layers fewer are named.
_LINE, _MANY, _SPARSE = 0.115, 64, 0.22
# Cells from so many pixels on hold a cross.
_CROSS = 14
# What of a colour is white where the fit says little.
_FADED, _DOUBT = 0.7, "faded: the fit says little"
# The brightest sixth of cividis would draw the eye to what is healthy.
_CUT = 0.85
_STEPS = [1, *(digit * 10**power for power in range(9) for digit in (5, 10, 20))]


@in_our_style
def heat_map_figure(
    names: Sequence[str],
    epochs: Sequence[int],
    values: FloatArray,
    *,
    trusted: NDArray[np.bool_] | None = None,
    label: str = "alpha",
    band: tuple[float, float] = ALPHA_BAND,
) -> "Figure":
    """Layers from top to bottom, epochs from left to right.

    Within the band cividis from dark to light; below it vermilion, with a cross where there is
    room for it; above it grey; hatched where the value is not known. Up to 12 layers the height is
    twice that of a small card of TensorBoard.

    Args:
        names: Of the layers, in the order of the model.
        epochs: 0-based; the axis counts from 1.
        values: [layers, epochs]; NaN for unknown.
        trusted: [layers, epochs]; False where the fit says little: faded, and no cross.
        label: What the values are.
        band: Where they are healthy.
    """
    tall = min(_HEAD + _FOOT + _WORDS + _ROW * len(names), MAX_HEIGHT)
    figure = new_figure(HEIGHT if len(names) <= _FEW else whole_pixels(tall))
    known = np.isfinite(values)
    faded = known & ~trusted if trusted is not None else np.zeros_like(known)
    alarms = known & ~faded & (values < band[0])
    foot = _FOOT + (_WORDS if faded.any() or not known.all() else 0)
    lowest = np.where(alarms, values, math.inf).min(axis=1, initial=math.inf)
    alarming = [int(row) for row in np.argsort(lowest) if lowest[row] < math.inf]
    axes = _placed(figure, short_names(names), [str(epoch + 1) for epoch in epochs], alarming, foot)
    colours, norm = _colours(band)
    if not known.all():
        _hatch_behind(figure, axes)
    if values.size:
        look: dict[str, Any] = {"aspect": "auto", "interpolation": "nearest"}
        axes.imshow(np.ma.masked_where(~known, values), cmap=colours, norm=norm, **look)
        if faded.any():
            veil = np.full((*values.shape, 4), 255, np.uint8)
            veil[..., 3] = np.where(faded, round(255 * _FADED), 0)
            axes.imshow(veil, **look)
            write(figure, WIDTH - PAD, PAD / 2, _DOUBT, ha="right", va="bottom")
    width, height = axes.get_window_extent().size
    if alarms.any() and min(width / len(epochs), height / len(names)) >= _CROSS:
        rows, columns = np.nonzero(alarms)
        axes.plot(columns, rows, "x", color=BLACK, markersize=3.5, scalex=False, scaley=False)
    _draw_colour_bar(figure, colours, norm, label)
    return figure


def _colours(band: tuple[float, float]) -> "tuple[Colormap, Normalize]":
    import matplotlib
    from matplotlib.colors import ListedColormap, Normalize

    cividis = matplotlib.colormaps["cividis"](np.linspace(0, _CUT, 128))
    colours = ListedColormap(cividis).with_extremes(
        under=VERMILION, over=MID_GREY, bad=(0, 0, 0, 0)
    )
    return colours, Normalize(*band)


def _hatch_behind(figure: "Figure", axes: "Axes") -> None:
    """What shows through where there is no value, and its word in the corner."""
    from matplotlib.patches import Rectangle

    look: dict[str, Any] = {
        "facecolor": "white", "edgecolor": GREY, "hatch": "////", "linewidth": 0,
    }  # fmt: skip
    axes.add_patch(Rectangle((0, 0), 1, 1, transform=axes.transAxes, zorder=-1, **look))
    scale = figure.dpi_scale_trans
    figure.add_artist(Rectangle((PAD, PAD / 2), _SWATCH, _SWATCH, transform=scale, **look))
    write(figure, 2 * PAD + _SWATCH, PAD / 2, "no value", va="bottom")


def _placed(
    figure: "Figure",
    names: Sequence[str],
    epochs: Sequence[str],
    alarming: Sequence[int],
    foot: float,
) -> "Axes":
    """Axes with as many names and epochs beside them as fit."""
    height = figure.get_figheight()
    y0, y1 = whole_pixels(foot), whole_pixels(height - _HEAD)
    cell = (y1 - y0) / max(len(names), 1)
    apart = _SPARSE if len(names) > _MANY else _LINE
    named = named_rows(len(names), alarming, _LINE / cell, apart / cell)
    beside = [*(names[index] for index in named), "epoch"]
    widest = max(text_width(figure, name) for name in beside) / DPI
    last = text_width(figure, max(epochs, key=len, default="")) / DPI
    x0, x1 = whole_pixels(widest + 3 * PAD), whole_pixels(WIDTH - max(last / 2, 2 * PAD) - PAD)
    place = (x0 / WIDTH, y0 / height, (x1 - x0) / WIDTH, (y1 - y0) / height)
    axes = figure.add_axes(
        place, ylim=(max(len(names), 1) - 0.5, -0.5), xlim=(-0.5, max(len(epochs), 1) - 0.5)
    )
    axes.set_axis_off()
    for index in named:
        at = y1 - (index + 0.5) * cell
        write(figure, x0 - PAD, at, names[index], ha="right", va="center_baseline")
    cell, below = (x1 - x0) / max(len(epochs), 1), y0 - 1.5 * PAD
    for index in _labelled(epochs, cell):
        write(figure, x0 + (index + 0.5) * cell, below, epochs[index], ha="center", va="top")
    write(figure, x0 - 2 * PAD, below, "epoch", ha="right", va="top")
    return axes


def _labelled(epochs: Sequence[str], cell: float) -> Sequence[int]:
    """Which epochs have room for their number: 1, 10, 20, 30 where none is left out."""
    longest = max(map(len, epochs), default=1)
    every = next(step for step in _STEPS if step * cell >= 0.08 * (longest + 2))
    numbers = [int(epoch) for epoch in epochs]
    if not numbers or numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        return range(0, len(epochs), every)
    whole = [index for index, number in enumerate(numbers) if number % every == 0]
    first = not whole or whole[0] * cell >= 0.08 * (longest + 1)
    return [0, *whole] if first else whole


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
        extendfrac=0.12,
        extendrect=True,
        drawedges=False,
    )
    bar.set_ticks(np.linspace(norm.vmin or 0.0, norm.vmax or 1.0, 5).tolist())
    bar.outline.set_linewidth(1)
    bar.ax.tick_params(length=3, pad=2)
