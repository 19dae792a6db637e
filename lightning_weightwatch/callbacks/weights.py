"""WeightHistogram: how the weights are distributed, epoch by epoch."""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from torch.optim import Optimizer

from lightning_weightwatch.callbacks._lightning import LightningModule, Trainer, rank_zero_info
from lightning_weightwatch.callbacks.dashboard import Pin
from lightning_weightwatch.callbacks.keys import TrainerConfigurationError
from lightning_weightwatch.callbacks.looks import looks_before_next_step
from lightning_weightwatch.callbacks.monitor import EpochMonitor, when
from lightning_weightwatch.callbacks.patterns import check_matches, checked_patterns
from lightning_weightwatch.model.weights import Weight, matches, walk
from lightning_weightwatch.report import Report
from lightning_weightwatch.views.histogram_grid import histogram_figure
from lightning_weightwatch.views.modules import modules_markdown
from lightning_weightwatch.weights.description import (
    WeightReport,
    describe_gradients,
    describe_weights,
    merged,
)
from lightning_weightwatch.weights.selection import check_selection, choose

#: Above this many parameters there are histograms and totals, but no charts per parameter.
MAX_PARAMETER_CHARTS = 64

_STATISTICS = {
    "mean": "mean of the finite values",
    "std": "population standard deviation of the finite values",
    "min": "smallest finite value",
    "max": "largest finite value",
    "mad": "median absolute deviation from the median: 0.67 of `std` in a Gaussian",
    "kurtosis": "fourth standardised moment: 3 for a Gaussian, more for heavier tails",
    "norm": "Euclidean norm",
    "zero_share": "share of values that are 0",
    "outliers": "values further from the median than `outlier_mads` times the `mad`",
    "nonfinite": "values that are NaN or infinite",
}


class WeightHistogram(EpochMonitor):
    """Log a histogram and the statistics of every parameter, and of all weights together.

    | key                       | meaning                                      |
    |---------------------------|----------------------------------------------|
    | `weightwatch/weight_norm` | Euclidean norm of all weights together       |
    | `weightwatch/weight_std`  | standard deviation of all weights            |
    | `weightwatch/nonfinite`   | how many weights are NaN or infinite (alarm) |

    The norm grows while training goes on, and says nothing alone.

    Logged, but not to be monitored: the histograms `weightwatch/weights` (all together) and
    `weightwatch-weights/003_net.0.weight`, at most 51 times in a fit; the figure
    `weightwatch/weight_grid`, at most 10 times; the table `weightwatch/modules`, first and last;
    charts
    `weightwatch-mean/003_net.0.weight` and, alike, `std`, `min`, `max`, `mad`, `kurtosis`,
    `norm`, `zero_share`, `outliers` and `nonfinite`; and `weightwatch/seconds_weights`.
    With more than 64 parameters those charts are of the kinds, as in `weightwatch-mean/conv2d`;
    `report` has the statistics of every parameter, kind and module. All are of the finite values.

    With `gradients=True` also the histograms `weightwatch/gradients` and
    `weightwatch-gradients/003_net.0.weight`, and the charts `weightwatch/gradient_norm`,
    `weightwatch/gradient_nonfinite` and `weightwatch-gradient_norm/003_net.0.weight`: of the
    last optimizer step before a measurement, before clipping. Where that step could not be known
    for the last there are none: a fit is stopped within an epoch, validations go by the clock.
    Several optimizers have no histogram of all gradients together.

    Loggers other than TensorBoard get what they can take.

    Args:
        parameters: Names of parameters or shell patterns (`["*.weight"]`); None for all.
        kinds: Kinds of parameters or shell patterns (`["conv*", "linear"]`); None for all. There
            are linear, embedding, conv1d, conv2d, conv3d, conv_transpose, bilinear, attention, rnn,
            norm, bias and other.
        top_k: Of these only the k largest parameters; None for all.
        gradients: Measure the gradients too.
        outlier_mads: How many median absolute deviations from the median make an outlier.
        every_n_epochs: Measure in the first epoch and then in every n-th, counted as Lightning
            does: with 2 in the epochs 0, 1, 3, 5, ...
        at_start: Measure also before training.
        prefix: In place of `weightwatch`.

    Attributes:
        gradient_report: The gradients of the step before the last measurement; None where they were
            not measured.

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
    CHARTS: ClassVar[dict[str, str]] = {
        **_STATISTICS,
        "weights": "histogram of the finite weights: 64 equal bins from smallest to largest",
        "weight_grid": "histograms of the largest parameters, with logarithmic counts",
        "gradients": "histogram of the gradients of the last step, before clipping",
        "gradient_norm": "Euclidean norm of the gradients of the last step, before clipping",
        "gradient_nonfinite": "gradients of the last step that are NaN or infinite",
        "seconds_weights": "seconds that measuring and writing took",
    }

    def __init__(
        self,
        *,
        parameters: Sequence[str] | None = None,
        kinds: Sequence[str] | None = None,
        top_k: int | None = None,
        gradients: bool = False,
        outlier_mads: float = 10.0,
        every_n_epochs: int = 1,
        at_start: bool = False,
        prefix: str = "weightwatch",
    ) -> None:
        super().__init__(every_n_epochs=every_n_epochs, at_start=at_start, prefix=prefix)
        self.parameters = checked_patterns("parameters", parameters)
        check_selection(names=None, kinds=kinds, top_k=top_k, outlier_mads=outlier_mads)
        self.kinds = None if kinds is None else tuple(kinds)
        self.top_k = top_k
        self.gradients = gradients
        self.outlier_mads = outlier_mads

    def _reset(self) -> None:
        super()._reset()
        self.gradient_report: WeightReport | None = None
        self._new_gradients: list[WeightReport] = []
        self._stepped_in: int | None = None
        self._silence_named = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the selection against the model.

        Raises:
            TrainerConfigurationError: For a pattern that fits no parameter, or a selection that
                leaves none.
        """
        found = [weight for weight in walk(pl_module) if isinstance(weight, Weight)]
        check_matches("parameters", self.parameters, [weight.name for weight in found])
        check_matches("kinds", self.kinds, sorted({weight.kind for weight in found}))
        both = [weight for weight in found if matches(weight.name, self.parameters)]
        if both and not any(matches(weight.kind, self.kinds) for weight in both):
            raise TrainerConfigurationError(
                f"parameters={list(self.parameters or ())} and kinds={list(self.kinds or ())} fit "
                "nothing together. Parameters of these names are of the kinds: "
                + ", ".join(sorted({weight.kind for weight in both}))
            )
        super().on_fit_start(trainer, pl_module)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Measure the gradients of this optimizer, if its next step follows the next measurement.

        Here they are unscaled and not clipped yet; when the weights are measured they are gone.
        """
        if not self.gradients:
            return
        batch = trainer.fit_loop.total_batch_idx
        if batch != self._stepped_in:
            self._stepped_in, self._new_gradients = batch, []
        if not self._due(trainer) or not looks_before_next_step(trainer):
            return
        started = time.perf_counter()
        with self._guarded("could not measure the gradients"):
            stepped = {id(each) for group in optimizer.param_groups for each in group["params"]}
            chosen, _ = choose(pl_module, lambda weight: weight.parameter, **self._selection)
            names = [weight.name for weight in chosen if id(weight.parameter) in stepped]
            if names:
                self._new_gradients.append(
                    describe_gradients(pl_module, names=names, outlier_mads=self.outlier_mads)
                )
        self.seconds_before += time.perf_counter() - started

    def measure(self, trainer: Trainer, pl_module: LightningModule) -> WeightReport:
        """Every parameter, one at a time."""
        self.gradient_report = merged(self._new_gradients)
        self._new_gradients = []
        if self.gradient_report is not None:
            self._name_skipped(self.gradient_report.skipped)
        elif self.gradients and self._stepped_in is None and not self._silence_named:
            self._silence_named = True
            rank_zero_info(
                "WeightHistogram has no gradients to measure: no optimizer has made a step that "
                "Lightning knows of"
            )
        return describe_weights(pl_module, outlier_mads=self.outlier_mads, **self._selection)

    @property
    def _selection(self) -> dict[str, Any]:
        return {
            "names": self.parameters,
            "kinds": self.kinds,
            "top_k": self.top_k,
        }

    def remember(self, report: Report, epoch: int) -> None:
        """The order of the parameters."""
        assert isinstance(report, WeightReport)
        for parameter in report.parameters:
            self.position(parameter.name)

    def charts(self, report: Report) -> Mapping[str, float]:
        """The statistics of every parameter, or of every kind where there are too many."""
        assert isinstance(report, WeightReport)
        charts = self._statistics(report, _STATISTICS)
        if self.gradient_report is not None and self.gradient_report.parameters:
            total = self.gradient_report.total
            charts[self.key("gradient_norm")] = total.norm
            charts[self.key("gradient_nonfinite")] = float(total.nonfinite)
            charts.update(self._statistics(self.gradient_report, ("norm",), "gradient_"))
        return {tag: value for tag, value in charts.items() if math.isfinite(value)}

    def _statistics(
        self, report: WeightReport, columns: Iterable[str], word: str = ""
    ) -> dict[str, float]:
        if len(report.parameters) > MAX_PARAMETER_CHARTS:
            return {
                f"{self.prefix}-{word}{column}/{row['name']}": row[column]
                for row in report.records_by_kind()
                for column in columns
            }
        return {
            self.layer_tag(f"{word}{column}", self.position(row["name"]), row["name"]): row[column]
            for row in report.records()
            for column in columns
        }

    def publish_histograms(self, trainer: Trainer, report: Report, step: int) -> None:
        """Of all together, and of each parameter."""
        assert isinstance(report, WeightReport)
        self._write_histograms(trainer, "weights", report, step)
        if self.gradient_report is not None:
            self._write_histograms(trainer, "gradients", self.gradient_report, step)

    def _write_histograms(
        self, trainer: Trainer, word: str, report: WeightReport, step: int
    ) -> None:
        write = self.publisher.histogram
        if report.histogram is not None:
            write(trainer, self.key(word), report.histogram, report.total, step)
        for parameter in report.parameters:
            position = self.position(parameter.name)
            if parameter.histogram is not None:
                tag = self.layer_tag(word, position, parameter.name)
                write(trainer, tag, parameter.histogram, parameter.moments, step)

    def publish_figures(self, trainer: Trainer, report: Report, step: int) -> None:
        """The histograms in one picture, and a table of the modules."""
        assert isinstance(report, WeightReport)
        if report.histogram is not None:
            tag = self.key("weight_grid")
            title = when(int(self.history[-1]["epoch"]))
            self.publisher.figure(trainer, tag, lambda: histogram_figure(report, title=title), step)
        if len(self.history) == 1:
            self._write_table(trainer, report)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The table once more: TensorBoard stacks all of them in one box."""
        super().on_train_end(trainer, pl_module)
        if isinstance(self.report, WeightReport) and len(self.history) > 1:
            with self._guarded("could not write to a logger"):
                self._write_table(trainer, self.report)

    def _write_table(self, trainer: Trainer, report: WeightReport) -> None:
        step = int(self.history[-1]["step"])
        self.publisher.text(trainer, self.key("modules"), modules_markdown(report), step)

    def pins(self) -> list[Pin]:
        """All weights in a histogram; the grid is too fine for a small card."""
        return [("histograms", "weights")]
