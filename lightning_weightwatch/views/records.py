"""A report as JSON and its rows as CSV, for other programs and for spreadsheets."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_weightwatch.report import Report
from lightning_weightwatch.views.tables import one_line

# A spreadsheet takes a cell that begins like this for a formula, and runs it.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def json_text(
    report: Report,
    file: str,
    settings: Mapping[str, Any],
    rows: str = "layers",
    more: Mapping[str, Any] | None = None,
) -> str:
    """All of a report as JSON: `file`, `settings`, `summary`, `layers` or other rows, `skipped`.

    What is not finite is null. Characters that do not print are escaped, so that no name does
    harm to a terminal; every parser gives them back.

    Args:
        report: The report.
        file: What was measured.
        settings: How.
        rows: What the report has a record for each of.
        more: What else it says, by name; before the summary.
    """
    content = {
        "file": file,
        "settings": dict(settings),
        **(more or {}),
        "summary": dict(report.summary()),
        rows: report.records(),
        "skipped": [{"name": item.name, "reason": item.reason} for item in report.skipped],
    }
    text = json.dumps(_finite(content), ensure_ascii=False, allow_nan=False, indent=1)
    return "".join(
        character if character.isprintable() or character == "\n" else json.dumps(character)[1:-1]
        for character in f"{text}\n"
    )


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def csv_text(records: Sequence[Mapping[str, Any]]) -> str:
    """Rows under a header of all columns that any of them has; what is not finite is empty.

    A text that a spreadsheet would take for a formula gets an apostrophe before it; line feeds and
    characters that do not print are written as in a Python string.
    """
    columns = list(dict.fromkeys(key for row in records for key in row)) or ["name"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_cell(column) for column in columns])
    writer.writerows([_cell(row.get(column)) for column in columns] for row in records)
    return text.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return ""
    if not isinstance(value, str):
        return value
    return f"'{one_line(value)}" if value.startswith(_FORMULA) else one_line(value)
