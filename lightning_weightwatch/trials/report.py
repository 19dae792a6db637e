"""The results of trials: what each variant did to the metric and to the size of the model."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lightning_weightwatch.report import Skipped
from lightning_weightwatch.trials.compression import CompressedLayer, sqnr_of

#: The name of the row that every other is compared with.
BASELINE = "baseline"


@dataclass(frozen=True)
class TrialRow:
    """One evaluation.

    Attributes:
        name: `"baseline"` or the name of the compression.
        metrics: What the evaluation returned; empty when it failed.
        packed_bytes: Of the whole model, were it stored so: codes, scales or bitmaps, and
            everything that was not compressed at its own width. Simulated: no file has that size.
            0 where the compression failed.
        seconds: That compression and evaluation took together.
        error: Why there is no result, else an empty string.
        settings: Of the compression.
        compress_seconds: That the compression took of those seconds.
        interval: The 95 % confidence interval of the difference of the monitored metric from its
            baseline; None where there is none.
        layers: What became of each weight.
        layer: The weight that was compressed alone; empty where all were.
        left_out: Weights that this compression left as they are.
        no_interval: Why it has no interval though others have; else an empty string.
    """

    name: str
    metrics: Mapping[str, float]
    packed_bytes: int
    seconds: float
    error: str = ""
    settings: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    compress_seconds: float = 0.0
    interval: tuple[float, float] | None = None
    layers: tuple[CompressedLayer, ...] = ()
    layer: str = ""
    left_out: tuple[Skipped, ...] = ()
    no_interval: str = ""

    @property
    def sparsity(self) -> float:
        """Share of zeros among the compressed weights, from 0 to 1; 0 where there are none."""
        size = sum(layer.size for layer in self.layers)
        return 1 - sum(layer.live for layer in self.layers) / size if size else 0.0

    @property
    def sqnr(self) -> float:
        """Signal-to-noise ratio in dB over all compressed weights; NaN where there are none."""
        return sqnr_of(self.layers)


@dataclass(frozen=True)
class TrialReport:
    """What the variants did to the metric.

    Attributes:
        rows: The baseline first, then every variant that was tried, in the order asked for.
        monitor: The metric that deltas are taken of; empty when there was none.
        mode: `"min"` when it is to fall.
        skipped: Weights that were left as they are.
        alone: Evaluations in which one weight alone was compressed.
        planned: Evaluations that were planned; `rows` and `alone` have fewer where it ended early.
        stopped: Why it ended early, else an empty string.
        no_interval: Why no row has a confidence interval, else an empty string.
        tolerance: By which share of its baseline the metric may be worse in `best`.
        disk_bytes: That the model takes in a file today, compressed by a trial or not: the values
            are rounded or zero, and still of their own dtype.
        changed_by_evaluation: Parameters that the evaluation of the baseline itself has changed;
            they were put back.
    """

    rows: tuple[TrialRow, ...]
    monitor: str
    mode: Literal["min", "max"]
    skipped: tuple[Skipped, ...] = ()
    alone: tuple[TrialRow, ...] = ()
    planned: int = 0
    stopped: str = ""
    no_interval: str = ""
    tolerance: float = 0.01
    disk_bytes: int = 0
    changed_by_evaluation: tuple[str, ...] = ()

    @property
    def baseline(self) -> float:
        """The monitored metric of the model as it was trained; NaN where it is unknown."""
        return self.rows[0].metrics.get(self.monitor, math.nan) if self.rows else math.nan

    @property
    def best(self) -> TrialRow | None:
        """The smallest variant that does no harm beyond the tolerance; None where none is.

        Of the variants of all weights; among equally small ones that with the least harm.
        """
        limit = self.tolerance * abs(self.baseline)
        harmless = [
            row
            for row in self.rows[1:]
            if self.harm(row) <= limit and row.packed_bytes < self.rows[0].packed_bytes
        ]
        return min(harmless, key=lambda row: (row.packed_bytes, self.harm(row)), default=None)

    @property
    def unmoved(self) -> bool:
        """Whether no variant changed any metric at all: it is then not these weights that count.

        As where the evaluation takes other ones, such as an average of its own.
        """
        done = [row for row in self.rows[1:] if row.metrics]
        return bool(done) and all(row.metrics == self.rows[0].metrics for row in done)

    def delta(self, row: TrialRow) -> float:
        """The monitored metric minus its baseline; NaN where either is unknown."""
        return row.metrics.get(self.monitor, math.nan) - self.baseline

    def harm(self, row: TrialRow) -> float:
        """By how much the metric is worse than its baseline; negative where it is better."""
        return self.delta(row) if self.mode == "min" else -self.delta(row)

    def verdict(self, row: TrialRow) -> str:
        """`"worse"`, `"better"`, `"same"`, or an empty string where it cannot be told.

        By the confidence interval: `"same"` says that it has 0 in it, so that the difference may be
        chance. Without an interval only an exact 0 is `"same"`; a metric that is NaN now, or
        infinite on the wrong side, is `"worse"`; nothing else can be told.
        """
        value = row.metrics.get(self.monitor, 0.0)
        if math.isfinite(self.baseline) and not math.isfinite(value):
            return "better" if self.harm(row) == -math.inf else "worse"
        if self.delta(row) == 0:
            return "same"
        if row.interval is None:
            return ""
        low, high = row.interval if self.mode == "min" else (-row.interval[1], -row.interval[0])
        return "worse" if low > 0 else "better" if high < 0 else "same"

    def summary(self) -> dict[str, float]:
        """`<name>_delta` and `<name>_bytes` of every variant that has a result."""
        values = {}
        for row in self.rows[1:]:
            values[f"{row.name}_delta"] = self.delta(row)
            values[f"{row.name}_bytes"] = math.nan if row.error else float(row.packed_bytes)
        return {key: value for key, value in values.items() if math.isfinite(value)}

    def records(self) -> list[dict[str, Any]]:
        """A row per evaluation, with every metric that it returned.

        `live` and `sparsity` are those of the compressed weights.
        """
        return [self._record(row) for row in (*self.rows, *self.alone)]

    def records_by_layer(self) -> list[dict[str, Any]]:
        """A row per variant of all weights and weight: bytes, SQNR, error, sparsity."""
        return [
            {"trial": row.name, **layer.record()} for row in self.rows[1:] for layer in row.layers
        ]

    def _record(self, row: TrialRow) -> dict[str, Any]:
        low, high = row.interval or (math.nan, math.nan)
        return {
            "trial": row.name,
            "layer": row.layer,
            **row.settings,
            "monitor": self.monitor,
            "value": row.metrics.get(self.monitor, math.nan),
            "delta": self.delta(row),
            "delta_low": low,
            "delta_high": high,
            "verdict": self.verdict(row) if row is not self.rows[0] else "",
            "packed_bytes": row.packed_bytes,
            "size_ratio": row.packed_bytes / max(self.rows[0].packed_bytes, 1) or math.nan,
            "disk_bytes": self.disk_bytes,
            "sqnr": row.sqnr if math.isfinite(row.sqnr) else None,
            "live": sum(layer.live for layer in row.layers),
            "sparsity": row.sparsity,
            "left_out": ", ".join(item.name for item in row.left_out),
            "seconds": row.seconds,
            "compress_seconds": row.compress_seconds,
            "error": row.error,
            "metrics": dict(row.metrics),
        }
