"""What there is to draw of trials, by the names of the pictures."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from lightning_weightwatch.trials.report import TrialReport
from lightning_weightwatch.views.quantized import QuantizedLayer, quantized_figure
from lightning_weightwatch.views.trial_damage import damage_figure
from lightning_weightwatch.views.trial_layers import layer_heat_map

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def pictures(
    area: str, report: TrialReport, weights: Sequence[QuantizedLayer]
) -> "dict[str, Callable[[], Figure | None]]":
    """What draws each picture, or returns None where there is nothing to draw.

    Args:
        area: What was tried.
        report: Its results.
        weights: Some weights before and after.
    """
    drawn: dict[str, Callable[[], Figure | None]] = {
        f"{area}_damage": partial(damage_figure, report),
        f"{area}_layers": partial(layer_heat_map, report),
    }
    if weights:
        drawn[f"{area}_weights"] = partial(quantized_figure, weights)
    return drawn


def comparable(reports: Sequence[TrialReport | None]) -> list[TrialReport]:
    """Those that can be drawn together: of the metric, and of the baseline, of the last of them."""
    found = [report for report in reports if report is not None]
    return [
        report
        for report in found
        if (report.monitor, report.baseline) == (found[-1].monitor, found[-1].baseline)
    ]
