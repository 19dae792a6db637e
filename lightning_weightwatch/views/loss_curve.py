"""The learning curves as a figure: both of them, the best epoch, the phases of the run."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_weightwatch.losses.report import LossReport
from lightning_weightwatch.views.diagnosis_axes import number_epochs, scale_values
from lightning_weightwatch.views.diagnosis_words import is_the_loss
from lightning_weightwatch.views.layer_names import drawable, shortened
from lightning_weightwatch.views.margins import PAD, fit_axes, shortened_to_fit
from lightning_weightwatch.views.png import (
    BLACK,
    BLUE,
    DPI,
    GREY,
    HEIGHT,
    MID_GREY,
    ORANGE,
    VERMILION,
    WIDTH,
    in_our_style,
    new_figure,
    renderer_of,
    whole_pixels,
)

_LONGEST = 22
# What the name of a vertical axis may take of its height, in inches.
_TALLEST = 1.3
# The strip that shows the phases, as a share of the height: above it there is no data.
_STRIP = 0.025
_WORSE = ("overfitting", "mild rise", "mild decline", "worse")
_STRIP_COLOURS = MID_GREY, "#DCDCDC"
# Curves whose usual values are so many times as large as the other's have axes of their own.
_UNLIKE = 100
# Pixels: around the star, between the names of phases.
_STAR, _APART = 12, 10
# What a legend would cover is counted at points so far from each other, and at no more than these.
_STEP, _MANY = 2.0, 50_000
# Where a legend may be, in matplotlib's numbers: the corners, the sides, the middle.
_PLACES = 1, 2, 3, 4, 7, 6, 9, 8, 10

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend
    from matplotlib.lines import Line2D
    from matplotlib.text import Annotation
    from numpy.typing import NDArray


@in_our_style
def loss_figure(report: LossReport, monitor: str) -> "Figure":
    """Training curve solid, validation dashed, a star at the best, the phases along the top.

    What gets worse after the best is shaded: orange if it is overfitting, else grey. A dotted line
    stands at the knee, where rapid learning ends. A training loss between two unknown ones is a
    dot. Where the curves are different quantities, validation has an axis of its own at the right.

    Args:
        report: The curves; at least one validation.
        monitor: The name of the validation metric.
    """
    figure = new_figure()
    axes = figure.subplots()
    epochs, name = report.positions, drawable(monitor)
    trained = report.training_word.replace("training", "train")
    known = [loss for loss in report.train_losses if math.isfinite(loss)]
    right = axes
    if known and _unlike(report, monitor, known):
        right = axes.twinx()
        right.spines["right"].set_visible(True)
        axes.set_ylabel(trained)
        right.set_ylabel(shortened_to_fit(figure, name, _TALLEST))
        scale_values(axes, known, known)
        scale_values(right, report.val_values, report.val_values)
    else:
        axes.set_ylabel("loss" if report.mode == "min" else "value")
        scale_values(axes, [*known, *report.val_values], report.val_values)
    lines, names = [], []
    if known:
        lines.append(_curve(axes, epochs, report.train_losses, BLUE, "-"))
        names.append(trained)
    lines.append(_curve(right, epochs, report.val_values, VERMILION, "--"))
    names.append(shortened(name, _LONGEST))
    if report.best_index is not None:
        best = epochs[report.best_index]
        lines += right.plot(best, report.best_value, "*", color=BLACK, markersize=9, zorder=3)
        names.append("best")
    labels = _draw_phases(axes, report)
    axes.set_xlabel("epoch")
    number_epochs(figure, axes, epochs)
    legend = right.legend(lines, names, loc=_PLACES[0])
    fit_axes(figure, axes, top=PAD)
    if right is not axes:
        _make_room(figure, axes, right)
    _place(figure, legend, lines)
    _drop_crowded(figure, (axes, right), labels)
    return figure


def _unlike(report: LossReport, monitor: str, known: Sequence[float]) -> bool:
    """Whether the curves are different quantities: by their directions, or names and sizes."""
    if len(report.val_values) == 1:
        return False  # in the middle of an axis of its own each would hide the other
    if report.mode != report.train_mode:
        return True
    small, large = sorted(float(np.median(np.abs(curve))) for curve in (known, report.val_values))
    return not is_the_loss(report, monitor) and small < large / _UNLIKE


def _curve(
    axes: "Axes", epochs: Sequence[float], values: Sequence[float], colour: str, style: str
) -> "Line2D":
    """A curve with gaps where a value is unknown, and dots where it is known between two gaps."""
    gaps = ~np.isfinite(np.array([math.nan, *values, math.nan]))
    alone = np.flatnonzero(~gaps[1:-1] & gaps[:-2] & gaps[2:]).tolist()
    style = style if len(alone) < np.count_nonzero(~gaps) else ""
    dots: dict[str, Any] = {"marker": "o", "markersize": 3.5, "markevery": alone} if alone else {}
    (line,) = axes.plot(epochs, values, color=colour, linestyle=style, **dots)
    return line


def _draw_phases(axes: "Axes", report: LossReport) -> "list[tuple[Annotation, float, float]]":
    """A strip along the top with a stretch per phase, and what is worse than the best shaded.

    Returns:
        A label per phase with the ends of its stretch. That of a worsening comes first.
    """
    labels = []
    for index, phase in enumerate(report.phases):
        start, end = (report.positions[i] for i in (max(phase.first - 1, 0), phase.last))
        colour, name = _STRIP_COLOURS[index % 2], phase.label
        if phase.name in ("overfit", "rise"):
            name = phase.label if phase.name == "overfit" else "worse"
            shade = (ORANGE, 0.2) if report.overfitting else (GREY, 0.15)
            axes.axvspan(start, end, color=shade[0], alpha=shade[1], linewidth=0)
        else:
            axes.axvspan(start, end, 1 - _STRIP, color=colour, linewidth=0)
        if phase.name == "rapid":
            axes.axvline(end, color=GREY, linestyle=":", zorder=1)
        middle = ((start + end) / 2, 1.03)
        label = axes.annotate(name, middle, xycoords=("data", "axes fraction"), ha="center")
        labels.append((label, start, end))
    return labels[::-1]


def _make_room(figure: "Figure", axes: "Axes", right: "Axes") -> None:
    """Make both axes smaller so that what is written at the right is within the figure."""
    drawn = right.get_tightbbox(renderer_of(figure))
    assert drawn is not None
    inner = axes.get_position()
    wide = max(drawn.x1 / DPI + PAD - WIDTH, 0.0)
    high = max(drawn.y1 / DPI + PAD - HEIGHT, 0.0)
    x1, y1 = whole_pixels(inner.x1 * WIDTH - wide), whole_pixels(inner.y1 * HEIGHT - high)
    axes.set_position((inner.x0, inner.y0, x1 / WIDTH - inner.x0, y1 / HEIGHT - inner.y0))


def _place(figure: "Figure", legend: "Legend", lines: "Sequence[Line2D]") -> None:
    """Put the legend where it covers the least of the curves, which may have different axes."""
    along, up = np.vstack([_along(line) for line in lines]).T
    place, least = _PLACES[0], math.inf
    for candidate in _PLACES:
        legend.set_loc(candidate)
        box = legend.get_window_extent(renderer_of(figure))
        inside = (along > box.x0) & (along < box.x1) & (up > box.y0) & (up < box.y1)
        covered = int(np.count_nonzero(inside))
        if covered < least:
            place, least = candidate, covered
    legend.set_loc(place)


def _along(line: "Line2D") -> "NDArray[np.float64]":
    """Points of a line as near to each other as to hide nothing between them, in pixels."""
    given = np.asarray(line.get_xydata(), dtype=np.float64)
    points: NDArray[np.float64] = line.get_transform().transform(given)
    points = points[np.isfinite(points).all(axis=1)]
    if len(points) == 1:
        corners = np.array([(-1, -1), (-1, 1), (0, 0), (1, -1), (1, 1)], dtype=np.float64)
        return points + _STAR * corners
    gone = np.concatenate(([0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))))
    steps = np.arange(0.0, gone[-1] + _STEP, max(_STEP, gone[-1] / _MANY))
    return np.column_stack([np.interp(steps, gone, axis) for axis in points.T])


def _drop_crowded(
    figure: "Figure",
    both: "Sequence[Axes]",
    labels: "list[tuple[Annotation, float, float]]",
) -> None:
    """Remove the labels that are wider than their stretch, or would touch another text."""
    renderer = renderer_of(figure)
    exponents = [axes.yaxis.get_offset_text() for axes in both]
    taken = [text.get_window_extent(renderer) for text in exponents if text.get_text()]
    for place, (label, start, end) in enumerate(labels):
        box = label.get_window_extent(renderer)
        (left, _), (right, _) = both[0].transData.transform([(start, 0), (end, 0)])
        worse = place == 0 and label.get_text() in _WORSE
        fits = box.width <= right - left
        touches = any(box.x0 < other.x1 + _APART and other.x0 < box.x1 + _APART for other in taken)
        if worse or (fits and not touches):
            taken.append(box)
        else:
            label.remove()
