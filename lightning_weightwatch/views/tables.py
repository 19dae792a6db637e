"""Rows of a report as a Markdown table or as a table in the terminal."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from lightning_weightwatch.files.printable import printable

Row = TypeVar("Row")

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
    return re.sub(r"([\\`*_\[\]#])|([&<>|])", _escaped, one_line(text))


def _escaped(special: re.Match[str]) -> str:
    return f"\\{special[1]}" if special[1] else f"&#{ord(special[2])};"


def one_line(text: str) -> str:
    r"""A text in one line, in which nothing moves the cursor, sets a colour or fails to print.

    >>> print(one_line("a\nb \x1b[31m \u202e é"))
    a b \x1b[31m \u202e é
    """
    return printable(re.sub(r"\s*[\r\n]+\s*", " ", text))


def terminal_table(
    records: Sequence[Mapping[str, Any]], columns: Sequence[str], title: str
) -> Table:
    """A rich table: text to the left, numbers to the right."""
    shown = Text(one_line(title), no_wrap=True, overflow="ignore")
    table = Table(title=shown, title_justify="left")
    for key in columns:
        numeric = any(isinstance(row[key], int | float) for row in records)
        table.add_column(key.replace("_", " "), justify="right" if numeric else "left")
    for row in records:
        table.add_row(*(Text(one_line(format_value(row[key]))) for key in columns))
    return table


@dataclass(frozen=True)
class Column(Generic[Row]):
    """A column of a table that fits the terminal.

    Attributes:
        header: Its name.
        cell: What it shows of a row.
        rank: Columns with a higher one are the first to be left out. 0: never; 0 and 1: names are
            broken into lines rather than to leave it out.
        left: Text to the left; numbers go to the right.
    """

    header: str
    cell: Callable[[Row], Text]
    rank: int
    left: bool = False


_GAP = 2
_LEAST_NAME_WIDTH = 20
_REPEAT_HEADER_FROM = 40


def fitted_table(
    rows: Sequence[Row], columns: Sequence[Column[Row]], width: int | None
) -> tuple[Table, list[str]]:
    """A table without lines around it that is no wider than the terminal.

    The first column holds names: they are never cut, but broken after a dot where they must.

    Args:
        rows: What to show, a row each.
        columns: All columns, in their order.
        width: Of the terminal; None for no limit, as in a pipe.

    Returns:
        The table, and the names of the columns that there was no room for.
    """
    cells = {column.header: [column.cell(row) for row in rows] for column in columns}
    widths = {
        header: max(map(cell_len, [header, *(text.plain for text in column)]))
        for header, column in cells.items()
    }
    names, *others = columns
    shown = {names.header}
    taken = 0
    for column in sorted(others, key=lambda column: column.rank):
        needed = widths[column.header] + _GAP
        if width is not None and column.rank > 0:
            least = _LEAST_NAME_WIDTH if column.rank == 1 else width * 3 // 5
            if taken + needed + min(widths[names.header], least) > width:
                continue
        shown.add(column.header)
        taken += needed
    if width is not None:
        cells[names.header] = [_broken(name, width - taken) for name in cells[names.header]]
    table = Table(
        box=None,
        pad_edge=False,
        padding=(0, _GAP, 0, 0),
        header_style="bold",
        footer_style="bold",
        show_footer=width is not None and len(rows) > _REPEAT_HEADER_FROM,
    )
    for column in columns:
        if column.header in shown:
            table.add_column(
                column.header,
                column.header,
                justify="left" if column.left else "right",
                overflow="fold",
                no_wrap=column is not names,
            )
    kept = [cells[column.header] for column in columns if column.header in shown]
    for row in zip(*kept, strict=True):
        table.add_row(*row)
    return table, [column.header for column in columns if column.header not in shown]


def _broken(name: Text, width: int) -> Text:
    """A dotted name in lines that fit, each but the first set in."""
    if name.cell_len <= width:
        return name
    lines = [""]
    for part in re.findall(r"[^.]+\.?|\.", name.plain):
        if lines[-1].strip() and cell_len(lines[-1] + part) > width:
            lines.append("  ")
        lines[-1] += part
    return Text("\n".join(lines))
