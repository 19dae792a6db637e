"""SpectralMonitor: alpha and the log-norms of the layers, epoch by epoch."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from lightning_weightwatch.callbacks._lightning import LightningModule, Trainer
from lightning_weightwatch.callbacks.dashboard import Chart, Pin
from lightning_weightwatch.callbacks.keys import TrainerConfigurationError
from lightning_weightwatch.callbacks.layer_history import LayerHistory
from lightning_weightwatch.callbacks.monitor import EpochMonitor, when
from lightning_weightwatch.callbacks.patterns import check_matches, checked_patterns
from lightning_weightwatch.model.effective import effective_weights
from lightning_weightwatch.model.weights import matches
from lightning_weightwatch.report import Report
from lightning_weightwatch.spectral.analysis import analyze
from lightning_weightwatch.spectral.layer import LayerSpectrum
from lightning_weightwatch.spectral.report import LARGE_D, SpectralReport
from lightning_weightwatch.spectral.selection import select
from lightning_weightwatch.spectral.unchanged import KnownSpectra
from lightning_weightwatch.values.measurement import measure as measure_values
from lightning_weightwatch.views.alpha_depth import alpha_depth_figure
from lightning_weightwatch.views.esd import esd_figure
from lightning_weightwatch.views.heat_map import heat_map_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Above this many layers a chart per layer is a haystack; the summary and the heat map stay.
MAX_LAYER_CHARTS = 64
#: Of so many layers the heat map can be read on a small card.
MAX_PINNED_LAYERS = 12
#: Layers whose spectrum is drawn.
ESD_FIGURES = 6


class SpectralMonitor(EpochMonitor):
    """Log the power-law exponent alpha and the log-norms of the layers' spectra.

    Every matrix of the model is measured (linear, embedding, convolution, attention, recurrent and
    other layers, bare parameters) with the definitions of WeightWatcher 0.7.7; every other weight
    is named once with its reason. A layer that has not changed since the last time, such as one of
    a frozen backbone, is not measured again. Alpha is an alarm, not a verdict: it tells how
    much structure the weights have absorbed, not whether it is signal or noise, and it does not
    replace a validation loss. Look at `D` and the tail size in `report` before you believe it.

    | key                               | meaning                                                |
    |-----------------------------------|--------------------------------------------------------|
    | `weightwatch/alpha_mean`          | mean alpha of the layers                               |
    | `weightwatch/alpha_median`        | median alpha                                           |
    | `weightwatch/alpha_min`           | smallest alpha; below 2 a layer is called over-trained |
    | `weightwatch/alpha_max`           | largest alpha; above 6 a layer is called under-trained |
    | `weightwatch/log_norm_mean`       | mean of log10 of the squared Frobenius norm            |
    | `weightwatch/alpha_weighted_mean` | mean of alpha · log10 of the squared spectral norm     |
    | `weightwatch/overtrained_share`   | share of layers with alpha < 2 (alarm)                 |
    | `weightwatch/undertrained_share`  | share of layers with alpha > 6 (alarm)                 |
    | `weightwatch/alpha_distance`      | distance of the mean alpha from [2, 6] (alarm)         |

    Only layers with at least `summary_min_evals` eigenvalues count in these, and, but for
    `log_norm_mean`, only those with a fit. Do not compare models of different depth by the means.
    The last two of these alarms can be above 0 while layers have learnt little: at the beginning
    of a healthy run.

    Logged, but not to be monitored: `weightwatch-alpha/007_encoder.0` and
    `weightwatch-log_norm/007_encoder.0` for each layer (up to 64 layers); the histogram
    `weightwatch/alpha_layers` over the layers, at most 51 times in a fit; at most 10 times the
    figures `weightwatch/alpha_depth`, `weightwatch/alpha_heat_map` (layer by epoch) and, of six
    layers over the depth of the model, `weightwatch-esd/007_encoder.0`: the spectrum with its fit;
    and `weightwatch/seconds_spectral`, what all of it took.

    Args:
        layers: Names of modules or shell patterns (`["net.0", "encoder.*"]`); None for all.
        summary_min_evals: Layers with fewer eigenvalues are shown, but decide nothing: those of a
            small output layer would.
        every_n_epochs: Measure in the first epoch and then in every n-th, counted as Lightning
            does: with 2 in the epochs 0, 1, 3, 5, ...
        at_start: Measure also before training.
        prefix: In place of `weightwatch`.

    Raises:
        ValueError: For an argument out of its range.

    Examples:
        >>> from lightning_weightwatch import SpectralMonitor
        >>> monitor = SpectralMonitor(layers=["encoder.*"])
        >>> monitor.logged_keys[:2]
        ('weightwatch/alpha_mean', 'weightwatch/alpha_median')
    """

    AREA = "spectral"
    KEYS: ClassVar[dict[str, str]] = {
        "alpha_mean": "mean alpha",
        "alpha_median": "median alpha",
        "alpha_min": "smallest alpha",
        "alpha_max": "largest alpha",
        "log_norm_mean": "mean log10 of the squared Frobenius norm",
        "alpha_weighted_mean": "mean of alpha · log10 of the squared spectral norm",
        "overtrained_share": "share of layers with alpha < 2",
        "undertrained_share": "share of layers with alpha > 6",
        "alpha_distance": "distance of the mean alpha from [2, 6]",
    }
    ALARMS = frozenset({"overtrained_share", "undertrained_share", "alpha_distance"})
    CHARTS: ClassVar[dict[str, str]] = {
        "alpha": "power-law exponent of the spectrum: an alarm, not a verdict; between 2 and 6 for "
        "well-trained layers",
        "log_norm": "log10 of the squared Frobenius norm",
        "alpha_layers": "histogram of alpha over the layers",
        "alpha_depth": "alpha of the layers from the input to the output, beside their first one",
        "alpha_heat_map": "alpha of every layer in every epoch",
        "esd": "density of the eigenvalues of WᵀW, and the power law through their tail",
        "seconds_spectral": "seconds that measuring and writing took",
    }
    CUSTOM_CHARTS: ClassVar[dict[str, Chart]] = {
        "alpha of the layers: mean, smallest and largest": (
            "Margin", ("alpha_mean", "alpha_min", "alpha_max"),
        ),
    }  # fmt: skip

    def __init__(
        self,
        *,
        layers: Sequence[str] | None = None,
        summary_min_evals: int = 32,
        every_n_epochs: int = 1,
        at_start: bool = False,
        prefix: str = "weightwatch",
    ) -> None:
        super().__init__(every_n_epochs=every_n_epochs, at_start=at_start, prefix=prefix)
        if isinstance(summary_min_evals, bool) or not isinstance(summary_min_evals, int):
            raise ValueError(f"summary_min_evals must be an integer, got {summary_min_evals!r}")
        if summary_min_evals < 1:
            raise ValueError(
                f"summary_min_evals must be 1 or more, got {summary_min_evals}; 1 lets every "
                "measured layer count"
            )
        self.layers = checked_patterns("layers", layers)
        self.summary_min_evals = summary_min_evals

    def _reset(self) -> None:
        super()._reset()
        self._known = KnownSpectra()
        self._alphas = LayerHistory()
        self._drawn: tuple[str, ...] = ()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the layers against the model, which `configure_model` may just have made.

        Raises:
            TrainerConfigurationError: For a pattern that fits no layer, or a monitored key that
                no layer of this model is large enough to give.
        """
        found = effective_weights(pl_module)
        super().on_fit_start(trainer, pl_module)
        names = [getattr(item, "layer", item.name) for item in found]
        by_layer = [p for p in self.layers or () if not any(matches(i.name, [p]) for i in found)]
        check_matches("layers", by_layer, list(dict.fromkeys(names)))
        if not self.watched(trainer, alarms=True):
            return
        selection = select(found, layers=self.layers)
        sizes = {layer.name: layer.num_evals for layer in selection.matrices}
        lazy = any(item.reason.startswith("lazy") for item in selection.skipped)
        if not lazy and max(sizes.values(), default=0) < self.summary_min_evals:
            counts = ", ".join(f"{name} ({size})" for name, size in sizes.items()) or "none"
            raise TrainerConfigurationError(
                f"a callback monitors {self.prefix}/..., but no layer has summary_min_evals="
                f"{self.summary_min_evals} eigenvalues. There are: {counts}. Lower "
                "summary_min_evals, or monitor something else"
            )

    def measure(self, trainer: Trainer, pl_module: LightningModule) -> SpectralReport:
        """The spectrum of every layer that has changed since the last time."""
        return analyze(
            pl_module,
            layers=self.layers,
            summary_min_evals=self.summary_min_evals,
            known=self._known,
        )

    def remember(self, report: Report, epoch: int) -> None:
        """The order of the layers, and a column of the heat map."""
        assert isinstance(report, SpectralReport)
        for layer in report.layers:
            self.position(layer.name)
        fitted = _fitted(report)
        trusted = {
            layer.name
            for layer in fitted
            if layer.D <= LARGE_D and layer.num_evals >= self.summary_min_evals
        }
        self._alphas.add(epoch, {layer.name: layer.alpha for layer in fitted}, trusted)

    def charts(self, report: Report) -> Mapping[str, float]:
        """Alpha and the log-norm of each layer."""
        rows = report.records()
        if len(rows) > MAX_LAYER_CHARTS:
            return {}
        return {
            self.layer_tag(metric, self.position(row["name"]), row["name"]): row[metric]
            for row in rows
            for metric in ("alpha", "log_norm")
            if math.isfinite(row[metric])
        }

    def publish_histograms(self, trainer: Trainer, report: Report, step: int) -> None:
        """Alpha over the layers."""
        assert isinstance(report, SpectralReport)
        alphas = torch.tensor([layer.alpha for layer in _fitted(report)], dtype=torch.float64)
        (found,), _ = measure_values([alphas], 10.0)
        if found.histogram is not None:
            tag = self.key("alpha_layers")
            self.publisher.histogram(trainer, tag, found.histogram, found.moments, step)

    def publish_figures(self, trainer: Trainer, report: Report, step: int) -> None:
        """Alpha over depth and over epochs, and the spectra of some layers."""
        assert isinstance(report, SpectralReport)
        fitted, alphas = _fitted(report), self._alphas
        if not fitted:
            return
        title = when(alphas.epochs[-1])

        def draw(tag: str, figure: Callable[[], "Figure"]) -> None:
            self.publisher.figure(trainer, tag, figure, step)

        draw(
            self.key("alpha_depth"),
            lambda: alpha_depth_figure(report, alphas.first(), title=f"alpha over depth, {title}"),
        )
        draw(
            self.key("alpha_heat_map"),
            lambda: heat_map_figure(
                alphas.names, alphas.epochs, alphas.values(), trusted=alphas.trusted()
            ),
        )
        large = [each for each in fitted if each.num_evals >= self.summary_min_evals]
        self._drawn = self._drawn or _spread(large or fitted)
        for layer in fitted:
            if layer.name in self._drawn:
                tag = self.layer_tag("esd", self.position(layer.name), layer.name)
                draw(tag, partial(esd_figure, layer, layer.evals, title=title))

    def pins(self) -> list[Pin]:
        """The band of alpha, and where in the model it stands."""
        pins: list[Pin] = [("scalars", "alpha_min"), ("images", "alpha_depth")]
        # Time Series shows a picture 215 px high: of many layers nothing is left there.
        few = len(self._alphas.names) <= MAX_PINNED_LAYERS
        return [*pins, ("images", "alpha_heat_map") if few else ("histograms", "alpha_layers")]

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "alphas": self._alphas.state(), "drawn": list(self._drawn)}

    def _restore(self, state: dict[str, Any], source: str | None) -> None:
        super()._restore(state, source)
        if "alphas" in state:
            self._alphas.restore(state["alphas"])
        self._drawn = tuple(state.get("drawn", ()))


def _fitted(report: SpectralReport) -> list[LayerSpectrum]:
    return [layer for layer in report.layers if layer.status == "success"]


def _spread(layers: Sequence[LayerSpectrum]) -> tuple[str, ...]:
    """The names of a few layers, evenly over the depth; the same ones for a whole fit."""
    few = min(ESD_FIGURES, len(layers))
    places = [round(index * (len(layers) - 1) / max(few - 1, 1)) for index in range(few)]
    return tuple(layers[place].name for place in places)
