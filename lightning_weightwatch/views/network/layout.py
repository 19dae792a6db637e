"""Where everything in a diagram of a network is: in inches, from the bottom left."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lightning_weightwatch.model.graph import Graph
from lightning_weightwatch.views.network.places import Arc, Band, Column, Mark, Scale
from lightning_weightwatch.views.network.slots import Slots


@dataclass
class Layout:
    """Where everything is.

    Attributes:
        graph: What is drawn.
        slots: In which order.
        scale: Sizes.
        step: From slot to slot.
        pitch: From dot to dot.
        directions: Of each row: 1 from left to right, -1 back.
        height: Of the figure.
        columns: By (position, row).
        marks: By (position, row).
        arcs: Of what skips slots.
        bands: Of blocks.
    """

    graph: Graph
    slots: Slots
    scale: Scale
    step: float
    pitch: float
    directions: list[int]
    height: float = 0.0
    columns: dict[tuple[int, int], Column] = field(default_factory=dict)
    marks: dict[tuple[int, int], Mark] = field(default_factory=dict)
    arcs: list[Arc] = field(default_factory=list)
    bands: list[Band] = field(default_factory=list)

    def place(self, node: int, row: int) -> Column | Mark | None:
        """Where a node stands in a row, faint or not."""
        return self.columns.get((node, row)) or self.marks.get((node, row))

    def heights(self, place: Column | Mark) -> NDArray[np.float64]:
        """Of the dots of a column, the first neuron at the top; of a mark."""
        dots = place.dots if isinstance(place, Column) else 1
        return np.asarray(place.y + self.pitch * ((dots - 1) / 2 - np.arange(dots)))
