"""How high the columns of a row stand: on its axis, or above each other around it."""

from collections.abc import Mapping
from dataclasses import dataclass

from lightning_weightwatch.views.network.layout import Layout
from lightning_weightwatch.views.network.places import Column
from lightning_weightwatch.views.network.slots import Row

# Between dots and their label; between what stands above each other; the least that a row holds.
_GAP, _STACKED, _LEAST = 0.07, 0.06, 0.3
# Lines of a label that has something below it.
_SHORT = 2


@dataclass(frozen=True)
class RowHeights:
    """Of a row, downwards from its axis.

    Attributes:
        above: From the axis to the top of the highest column.
        below: From the axis to the end of the lowest label.
        columns: By position, `y` and `label` counted from the axis; `x` is not known yet.
    """

    above: float
    below: float
    columns: dict[int, Column]


def heights_of(layout: Layout, row: Row, dots: Mapping[int, int]) -> RowHeights:
    """Where the columns of a row stand.

    Of layers in one slot that all lead on the middle is on the axis. Where one alone leads to the
    next slot, as beside the downsampling of a ResNet, it is on the axis and others are above it.
    """
    scale, pitch = layout.scale, layout.pitch
    members = [layout.slots.members[slot] for slot in row.shown]
    ways = [(stack, layout.slots.main(stack)) for stack in members]
    on_axis = [main for _, main in ways if main is not None]
    tall = max([_LEAST, *(pitch * (dots[at] - 1) for at in on_axis)])
    label = scale.lines * scale.line
    short = _SHORT * scale.line
    above, below = tall / 2, (tall / 2 + _GAP + label if on_axis else 0.0)
    placed: dict[int, Column] = {}
    for stack, main in ways:
        if main is not None:
            placed[main] = _column(main, 0.0, dots, False, tall / 2 + _GAP)
        others = [at for at in stack if at != main]
        heights = [pitch * (dots[at] - 1) + _GAP + short + _STACKED for at in others]
        top = -tall / 2 - sum(heights) if main is not None else -sum(heights) / 2
        above = max(above, -top)
        for at, height in zip(others, heights, strict=True):
            own = pitch * (dots[at] - 1)
            placed[at] = _column(at, top + own / 2, dots, True, top + own + _GAP)
            top += height
        below = max(below, top)
    return RowHeights(above, below, placed)


def _column(at: int, y: float, dots: Mapping[int, int], stacked: bool, label: float) -> Column:
    return Column(at, 0, 0.0, y, dots[at], False, stacked, label)
