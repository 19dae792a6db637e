"""The learning curves as a figure: both losses, the best epoch, the phases of the run."""

import math
from typing import TYPE_CHECKING, Literal

from lightning_weightwatch.losses.report import LossReport
from lightning_weightwatch.views.layer_names import drawable, shortened
from lightning_weightwatch.views.margins import PAD, fit_axes
from lightning_weightwatch.views.png import (
    BLACK,
    BLUE,
    GREY,
    MID_GREY,
    ORANGE,
    VERMILION,
    in_our_style,
    new_figure,
    renderer_of,
)

_MANY = 1000
_LONGEST = 22
# The strip that shows the phases, as a share of the height: above it there is no data.
_STRIP = 0.025
_WORSE = ("overfitting", "mild rise", "mild decline", "worse")
_STRIP_COLOURS = MID_GREY, "#DCDCDC"

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation


@in_our_style
def loss_figure(report: LossReport, monitor: str) -> "Figure":
    """Training loss solid, validation dashed, a star at the best, the phases along the top.

    What gets worse after the best is shaded: orange if it is overfitting, else grey. A dotted line
    stands at the knee, where rapid learning ends.

    Args:
        report: The curves; at least one validation.
        monitor: The name of the validation metric.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure()
    axes = figure.subplots()
    epochs = report.positions
    marker = "o" if len(epochs) == 1 else None
    lines, names = [], []
    if any(map(math.isfinite, report.train_losses)):
        lines += axes.plot(epochs, report.train_losses, color=BLUE, marker=marker)
        names.append("train loss")
    lines += axes.plot(epochs, report.val_values, color=VERMILION, linestyle="--", marker=marker)
    names.append(shortened(drawable(monitor), _LONGEST))
    if report.best_index is not None:
        best = epochs[report.best_index]
        lines += axes.plot(best, report.best_value, "*", color=BLACK, markersize=9, zorder=3)
        names.append("best")
    labels = _draw_phases(axes, report)
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss" if report.mode == "min" else "value")
    first, last = epochs[0], epochs[-1]
    margin = max(0.03 * (last - first), 0.2) if last > first else 1
    axes.set_xlim(first - margin, last + margin)
    locator = MaxNLocator(6, steps=[1, 2, 5, 10], integer=True)
    ticks = [round(tick) for tick in locator.tick_values(first, max(last, first + 1))]
    near = (ticks[1] - ticks[0]) / 2
    # As many whatever the height: else fit_axes would not come to an end.
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    whole = math.ceil(first)
    axes.set_xticks([whole, *(tick for tick in ticks if whole + near <= tick <= last)])
    # The search for the best place takes long among many points.
    place: Literal["best", "upper right"] = "best" if len(epochs) <= _MANY else "upper right"
    axes.legend(lines, names, loc=place)
    fit_axes(figure, axes, top=PAD)
    _drop_crowded(figure, axes, labels)
    return figure


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


def _drop_crowded(
    figure: "Figure", axes: "Axes", labels: "list[tuple[Annotation, float, float]]"
) -> None:
    """Remove the labels that are wider than their stretch, or would touch another text."""
    renderer = renderer_of(figure)
    taken = []
    exponent = axes.yaxis.get_offset_text()
    if exponent.get_text():
        taken.append(exponent.get_window_extent(renderer))
    for place, (label, start, end) in enumerate(labels):
        box = label.get_window_extent(renderer)
        (left, _), (right, _) = axes.transData.transform([(start, 0), (end, 0)])
        worse = place == 0 and label.get_text() in _WORSE
        fits = box.width <= right - left
        touches = any(box.x0 < other.x1 + 4 and other.x0 < box.x1 + 4 for other in taken)
        if worse or (fits and not touches):
            taken.append(box)
        else:
            label.remove()
