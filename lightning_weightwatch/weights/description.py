"""The weight report of a model: histogram and statistics of every parameter, and of all."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from lightning_weightwatch.model.weights import Kind, Weight, matches, unreadable, walk, whole
from lightning_weightwatch.report import Skipped
from lightning_weightwatch.weights.statistics import (
    Histogram,
    Moments,
    bin_edges,
    histogram,
    moments,
)


@dataclass(frozen=True)
class ParameterStatistics:
    """One parameter.

    Attributes:
        name: Dotted path of the parameter.
        kind: The kind of its module, or `"bias"`.
        shape: Its full shape.
        moments: Statistics of its finite values.
        histogram: Of its finite values; None when it has none.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    moments: Moments
    histogram: Histogram | None


@dataclass(frozen=True)
class WeightReport:
    """The weights of a model.

    Attributes:
        parameters: In the order of the model, tied ones once.
        total: Statistics of all of them together.
        histogram: Of all of them together; None when no value is finite.
        skipped: Parameters that have no values to read, and places without any.
    """

    parameters: tuple[ParameterStatistics, ...]
    total: Moments
    histogram: Histogram | None
    skipped: tuple[Skipped, ...]

    def summary(self) -> dict[str, float]:
        """`weight_norm`, `weight_std` and `nonfinite` over all parameters."""
        if not self.parameters:
            return {}
        values = {
            "weight_norm": self.total.norm if self.total.count else math.nan,
            "weight_std": self.total.std,
            "nonfinite": float(self.total.nonfinite),
        }
        return {key: value for key, value in values.items() if math.isfinite(value)}

    def records(self) -> list[dict[str, Any]]:
        """A row per parameter."""
        return [
            {
                "name": parameter.name,
                "kind": parameter.kind,
                "shape": "x".join(map(str, parameter.shape)),
                "count": parameter.moments.count + parameter.moments.nonfinite,
                "mean": parameter.moments.mean,
                "std": parameter.moments.std,
                "min": parameter.moments.min,
                "max": parameter.moments.max,
                "norm": parameter.moments.norm,
                "zero_share": parameter.moments.zero_share,
                "nonfinite": parameter.moments.nonfinite,
            }
            for parameter in self.parameters
        ]


def describe_weights(model: nn.Module, *, names: Sequence[str] | None = None) -> WeightReport:
    """Histogram and statistics of every parameter.

    One parameter is gathered at a time. With sharded parameters this is a collective.

    Args:
        model: Any module; it is only read.
        names: Names or shell patterns of parameters (`"*.weight"`); None for all.
    """
    measured: list[ParameterStatistics] = []
    readable: list[Weight] = []
    skipped: list[Skipped] = []
    for found in walk(model):
        if not matches(found.name, names):
            continue
        if isinstance(found, Skipped):
            skipped.append(found)
        elif (reason := unreadable(found.parameter)) is not None:
            skipped.append(Skipped(found.name, reason))
        else:
            values = whole(found.parameter)
            stats = moments(values)
            counts = histogram(values, bin_edges(stats.min, stats.max)) if stats.count else None
            shape = tuple(values.shape)
            measured.append(ParameterStatistics(found.name, found.kind, shape, stats, counts))
            readable.append(found)
    total = sum((parameter.moments for parameter in measured), Moments())
    return WeightReport(tuple(measured), total, _joint(readable, total), tuple(skipped))


def _joint(weights: Sequence[Weight], total: Moments) -> Histogram | None:
    """All weights in one histogram, over their common range."""
    if not total.count:
        return None
    edges = bin_edges(total.min, total.max)
    parts = [histogram(whole(weight.parameter), edges).counts for weight in weights]
    return Histogram(edges, tuple(sum(column) for column in zip(*parts, strict=True)))
