"""How the parts of a network look: its lines, dots, arcs and marks."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lightning_weightwatch.model.graph import is_layer
from lightning_weightwatch.views.layer_names import drawable, shortened
from lightning_weightwatch.views.network.arcs import RADIUS
from lightning_weightwatch.views.network.edges import Lines
from lightning_weightwatch.views.network.importance import Importance, dead_dots
from lightning_weightwatch.views.network.layout import Layout
from lightning_weightwatch.views.png import VERMILION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap

#: Words, words beside the point, dots, dots that are drawn again.
TEXT, QUIET, DOT, FAINT = "#111111", "#59636A", "#22313A", "#B4BDC3"
#: Lines of unknown importance, their width in points.
PLAIN, PLAIN_WIDTH = "#BEC6CB", 0.3
#: Arcs, blocks.
ARC, BLOCK = "#5B6770", "#F3F5F7"

#: How many of the kept colours are those of areas.
AREAS = 2

# From a line that hardly matters to the strongest of its layer.
_SHADES = ("#E6EBEF", "#B5D3E7", "#5FA8D3", "#0072B2", "#003A63")
# Widths of lines in points: where neurons are drawn one by one, and where they are not.
_LARGE, _SMALL = (0.25, 2.6), (0.2, 1.3)
# Sums over many neurons are alike: what differs is to be seen.
_CONTRAST = 2.0
_SIGNS = {"add": "+", "sub": "−", "mul": "×", "div": "÷", "attention": "A"}


def colours() -> "Colormap":
    """From a line that hardly matters to the strongest of its layer."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("importance", _SHADES)


def widths(
    layout: Layout, strength: "np.ndarray[tuple[int], np.dtype[np.float64]]"
) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """Of lines, in points."""
    thin, thick = _LARGE if layout.scale.tall >= 1 else _SMALL
    return thin + (thick - thin) * strength**_CONTRAST


def kept_colours() -> list[tuple[float, float, float]]:
    """What a picture of few colours is to have even where there is little of it.

    First those of areas; then what is rare, as it is and at the edges of what has it.
    """
    from matplotlib.colors import to_rgb

    exact = [to_rgb(VERMILION), *(to_rgb(shade) for shade in colours()(np.linspace(0.1, 1, 10)))]
    found = [to_rgb("white"), to_rgb(BLOCK)]
    for red, green, blue in exact:
        found += [
            (1 - part * (1 - red), 1 - part * (1 - green), 1 - part * (1 - blue))
            for part in (1, 0.75, 0.5, 0.25)
        ]
    return found


def draw_blocks(axes: "Axes", layout: Layout) -> None:
    """What lies behind the layers of a part of the model, with its name."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import FancyBboxPatch

    look = "round,pad=0,rounding_size=0.05"
    boxes = [
        FancyBboxPatch((b.x0, b.y0), b.x1 - b.x0, b.y1 - b.y0, boxstyle=look) for b in layout.bands
    ]
    axes.add_collection(PatchCollection(boxes, facecolor=BLOCK, edgecolor="none", zorder=0))


def draw_lines(axes: "Axes", layout: Layout, lines: Sequence[Lines]) -> None:
    """All lines, the strongest on top."""
    from matplotlib.collections import LineCollection

    if not lines:
        return
    segments = np.concatenate([each.segments for each in lines])
    strength = np.concatenate([each.strength for each in lines])
    unknown = np.isnan(strength)
    plain = LineCollection(
        list(segments[unknown]), colors=PLAIN, linewidths=PLAIN_WIDTH, zorder=1, gid="plain"
    )
    axes.add_collection(plain)
    order = np.flatnonzero(~unknown)
    order = order[np.argsort(strength[order], kind="stable")]
    shown = strength[order]
    axes.add_collection(
        LineCollection(
            list(segments[order]),
            colors=colours()(shown**_CONTRAST),
            linewidths=widths(layout, shown),
            zorder=1.5,
            gid="importance",
        )
    )


def draw_arcs(axes: "Axes", layout: Layout) -> None:
    """What skips layers."""
    from matplotlib.collections import LineCollection

    ways = [arc.points for arc in layout.arcs if arc.points is not None]
    axes.add_collection(LineCollection(ways, colors=ARC, linewidths=1, zorder=2, gid="arcs"))
    for way, sign in ((1, ">"), (-1, "<")):
        ends = [
            arc.points[-1]
            for arc in layout.arcs
            if arc.points is not None
            and is_layer(layout.graph.nodes[arc.end])
            and layout.directions[arc.rows[1]] == way
        ]
        if ends:
            x, y = np.array(ends).T
            axes.scatter(x, y, s=9, c=ARC, marker=sign, linewidths=0, zorder=3)


def draw_dots(axes: "Axes", layout: Layout, known: Mapping[int, Importance]) -> None:
    """Full, hollow where dead, ringed where half of what a dot stands for is."""
    columns = list(layout.columns.values())
    places = np.concatenate(
        [np.column_stack([np.full(c.dots, c.x), layout.heights(c)]) for c in columns]
    )
    fill: list[str] = []
    edge: list[str] = []
    for column in columns:
        normal = FAINT if column.faint else DOT
        dead = partly = np.zeros(column.dots, dtype=bool)
        if column.node in known and not column.faint:
            dead, partly = dead_dots(known[column.node].dead, column.dots)
        fill += ["white" if gone else normal for gone in dead]
        edge += [VERMILION if gone else normal for gone in dead | partly]
    axes.scatter(
        places[:, 0],
        places[:, 1],
        s=dot_size(layout),
        c=fill,
        edgecolors=edge,
        linewidths=1,
        zorder=3,
        gid="dots",
    )


def dot_size(layout: Layout) -> float:
    """The area of a dot in square points."""
    return float((min(0.55 * layout.pitch, 0.085) * 72) ** 2)


def draw_marks(axes: "Axes", layout: Layout) -> None:
    """Signs where branches meet; words where there is no sign."""
    for mark in layout.marks.values():
        node = layout.graph.nodes[mark.node]
        colour = FAINT if mark.faint else DOT
        if node.kind == "output":
            axes.plot(mark.x, mark.y, ">", color=colour, markersize=5, zorder=4)
            axes.text(
                mark.x, mark.y - 0.06, "out", fontsize=6, ha="center", va="top", color=TEXT,
                zorder=5,
            )  # fmt: skip
            continue
        sign = _SIGNS.get(node.operation)
        if sign is not None:
            draw_sign(axes, mark.x, mark.y, sign, colour)
            continue
        word = shortened(drawable(node.operation), 9 if layout.step > 0.6 else 5)
        box = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": colour}
        axes.text(
            mark.x, mark.y, word, fontsize=6, color=colour, ha="center", va="center", bbox=box,
            zorder=5,
        )  # fmt: skip


def draw_sign(axes: "Axes", x: float, y: float, sign: str, colour: str) -> None:
    """A character in a circle."""
    axes.plot(
        x, y, "o", markersize=2 * 72 * RADIUS, color="white", markeredgecolor=colour,
        markeredgewidth=1, zorder=4,
    )  # fmt: skip
    size = 8 if sign != "A" else 6
    axes.text(x, y, sign, fontsize=size, color=colour, ha="center", va="center_baseline", zorder=5)
