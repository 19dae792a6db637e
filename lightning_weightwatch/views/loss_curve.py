"""The learning curves as a figure: both losses, the best epoch, the overfit region."""

import math
from typing import TYPE_CHECKING, Literal

from lightning_weightwatch.losses.diagnosis import LossReport
from lightning_weightwatch.views.layer_names import drawable, shortened
from lightning_weightwatch.views.margins import PAD, fit_axes
from lightning_weightwatch.views.png import (
    BLACK,
    BLUE,
    ORANGE,
    VERMILION,
    in_our_style,
    new_figure,
)

_MANY = 1000
_LONGEST = 22

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@in_our_style
def loss_figure(report: LossReport, monitor: str) -> "Figure":
    """Training loss solid, validation dashed, a star at the best, overfitting shaded.

    Args:
        report: The curves; at least one validation.
        monitor: The name of the validation metric.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure()
    axes = figure.subplots()
    epochs = [epoch + 1 for epoch in report.epochs]
    marker = "o" if len(set(epochs)) == 1 else None
    lines, names = [], []
    if any(map(math.isfinite, report.train_losses)):
        lines += axes.plot(epochs, report.train_losses, color=BLUE, marker=marker)
        names.append("train loss")
    lines += axes.plot(epochs, report.val_values, color=VERMILION, linestyle="--", marker=marker)
    names.append(shortened(drawable(monitor), _LONGEST))
    if report.best_epoch is not None:
        best = report.best_epoch + 1
        lines += axes.plot(best, report.best_value, "*", color=BLACK, markersize=9, zorder=3)
        names.append("best")
        if report.overfitting:
            axes.axvspan(best, epochs[-1], color=ORANGE, alpha=0.2, linewidth=0)
            axes.annotate(
                "overfitting",
                ((best + epochs[-1]) / 2, 1.03),
                xycoords=("data", "axes fraction"),
                ha="center",
            )
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
    axes.set_xticks([first, *(tick for tick in ticks if first + near <= tick <= last)])
    # The search for the best place takes long among many points.
    place: Literal["best", "upper right"] = "best" if len(epochs) <= _MANY else "upper right"
    axes.legend(lines, names, loc=place)
    fit_axes(figure, axes, top=PAD)
    return figure
