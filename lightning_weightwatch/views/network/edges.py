"""The lines between the dots of a network, and how strong each of them is."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_weightwatch.model.graph import is_layer
from lightning_weightwatch.model.operations import keeps_channels
from lightning_weightwatch.model.trace_steps import Wiring, through
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

    Lines from dot to dot have a strength where it is known which channel each input of the layer
    is. Where it is not, and there is one source, they meet halfway: the sums on either side are
    what is known. Else they are plain.
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


@dataclass(frozen=True)
class _Beam:
    """What lines come from, and which of its outputs each input of the layer is."""

    place: Column | Mark
    wiring: Wiring | None


def _beams(
    layout: Layout, at: int, column: Column, passed: set[tuple[int, int]]
) -> Iterator[_Beam]:
    """What lines come to a layer from."""
    wirings = layout.graph.wirings
    open_ends = [(at, source, wirings.get((source, at))) for source in layout.slots.into[at]]
    while open_ends:
        taker, source, wiring = open_ends.pop(0)
        node, place = layout.graph.nodes[source], layout.place(source, column.row)
        near = layout.slots.slot_of[source] == layout.slots.slot_of[at] - 1 and place is not None
        if not near or place is None:
            if taker != at and _fans_out(layout, taker):
                mark = layout.place(taker, column.row)
                if mark is not None:
                    yield _Beam(mark, wiring)
            continue
        if has_column(node):
            passed.add((source, taker))
            yield _Beam(place, wiring)
        elif _leads_through(layout, source):
            passed.add((source, taker))
            open_ends += [
                (source, each, through(wirings.get((each, source)), wiring))
                for each in layout.slots.into[source]
            ]
        else:
            yield _Beam(place, wiring)


def _fans_out(layout: Layout, junction: int) -> bool:
    return layout.graph.nodes[junction].operation == "cat"


def _leads_through(layout: Layout, junction: int) -> bool:
    """Whether channels can be seen through a junction, from a layer just before it."""
    known = all(
        (source, junction) in layout.graph.wirings for source in layout.slots.into[junction]
    )
    operation = layout.graph.nodes[junction].operation
    if operation == "cat":
        return known
    return known and keeps_channels(operation) and _has_near_layer(layout, junction)


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


def _drawn(
    layout: Layout, column: Column, beams: list[_Beam], known: Importance | None
) -> Iterator[Lines]:
    alone = len(beams) == 1 and len(layout.slots.into[column.node]) == 1
    values = [_value(layout, column, beam, known, alone) for beam in beams]
    # A line from a mark stands for many.
    tops = {
        sort: _top([v for v, b in zip(values, beams, strict=True) if isinstance(b.place, sort)])
        for sort in (Column, Mark)
    }
    for beam, value in zip(beams, values, strict=True):
        place, heights = beam.place, layout.heights(beam.place)
        if value is None and alone and isinstance(place, Column) and place.dots > 1 and known:
            yield from _by_halves(layout, column, beam, known)
            continue
        shape = (column.dots, heights.size)
        strength = np.full(shape, np.nan) if value is None else value / tops[type(place)]
        flat = strength.ravel()
        if value is None:
            chosen = np.arange(flat.size)
        else:
            chosen = np.argsort(flat, kind="stable")[-_MOST:]
            chosen = chosen[flat[chosen] > 0]
        rows, columns = np.unravel_index(chosen, strength.shape)
        ends = layout.heights(column)[rows]
        segments = _between((place.x, heights[columns]), (column.x, ends))
        yield Lines(place.node, column.node, segments, flat[chosen])


def _value(
    layout: Layout, column: Column, beam: _Beam, known: Importance | None, alone: bool
) -> FloatArray | None:
    """Σ I from dot to dot, None where that is not known."""
    if known is None:
        return None
    place, wiring = beam.place, beam.wiring
    if isinstance(place, Mark) and wiring is not None:
        wiring, sources, dots = np.where(wiring >= 0, 0, -1), 1, 1
    else:
        dots = place.dots if isinstance(place, Column) else 1
        sources = layout.graph.nodes[place.node].outputs or 1
    found = known.between(column.dots, wiring, sources, dots)
    if found is None and alone and dots == 1 and (sums := known.into(column.dots)) is not None:
        return sums[:, None]
    return found


def _by_halves(layout: Layout, column: Column, beam: _Beam, known: Importance) -> Iterator[Lines]:
    """Sums from the dots of a source to a point between, and from there to those of the layer."""
    place, heights = beam.place, layout.heights(beam.place)
    sources = layout.graph.nodes[place.node].outputs or 1
    x, y = (place.x + column.x) / 2, (place.y + column.y) / 2
    out_of = known.out_of(beam.wiring, sources, heights.size)
    for start, end, sums in (
        ((place.x, heights), (x, np.full(heights.size, y)), out_of),
        ((x, np.full(column.dots, y)), (column.x, layout.heights(column)), known.into(column.dots)),
    ):
        strength = np.full(start[1].size, np.nan) if sums is None else sums / _top([sums])
        shown = np.isnan(strength) | (strength > 0)
        order = np.argsort(strength[shown], kind="stable")
        segments = _between(start, end)[shown][order]
        yield Lines(place.node, column.node, segments, strength[shown][order])


def _between(start: tuple[float, FloatArray], end: tuple[float, FloatArray]) -> FloatArray:
    segments = np.empty((start[1].size, 2, 2))
    segments[:, 0, 0], segments[:, 0, 1] = start
    segments[:, 1, 0], segments[:, 1, 1] = end
    return segments


def _ends_row(layout: Layout, mark: Mark) -> bool:
    """Whether what comes after a mark is in the next row."""
    slots = [layout.slots.slot_of[at] for at, row in layout.columns if row == mark.row]
    return layout.slots.slot_of[mark.node] == max(slots)


def _top(values: list[FloatArray | None]) -> float:
    """What is drawn strongest: the strongest line, but a multiple of the mean at least."""
    every = np.concatenate([np.zeros(0), *(each.ravel() for each in values if each is not None)])
    if not every.size:
        return 1.0
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
        segments = _between((place.x, heights), (mark.x, np.full(heights.size, mark.y)))
        yield Lines(source, mark.node, segments, np.full(heights.size, np.nan))
