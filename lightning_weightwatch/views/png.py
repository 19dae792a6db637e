"""Figures without pyplot: no global state, no window, a size that TensorBoard shows sharp."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

# Okabe and Ito's colours, told apart by all.
BLUE, VERMILION, ORANGE, BLACK, GREY = "#0072B2", "#D55E00", "#E69F00", "#000000", "#7F7F7F"

# 3.5 in at 200 dpi are 700 px: exactly twice the width of a TensorBoard card.
_WIDTH, _DPI, _FONT = 3.5, 200, 8


def new_figure(height: float = 2.6) -> "Figure":
    """An empty figure of 700 px width.

    Args:
        height: In inches, at 200 dots each.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def style(figure: "Figure") -> None:
    """One look for every figure: 8 pt, no frame above and to the right."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=_FONT)
        axes.xaxis.label.set_fontsize(_FONT)
        axes.yaxis.label.set_fontsize(_FONT)
        axes.title.set_fontsize(_FONT)
        axes.yaxis.get_offset_text().set_fontsize(_FONT)


def pixels(figure: "Figure") -> "NDArray[np.uint8]":
    """The figure as [height, width, 3] bytes."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()  # type: ignore[no-untyped-call]
    image: NDArray[np.uint8] = np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]
    return image
