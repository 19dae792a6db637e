"""Figures without pyplot: no global state, no window, a size that TensorBoard shows sharp."""

import io
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

P = ParamSpec("P")
R = TypeVar("R")

# Okabe and Ito's colours, told apart by all.
BLUE, VERMILION, ORANGE, GREEN = "#0072B2", "#D55E00", "#E69F00", "#009E73"
BLACK, GREY, MID_GREY = "#000000", "#7F7F7F", "#B0B0B0"

#: 3.5 in at 200 dpi are 700 px: exactly twice the width of a TensorBoard card.
WIDTH, DPI = 3.5, 200
#: 430 px: exactly twice the height of a card of Time Series.
HEIGHT = 2.15
#: The tallest figure, in inches: one that TensorBoard shows at full size without scrolling.
MAX_HEIGHT = 6.5

_FONT, _LINE = 8, 1
_STYLE: dict[Any, Any] = {
    "font.size": _FONT,
    **dict.fromkeys(("axes.titlesize", "axes.labelsize", "legend.fontsize"), _FONT),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize"), _FONT),
    **dict.fromkeys(("axes.linewidth", "hatch.linewidth"), _LINE),
    **dict.fromkeys(("xtick.major.width", "ytick.major.width"), _LINE),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    "axes.titlelocation": "left",
    "axes.labelpad": 2,
    # Names of layers and metrics hold what they like, dollars and backslashes too.
    "text.parse_math": False,
}

# A colour of so many pixels, in runs of two on average, is an area or a line and is kept exactly;
# the others, at the edges of letters, may be off by so many levels of 255.
_AREA, _RUN, _NEAR, _COLOURS = 48, 2, 32, 256


def in_our_style(draw: Callable[P, R]) -> Callable[P, R]:
    """One look whatever the user has set in matplotlib, dark backgrounds and LaTeX included.

    Theirs is untouched when the function returns.
    """

    @wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        import matplotlib

        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(_STYLE)
            return draw(*args, **kwargs)

    return wrapped


@in_our_style
def new_figure(height: float = HEIGHT) -> "Figure":
    """An empty figure of 700 px width.

    Args:
        height: In inches, at 200 dots each.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def canvas_of(figure: "Figure") -> "FigureCanvasAgg":
    """What the figure is drawn on."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    return canvas


def renderer_of(figure: "Figure") -> "RendererAgg":
    """What measures its texts."""
    renderer: RendererAgg = canvas_of(figure).get_renderer()  # type: ignore[no-untyped-call]
    return renderer


def pixels(figure: "Figure") -> "NDArray[np.uint8]":
    """The figure as [height, width, 3] bytes."""
    return _drawn(figure)[..., :3].copy()


def png_bytes(figure: "Figure") -> bytes:
    """The figure as a PNG with a palette: a third of the size of one in true colour.

    Lines and areas keep their colours exactly; the many shades at the edges of lines and letters
    become a few. Nothing is dithered: TensorBoard shows single pixels.
    """
    import numpy as np
    from PIL import Image

    image = _drawn(figure)
    flat = image.view(np.uint32).ravel()
    # Most neighbours are equal: runs are few, and sorting them is fast.
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    lengths = np.diff(np.append(starts, flat.size))
    colours, which = np.unique(flat[starts], return_inverse=True)
    rgb = colours.view(np.uint8).reshape(-1, 4)[:, :3]
    counts = np.bincount(which, lengths)
    exact = (counts >= _AREA) & (counts >= _RUN * np.bincount(which))
    palette, nearest = _palette(rgb, counts, exact)
    indices = np.repeat(nearest[which], lengths).reshape(image.shape[:2])
    picture = Image.frombytes("P", indices.shape[::-1], indices.tobytes())
    picture.putpalette(rgb[palette].tobytes())
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


@in_our_style
def _drawn(figure: "Figure") -> "NDArray[np.uint8]":
    """[height, width, 4] bytes."""
    import numpy as np

    canvas = canvas_of(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    image: NDArray[np.uint8] = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return image


def _palette(
    rgb: "NDArray[np.uint8]", counts: "NDArray[Any]", exact: "NDArray[np.bool_]"
) -> "tuple[NDArray[np.intp], NDArray[np.uint8]]":
    """Which colours to keep, and for every colour the one of them that is nearest.

    From the most frequent on, a colour is kept if it is to be exact or none near it was kept.
    """
    import numpy as np

    levels = rgb.astype(np.int16)
    gaps = np.full(len(rgb), 1 << 10, dtype=np.int16)
    nearest = np.zeros(len(rgb), dtype=np.uint8)
    kept: list[int] = []
    for index in np.lexsort((-counts, ~exact)).tolist():
        if gaps[index] > (0 if exact[index] else _NEAR):
            distances = np.abs(levels - levels[index]).max(axis=1)
            nearest[distances < gaps] = len(kept)
            gaps = np.minimum(gaps, distances)
            kept.append(index)
            if len(kept) == _COLOURS:
                break
    return np.array(kept), nearest


def write(figure: "Figure", x: float, y: float, text: str, **look: Any) -> None:
    """A text at a place in inches: a tenth of what the label of a tick costs."""
    figure.text(x, y, text, transform=figure.dpi_scale_trans, **look)


def whole_pixels(inches: float) -> float:
    """The nearest even number of pixels, in inches: TensorBoard shows every other one."""
    return round(inches * DPI / 2) * 2 / DPI
