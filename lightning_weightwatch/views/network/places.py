"""What a diagram of a network is made of, and how large, for few layers and for many."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_weightwatch.views.png import WIDTH


@dataclass(frozen=True)
class Scale:
    """Sizes for a network with so many slots.

    Attributes:
        width: Of the figure in inches.
        most: Slots in a row.
        dots: In a column, at most.
        tall: Inches that a column has.
        font: In points.
        lines: Lines of text below a column.
        kinds: Whether one of them is the kind of the layer.
    """

    width: float
    most: int
    dots: int
    tall: float
    font: float
    lines: int
    kinds: bool = True

    @property
    def line(self) -> float:
        """The height of a line of text in inches."""
        return 1.25 * self.font / 72


def scale_of(slots: int, lines: int) -> Scale:
    """Few layers are drawn large, with every neuron; many in lines as those of a text."""
    if slots <= 5:
        return Scale(WIDTH, 5, 32, 2.0, 8, lines)
    if slots <= 9:
        return Scale(2 * WIDTH, 9, 32, 2.0, 8, lines)
    if slots <= 14:
        return Scale(2 * WIDTH, 14, 16, 1.0, 6, lines)
    if slots <= 90:
        return Scale(2 * WIDTH, 12, 12, 0.72, 6, lines)
    return Scale(2 * WIDTH, 19, 8, 0.45, 6, lines - 1, kinds=False)


@dataclass(frozen=True)
class Column:
    """A layer as a column of dots, or the input.

    Attributes:
        node: Position in the graph.
        row: Counted from above.
        x: Of its middle.
        y: Of its middle.
        dots: How many.
        faint: Whether it is drawn again where a row begins.
        stacked: Whether its label is a short one, since there is something below it.
        label: Top of its label.
    """

    node: int
    row: int
    x: float
    y: float
    dots: int
    faint: bool
    stacked: bool
    label: float


@dataclass(frozen=True)
class Mark:
    """A junction, or the output; as a column without dots."""

    node: int
    row: int
    x: float
    y: float
    faint: bool


@dataclass(frozen=True)
class Band:
    """What lies behind the columns of a block in a row: a rectangle."""

    name: str
    row: int
    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True)
class Arc:
    """What skips columns.

    Attributes:
        start: Position of the node that it comes from.
        end: Position of that to which it goes.
        rows: That in which it begins and that in which it ends.
        lanes: (row, lane) of each piece along a row.
        points: Corners of the way, [n, 2].
    """

    start: int
    end: int
    rows: tuple[int, int]
    lanes: tuple[tuple[int, int], ...] = ()
    points: NDArray[np.float64] | None = None
