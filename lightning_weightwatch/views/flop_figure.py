"""Hot spots of a model as a figure: its FLOPs beside its parameters, module by module."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lightning_weightwatch.usage.flops.report import FlopReport
from lightning_weightwatch.views.flop_words import HotSpot, hot_spots, human_count, percent
from lightning_weightwatch.views.layer_names import drawable, short_names
from lightning_weightwatch.views.margins import PAD, shortened_to_fit, text_width
from lightning_weightwatch.views.png import (
    BLUE,
    DPI,
    GREY,
    MID_GREY,
    VERMILION,
    WIDTH,
    in_our_style,
    new_figure,
    whole_pixels,
    write,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Inches: a row, a line of text, between the panels.
_ROW, _LINE, _GAP = 0.15, 0.16, 0.12
# Of a row.
_THICK = 0.7
_MOST = 16


@in_our_style
def flop_figure(report: FlopReport, *, top: int = 8, title: str = "") -> "Figure | None":
    """The modules with most FLOPs and those with most parameters, by their shares of both.

    A row a module, in the order of the model, each without what is within it: to the left its share
    of the FLOPs of a forward pass, to the right that of the parameters. Bars in colour are among
    the largest of their side.

    Args:
        report: The counts.
        top: How many hot spots of each side, at most 16.
        title: A line above.

    Returns:
        None where nothing was counted.
    """
    top = min(top, _MOST)
    spots = hot_spots(report, top)
    if not spots:
        return None
    head = _LINE * (2 if title else 1) + PAD
    figure = new_figure(whole_pixels(head + _ROW * len(spots) + _LINE + PAD))
    height = figure.get_figheight()
    names = short_names([spot.module.name for spot in spots])
    left = whole_pixels(max(text_width(figure, name) for name in names) / DPI + 3 * PAD)
    width = whole_pixels((WIDTH - left - _GAP - PAD) / 2)
    y0, y1 = _LINE + PAD, height - head
    for row, name in enumerate(names):
        at = y1 - (row + 0.5) * _ROW
        write(figure, left - 1.5 * PAD, at, name, ha="right", va="center_baseline")
    panels: list[tuple[str, str, Callable[[HotSpot], tuple[float, int]]]] = [
        (
            f"{human_count(report.forward)}FLOP",
            BLUE,
            lambda spot: (spot.forward_share, spot.forward_place),
        ),
        (
            _parameters(report.parameters),
            VERMILION,
            lambda spot: (spot.parameters_share, spot.parameters_place),
        ),
    ]
    for index, (heading, colour, of) in enumerate(panels):
        x0 = left + index * (width + _GAP)
        _draw_bars(figure, (x0, y0, width, y1 - y0), [of(spot) for spot in spots], top, colour)
        write(figure, x0, y1 + PAD, heading, va="bottom")
    if title:
        shown = shortened_to_fit(figure, drawable(title), WIDTH - 2 * PAD)
        write(figure, PAD, height - PAD / 2, shown, va="top")
    foot = "shares of the model; in colour: the largest"
    write(figure, WIDTH - PAD, PAD / 2, foot, ha="right", va="bottom")
    return figure


def _draw_bars(
    figure: "Figure",
    place: tuple[float, float, float, float],
    shares: Sequence[tuple[float, int]],
    top: int,
    colour: str,
) -> None:
    """Bars from a line on the left, with their values at their ends.

    Args:
        figure: To draw on.
        place: Left, bottom, width and height in inches.
        shares: Of each row its share, and its place among all modules.
        top: Places up to which bars are in colour.
        colour: Theirs.
    """
    x0, y0, width, height = place
    figure_height = figure.get_figheight()
    texts = [percent(share) if rank else "–" for share, rank in shares]
    widest = max(text_width(figure, text) for text in texts) / DPI
    longest = max(share for share, _ in shares) or 1.0
    axes = figure.add_axes(
        (x0 / WIDTH, y0 / figure_height, width / WIDTH, height / figure_height),
        xlim=(0, longest * width / max(width - widest - 1.5 * PAD, 0.1)),
        ylim=(len(shares) - 0.5, -0.5),
    )
    axes.set_axis_off()
    axes.barh(
        range(len(shares)),
        [share for share, _ in shares],
        height=_THICK,
        color=[colour if 0 < rank <= top else MID_GREY for _, rank in shares],
    )
    axes.axvline(0, color=GREY, clip_on=False)
    scale = width / axes.get_xlim()[1]
    for row, ((share, _), text) in enumerate(zip(shares, texts, strict=True)):
        at = y0 + height * (1 - (row + 0.5) / len(shares))
        write(figure, x0 + share * scale + PAD, at, text, va="center_baseline")


def _parameters(count: int) -> str:
    return f"{human_count(count).strip()} params"
