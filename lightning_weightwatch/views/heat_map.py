"""A metric of all layers over all epochs as a heat map."""

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lightning_weightwatch.spectral.report import ALPHA_BAND
from lightning_weightwatch.views.cell_map import draw_colour_bar, hatch_behind, map_axes, new_map
from lightning_weightwatch.views.layer_names import short_names
from lightning_weightwatch.views.margins import PAD
from lightning_weightwatch.views.png import (
    BLACK,
    MID_GREY,
    VERMILION,
    WIDTH,
    in_our_style,
    write,
)

if TYPE_CHECKING:
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

FloatArray = NDArray[np.float64]

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
    figure = new_map(len(names))
    known = np.isfinite(values)
    faded = known & ~trusted if trusted is not None else np.zeros_like(known)
    alarms = known & ~faded & (values < band[0])
    lowest = np.where(alarms, values, math.inf).min(axis=1, initial=math.inf)
    alarming = [int(row) for row in np.argsort(lowest) if lowest[row] < math.inf]
    numbers = [str(epoch + 1) for epoch in epochs]
    axes = map_axes(
        figure,
        short_names(names),
        numbers,
        word="epoch",
        labelled=partial(_labelled, numbers),
        first=alarming,
        words=bool(faded.any() or not known.all()),
    )
    colours, norm = _colours(band)
    if not known.all():
        hatch_behind(figure, axes)
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
    words = ("over-trained", "under-trained") if label == "alpha" else ("", "")
    ticks = [(float(value), f"{value:g}") for value in np.linspace(*band, 5)]
    draw_colour_bar(figure, colours, norm, label, words, ticks, extend="both")
    return figure


def _colours(band: tuple[float, float]) -> "tuple[Colormap, Normalize]":
    import matplotlib
    from matplotlib.colors import ListedColormap, Normalize

    cividis = matplotlib.colormaps["cividis"](np.linspace(0, _CUT, 128))
    colours = ListedColormap(cividis).with_extremes(
        under=VERMILION, over=MID_GREY, bad=(0, 0, 0, 0)
    )
    return colours, Normalize(*band)


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
