"""The lines between the dots of a network, and how strong each of them is."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_weightwatch.model.graph import is_layer
from lightning_weightwatch.model.operations import keeps_channels
from lightning_weightwatch.views.network.importance import Importance
from lightning_weightwatch.views.network.layout import Layout
from lightning_weightwatch.views.network.places import Column, Mark
from lightning_weightwatch.views.network.slots import has_column

FloatArray = NDArray[np.float64]

# Lines between two columns, the strongest.
_MOST = 300
# Where all lines are alike, none of them stands out: from this multiple of the mean on they do.
_STANDS_OUT = 2.0


@dataclass(frozen=True)
class Lines:
    """Lines from left to right.

    Attributes:
        start: Position of the node that they come from.
        end: Position of the node to which they go.
        segments: [n, 2, 2] ends in inches, the weakest line first.
        strength: [n] importance as a share of the strongest line of the layer, or of twice
            the mean if that is more; NaN for unknown.
    """

    start: int
    end: int
    segments: FloatArray
    strength: FloatArray


def lines_of(layout: Layout, known: dict[int, Importance]) -> list[Lines]:
    """All lines of a network.

    Between the dots of a layer and those of what feeds it in the slot before, through junctions
    that keep channels apart; from a junction that does not, to all dots behind it; and from the
    dots before a junction to it, where no lines lead past it.
    """
    found: list[Lines] = []
    passed: set[tuple[int, int]] = set()
    for at, node in enumerate(layout.graph.nodes):
        if not is_layer(node):
            continue
        column = next(c for (i, _), c in layout.columns.items() if i == at and not c.faint)
        beams = list(_beams(layout, at, column, passed))
        found += _drawn(layout, column, beams, known.get(at))
    for mark in layout.marks.values():
        if not mark.faint:
            found += _into_mark(layout, mark, passed)
    return found


def _beams(
    layout: Layout, at: int, column: Column, passed: set[tuple[int, int]]
) -> Iterator[tuple[Column | Mark, tuple[float, float]]]:
    """What lines come to a layer from, each with its part of the layer's inputs."""
    open_ends = [(at, source, (0.0, 1.0)) for source in layout.slots.into[at]]
    while open_ends:
        taker, source, part = open_ends.pop(0)
        node, place = layout.graph.nodes[source], layout.place(source, column.row)
        near = layout.slots.slot_of[source] == layout.slots.slot_of[at] - 1 and place is not None
        if not near or place is None:
            if taker != at and _fans_out(layout, taker):
                mark = layout.place(taker, column.row)
                if mark is not None:
                    yield mark, part
            continue
        if has_column(node):
            passed.add((source, taker))
            yield place, part
        elif keeps_channels(node.operation) and _has_near_layer(layout, source):
            passed.add((source, taker))
            open_ends += [(source, each, part) for each in layout.slots.into[source]]
        elif node.operation == "cat" and (parts := _parts(layout, source, part)):
            passed.add((source, taker))
            open_ends += [(source, each, own) for each, own in parts]
        else:
            yield place, part


def _fans_out(layout: Layout, junction: int) -> bool:
    return layout.graph.nodes[junction].operation == "cat"


def _has_near_layer(layout: Layout, junction: int) -> bool:
    """Whether a layer just before a junction gives it channels that can be seen through it."""
    for source in layout.slots.into[junction]:
        if layout.slots.slot_of[source] == layout.slots.slot_of[junction]:
            node = layout.graph.nodes[source]
            if has_column(node):
                return True
            if keeps_channels(node.operation) and _has_near_layer(layout, source):
                return True
    return False


def _parts(
    layout: Layout, junction: int, part: tuple[float, float]
) -> list[tuple[int, tuple[float, float]]]:
    """The parts of the inputs that come from each that `cat` joins, if all are known."""
    counts = [layout.graph.nodes[source].outputs for source in layout.slots.into[junction]]
    if None in counts or sum(filter(None, counts)) != layout.graph.nodes[junction].outputs:
        return []
    ends = np.cumsum([0, *counts]) / sum(filter(None, counts))
    low, wide = part[0], part[1] - part[0]
    return [
        (source, (low + wide * float(start), low + wide * float(end)))
        for source, start, end in zip(layout.slots.into[junction], ends, ends[1:], strict=False)
    ]


def _drawn(
    layout: Layout,
    column: Column,
    beams: list[tuple[Column | Mark, tuple[float, float]]],
    known: Importance | None,
) -> Iterator[Lines]:
    values = []
    for place, part in beams:
        dots = place.dots if isinstance(place, Column) else 1
        shape = (column.dots, dots)
        values.append(np.full(shape, np.nan) if known is None else known.between(*shape, part))
    # A line from a mark stands for many.
    tops = {
        sort: _top([v for v, (p, _) in zip(values, beams, strict=True) if isinstance(p, sort)])
        for sort in (Column, Mark)
    }
    for (place, _), value in zip(beams, values, strict=True):
        strength = value / tops[type(place)]
        flat = strength.ravel()
        if known is None:
            chosen = np.arange(flat.size)
        else:
            chosen = np.argsort(flat, kind="stable")[-_MOST:]
            chosen = chosen[flat[chosen] > 0]
        rows, columns = np.unravel_index(chosen, strength.shape)
        ends = layout.heights(column)
        segments = np.empty((chosen.size, 2, 2))
        segments[:, 0, 0], segments[:, 1, 0] = place.x, column.x
        segments[:, 0, 1], segments[:, 1, 1] = layout.heights(place)[columns], ends[rows]
        yield Lines(place.node, column.node, segments, flat[chosen])


def _ends_row(layout: Layout, mark: Mark) -> bool:
    """Whether what comes after a mark is in the next row."""
    slots = [layout.slots.slot_of[at] for at, row in layout.columns if row == mark.row]
    return layout.slots.slot_of[mark.node] == max(slots)


def _top(values: list[FloatArray]) -> float:
    """What is drawn strongest: the strongest line, but a multiple of the mean at least."""
    every = np.concatenate([value.ravel() for value in values]) if values else np.zeros(1)
    if np.isnan(every).any():
        return math.nan
    return max(float(every.max()), _STANDS_OUT * float(every.mean()), np.finfo(float).tiny)


def _into_mark(layout: Layout, mark: Mark, passed: set[tuple[int, int]]) -> Iterator[Lines]:
    """From what is just before a junction, where its lines do not go through."""
    for source in layout.slots.into[mark.node]:
        place = layout.place(source, mark.row)
        if place is None or layout.slots.slot_of[source] != layout.slots.slot_of[mark.node]:
            continue
        if (source, mark.node) in passed and not _ends_row(layout, mark):
            continue
        heights = layout.heights(place)
        segments = np.empty((heights.size, 2, 2))
        segments[:, 0, 0], segments[:, 1, 0] = place.x, mark.x
        segments[:, 0, 1], segments[:, 1, 1] = heights, mark.y
        yield Lines(source, mark.node, segments, np.full(heights.size, np.nan))
