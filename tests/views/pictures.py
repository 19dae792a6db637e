"""What is seen in a figure, and what every figure owes to its reader."""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray

from lightning_weightwatch.views.png import MAX_HEIGHT, pixels


def colour(name: str, alpha: float = 1.0) -> NDArray[np.float64]:
    """A colour as it is seen on white."""
    return np.round(255 * (alpha * np.array(to_rgb(name)) + 1 - alpha))


def seen(image: NDArray[np.uint8], name: str, alpha: float = 1.0) -> int:
    """How many pixels have a colour."""
    return int((np.abs(image - colour(name, alpha)).max(-1) <= 2).sum())


def contrast(name: str, page: str = "white") -> float:
    """The contrast of two colours as WCAG 2.1 defines it, 1 to 21."""
    lighter, darker = sorted((lightness(name), lightness(page)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def lightness(name: str) -> float:
    """Relative luminance."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(name)]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def shown_texts(figure: Figure) -> list[Text]:
    found = [text for text in figure.findobj(Text) if isinstance(text, Text)]
    hidden = {text for axes in figure.axes for text in _not_drawn(axes)}
    return [text for text in found if text.get_visible() and text.get_text() and text not in hidden]


def _not_drawn(axes: Axes) -> Iterator[Text]:
    """The texts of axes that are off, and of ticks beyond the ends of an axis."""
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        slack = 1e-6 * (high - low)
        for tick in axis.get_major_ticks():
            if not axes.axison or not low - slack <= tick.get_loc() <= high + slack:
                yield from (tick.label1, tick.label2)
        if not axes.axison:
            yield axis.get_label()


def words(figure: Figure) -> list[str]:
    return [str(text.get_text()) for text in shown_texts(figure)]


def assert_legible(figure: Figure) -> None:
    """700 px wide, texts of 8 pt that nothing cuts off and that do not touch, lines of 1 pt."""
    height, width = pixels(figure).shape[:2]
    assert width == 700
    assert height <= MAX_HEIGHT * 200
    boxes = []
    within = [0.0 for _ in range(4)]
    for text in shown_texts(figure):
        assert text.get_fontsize() == 8
        assert not text.get_parse_math()
        assert contrast(str(text.get_color())) >= 4.5
        box = text.get_window_extent()
        boxes.append((str(text.get_text()), box))
        within = [
            min(within[0], box.x0),
            min(within[1], box.y0),
            max(within[2], box.x1),
            max(within[3], box.y1),
        ]
    assert within[0] >= -1, boxes
    assert within[1] >= -1, boxes
    assert within[2] <= width + 1, boxes
    assert within[3] <= height + 1, boxes
    for (one, first), (other, second) in combinations(boxes, 2):
        x = min(first.x1, second.x1) - max(first.x0, second.x0)
        y = min(first.y1, second.y1) - max(first.y0, second.y0)
        # Boxes hold the space above and below the letters, too.
        assert x < 3 or y < 5, f"{one!r} touches {other!r}"
    assert all(width >= 1 for width in line_widths(figure))
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            assert not [tick for tick in axis.get_minorticklabels() if tick.get_text()]
    assert all(not legend.get_frame_on() for legend in figure.legends)


def line_widths(figure: Figure) -> list[float]:
    """Of curves, frames and ticks."""
    widths = [float(line.get_linewidth()) for axes in figure.axes for line in axes.lines]
    for axes in figure.axes:
        widths += [spine.get_linewidth() for spine in axes.spines.values() if axes.axison]
        for axis in (axes.xaxis, axes.yaxis):
            widths += [float(tick.get_markeredgewidth()) for tick in axis.get_ticklines()]
    for lines in figure.findobj(LineCollection):
        assert isinstance(lines, LineCollection)
        if lines.get_segments():
            widths += np.ravel(lines.get_linewidth()).tolist()
    return widths
