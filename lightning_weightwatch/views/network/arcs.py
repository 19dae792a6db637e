"""The way of what skips layers: up, along a lane above the columns, and down to where it ends."""

import math

import numpy as np
from numpy.typing import NDArray

from lightning_weightwatch.model.graph import is_layer
from lightning_weightwatch.views.network.layout import Layout
from lightning_weightwatch.views.network.places import Arc, Column, Mark
from lightning_weightwatch.views.network.slots import has_column

FloatArray = NDArray[np.float64]

# More lanes than this are not drawn: arcs lie upon each other then.
_MOST = 10
# The radius of a corner, that of a mark, and between what comes and what goes at one.
CORNER, RADIUS, _APART = 0.05, 0.058, 0.022
# Where an arc leaves a layer, with and without a mark behind it, and where it enters one, as a
# share of a slot.
_LEAVES, _BETWEEN, _ENTERS = 0.3, 0.5, 0.34


# Where arcs go down that skip a row.
_SIDEWAYS = 0.05


def routed(arc: Arc, layout: Layout, lanes: list[float]) -> Arc:
    """With its way, given how high its lanes are."""
    first, last = arc.rows
    begin, end = layout.place(arc.start, first), layout.place(arc.end, last)
    assert begin is not None
    assert end is not None
    before, after = layout.directions[first], layout.directions[last]
    target = _target(layout, end, after)
    down = last > first
    leaving = _leaving(layout, begin, before, down)
    way = [*leaving, (leaving[-1][0], lanes[0])]
    if len(lanes) == 2:
        way += [(_SIDEWAYS, lanes[0]), (_SIDEWAYS, lanes[1])]
    way += [(target[0][0], lanes[-1]), *target]
    return Arc(arc.start, arc.end, arc.rows, arc.lanes, rounded(np.array(way)))


def lanes_of(
    layout: Layout, x_of: dict[tuple[int, int], float], row_of: dict[int, int]
) -> tuple[list[Arc], list[int]]:
    """The arcs with their lanes, and how many lanes there are above each row.

    All arcs of a node share one, and short ones are below long ones.
    """
    found: list[Arc] = []
    for start, end in layout.graph.edges:
        if end not in row_of or not _is_arc(layout, start, end):
            continue
        row = row_of[end]
        found.append(Arc(start, end, (row if (start, row) in x_of else row_of[start], row)))
    spans: dict[tuple[int, int], tuple[float, float]] = {}
    for arc in found:
        for row, low, high in _pieces(arc, x_of):
            before = spans.get((row, arc.start), (math.inf, -math.inf))
            spans[row, arc.start] = min(before[0], low), max(before[1], high)
    lane_of: dict[tuple[int, int], int] = {}
    taken: dict[int, list[list[tuple[float, float]]]] = {}
    for (row, start), (low, high) in sorted(
        spans.items(), key=lambda item: item[1][1] - item[1][0]
    ):
        lanes = taken.setdefault(row, [])
        free = next(
            (
                index
                for index, lane in enumerate(lanes)
                if all(high <= a + 1e-6 or low >= b - 1e-6 for a, b in lane)
            ),
            len(lanes),
        )
        if free == len(lanes) and free < _MOST:
            lanes.append([])
        free = min(free, _MOST - 1)
        lanes[free].append((low, high))
        lane_of[row, start] = free
    arcs = [
        Arc(
            arc.start, arc.end, arc.rows,
            tuple((row, lane_of[row, arc.start]) for row, _, _ in _pieces(arc, x_of)),
        )
        for arc in found
    ]  # fmt: skip
    return arcs, [len(taken.get(row, ())) for row in range(len(layout.directions))]


def _is_arc(layout: Layout, start: int, end: int) -> bool:
    """Whether an edge is no line to the next column or mark."""
    apart = layout.slots.slot_of[end] - layout.slots.slot_of[start]
    return apart > (1 if is_layer(layout.graph.nodes[end]) else 0)


def _pieces(arc: Arc, x_of: dict[tuple[int, int], float]) -> list[tuple[int, float, float]]:
    """(row, from, to) of the parts of an arc along rows."""
    first, last = arc.rows
    begin, end = x_of[arc.start, first], x_of[arc.end, last]
    if last <= first + 1:
        return [(last, min(begin, end), max(begin, end))]
    return [(first + 1, 0.0, begin), (last, 0.0, end)]


def _leaving(
    layout: Layout, begin: Column | Mark, way: int, down: bool
) -> list[tuple[float, float]]:
    x, y = begin.x, begin.y
    if has_column(layout.graph.nodes[begin.node]):
        column = layout.columns[begin.node, begin.row]
        if down or (column.stacked and not _is_topmost(layout, column)):
            behind = layout.slots.gaps.get(layout.slots.slot_of[begin.node])
            beside = x + way * layout.step * (_LEAVES if behind else _BETWEEN)
            return [(x + way * 0.05, y), (beside, y)]
        return [(x, float(layout.heights(column)[0]) + 0.05)]
    beside = x + way * _APART
    return [(beside, y - RADIUS if down else y + RADIUS)]


def _target(layout: Layout, end: Column | Mark, way: int) -> list[tuple[float, float]]:
    if is_layer(layout.graph.nodes[end.node]):
        x = end.x - way * _ENTERS * layout.step
        return [(x, end.y), (x + way * 0.06, end.y)]
    return [(end.x - way * _APART, end.y + RADIUS)]


def _is_topmost(layout: Layout, column: Column) -> bool:
    slot = layout.slots.slot_of[column.node]
    return all(
        other.y <= column.y
        for other in layout.columns.values()
        if other.row == column.row and layout.slots.slot_of[other.node] == slot
    )


def rounded(corners: FloatArray) -> FloatArray:
    """A way of straight pieces with round corners."""
    points = [corners[0]]
    for before, corner, after in zip(corners, corners[1:], corners[2:], strict=False):
        incoming, outgoing = before - corner, after - corner
        lengths = np.hypot(*incoming), np.hypot(*outgoing)
        radius = min(CORNER, lengths[0] / 2, lengths[1] / 2)
        if radius < 1e-6:
            continue
        start = corner + incoming / lengths[0] * radius
        stop = corner + outgoing / lengths[1] * radius
        points += [
            (1 - t) ** 2 * start + 2 * t * (1 - t) * corner + t**2 * stop
            for t in (0.0, 0.25, 0.5, 0.75, 1.0)
        ]
    points.append(corners[-1])
    return np.array(points)
