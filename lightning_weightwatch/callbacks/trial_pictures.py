"""What there is to draw of a trial, by the names of the pictures."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from lightning_weightwatch.trials.report import TrialReport
from lightning_weightwatch.views.quantized import QuantizedLayer, quantized_figure
from lightning_weightwatch.views.trial_damage import damage_figure
from lightning_weightwatch.views.trial_layers import layer_heat_map
from lightning_weightwatch.views.trial_pareto import pareto_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def pictures(
    area: str,
    report: TrialReport,
    others: Sequence[TrialReport | None],
    weights: Sequence[QuantizedLayer],
) -> "dict[str, Callable[[], Figure | None]]":
    """What draws each picture, or returns None where there is nothing to draw.

    Args:
        area: What was tried.
        report: Its results.
        others: Those of other trials, once all are done; they are drawn together with these where
            metric and baseline are the same.
        weights: Some weights before and after.
    """
    same = [
        other
        for other in others
        if other is not None
        and (other.monitor, other.baseline) == (report.monitor, report.baseline)
    ]
    drawn: dict[str, Callable[[], Figure | None]] = {
        f"{area}_damage": partial(damage_figure, report),
        f"{area}_layers": partial(layer_heat_map, report),
    }
    if weights:
        drawn[f"{area}_weights"] = partial(quantized_figure, weights)
    if same:
        drawn["pareto"] = partial(pareto_figure, same)
    return drawn
