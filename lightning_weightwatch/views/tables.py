"""Rows of a report as a Markdown table or as a table in the terminal."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

#: TensorBoard shows a text in a scroll box of 500 px.
MAX_ROWS = 25


def format_value(value: object) -> str:
    """Four significant digits for floats, thousands separated for integers, `–` for unknown."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if math.isnan(value):
        return "–"
    return f"{value:.4g}"


def markdown_table(records: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """A Markdown table of the given columns, at most 25 rows, with what a cell holds escaped."""
    lines = [
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
        *(
            "| " + " | ".join(escape_markdown(format_value(row[key])) for key in columns) + " |"
            for row in records[:MAX_ROWS]
        ),
    ]
    if len(records) > MAX_ROWS:
        lines.append(f"\n{len(records) - MAX_ROWS} more rows are not shown.")
    return "\n".join(lines)


def escape_markdown(text: str) -> str:
    """Text that Markdown and HTML show as it stands, in a table cell too, in one line."""
    return re.sub(r"([\\`*_\[\]#])|([&<>|])", _escaped, _in_one_line(text))


def _escaped(special: re.Match[str]) -> str:
    return f"\\{special[1]}" if special[1] else f"&#{ord(special[2])};"


def _in_one_line(text: str) -> str:
    return re.sub(r"\s*[\r\n]+\s*", " ", text)


def terminal_table(
    records: Sequence[Mapping[str, Any]], columns: Sequence[str], title: str
) -> Table:
    """A rich table: text to the left, numbers to the right."""
    shown = Text(_in_one_line(title), no_wrap=True, overflow="ignore")
    table = Table(title=shown, title_justify="left")
    for key in columns:
        numeric = any(isinstance(row[key], int | float) for row in records)
        table.add_column(key.replace("_", " "), justify="right" if numeric else "left")
    for row in records:
        table.add_row(*(Text(_in_one_line(format_value(row[key]))) for key in columns))
    return table
