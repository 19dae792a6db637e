"""WeightUsageMonitor: which weights matter, what layers give, and what the run costs."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from lightning_weightwatch.callbacks._lightning import LightningModule, Trainer, rank_zero_info
from lightning_weightwatch.callbacks.listening import ListeningMonitor, in_a_fit
from lightning_weightwatch.callbacks.monitor import when
from lightning_weightwatch.callbacks.patterns import check_matches, checked_patterns
from lightning_weightwatch.callbacks.run_cost import RunCost
from lightning_weightwatch.model.compiled import compiled_modules
from lightning_weightwatch.model.graph import Graph, trace_without_values
from lightning_weightwatch.model.running import CannotRun
from lightning_weightwatch.model.weights import Weight, walk
from lightning_weightwatch.report import Report
from lightning_weightwatch.usage.hooks import UsageHooks
from lightning_weightwatch.usage.report import Mode, UsageReport
from lightning_weightwatch.values.statistics import Moments
from lightning_weightwatch.views.activations import activation_figure
from lightning_weightwatch.views.flop_figure import flop_figure
from lightning_weightwatch.views.network.figure import network_figure, network_png
from lightning_weightwatch.views.run_cost import run_sentence
from lightning_weightwatch.views.usage_page import usage_page

if TYPE_CHECKING:
    from lightning_weightwatch.usage.flops.report import FlopReport

#: Above this many layers a chart per layer is a haystack; the summary and the figures stay.
MAX_LAYER_CHARTS = 64


class WeightUsageMonitor(ListeningMonitor):
    """Log how many weights matter for the data, which channels are dead, and what the run costs.

    The importance of a weight is its magnitude times the root mean square of what it is multiplied
    with, |w| · rms(x): the score that Wanda prunes by. It is taken from the first `num_batches` of
    the validation that runs anyway, or, in an epoch without one, from the last batches of training:
    nothing is run twice, but for `nn.TransformerEncoderLayer` in evaluation, which hooks would take
    off its fused path. Of importance it tells how it is spread, not what a layer is good for: it is
    a hint where to try less, and `PruningTrial` is the trial.

    | key                                   | meaning                                        |
    |---------------------------------------|------------------------------------------------|
    | `weightwatch/effective_weights_share` | effective weights, of all weights              |
    | `weightwatch/low_contribution_share`  | weights below 1 % of the mean of their layer   |
    | `weightwatch/top90_share`             | weights that carry 90 % of the importance      |
    | `weightwatch/dead_channels`           | channels of layers that were always 0 (alarm)  |
    | `weightwatch/dead_channels_share`     | those of all channels that are read so (alarm) |
    | `weightwatch/zero_activations_share`  | zeros of all that modules gave                 |
    | `weightwatch/run_flops`               | floating-point operations of the fit so far    |

    A layer has as many effective weights as weights of one importance would have the same entropy.
    A dead channel of a layer was 0 for all samples and positions where the layer that ran next read
    it; a flattened one counts once. Neither the data count as channels, nor what is joined (`cat`)
    or split before it is read: there may be more dead ones than that.

    A model that uses few of its weights may be too large, or may have learnt a simple thing well;
    many zeros are what ReLU is for. `run_flops` is of training and validation, on all processes,
    and follows from a count of `forward` for the first batch, or of `training_step` where there is
    no `forward`, on a copy of the model without values: 1 multiply-add is 2 operations, a training
    step is 3 forward passes, samples of another length count as those of the first batch. It is
    absent where the copy does not run.

    Logged, but not to be monitored: for each layer and module, with up to 64 of them,
    `weightwatch-effective_share/007_encoder.0`, `weightwatch-dead_inputs/007_encoder.0`, and of
    what modules gave `weightwatch-activation_std/007_encoder.0` and
    `weightwatch-activation_zeros/007_encoder.0`; histograms
    `weightwatch-activations/007_encoder.0`, at most 51 times in a fit; at most 10 times the figures
    `weightwatch/network` and `weightwatch/activation_ranges`; first and last the page
    `weightwatch/usage`; once the figure `weightwatch/flop_hot_spots`; and
    `weightwatch/seconds_usage`, without the hooks.

    Args:
        every_n_epochs: Measure in the first epoch and then in every n-th, counted as Lightning
            does: with 2 in the epochs 0, 1, 3, 5, ...
        num_batches: How many batches to listen to, on each process; None for all.
        layers: Names of layers or shell patterns (`["encoder.*"]`) to take the importance of; None
            for all.
        mode: `"wanda"`, or `"wua"` for the definition of WeightUsageAnalyzer, |w| · |mean(z)| of
            the output z.
        activations: Describe what modules give, too.
        flops: Count the operations of the run.
        prefix: In place of `weightwatch`.

    Attributes:
        flop_report: What the first batch costs, by module; None before it, or where it could not be
            counted.

    Raises:
        ValueError: For an argument out of its range.
    """

    AREA = "usage"
    KEYS: ClassVar[dict[str, str]] = {
        "effective_weights_share": "share of effective weights: as many of one importance in each "
        "layer have the same entropy",
        "low_contribution_share": "share of weights below 1 % of the mean importance of their "
        "layer",
        "top90_share": "share of weights that carry 90 % of the importance of their layer",
        "dead_channels": "channels of layers that were always 0 where the layer that ran next "
        "reads them",
        "dead_channels_share": "share of those of all channels that are read so",
        "zero_activations_share": "share of zeros in what layers gave",
        "run_flops": "floating-point operations of training and validation so far: 2 for a "
        "multiply-add, 3 forward passes for a training step",
    }
    ALARMS = frozenset({"dead_channels", "dead_channels_share"})
    CHARTS: ClassVar[dict[str, str]] = {
        "effective_share": "effective weights of a layer, of all that it has",
        "dead_inputs": "inputs of a layer that were 0 for all samples and positions",
        "activation_std": "standard deviation of what a module gave",
        "activation_zeros": "share of zeros in what a module gave",
        "activations": "histogram of what a module gave",
        "network": "the network as it runs: lines by the importance of their weights",
        "activation_ranges": "range, spread, zeros and dead channels of what modules gave",
        "flop_hot_spots": "where the operations are, beside where the parameters are",
        "usage": "what importance says of the size of each layer, and what the run costs",
        "seconds_usage": "seconds that measuring and writing took, without the hooks",
    }

    report: UsageReport | None

    def __init__(
        self,
        *,
        every_n_epochs: int = 1,
        num_batches: int | None = 8,
        layers: Sequence[str] | None = None,
        mode: Mode = "wanda",
        activations: bool = True,
        flops: bool = True,
        prefix: str = "weightwatch",
    ) -> None:
        if mode not in get_args(Mode):
            raise ValueError(f"mode must be 'wanda' or 'wua', got {mode!r}")
        self.layers = checked_patterns("layers", layers)
        self.mode: Mode = mode
        self.activations = activations
        self.flops = flops
        super().__init__(num_batches=num_batches, every_n_epochs=every_n_epochs, prefix=prefix)

    def _reset(self) -> None:
        super()._reset()
        self._run = RunCost()
        self._run_flops = math.nan
        self._looked_at_a_batch = False
        self._graph: Graph | None = None

    @property
    def flop_report(self) -> "FlopReport | None":
        """What the first batch costs."""
        return self._run.report

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the layers against the model.

        Raises:
            TrainerConfigurationError: For a pattern that fits no layer.
        """
        names = [item.layer for item in walk(pl_module) if isinstance(item, Weight)]
        check_matches("layers", self.layers, list(dict.fromkeys(names)))
        super().on_fit_start(trainer, pl_module)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start anew, unless the same Trainer goes on with a fit; how many processes there are.

        Raises:
            TrainerConfigurationError: See `ListeningMonitor.setup`.
        """
        super().setup(trainer, pl_module, stage)
        self._run.processes = trainer.world_size

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch; before, once no parameter is lazy any more, what one costs."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if not self._looked_at_a_batch or batch_idx == 0:
            self._look_at(trainer, pl_module, batch)
        with self._guarded("could not count a batch"):
            self._run.trained(batch)

    def _look_at(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        """What a step costs, and what feeds what: of copies without values, which change nothing.

        Again when other parameters are trained than before.
        """
        if self.flops:
            with self._named_limit("does not count operations"):
                if self._run.is_outdated(pl_module):
                    self._run.count(pl_module, batch)
        if not self._looked_at_a_batch and self.publisher.takes_figures(trainer):
            with self._named_limit("does not draw the network"):
                self._graph = trace_without_values(pl_module, batch)
        self._looked_at_a_batch = True

    @contextmanager
    def _named_limit(self, what: str) -> Iterator[None]:
        """A model that cannot be copied or run there is no fault, and is named."""
        with self._guarded(what):
            try:
                yield
            except CannotRun as limit:
                rank_zero_info(f"WeightUsageMonitor {what}: {limit}")

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the batch."""
        if in_a_fit(trainer):
            with self._guarded("could not count a batch"):
                self._run.validated(batch)
        super().on_validation_batch_end(
            trainer, pl_module, outputs, batch, batch_idx, dataloader_idx
        )

    def hooks(self, pl_module: LightningModule) -> UsageHooks:
        """Those of importance and activations."""
        return UsageHooks(
            pl_module,
            mode=self.mode,
            layers=self.layers,
            activations=self.activations,
            passing_over=compiled_modules(pl_module),
        )

    def measure(self, trainer: Trainer, pl_module: LightningModule) -> UsageReport:
        """Put together what all processes have heard."""
        self._run_flops = self._run.so_far(trainer)
        return self.heard(trainer)

    def scalars(self, report: Report) -> Mapping[str, float]:
        """The summary, and what the run has cost so far."""
        return {**report.summary(), "run_flops": self._run_flops}

    def remember(self, report: Report, epoch: int) -> None:
        """The order of the layers and modules."""
        assert isinstance(report, UsageReport)
        given = [each.name for each in report.activations]  # all modules, where there are any
        for name in (*given, *(layer.name for layer in report.layers)):
            self.position(name)

    def charts(self, report: Report) -> Mapping[str, float]:
        """The layers, and what modules gave."""
        assert isinstance(report, UsageReport)
        charts: dict[str, float] = {}
        if len(report.layers) <= MAX_LAYER_CHARTS:
            for layer in report.layers:
                charts[self._tag("effective_share", layer.name)] = layer.effective_share
                charts[self._tag("dead_inputs", layer.name)] = float(len(layer.dead_inputs))
        if len(report.activations) <= MAX_LAYER_CHARTS:
            for given in report.activations:
                charts[self._tag("activation_std", given.name)] = given.std
                charts[self._tag("activation_zeros", given.name)] = given.zero_share
        return {tag: value for tag, value in charts.items() if math.isfinite(value)}

    def _tag(self, metric: str, name: str) -> str:
        return self.layer_tag(metric, self.position(name), name)

    def publish_histograms(self, trainer: Trainer, report: Report, step: int) -> None:
        """What modules gave."""
        assert isinstance(report, UsageReport)
        if len(report.activations) > MAX_LAYER_CHARTS:
            return
        for given in report.activations:
            if given.count:
                sums = (given.mean * given.count, given.std**2 * given.count, math.nan, math.nan)
                moments = Moments(given.count, given.nonfinite, 0, sums, given.min, given.max)
                tag = self._tag("activations", given.name)
                self.publisher.histogram(trainer, tag, given.histogram, moments, step)

    def publish_figures(self, trainer: Trainer, report: Report, step: int) -> None:
        """The network, the activations, and at first what it costs."""
        assert isinstance(report, UsageReport)
        title, graph, flops = when(int(self.history[-1]["epoch"])), self._graph, self.flop_report
        write = partial(self.publisher.figure, trainer, step=step)
        if graph is not None:
            write(
                self.key("network"),
                lambda: network_figure(graph, report, title=title),
                as_png=network_png,
            )
        if report.activations:
            given = report.activations
            write(self.key("activation_ranges"), lambda: activation_figure(given, title=title))
        if len(self.history) == 1:
            if flops is not None:
                write(self.key("flop_hot_spots"), lambda: flop_figure(flops))
            self._write_page(trainer, report)

    def _write_page(self, trainer: Trainer, report: UsageReport, spent: str = "") -> None:
        page, step = usage_page(report, self.flop_report, spent), int(self.history[-1]["step"])
        self.publisher.text(trainer, self.key("usage"), page, step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what the run has cost, and what was saved if it ended early."""
        super().on_train_end(trainer, pl_module)
        with self._guarded("could not say what the run has cost"):
            spent = self._run.so_far(trainer)
            cost = run_sentence(spent, self._run.saved(trainer, spent))
            if cost:
                rank_zero_info(f"WeightUsageMonitor: {cost}")
            if isinstance(self.report, UsageReport) and self.history:
                self._write_page(trainer, self.report, cost)

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "run": self._run.state()}

    def _restore(self, state: dict[str, Any], source: str | None) -> None:
        super()._restore(state, source)
        self._run.restore(state["run"])
