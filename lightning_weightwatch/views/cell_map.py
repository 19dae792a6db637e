"""Where the cells of a map of layers go, with as many names and columns beside them as fit."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from lightning_weightwatch.views.layer_names import drawable, named_rows
from lightning_weightwatch.views.margins import PAD, shortened_to_fit, text_width
from lightning_weightwatch.views.png import (
    DPI,
    GREY,
    HEIGHT,
    MAX_HEIGHT,
    WIDTH,
    new_figure,
    whole_pixels,
    write,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

# Inches: a layer, what is above the map, below it, words at the foot, a sample of the hatching.
_ROW, _HEAD, _FOOT, _WORDS, _SWATCH = 0.13, 0.42, 0.21, 0.15, 0.1
# Up to so many layers TensorBoard's small card is sharp.
_FEW = 12
# Names of 8 pt need so much; of more than so many layers fewer are named.
_LINE, _MANY, _SPARSE = 0.115, 64, 0.22


def new_map(layers: int) -> "Figure":
    """An empty figure: for up to 12 layers as high as twice a small card of TensorBoard."""
    tall = min(_HEAD + _FOOT + _WORDS + _ROW * layers, MAX_HEIGHT)
    return new_figure(HEIGHT if layers <= _FEW else whole_pixels(tall))


def map_axes(
    figure: "Figure",
    names: Sequence[str],
    columns: Sequence[str],
    *,
    word: str,
    labelled: Callable[[float], Sequence[int]],
    first: Sequence[int],
    words: bool,
) -> "Axes":
    """Axes with a cell for each layer and column.

    Args:
        figure: Of `new_map`.
        names: Of the layers, short ones.
        columns: What the columns are.
        word: What they count.
        labelled: Which of the columns have a label, given the width of a cell in inches.
        first: Layers that are named before others, the most important first.
        words: Whether there is to be room for words at the foot.
    """
    height, foot = figure.get_figheight(), _FOOT + (_WORDS if words else 0)
    y0, y1 = whole_pixels(foot), whole_pixels(height - _HEAD)
    cell = (y1 - y0) / max(len(names), 1)
    apart = _SPARSE if len(names) > _MANY else _LINE
    named = named_rows(len(names), first, _LINE / cell, apart / cell)
    beside = [*(names[index] for index in named), word]
    widest = max(text_width(figure, name) for name in beside) / DPI
    last = text_width(figure, max(columns, key=len, default="")) / DPI
    x0, x1 = whole_pixels(widest + 3 * PAD), whole_pixels(WIDTH - max(last / 2, 2 * PAD) - PAD)
    place = (x0 / WIDTH, y0 / height, (x1 - x0) / WIDTH, (y1 - y0) / height)
    axes = figure.add_axes(
        place, ylim=(max(len(names), 1) - 0.5, -0.5), xlim=(-0.5, max(len(columns), 1) - 0.5)
    )
    axes.set_axis_off()
    for index in named:
        at = y1 - (index + 0.5) * cell
        write(figure, x0 - PAD, at, names[index], ha="right", va="center_baseline")
    cell, below = (x1 - x0) / max(len(columns), 1), y0 - 1.5 * PAD
    for index in labelled(cell):
        write(figure, x0 + (index + 0.5) * cell, below, columns[index], ha="center", va="top")
    write(figure, x0 - 2 * PAD, below, word, ha="right", va="top")
    return axes


def hatch_behind(figure: "Figure", axes: "Axes") -> None:
    """What shows through where there is no value, and its word in the corner."""
    from matplotlib.patches import Rectangle

    look: dict[str, Any] = {
        "facecolor": "white", "edgecolor": GREY, "hatch": "////", "linewidth": 0,
    }  # fmt: skip
    axes.add_patch(Rectangle((0, 0), 1, 1, transform=axes.transAxes, zorder=-1, **look))
    scale = figure.dpi_scale_trans
    figure.add_artist(Rectangle((PAD, PAD / 2), _SWATCH, _SWATCH, transform=scale, **look))
    write(figure, 2 * PAD + _SWATCH, PAD / 2, "no value", va="bottom")


def draw_colour_bar(
    figure: "Figure",
    colours: "Colormap",
    norm: "Normalize",
    label: str,
    words: tuple[str, str],
    ticks: Sequence[tuple[float, str]],
    *,
    extend: Literal["neither", "both"] = "neither",
) -> None:
    """One line at the top: the label, the bar, and the words at its ends."""
    from matplotlib.cm import ScalarMappable

    height = figure.get_figheight()
    name = shortened_to_fit(figure, drawable(label), 1.2)
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
        extend=extend,
        extendfrac=0.12,
        extendrect=True,
        drawedges=False,
    )
    bar.set_ticks([value for value, _ in ticks], labels=[text for _, text in ticks])
    bar.ax.minorticks_off()
    bar.outline.set_linewidth(1)
    bar.ax.tick_params(length=3, pad=2)
