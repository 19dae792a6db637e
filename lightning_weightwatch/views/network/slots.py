"""In which order the layers of a network stand beside each other, and where its lines are broken.

A slot is what stands above each other: layers that the same number of layers come before.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from lightning_weightwatch.model.graph import Graph, Node, is_layer

# More layers than this do not stand above each other.
_STACK = 6
# Prices: of an arc from one row to another, of a row, of a block that is broken.
_CROSSING, _ROW, _BROKEN = 8.0, 12.0, 3.0


@dataclass(frozen=True)
class Slots:
    """The order of a network.

    Attributes:
        members: Positions of the layers in each slot, the inputs in the first.
        slot_of: The slot of every node; a junction stands behind the last slot that it joins.
        gaps: The junctions behind each slot, and the output if it is not just the last layer.
        blocks: The part of the model to which all layers of a slot belong, or "".
        into: What feeds every node.
        out_of: What every node feeds.
    """

    members: list[list[int]]
    slot_of: list[int]
    gaps: dict[int, list[int]]
    blocks: list[str]
    into: list[list[int]]
    out_of: list[list[int]]

    def main(self, members: Sequence[int]) -> int | None:
        """The only layer of a slot from which it goes on to the next one, if there is only one."""
        if len(members) == 1:
            return members[0]
        slot = self.slot_of[members[0]]
        leading = [at for at in members if self._leads_on(at, slot)]
        return leading[0] if len(leading) == 1 else None

    def _leads_on(self, at: int, slot: int) -> bool:
        """Whether a node feeds the next slot, also through junctions right behind its own."""
        return any(
            self.slot_of[end] == slot + 1
            or (self.slot_of[end] == slot and self._leads_on(end, slot))
            for end in self.out_of[at]
        )


@dataclass(frozen=True)
class Row:
    """A line of the diagram.

    Attributes:
        index: Counted from above.
        own: Its slots.
        shown: Those, and before them the last one of the row above.
    """

    index: int
    own: range
    shown: list[int]


def slots_of(graph: Graph) -> Slots:
    """The slots of a graph from left to right."""
    into: list[list[int]] = [[] for _ in graph.nodes]
    out_of: list[list[int]] = [[] for _ in graph.nodes]
    for start, end in graph.edges:
        into[end].append(start)
        out_of[start].append(end)
    depth = [0] * len(graph.nodes)
    levels: dict[int, list[int]] = defaultdict(list)
    for at, node in enumerate(graph.nodes):
        before = max((depth[source] for source in into[at]), default=0)
        depth[at] = before + 1 if is_layer(node) else before
        if has_column(node):
            levels[depth[at]].append(at)
    members = [
        level[start : start + _STACK]
        for _, level in sorted(levels.items())
        for start in range(0, len(level), _STACK)
    ]
    slot_of = [0] * len(graph.nodes)
    for index, slot in enumerate(members):
        for at in slot:
            slot_of[at] = index
    gaps: dict[int, list[int]] = defaultdict(list)
    for at, node in enumerate(graph.nodes):
        if not has_column(node):
            slot_of[at] = max((slot_of[source] for source in into[at]), default=len(members) - 1)
            if node.kind != "output" or into[at] != members[-1]:
                gaps[slot_of[at]].append(at)
    blocks = [_shared_block(graph, slot) for slot in members]
    return Slots(members, slot_of, dict(gaps), blocks, into, out_of)


def has_column(node: Node) -> bool:
    """Whether a node has dots: a layer, or an input."""
    return is_layer(node) or node.kind == "input"


def rows_of(slots: Slots, most: int) -> tuple[list[Row], list[int]]:
    """The lines of the diagram, and for each 1 if it runs to the right, -1 if to the left.

    Lines are about equally long, and broken where few arcs are cut and blocks end. They run to and
    fro where the arcs between them are shorter so, as those of a U-Net.

    Args:
        slots: In their order.
        most: Slots in a row.
    """
    skips = [
        (slots.slot_of[start], slots.slot_of[end])
        for end, sources in enumerate(slots.into)
        for start in sources
    ]
    ranges = _broken(len(slots.members), skips, most, slots.blocks)
    rows = [
        Row(index, own, [*([own.start - 1] if index else []), *own])
        for index, own in enumerate(ranges)
    ]
    row_of = {slot: row for row in rows for slot in row.own}
    far = [(a, b) for a, b in skips if a < row_of[b].shown[0]]
    length = max(len(row.shown) for row in rows)

    def along(directions: Sequence[int]) -> float:
        total = 0.0
        for skip in far:
            places = []
            for slot in skip:
                place = row_of[slot].shown.index(slot)
                places.append(place if directions[row_of[slot].index] > 0 else length - 1 - place)
            total += abs(places[0] - places[1])
        return total

    onwards = [1] * len(rows)
    to_and_fro = [1 - 2 * (index % 2) for index in range(len(rows))]
    return rows, to_and_fro if along(to_and_fro) < along(onwards) else onwards


def _broken(
    slots: int, skips: Sequence[tuple[int, int]], most: int, blocks: Sequence[str]
) -> list[range]:
    """The cheapest way to break slots into rows.

    What stands in the last slot of a row is drawn again, faintly, where the next one begins: an
    arc from there is not cut.
    """
    even = slots / -(-slots // most)
    cut = [0] * (slots + 1)
    for start, end in skips:
        for at in range(start + 2, end + 1):
            cut[at] += 1
    best: list[tuple[float, int]] = [(0.0, 0)]
    for end in range(1, slots + 1):
        broken = end < slots and blocks[end - 1] == blocks[end] != ""
        price = _ROW + (_CROSSING * cut[end] if end < slots else 0.0) + _BROKEN * broken
        best.append(
            min(
                (best[start][0] + price + (end - start - even) ** 2 / even, start)
                # The first row has room for one more: none is drawn again before it.
                for start in range(0 if end == most + 1 else max(end - most, 0), end)
                if end - start <= most or not start
            )
        )
    ends = [slots]
    while ends[-1]:
        ends.append(best[ends[-1]][1])
    bounds = ends[::-1]
    return [range(start, end) for start, end in pairwise(bounds)]


def block_of(name: str) -> str:
    """The part of a model that a layer belongs to: up to its last number, or all but its last part.

    >>> [block_of(name) for name in ("layer1.0.downsample.0", "enc1.3", "head")]
    ['layer1.0', 'enc1', '']
    """
    parts = re.sub(r" \(\d+\)$", "", name).split(".")
    numbers = [index for index, part in enumerate(parts[:-1]) if part.isdigit()]
    return ".".join(parts[: numbers[-1] + 1] if numbers else parts[:-1])


def _shared_block(graph: Graph, slot: Sequence[int]) -> str:
    named = {block_of(graph.nodes[at].name) for at in slot if is_layer(graph.nodes[at])}
    return named.pop() if len(named) == 1 else ""
