"""Where names of points in a figure go, so that they touch neither each other nor what is drawn."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

# Pixels: the height of a line of 8 pt, between a name and its point, between two names, around a
# marker, and of what is seen of a line of text.
_LINE, _GAP, _APART, _MARKER, _SEEN = 25.0, 13.0, 10.0, 9.0, 22.0
# By how much a name may be nearer to another point than to its own, where no line joins them.
_NEARER = 4.0
# So close to its point a line may cross what is there: points overlap.
_CROWD = 20.0
# Names beside a point may be so much nearer than those above it.
_CLOSE = 0.62
# How many lines away from its point a name may be.
_AWAY = (0.8, 1.6, 2.4, 3.2, 4.0)


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels; lines are thin ones."""

    x0: float
    y0: float
    x1: float
    y1: float

    def meets(self, other: "Box", x: float = 0.0, y: float = 0.0) -> bool:
        """Whether they overlap, or are closer than that."""
        return (
            self.x0 - x < other.x1
            and other.x0 < self.x1 + x
            and self.y0 - y < other.y1
            and other.y0 < self.y1 + y
        )

    def distance(self, point: tuple[float, float]) -> float:
        """From a point to the nearest of its own."""
        x, y = point
        return math.hypot(max(self.x0 - x, x - self.x1, 0), max(self.y0 - y, y - self.y1, 0))


@dataclass(frozen=True)
class Label:
    """A name with a place.

    Attributes:
        index: Of its point.
        x: The left end, in pixels.
        y: The middle.
        leader: The ends of a line to its point, from below to above; None where it is beside it.
    """

    index: int
    x: float
    y: float
    leader: tuple[float, float] | None


def placed_labels(
    widths: Sequence[float],
    points: Sequence[tuple[float, float]],
    order: Iterable[int],
    frame: Box,
    lines: Sequence[Box],
    *,
    side: int,
    most: int,
) -> list[Label]:
    """Places for names, for as many as there is room for.

    Of two ways, to the left or to the right first, that which names more of what is important.

    Args:
        widths: Of the names, in pixels.
        points: [(x, y)] in pixels, also those that get no name.
        order: Which points get one, the most important first.
        frame: What the names stay within.
        lines: What no name may cross.
        side: 1 for names above their points where there is room, -1 below them.
        most: No more names than that.
    """
    order = list(order)
    ways = [
        _placed(widths, points, order, frame, lines, side, most, leftwards=leftwards)
        for leftwards in (True, False)
    ]
    return max(ways, key=lambda labels: [i in {label.index for label in labels} for i in order])


def scattered(
    indices: Sequence[int], points: Sequence[tuple[float, float]], start: int
) -> list[int]:
    """Points in the order of their importance: always that which is farthest from those before.

    >>> scattered([0, 1, 2, 3], [(0, 0), (1, 0), (7, 0), (9, 0)], 0)
    [0, 3, 2, 1]
    """
    order, left = [start], [index for index in indices if index != start]
    while left:
        far = max(left, key=lambda index: min(math.dist(points[index], points[i]) for i in order))
        left.remove(far)
        order.append(far)
    return order


def _placed(
    widths: Sequence[float],
    points: Sequence[tuple[float, float]],
    order: Sequence[int],
    frame: Box,
    lines: Sequence[Box],
    side: int,
    most: int,
    *,
    leftwards: bool,
) -> list[Label]:
    """One name after the other, each at its first place that is free."""
    kept: list[Label] = []
    taken: list[Box] = []
    lines = list(lines)
    for index in order:
        if len(kept) == most:
            break
        markers = [
            Box(x - _MARKER, y - _MARKER, x + _MARKER, y + _MARKER)
            for other, (x, y) in enumerate(points)
            if other != index
        ]
        for label, box in _candidates(index, points[index], widths[index], side, leftwards):
            slim = (_LINE - _SEEN) / 2
            seen = Box(box.x0, box.y0 + slim, box.x1, box.y1 - slim)
            if not (
                _inside(box, frame)
                and not any(box.meets(other, x=_APART) for other in taken)
                and not any(seen.meets(marker) for marker in markers)
                and not any(seen.meets(line, 2, 1) for line in lines)
            ):
                continue
            own = box.distance(points[index]) - _NEARER
            if label.leader is None and any(box.distance(points[i]) < own for i in order):
                continue
            if label.leader is not None:
                x, (low, high) = points[index][0], label.leader
                leader = Box(x - 1, low, x + 1, high)
                if box.y0 > points[index][1]:
                    free = replace(leader, y0=min(low + _CROWD, high))
                else:
                    free = replace(leader, y1=max(high - _CROWD, low))
                if any(free.meets(other) for other in (*taken, *markers, *lines)):
                    continue
                lines.append(leader)
            kept.append(label)
            taken.append(box)
            break
    return kept


def _inside(box: Box, frame: Box) -> bool:
    return frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1


def _candidates(
    index: int, point: tuple[float, float], width: float, side: int, leftwards: bool
) -> Iterable[tuple[Label, Box]]:
    """Beside the point at its better side, then at the other, then some lines further off."""
    x, y = point
    left, right = x - width - _GAP, x + _GAP
    over = [x - share * width for share in (0.5, 0.75, 0.25)]
    first, last = (left, right) if leftwards else (right, left)
    near = side * (_MARKER + _LINE / 2)
    places = [
        *((start, y + away, False) for away in (near, _CLOSE * near) for start in (first, last)),
        *((start, y + near, False) for start in over),
        *((start, y, False) for start in (first, last)),
        *((start, y - away, False) for away in (_CLOSE * near, near) for start in (last, first)),
        *((start, y - near, False) for start in over),
        *(
            (start, y + way * (near + side * away * _LINE), True)
            for away in _AWAY
            for way in (1, -1)
            for start in (*over, x - 0.05 * width)
        ),
    ]
    for start, at, far in places:
        box = Box(start, at - _LINE / 2, start + width, at + _LINE / 2)
        way = 1 if at > y else -1
        ends = sorted((y + way * _MARKER, at - way * _LINE / 2))
        yield Label(index, start, at, (ends[0], ends[1]) if far else None), box
