"""The trial itself: compress, evaluate, put back, one variant after another."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from lightning_weightwatch.model.weights import Weight
from lightning_weightwatch.report import Skipped
from lightning_weightwatch.trials.snapshot import restored
from lightning_weightwatch.trials.targets import Targets, find_targets

Evaluate = Callable[[nn.Module], Mapping[str, float]]

#: The name of the row that every other is compared with.
BASELINE = "baseline"


class Compression(Protocol):
    """A way to compress the weights of a model."""

    @property
    def name(self) -> str:
        """Its name in tables and keys."""
        ...

    def compress(self, weights: Sequence[Weight]) -> Iterator[tuple[Weight, Tensor, int]]:
        """Each weight with its new values and its packed bytes; weights are read as it goes."""
        ...


@dataclass(frozen=True)
class TrialRow:
    """One evaluation.

    Attributes:
        name: `"baseline"` or the name of the compression.
        metrics: What the evaluation returned; empty when it failed.
        packed_bytes: Of the whole model, were it stored so: codes, scales or bitmaps, and
            everything that was not compressed at its own width. Simulated: no kernel runs on it.
        seconds: That it took.
        error: Why there is no result, else an empty string.
    """

    name: str
    metrics: Mapping[str, float]
    packed_bytes: int
    seconds: float
    error: str = ""


@dataclass(frozen=True)
class TrialReport:
    """What the variants did to the metric.

    Attributes:
        rows: The baseline first, then every variant in the order asked for.
        monitor: The metric that deltas are taken of; empty when there was none.
        mode: `"min"` when it is to fall.
        skipped: Weights that were left as they are.
    """

    rows: tuple[TrialRow, ...]
    monitor: str
    mode: Literal["min", "max"]
    skipped: tuple[Skipped, ...] = ()

    def delta(self, row: TrialRow) -> float:
        """The monitored metric minus its baseline; NaN where either is unknown."""
        if not self.rows:
            return math.nan
        return row.metrics.get(self.monitor, math.nan) - self.rows[0].metrics.get(
            self.monitor, math.nan
        )

    def summary(self) -> dict[str, float]:
        """`<name>_delta` and `<name>_bytes` of every variant that has a result."""
        values = {}
        for row in self.rows[1:]:
            values[f"{row.name}_delta"] = self.delta(row)
            values[f"{row.name}_bytes"] = math.nan if row.error else float(row.packed_bytes)
        return {key: value for key, value in values.items() if math.isfinite(value)}

    def records(self) -> list[dict[str, Any]]:
        """A row per evaluation, with every metric that it returned."""
        return [
            {
                "trial": row.name,
                "monitor": self.monitor,
                "value": row.metrics.get(self.monitor, math.nan),
                "delta": self.delta(row),
                "packed_bytes": row.packed_bytes,
                "size_ratio": row.packed_bytes / max(self.rows[0].packed_bytes, 1),
                "seconds": row.seconds,
                "error": row.error,
                "metrics": dict(row.metrics),
            }
            for row in self.rows
        ]


def run_trials(
    model: nn.Module,
    evaluate: Evaluate,
    compressions: Sequence[Compression],
    *,
    choose_monitor: Callable[[Mapping[str, float]], tuple[str, Literal["min", "max"]]],
) -> TrialReport:
    """Evaluate the model as it is, then under each compression; leave it bit for bit as it was.

    The weights are changed in place, so hooks, optimizers and wrappers around the model see what
    they always see. A variant that raises becomes a row with its error; so does the baseline, and
    then nothing is compared.

    Args:
        model: The trained model.
        evaluate: Returns the metrics of the model it is given.
        compressions: What to try.
        choose_monitor: Given the metrics of the baseline, the one to compare by, and its mode.

    Raises:
        NotRestored: See `restored`.
    """
    targets = find_targets(model)
    rows: list[TrialRow] = []
    with restored(model, [weight.parameter for weight in targets.weights]) as snapshot:
        for compression in (None, *compressions):
            try:
                rows.append(_evaluated(compression, model, targets, evaluate))
            finally:
                snapshot.put_back()
    monitor, mode = choose_monitor(rows[0].metrics)
    return TrialReport(tuple(rows), monitor, mode, targets.skipped)


def _evaluated(
    compression: Compression | None, model: nn.Module, targets: Targets, evaluate: Evaluate
) -> TrialRow:
    """Compress, evaluate, and keep what came of it; None is the model as it is."""
    started = time.perf_counter()
    size, metrics, error = 0, {}, ""
    try:
        size = _apply(compression, targets)
        metrics = dict(evaluate(model))
    except Exception as fault:
        error = f"{type(fault).__name__}: {fault}"
    name = compression.name if compression else BASELINE
    return TrialRow(name, metrics, size, time.perf_counter() - started, error)


@torch.no_grad()
def _apply(compression: Compression | None, targets: Targets) -> int:
    """Overwrite the weights; the packed bytes of the whole model."""
    if compression is None:
        return targets.model_bytes
    total = targets.other_bytes
    for weight, values, size in compression.compress(targets.weights):
        weight.parameter.copy_(values)
        total += size
    return total
