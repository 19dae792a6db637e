"""Where names of points in a figure go, so that they touch neither each other nor what is drawn."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# Pixels: the height of a line of 8 pt, between a name and its point, between two names, around a
# marker, and of what is seen of a line of text.
_LINE, _GAP, _APART, _MARKER, _SEEN = 25.0, 13.0, 10.0, 9.0, 16.0


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

    Args:
        widths: Of the names, in pixels.
        points: [(x, y)] in pixels, also those that get no name.
        order: Which points get one, the most important first.
        frame: What the names stay within.
        lines: What no name may cross.
        side: 1 for names above their points where there is room, -1 below them.
        most: No more names than that.
    """
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
        for label, box in _candidates(index, points[index], widths[index], side):
            slim = (_LINE - _SEEN) / 2
            seen = Box(box.x0, box.y0 + slim, box.x1, box.y1 - slim)
            if not (
                _inside(box, frame)
                and not any(box.meets(other, x=_APART) for other in taken)
                and not any(seen.meets(marker) for marker in markers)
                and not any(seen.meets(line, 2, 1) for line in lines)
            ):
                continue
            if label.leader is not None:
                x, (low, high) = points[index][0], label.leader
                leader = Box(x - 1, low, x + 1, high)
                if any(leader.meets(other) for other in (*taken, *markers, *lines)):
                    continue
                lines.append(leader)
            kept.append(label)
            taken.append(box)
            break
    return kept


def _inside(box: Box, frame: Box) -> bool:
    return frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1


def _candidates(
    index: int, point: tuple[float, float], width: float, side: int
) -> Iterable[tuple[Label, Box]]:
    """Beside the point at its better side, then at the other, then a line further off."""
    x, y = point
    left, right, middle = x - width - _GAP, x + _GAP, x - width / 2
    near = side * (_MARKER + _LINE / 2)
    places = [
        *((start, y + away, False) for away in (near, near / 2) for start in (left, right)),
        (middle, y + near, False),
        *((start, y, False) for start in (left, right)),
        *((start, y - away, False) for away in (near / 2, near) for start in (right, left)),
        (middle, y - near, False),
        *(
            (start, y + near + side * away * _LINE, True)
            for away in (0.8, 1.6)
            for start in (middle, x - 0.75 * width, x - 0.25 * width)
        ),
    ]
    for start, at, far in places:
        box = Box(start, at - _LINE / 2, start + width, at + _LINE / 2)
        ends = sorted((y + side * _MARKER, at - side * _LINE / 2))
        yield Label(index, start, at, (ends[0], ends[1]) if far else None), box
