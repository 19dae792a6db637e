"""The words of a network: what its layers are called, and what its lines and dots mean."""

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_weightwatch.model.graph import is_layer
from lightning_weightwatch.views.layer_names import drawable, shortened
from lightning_weightwatch.views.margins import text_width
from lightning_weightwatch.views.network.importance import Importance
from lightning_weightwatch.views.network.layout import Layout
from lightning_weightwatch.views.network.look import (
    BLOCK,
    DOT,
    FAINT,
    PLAIN,
    PLAIN_WIDTH,
    QUIET,
    TEXT,
    colours,
    dot_size,
    draw_sign,
    widths,
)
from lightning_weightwatch.views.network.places import Column
from lightning_weightwatch.views.network.slots import block_of
from lightning_weightwatch.views.png import DPI, VERMILION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Of the legend in inches: beside and below it, a line, a sample of lines or of a dot, gaps.
_PAD, _LINE, _SAMPLE, _DOT, _GAP, _APART = 0.06, 0.16, 0.34, 0.06, 0.06, 0.18
_FONT = 8
# Names of so many characters have room for a number behind them; kinds that are shorter here.
_SHORT = 6
_KINDS = {"conv_transpose": "deconv"}

# Behind words that lines cross.
_BACKGROUND: dict[str, Any] = {"alpha": 0.85, "pad": 0.4, "linewidth": 0}

# Draws a sample at a place.
_Sample = Callable[["Axes", float, float], None]


def lines_of_text(known: Mapping[int, Importance]) -> int:
    """Lines below a column: its name, kind and sizes, what is used, and what is dead."""
    dead = any(each.dead.any() for each in known.values())
    return 3 + bool(known) + dead


def write_heading(axes: "Axes", layout: Layout, title: str) -> None:
    """The title and the number of layers."""
    count = len(layout.graph.layers)
    counted = f"{count} layer" if count == 1 else f"{count} layers"
    words = f"{shortened(drawable(title), 40)}: {counted}" if title else counted
    axes.text(_PAD, layout.height - 0.06, words, fontsize=_FONT, va="top", color=TEXT)


def write_labels(
    figure: "Figure", axes: "Axes", layout: Layout, known: Mapping[int, Importance]
) -> None:
    """Below each column, and above each block."""
    size, line = layout.scale.font, layout.scale.line
    for band in layout.bands:
        name = _fitted(figure, drawable(band.name), band.x1 - band.x0 - 0.1, 1.1 * size)
        axes.text(
            band.x0 + 0.05, band.y1 - 0.02, name, fontsize=size, color=QUIET, va="top",
            weight="bold",
        )  # fmt: skip
    for column in layout.columns.values():
        behind = [b.name for b in layout.bands if b.row == column.row and b.x0 < column.x < b.x1]
        texts = _label(layout, column, known.get(column.node), behind)
        texts = texts[:1] if column.faint else texts
        alone = layout.slots.main(layout.slots.members[layout.slots.slot_of[column.node]])
        room = (1.5 if column.stacked and alone is not None else 1.0) * layout.step - 0.03
        shown = [_first_fitting(figure, ways, room, size) for ways in texts]
        for number, text in enumerate(shown):
            axes.text(
                column.x,
                column.label - number * line,
                text,
                fontsize=size,
                ha="center",
                va="top",
                color=TEXT if not number and not column.faint else QUIET,
                bbox=_BACKGROUND | {"facecolor": BLOCK if behind else "white"}
                if column.stacked
                else None,
                zorder=6,
            )  # fmt: skip


def _label(
    layout: Layout,
    column: Column,
    known: Importance | None,
    behind: Sequence[str],
) -> list[tuple[str, ...]]:
    """The lines below a column, the name first, each in several ways, the longest first.

    Where the block of a layer is written above it, or in the row before, its name is the rest.
    """
    node = layout.graph.nodes[column.node]
    if not is_layer(node):
        return [(node.name,)] if node.outputs is None else [(node.name,), (f"{node.outputs:,}",)]
    block, name = block_of(node.name), node.name
    if block and (column.faint or block in behind):
        name = name.removeprefix(f"{block}.")
    name = drawable(name)
    sizes = ["?" if size is None else str(size) for size in (node.inputs, node.outputs)]
    lines: list[tuple[str, ...]] = [(name,)]
    if not column.stacked and layout.scale.kinds:
        lines.append((_KINDS.get(node.kind, node.kind),))
    wide, narrow = " → ".join(sizes), "→".join(sizes)
    short = "→".join(map(_thousands, sizes))
    if known is None:
        return [*lines, (wide, narrow, short)]
    share = f"{known.effective_share:.0%}"
    if column.stacked and len(name) <= _SHORT:
        return [(f"{name} {share}", name), (wide, narrow, short)]
    if column.stacked:
        return [*lines, (f"{wide}, {share}", f"{narrow} {share}", share)]
    dead = int(known.dead.sum())
    lines += [(wide, narrow, short), (f"{share} used", share)]
    return [*lines, (f"{dead} dead", f"{_thousands(str(dead))}†")] if dead else lines


def _thousands(size: str) -> str:
    """A number of channels in four characters: 2.1k for 2048."""
    return f"{int(size) / 1000:.2g}k" if len(size) > 3 else size


def _first_fitting(figure: "Figure", ways: Sequence[str], inches: float, size: float) -> str:
    """The first of several texts that has room, or the last of them, cut."""
    for text in ways[:-1]:
        if text_width(figure, text) <= inches * DPI * _FONT / size:
            return text
    return _fitted(figure, ways[-1], inches, size)


def _fitted(figure: "Figure", text: str, inches: float, size: float) -> str:
    """A text, cut in the middle if it is wider than that."""
    shown, room = text, inches * DPI * 8 / size
    while len(shown) > 2 and (width := text_width(figure, shown)) > room:
        shown = shortened(text, min(int(len(shown) * room / width), len(shown) - 1))
    return shown


def write_legend(
    figure: "Figure",
    axes: "Axes",
    layout: Layout,
    known: Mapping[int, Importance],
    plain: Collection[int],
) -> float:
    """What lines and dots mean, below 0.

    Args:
        figure: Where it is written.
        axes: Its only ones.
        layout: Where everything is.
        known: What is known of layers.
        plain: To what plain lines lead, by position.

    Returns:
        The height that it takes, in inches.
    """
    x, y = _PAD, -_LINE
    short = any(text.get_text().endswith("†") for text in axes.texts)
    for wide, draw, text in _items(layout, known, plain, short):
        gap = _GAP if wide else 0.0
        width = wide + gap + text_width(figure, text) / DPI
        if x > _PAD and x + width > layout.scale.width - _PAD:
            x, y = _PAD, y - _LINE
        draw(axes, x, y)
        axes.text(
            x + wide + gap, y, text, fontsize=_FONT, va="center_baseline", color=TEXT, zorder=6
        )
        x += width + _APART
    return -y + _LINE / 2 + _PAD


def _items(
    layout: Layout, known: Mapping[int, Importance], unknown: Collection[int], short: bool
) -> list[tuple[float, _Sample, str]]:
    """Samples, each with its width and what it means."""

    def strong(axes: "Axes", x: float, y: float) -> None:
        from matplotlib.collections import LineCollection

        steps = np.linspace(0.3, 1, 5)
        ends = np.linspace(x, x + 2 * _SAMPLE, 6)
        pieces = [[(a, y), (b, y)] for a, b in pairwise(ends)]
        axes.add_collection(
            LineCollection(pieces, colors=colours()(steps**2), linewidths=widths(layout, steps))
        )

    def plain(axes: "Axes", x: float, y: float) -> None:
        axes.plot([x, x + _SAMPLE], [y, y], color=PLAIN, linewidth=2 * PLAIN_WIDTH)

    def dot(fill: str, edge: str) -> _Sample:
        def draw(axes: "Axes", x: float, y: float) -> None:
            axes.scatter(
                [x + _DOT / 2], [y], s=dot_size(layout), c=fill, edgecolors=edge, linewidths=1
            )

        return draw

    items: list[tuple[float, _Sample, str]] = []
    layers = [at for at, node in enumerate(layout.graph.nodes) if is_layer(node)]
    if known:
        items.append((2 * _SAMPLE, strong, "low to high importance in its layer"))
    missing = ["importance"] if any(at not in known for at in layers) else []
    missing += ["channel"] if any(at in known for at in unknown) else []
    if missing:
        items.append((_SAMPLE, plain, f"{' or '.join(missing)} not known"))
    grouped = [
        (layout.graph.nodes[column.node].outputs or 0) / column.dots
        for column in layout.columns.values()
    ]
    if max(grouped) > 1:
        most = f"{int(np.ceil(max(grouped))):,}"
        items.append((_DOT, dot(DOT, DOT), f"a dot is up to {most} neurons or channels"))
    if any(each.dead.any() for each in known.values()):
        words = "dead (filled: half of its neurons)" if max(grouped) > 1 else "dead"
        items.append((_DOT, dot("white", VERMILION), f"† {words}" if short else words))
    if any(
        layout.graph.nodes[mark.node].operation == "attention" for mark in layout.marks.values()
    ):
        items.append((_DOT, lambda axes, x, y: _draw_sign(axes, x + _DOT / 2, y), "attention"))
    if any(column.faint for column in layout.columns.values()):
        items.append((_DOT, dot(FAINT, FAINT), "from the row above"))
    if known:
        items.append((0.0, lambda *_: None, "used: share of effective weights"))
    return items


def _draw_sign(axes: "Axes", x: float, y: float) -> None:
    draw_sign(axes, x, y, "A", DOT)
