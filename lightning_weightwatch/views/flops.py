"""What the modules of a model cost, as a table in the terminal and as Markdown."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lightning_weightwatch.usage.flops.report import FlopReport, ModuleCost
from lightning_weightwatch.views.byte_units import human_bytes
from lightning_weightwatch.views.flop_words import (
    HotSpot,
    flop_facts,
    flop_notes,
    hot_spots,
    human_count,
    human_ratio,
    human_seconds,
    percent,
    unknown_costs,
)
from lightning_weightwatch.views.tables import (
    MAX_ROWS,
    Column,
    Row,
    escape_markdown,
    fitted_table,
    markdown_table,
    one_line,
)

# So many rows are still read as one table.
_ROWS = 40
# With fewer rows a table says little of a large model.
_FEW = 10
_INDENT = 2
# Names are set in by at most this part of the width.
_OF_WIDTH = 4
# Smaller counts are shown to the last digit.
_EXACT = 10_000


def flop_view(
    report: FlopReport,
    title: str,
    width: int | None,
    *,
    depth: int | None = None,
    top: int = 5,
    steps: int | None = None,
    samples: int | None = None,
) -> RenderableType:
    """The totals, a tree of the modules, the hot spots, and what the counts leave out.

    Args:
        report: The counts.
        title: What was counted.
        width: Of the terminal: columns that do not fit are left out, and named. None for no limit,
            as in a pipe: all modules, by their whole names.
        depth: Modules down to this depth; None for as many as 40 rows hold.
        top: How many hot spots of each sort.
        steps: Of a training, to be told the cost of.
        samples: To run the model on, likewise.
    """
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    for name, what in flop_facts(report, steps, samples):
        facts.add_row(name, Text(one_line(what)))
    rows = _shown(report, depth, None if width is None else _ROWS)
    step, most = (0, 0) if width is None else _indents(rows, width)
    table, left_out = fitted_table(rows, _columns(report, step, most), width)
    parts: list[RenderableType] = [_line(title, "bold"), facts, Text(), table]
    spots = hot_spots(report, top)
    if spots:
        spots.sort(key=lambda spot: (spot.forward_place == 0, spot.forward_place))
        parts += [Text(), fitted_table(spots, _hot_columns(top), width)[0]]
    parts.append(Text())
    if len(rows) < len(report.modules):
        deepest = max(module.depth for module in report.modules)
        parts.append(_line(f"{_not_shown(report, rows)}; --depth {deepest} shows all."))
    if left_out:
        parts.append(_line(f"No room for: {', '.join(left_out)}. --csv has all columns."))
    if unknown := unknown_costs(report):
        parts.append(_line(unknown, "yellow"))
    return Group(*parts, *(_line(note) for note in flop_notes(report)))


def flop_markdown(
    report: FlopReport, *, top: int = 5, steps: int | None = None, samples: int | None = None
) -> str:
    """The same as Markdown, for TensorBoard and for files: at most 25 modules.

    Args:
        report: The counts.
        top: How many hot spots of each sort.
        steps: Of a training, to be told the cost of.
        samples: To run the model on, likewise.
    """
    facts = flop_facts(report, steps, samples)
    rows = _shown(report, None, MAX_ROWS)
    parts = [
        "\n".join(f"- {name}: {escape_markdown(what)}" for name, what in facts),
        _as_markdown(rows, _columns(report)),
    ]
    if len(rows) < len(report.modules):
        parts.append(f"{_not_shown(report, rows)}.")
    spots = hot_spots(report, top)
    if spots:
        parts.append(_as_markdown(spots, _hot_columns(top)))
    notes = [unknown_costs(report), *flop_notes(report)]
    return "\n\n".join([*parts, *(escape_markdown(note) for note in notes if note)])


def _as_markdown(rows: Sequence[Row], columns: Sequence[Column[Row]]) -> str:
    records = [{column.header: column.cell(row).plain for column in columns} for row in rows]
    return markdown_table(records, [column.header for column in columns])


def _line(text: str, style: str = "") -> Text:
    return Text(one_line(text), style=style, overflow="fold")


def _not_shown(report: FlopReport, rows: Sequence[ModuleCost]) -> str:
    count = len(report.modules)
    return f"{count - len(rows):,} of {count:,} modules are not shown"


def _shown(report: FlopReport, depth: int | None, most: int | None) -> list[ModuleCost]:
    """The modules that have a row.

    Args:
        report: The counts.
        depth: Those down to it, however many.
        most: Without a depth: so many, all down to the depth at which they fit. Where that leaves
            few, the costliest of the next depth too.
    """
    modules = report.modules
    if depth is not None or most is None or len(modules) <= most:
        return [module for module in modules if depth is None or module.depth <= depth]
    within = 0
    while sum(module.depth <= within + 1 for module in modules) <= most:
        within += 1
    rows = [module for module in modules if module.depth <= within]
    if len(rows) < _FEW:

        def share(module: ModuleCost) -> float:
            return module.forward / max(report.forward, 1) + module.parameters / max(
                report.parameters, 1
            )

        below = [module for module in modules if module.depth == within + 1]
        rows += sorted(below, key=share, reverse=True)[: most - len(rows)]
    kept = set(map(id, rows))
    return [module for module in modules if id(module) in kept]


def _indents(rows: Sequence[ModuleCost], width: int) -> tuple[int, int]:
    """By how much each level is set in, and the most of all: names have to have room too."""
    most, deepest = width // _OF_WIDTH, max(row.depth for row in rows)
    return (_INDENT if _INDENT * deepest <= most else 1), most


def _columns(report: FlopReport, step: int = 0, most: int = 0) -> list[Column[ModuleCost]]:
    """Columns that hold nothing are not there.

    Args:
        report: The counts.
        step: By how much a name is set in for each level; 0 for whole names, which are not.
        most: By how much at most.
    """
    forward, parameters = max(report.forward, 1), max(report.parameters, 1)
    intensities = {row["name"]: row["intensity"] for row in report.records()}

    def name(row: ModuleCost) -> Text:
        if not step or row.depth == 0:
            return Text(one_line(row.name), style=_style(row))
        last = one_line(row.name.rpartition(".")[2])
        return Text(" " * min(step * row.depth, most) + last, style=_style(row))

    columns = [
        Column("module", name, 0, left=True),
        Column("type", lambda row: Text(one_line(row.type)), 2, left=True),
        Column("output", lambda row: Text(_shape(row.output_shape)), 6),
        Column("params", lambda row: Text(_count(row.parameters)), 1),
        Column("params %", lambda row: Text(percent(row.parameters / parameters)), 3),
        Column("FLOPs", lambda row: Text(_count(row.forward)), 0),
        Column("FLOPs %", lambda row: Text(percent(row.forward / forward)), 1),
        Column("activations", lambda row: Text(_bytes(row.activation_bytes)), 4),
        Column("FLOP/B", lambda row: Text(_ratio(intensities[row.name])), 7),
    ]
    if any(row.calls > 1 for row in report.modules):
        columns.append(
            Column("calls", lambda row: Text("" if row.calls == 1 else str(row.calls)), 8)
        )
    if any(row.seconds is not None for row in report.modules):
        columns.append(Column("time", lambda row: Text(_time(row.seconds)), 1))
    return columns


def _hot_columns(top: int) -> list[Column[HotSpot]]:
    def cell(share: float, place: int) -> Text:
        text = f"{percent(share)} #{place}" if place else "–"
        return Text(text, style="bold" if 0 < place <= top else "dim")

    return [
        Column("hot spot", lambda spot: Text(one_line(spot.module.name)), 0, left=True),
        Column("type", lambda spot: Text(one_line(spot.module.type)), 2, left=True),
        Column("by FLOPs", lambda spot: cell(spot.forward_share, spot.forward_place), 0),
        Column("by params", lambda spot: cell(spot.parameters_share, spot.parameters_place), 0),
    ]


def _style(row: ModuleCost) -> str:
    return "bold" if row.depth == 0 else ""


def _shape(shape: Sequence[int] | None) -> str:
    if shape is None:
        return "–"
    return "×".join(map(str, shape)) or "one number"


def _count(count: int) -> str:
    return f"{count:,}" if count < _EXACT else human_count(count).strip()


def _bytes(size: int) -> str:
    return human_bytes(size) if size else "0"


def _ratio(ratio: float | None) -> str:
    return "–" if ratio is None else human_ratio(ratio)


def _time(seconds: float | None) -> str:
    return "–" if seconds is None else human_seconds(seconds)
