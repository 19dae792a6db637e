"""Where the axes of a figure go so that nothing is cut off: measured once, no layout engine."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_weightwatch.views.layer_names import shortened
from lightning_weightwatch.views.png import DPI, WIDTH, renderer_of, whole_pixels

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Between what is drawn and the edge of the figure, in inches.
PAD = 0.04

# A row of a legend and a font size in inches; what is around a word of it, in font sizes.
_ROW, _FONT = 0.15, 8 / 72
_HANDLE, _HANDLE_PAD, _BETWEEN = 1.5, 0.4, 1.0


def fit_axes(figure: "Figure", axes: "Axes", *, top: float = 0.0, bottom: float = 0.0) -> None:
    """Make the axes as large as their labels and titles allow.

    A layout engine measures everything anew whenever the figure is drawn, and takes as long as
    drawing does.

    Args:
        figure: Its size stays.
        axes: The only axes that grow with the figure.
        top: Inches to leave free above, for what is not part of the axes.
        bottom: Inches to leave free below.
    """
    renderer = renderer_of(figure)
    height = figure.get_figheight()
    # Twice, because another size may have other ticks.
    for _ in range(2):
        drawn, inner = axes.get_tightbbox(renderer), axes.get_window_extent()
        assert drawn is not None
        left, right = inner.x0 - drawn.x0, drawn.x1 - inner.x1
        below, above = inner.y0 - drawn.y0, drawn.y1 - inner.y1
        x0, x1 = left / DPI + PAD, WIDTH - right / DPI - PAD
        y0, y1 = below / DPI + PAD + bottom, height - above / DPI - PAD - top
        x0, x1, y0, y1 = map(whole_pixels, (x0, x1, y0, y1))
        axes.set_position((x0 / WIDTH, y0 / height, (x1 - x0) / WIDTH, (y1 - y0) / height))


def legend_below(figure: "Figure", handles: "Sequence[Artist]", names: Sequence[str]) -> float:
    """A legend at the foot of the figure, where it hides no data: a row, or two even ones.

    Returns:
        Its height in inches.
    """
    around = _FONT * (_HANDLE + _HANDLE_PAD + _BETWEEN)
    widths = [text_width(figure, name) / DPI + around for name in names]
    cuts = [len(names)]
    if sum(widths) > WIDTH:
        cuts.insert(
            0, min(range(1, len(names)), key=lambda cut: max(sum(widths[:cut]), sum(widths[cut:])))
        )
    height, start = len(cuts) * _ROW, 0
    for row, end in enumerate(cuts, start=1):
        figure.legend(
            handles[start:end],
            names[start:end],
            loc="lower center",
            bbox_to_anchor=(0.5, (height - row * _ROW + PAD / 2) / figure.get_figheight()),
            ncols=end - start,
            handlelength=_HANDLE,
            handletextpad=_HANDLE_PAD,
            columnspacing=_BETWEEN,
            borderpad=0,
            borderaxespad=0,
        )
        start = end
    return height


def text_width(figure: "Figure", text: str) -> float:
    """The width of a text of 8 pt, in pixels."""
    from matplotlib.font_manager import FontProperties

    renderer = renderer_of(figure)
    size = FontProperties(size=8)
    width, _, _ = renderer.get_text_width_height_descent(text, size, False)  # type: ignore[no-untyped-call]
    return float(width)


def shortened_to_fit(figure: "Figure", text: str, inches: float) -> str:
    """A text, cut in the middle if it is wider than that."""
    shown = text
    while (width := text_width(figure, shown)) > inches * DPI:
        shown = shortened(text, min(int(len(shown) * inches * DPI / width), len(shown) - 1))
    return shown
