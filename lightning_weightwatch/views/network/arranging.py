"""Where the columns, marks and arcs of a network go: in inches, from the bottom left."""

import math
from collections.abc import Sequence
from dataclasses import replace

from lightning_weightwatch.model.graph import Graph
from lightning_weightwatch.views.network.arcs import lanes_of, routed
from lightning_weightwatch.views.network.layout import Layout
from lightning_weightwatch.views.network.places import Band, Mark, Scale, scale_of
from lightning_weightwatch.views.network.rows import heights_of
from lightning_weightwatch.views.network.slots import Row, rows_of, slots_of
from lightning_weightwatch.views.png import whole_pixels

# What is above the first row, beside all, and between rows.
_HEAD, _SIDE, _BETWEEN = 0.34, 0.12, 0.18
# Between two lanes of arcs, and around all of them.
_LANE, _AROUND = 0.075, 0.05
# A column of few dots is not drawn wider apart than that, nor one of many closer.
_WIDE, _CLOSE = 0.2, 0.055
# How much longer the columns of the widest layer are, as a share of theirs.
_LONGER = 0.4


def laid_out(graph: Graph, *, lines: int) -> Layout:
    """A place for every layer and junction.

    Args:
        graph: What is drawn.
        lines: Of text below a column.
    """
    slots = slots_of(graph)
    scale = scale_of(len(slots.members), lines)
    rows, directions = rows_of(slots, scale.most)
    longest = max(len(row.shown) for row in rows)
    step = (scale.width - 2 * _SIDE) / (longest + 0.2)
    dots = {
        at: _dots(graph, scale, at, 1 if at == slots.main(members) else len(members))
        for members in slots.members
        for at in members
    }
    most = max(sum(dots[at] for at in members) for members in slots.members)
    layout = Layout(
        graph, slots, scale, step, min(max(scale.tall / most, _CLOSE), _WIDE), directions
    )
    x_of, row_of = _across(layout, rows)
    arcs, lanes = lanes_of(layout, x_of, row_of)
    tops: list[float] = []
    axes: list[float] = []
    bottoms: list[float] = []
    top = _HEAD
    places = [heights_of(layout, row, dots) for row in rows]
    for row, place, count in zip(rows, places, lanes, strict=True):
        named = scale.line + 0.03 if any(slots.blocks[slot] for slot in row.own) else 0.0
        tops.append(top)
        axes.append(
            top + named + (_AROUND + _LANE * count if count else 0.0) + _AROUND + place.above
        )
        bottoms.append(axes[-1] + place.below)
        top = bottoms[-1] + _BETWEEN
    layout.height = whole_pixels(top - _BETWEEN)
    for index, (row, place) in enumerate(zip(rows, places, strict=True)):
        axis = layout.height - axes[index]
        for slot in row.shown:
            faint = slot not in row.own
            for at in slots.members[slot]:
                own = place.columns[at]
                layout.columns[at, index] = replace(
                    own, row=index, x=x_of[at, index], y=axis - own.y, faint=faint,
                    label=axis - own.label,
                )  # fmt: skip
            for at in slots.gaps.get(slot, ()):
                layout.marks[at, index] = Mark(at, index, x_of[at, index], axis, faint)
        layout.bands += _bands(
            layout, row, x_of, axis + axes[index] - tops[index], axis - place.below
        )
    for arc in arcs:
        lane_y = [
            layout.height - axes[row] + places[row].above + _AROUND + _LANE * (lane + 0.5)
            for row, lane in arc.lanes
        ]
        layout.arcs.append(routed(arc, layout, lane_y))
    return layout


def _dots(graph: Graph, scale: Scale, at: int, stacked: int) -> int:
    """How many dots a column has: its neurons, or the more the more there are."""
    count = graph.nodes[at].outputs
    most = max(scale.dots // stacked, 4)
    if count is None:
        return 1
    if count <= most:
        return max(count, 1)
    largest = max(node.outputs or 1 for node in graph.nodes)
    share = math.log(count / most) / math.log(largest / most)
    return round(most * (1 - _LONGER + _LONGER * share))


def _across(
    layout: Layout, rows: Sequence[Row]
) -> tuple[dict[tuple[int, int], float], dict[int, int]]:
    """The x of every node in every row that shows it, and the row to which it belongs."""
    x_of: dict[tuple[int, int], float] = {}
    row_of: dict[int, int] = {}
    for index, (row, way) in enumerate(zip(rows, layout.directions, strict=True)):
        for place, slot in enumerate(row.shown):
            x = _SIDE + (place + 0.5) * layout.step
            x = x if way > 0 else layout.scale.width - x
            gap = layout.slots.gaps.get(slot, [])
            apart = min(0.26, 0.5 / max(len(gap), 1))
            for at in layout.slots.members[slot]:
                x_of[at, index] = x
            for number, at in enumerate(gap):
                offset = 0.5 + apart * (number - (len(gap) - 1) / 2)
                x_of[at, index] = x + way * offset * layout.step
            if slot in row.own:
                row_of |= dict.fromkeys([*layout.slots.members[slot], *gap], index)
    return x_of, row_of


def _bands(
    layout: Layout, row: Row, x_of: dict[tuple[int, int], float], top: float, bottom: float
) -> list[Band]:
    """Behind the slots of a row that belong to one block."""
    found: list[Band] = []
    blocks = layout.slots.blocks
    start = row.own.start
    while start < row.own.stop:
        end = start
        while end + 1 < row.own.stop and blocks[end + 1] == blocks[start]:
            end += 1
        if blocks[start]:
            ends = sorted(x_of[layout.slots.members[slot][0], row.index] for slot in (start, end))
            half = 0.47 * layout.step
            found.append(
                Band(blocks[start], row.index, ends[0] - half, bottom - 0.04, ends[1] + half, top)
            )
        start = end + 1
    return found
