"""WeightHistogram: how the weights are distributed, epoch by epoch."""

import math
from collections.abc import Sequence
from typing import ClassVar

from lightning_weightwatch.callbacks._lightning import LightningModule, Trainer
from lightning_weightwatch.callbacks.monitor import EpochMonitor
from lightning_weightwatch.callbacks.patterns import check_matches, checked_patterns
from lightning_weightwatch.callbacks.publish import log_histogram, log_scalars
from lightning_weightwatch.model.weights import Weight, walk
from lightning_weightwatch.report import Report
from lightning_weightwatch.weights.description import WeightReport, describe_weights

#: Above this many parameters there are histograms and totals, but no charts per parameter.
MAX_PARAMETER_CHARTS = 64
_CHARTS = ("mean", "std", "min", "max", "norm", "zero_share", "nonfinite")


class WeightHistogram(EpochMonitor):
    """Log a histogram and the statistics of every parameter, and of all weights together.

    | key                       | meaning                                      |
    |---------------------------|----------------------------------------------|
    | `weightwatch/weight_norm` | Euclidean norm of all weights together       |
    | `weightwatch/weight_std`  | standard deviation of all weights            |
    | `weightwatch/nonfinite`   | how many weights are NaN or infinite (alarm) |

    The norm grows while training goes on, and says nothing alone.

    Logged, but not to be monitored: the histograms `weightwatch/weights` (all together) and
    `weightwatch-weights/003_net.0.weight`; up to 64 parameters also the charts
    `weightwatch-mean/003_net.0.weight` and, alike, `std`, `min`, `max`, `norm`,
    `zero_share` and `nonfinite`; and `weightwatch/seconds_weights`. Statistics and
    histograms are those of the finite values. Loggers other than TensorBoard get the scalars.

    Args:
        parameters: Names of parameters or shell patterns (`["*.weight"]`); None for all.
        every_n_epochs: Measure in the first epoch and then in every n-th, counted as Lightning
            does: with 2 in the epochs 0, 1, 3, 5, ...
        at_start: Measure also before training.
        prefix: In place of `weightwatch`.

    Raises:
        ValueError: For an argument out of its range.
    """

    AREA = "weights"
    KEYS: ClassVar[dict[str, str]] = {
        "weight_norm": "Euclidean norm of all weights",
        "weight_std": "standard deviation of all weights",
        "nonfinite": "weights that are NaN or infinite",
    }
    ALARMS = frozenset({"nonfinite"})

    def __init__(
        self,
        *,
        parameters: Sequence[str] | None = None,
        every_n_epochs: int = 1,
        at_start: bool = False,
        prefix: str = "weightwatch",
    ) -> None:
        super().__init__(every_n_epochs=every_n_epochs, at_start=at_start, prefix=prefix)
        self.parameters = checked_patterns("parameters", parameters)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the names against the model.

        Raises:
            TrainerConfigurationError: For a pattern that fits no parameter.
        """
        names = [found.name for found in walk(pl_module) if isinstance(found, Weight)]
        check_matches("parameters", self.parameters, names)

    def measure(self, trainer: Trainer, pl_module: LightningModule) -> WeightReport:
        """Every parameter, one at a time."""
        return describe_weights(pl_module, names=self.parameters)

    def publish(self, trainer: Trainer, report: Report, step: int) -> None:
        """The histograms, and the charts of a model that is not too large for them."""
        assert isinstance(report, WeightReport)
        if report.histogram is not None:
            log_histogram(trainer, self.key("weights"), report.histogram, report.total, step)
        for parameter in report.parameters:
            position = self.position(parameter.name)
            if parameter.histogram is not None:
                tag = self.layer_tag("weights", position, parameter.name)
                log_histogram(trainer, tag, parameter.histogram, parameter.moments, step)
        rows = report.records()
        if len(rows) <= MAX_PARAMETER_CHARTS:
            charts = {
                self.layer_tag(metric, self.position(row["name"]), row["name"]): row[metric]
                for metric in _CHARTS
                for row in rows
                if math.isfinite(row[metric])
            }
            log_scalars(trainer, charts, step)
