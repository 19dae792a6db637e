"""The report on the weights or gradients of a model: each parameter, kind, module, and all."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import nn

from lightning_weightwatch.model.weights import Kind, Weight
from lightning_weightwatch.report import Skipped
from lightning_weightwatch.values.measurement import Measured, measure
from lightning_weightwatch.values.spread import Cells, Spread, spreads
from lightning_weightwatch.values.statistics import Histogram, Moments, joined
from lightning_weightwatch.weights.selection import check_selection, choose

_UNKNOWN = Spread(math.nan, math.nan, 0, (math.nan, math.nan), math.nan, math.nan)


@dataclass(frozen=True)
class ParameterStatistics:
    """One parameter.

    Attributes:
        name: Dotted path of the parameter.
        layer: Dotted path of its module; the class name when that is the model itself.
        kind: The kind of its module, or `"bias"`.
        shape: Its full shape.
        moments: Statistics of its finite values.
        histogram: Of its finite values; None when it has none.
        spread: Median, MAD and outliers of its finite values; exact up to 4,096 of them.
    """

    name: str
    layer: str
    kind: Kind
    shape: tuple[int, ...]
    moments: Moments
    histogram: Histogram | None
    spread: Spread
    cells: Cells | None = field(repr=False, compare=False)

    @property
    def median(self) -> float:
        """Median of the finite values."""
        return self.spread.median

    @property
    def mad(self) -> float:
        """Median absolute deviation about the median, not scaled."""
        return self.spread.mad

    @property
    def mad_error(self) -> float:
        """Bound of the error of `mad`."""
        return self.spread.mad_error

    @property
    def outliers(self) -> int:
        """Values strictly beyond `spread.outlier_range`, counted exactly."""
        return self.spread.outliers


@dataclass(frozen=True)
class GroupStatistics:
    """Several parameters together.

    Attributes:
        name: The kind, the dotted path of the module, or `"model"`.
        parameters: How many there are.
        moments: Statistics of all their finite values.
        spread: Median, MAD and outliers, from the counted cells of each parameter. Where a
            threshold falls into a cell the outliers are the least that the cells allow.
    """

    name: str
    parameters: int
    moments: Moments
    spread: Spread


@dataclass(frozen=True)
class WeightReport:
    """The weights of a model, or their gradients.

    Attributes:
        parameters: In the order of the model, tied ones once.
        total: Statistics of all of them together.
        histogram: Of all of them together; None when no value is finite.
        skipped: Parameters that have no values to read, and places without any.
        outlier_mads: How many MADs from its median a value is an outlier.
    """

    parameters: tuple[ParameterStatistics, ...]
    total: Moments
    histogram: Histogram | None
    skipped: tuple[Skipped, ...]
    outlier_mads: float = 10.0

    def summary(self) -> dict[str, float]:
        """`weight_norm`, `weight_std` and `nonfinite` over all parameters."""
        if not self.parameters:
            return {}
        values = {
            "weight_norm": self.total.norm,
            "weight_std": self.total.std,
            "nonfinite": float(self.total.nonfinite),
        }
        return {key: value for key, value in values.items() if math.isfinite(value)}

    @property
    def model(self) -> GroupStatistics:
        """All parameters together."""
        return self._groups[0][0]

    @property
    def kinds(self) -> tuple[GroupStatistics, ...]:
        """The parameters of each kind together, in the order in which the kinds appear."""
        return self._groups[1]

    @property
    def modules(self) -> tuple[GroupStatistics, ...]:
        """All parameters below each module, in the order of the model."""
        return self._groups[2]

    def records(self) -> list[dict[str, Any]]:
        """A row per parameter."""
        return [
            {
                "name": parameter.name,
                "kind": parameter.kind,
                "shape": "x".join(map(str, parameter.shape)),
                **_columns(parameter.moments, parameter.spread),
            }
            for parameter in self.parameters
        ]

    def records_by_kind(self) -> list[dict[str, Any]]:
        """A row per kind."""
        return [_row(group) for group in self.kinds]

    def records_by_module(self) -> list[dict[str, Any]]:
        """A row per module that has parameters below it; the model itself is `model_record`."""
        return [_row(group) for group in self.modules]

    def model_record(self) -> dict[str, Any]:
        """The row of the model."""
        return _row(self.model)

    @cached_property
    def _groups(self) -> tuple[tuple[GroupStatistics, ...], ...]:
        """The model, the kinds and the modules; all spreads by one bisection."""
        kinds: dict[str, list[int]] = {}
        modules: dict[str, list[int]] = {}
        for position, parameter in enumerate(self.parameters):
            kinds.setdefault(parameter.kind, []).append(position)
            path = parameter.name.split(".")[:-1]
            for depth in range(1, len(path) + 1):
                modules.setdefault(".".join(path[:depth]), []).append(position)
        named = [("model", list(range(len(self.parameters)))), *kinds.items(), *modules.items()]
        moments = [joined([self.parameters[at].moments for at in members]) for _, members in named]
        found = self._spreads_of([members for _, members in named], moments)
        groups = tuple(
            GroupStatistics(name, len(members), each, spread)
            for (name, members), each, spread in zip(named, moments, found, strict=True)
        )
        return groups[:1], groups[1 : 1 + len(kinds)], groups[1 + len(kinds) :]

    def _spreads_of(self, sets: list[list[int]], moments: list[Moments]) -> list[Spread]:
        counted = [at for at, parameter in enumerate(self.parameters) if parameter.cells]
        cells = [each.cells for each in self.parameters if each.cells is not None]
        place = {at: index for index, at in enumerate(counted)}
        kept = [[place[at] for at in members if at in place] for members in sets]
        filled = [index for index, members in enumerate(kept) if members]
        zeros = [moments[index].zeros for index in filled]
        found, _ = spreads(cells, [kept[index] for index in filled], self.outlier_mads, zeros)
        known = dict(zip(filled, found, strict=True))
        return [known.get(index, _UNKNOWN) for index in range(len(sets))]


def _row(group: GroupStatistics) -> dict[str, Any]:
    columns = _columns(group.moments, group.spread)
    return {"name": group.name, "parameters": group.parameters, **columns}


def _columns(moments: Moments, spread: Spread) -> dict[str, Any]:
    return {
        "count": moments.count + moments.nonfinite,
        "mean": moments.mean,
        "std": moments.std,
        "min": moments.min,
        "max": moments.max,
        "median": spread.median,
        "mad": spread.mad,
        "mad_error": spread.mad_error,
        "kurtosis": moments.kurtosis,
        "norm": moments.norm,
        "zero_share": moments.zero_share,
        "outliers": spread.outliers,
        "nonfinite": moments.nonfinite,
    }


def describe_weights(
    model: nn.Module,
    *,
    names: Sequence[str] | None = None,
    kinds: Sequence[str] | None = None,
    top_k: int | None = None,
    outlier_mads: float = 10.0,
) -> WeightReport:
    """Statistics and histograms of the parameters: each, by kind, by module, and all together.

    Each is read twice or three times, block by block; one sharded parameter at a time is gathered,
    which is a collective. The numbers do not depend on how many threads torch uses.

    Args:
        model: Any module; it is only read.
        names: Names or shell patterns of parameters (`["*.weight"]`); None for all.
        kinds: Kinds of layers, or shell patterns of kinds (`["linear", "conv*"]`); None for all.
        top_k: Only so many of the parameters that can be read, those with the most elements.
        outlier_mads: A value further than so many median absolute deviations from the median of
            its parameter is an outlier.

    Raises:
        ValueError: For an argument out of its range.

    Example::

        >>> from torch import nn
        >>> report = describe_weights(nn.Linear(3, 1), kinds=["linear"])
        >>> [row["name"] for row in report.records()]
        ['weight']
    """
    check_selection(names, kinds, top_k, outlier_mads)
    chosen, skipped = choose(
        model, lambda weight: weight.parameter, names=names, kinds=kinds, top_k=top_k
    )
    tensors = [weight.parameter for weight in chosen]
    return _report(chosen, measure(tensors, outlier_mads), skipped, outlier_mads)


def describe_gradients(
    model: nn.Module,
    *,
    names: Sequence[str] | None = None,
    kinds: Sequence[str] | None = None,
    top_k: int | None = None,
    outlier_mads: float = 10.0,
) -> WeightReport:
    """The same as `describe_weights`, of `parameter.grad`; parameters without one are skipped."""
    check_selection(names, kinds, top_k, outlier_mads)
    chosen, skipped = choose(
        model, lambda weight: weight.parameter.grad, names=names, kinds=kinds, top_k=top_k
    )
    tensors = [weight.parameter.grad for weight in chosen if weight.parameter.grad is not None]
    return _report(chosen, measure(tensors, outlier_mads), skipped, outlier_mads)


def merged(reports: Sequence[WeightReport]) -> WeightReport | None:
    """The reports on disjoint parameters as one, without a histogram of all; None of none."""
    if len(reports) < 2:
        return reports[0] if reports else None
    return WeightReport(
        tuple(parameter for report in reports for parameter in report.parameters),
        joined([report.total for report in reports]),
        None,
        tuple(skipped for report in reports for skipped in report.skipped),
        reports[0].outlier_mads,
    )


def _report(
    weights: Sequence[Weight],
    measured: tuple[Sequence[Measured], Histogram | None],
    skipped: Sequence[Skipped],
    outlier_mads: float,
) -> WeightReport:
    found, histogram = measured
    parameters = tuple(
        ParameterStatistics(
            weight.name,
            weight.layer,
            weight.kind,
            each.shape,
            each.moments,
            each.histogram,
            each.spread or _UNKNOWN,
            each.cells,
        )
        for weight, each in zip(weights, found, strict=True)
    )
    total = joined([parameter.moments for parameter in parameters])
    return WeightReport(parameters, total, histogram, tuple(skipped), outlier_mads)
