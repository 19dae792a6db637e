"""The modules and the kinds of weights of a model in two tables."""

from collections.abc import Sequence
from typing import Any

from lightning_weightwatch.views.tables import MAX_ROWS, markdown_table
from lightning_weightwatch.weights.description import GroupStatistics, WeightReport

_MODULES = ("module", "parameters", "share", "norm", "zero_share", "outliers", "nonfinite")
_KINDS = ("kind", "parameters", "mean", "std", "mad", "kurtosis", "zero_share", "outliers")


def modules_markdown(report: WeightReport) -> str:
    """The parameters of the model, of its kinds, and of its modules.

    How values are distributed is told of kinds alone: a module has scales around 1 beside weights
    around 0, and a median between them says nothing. Outliers are those of each parameter.

    Args:
        report: The weights. Of modules all down to the depth at which they fit, then the largest.
    """
    kinds = [_row("kind", group, report, _of_kind(report, group.name)) for group in report.kinds]
    distinct = _distinct(report)
    shown = _shown(distinct)
    modules = [_row("module", group, report, _below(report, group.name)) for group in shown]
    model = _row("module", report.model, report, range(len(report.parameters)))
    model["module"] = "all"
    parts = [markdown_table([model, *modules], _MODULES)]
    if len(shown) < len(distinct):
        parts.append(f"{len(distinct) - len(shown)} modules below these are not shown.")
    return "\n\n".join([*parts, markdown_table(kinds, _KINDS)])


def _distinct(report: WeightReport) -> list[GroupStatistics]:
    """The modules but for those that hold all that the one above them holds."""
    counts = {"": _count(report.model), **{group.name: _count(group) for group in report.modules}}
    return [group for group in report.modules if _count(group) != counts[_parent(group.name)]]


def _shown(groups: Sequence[GroupStatistics]) -> list[GroupStatistics]:
    """As many as a table has rows for: the least deep, and of one depth the largest."""
    order = sorted(groups, key=lambda group: (group.name.count("."), -_count(group)))
    chosen = {group.name for group in order[: MAX_ROWS - 1]}
    return [group for group in groups if group.name in chosen]


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _count(group: GroupStatistics) -> int:
    return group.moments.count + group.moments.nonfinite


def _of_kind(report: WeightReport, kind: str) -> list[int]:
    return [at for at, each in enumerate(report.parameters) if each.kind == kind]


def _below(report: WeightReport, module: str) -> list[int]:
    return [at for at, each in enumerate(report.parameters) if each.name.startswith(f"{module}.")]


def _row(
    title: str, group: GroupStatistics, report: WeightReport, members: Sequence[int]
) -> dict[str, Any]:
    moments, total = group.moments, _count(report.model)
    return {
        title: group.name,
        "parameters": _count(group),
        "share": f"{_count(group) / total:.1%}" if total else "–",
        "mean": moments.mean,
        "std": moments.std,
        "mad": group.spread.mad,
        "kurtosis": moments.kurtosis,
        "norm": moments.norm,
        "zero_share": moments.zero_share,
        "outliers": sum(report.parameters[at].outliers for at in members),
        "nonfinite": moments.nonfinite,
    }
