"""The learning curves as a figure: both losses, the best epoch, the overfit region."""

import math
from typing import TYPE_CHECKING

from lightning_weightwatch.losses.diagnosis import LossReport
from lightning_weightwatch.views.png import BLACK, BLUE, ORANGE, VERMILION, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def loss_figure(report: LossReport, monitor: str) -> "Figure":
    """Training loss solid, validation dashed, a star at the best, overfitting shaded.

    Args:
        report: The curves; at least one validation.
        monitor: The name of the validation metric.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure()
    axes = figure.subplots()
    figure.subplots_adjust(left=0.16, right=0.97, bottom=0.17, top=0.86)
    epochs = [epoch + 1 for epoch in report.epochs]
    marker = "o" if len(epochs) == 1 else None
    if any(map(math.isfinite, report.train_losses)):
        axes.plot(epochs, report.train_losses, color=BLUE, marker=marker, label="train loss")
    axes.plot(
        epochs, report.val_values, color=VERMILION, linestyle="--", marker=marker, label=monitor
    )
    if report.best_epoch is not None:
        best = report.best_epoch + 1
        axes.plot(best, report.best_value, "*", color=BLACK, markersize=9, label="best", zorder=3)
        if report.overfitting:
            axes.axvspan(best, epochs[-1], color=ORANGE, alpha=0.2, linewidth=0)
            axes.annotate(
                "overfitting",
                ((best + epochs[-1]) / 2, 1.02),
                xycoords=("data", "axes fraction"),
                ha="center",
                fontsize=8,
            )
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss" if report.mode == "min" else "value")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=8)
    style(figure)
    return figure
