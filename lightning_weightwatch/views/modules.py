"""The modules of a model in a table: their parameters, and how these are distributed."""

from typing import Any

from lightning_weightwatch.views.tables import MAX_ROWS, markdown_table
from lightning_weightwatch.weights.description import WeightReport

_COLUMNS = ("module", "parameters", "share", "mean", "std", "mad", "kurtosis", "norm", "outliers")


def modules_markdown(report: WeightReport) -> str:
    """The whole model, then its modules down to the depth at which all of them fit.

    Args:
        report: The weights; modules of more than 25 children are cut after the 25th.
    """
    modules = report.records_by_module()
    depths = [_depth(row) for row in modules]
    fitting = [
        d for d in range(1, max(depths, default=1) + 1) if sum(x <= d for x in depths) < MAX_ROWS
    ]
    depth = max(fitting, default=1)
    shown = [row for row, own in zip(modules, depths, strict=True) if own <= depth]
    total = report.model_record()
    rows = [_row("the model", total, total)] + [_row(row["name"], row, total) for row in shown]
    return markdown_table(rows, _COLUMNS)


def _depth(row: dict[str, Any]) -> int:
    return len(str(row["name"]).split("."))


def _row(name: str, row: dict[str, Any], total: dict[str, Any]) -> dict[str, Any]:
    share = f"{row['count'] / total['count']:.1%}" if total["count"] else "–"
    return {**row, "module": name, "parameters": row["count"], "share": share}
