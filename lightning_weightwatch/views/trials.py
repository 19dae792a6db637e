"""The results of trials as a table: what each variant did to the metric and to the size."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from lightning_weightwatch.report import Skipped
from lightning_weightwatch.trials.report import TrialReport, TrialRow
from lightning_weightwatch.views.byte_units import human_bytes
from lightning_weightwatch.views.tables import (
    Column,
    escape_markdown,
    fitted_table,
    markdown_table,
    one_line,
)

_NAMED = 10
# Characters of an error.
_LONGEST = 160
_STYLES = {"worse": "red", "better": "green"}
# Beyond these a change is written with an exponent.
_LARGE, _DECIMALS = 1e6, 6


def trial_markdown(report: TrialReport) -> str:
    """The table under the name of its metric, and what has to be known about it."""
    columns = _columns(report)
    if any(row.error for row in report.rows):
        columns.append(Column("error", lambda row: Text(_short(row.error)), 1, left=True))
    records = [{column.header: column.cell(row).plain for column in columns} for row in report.rows]
    table = markdown_table(records, [column.header for column in columns])
    return "\n\n".join(
        [escape_markdown(_heading(report)), table, *map(escape_markdown, _footnotes(report))]
    )


@dataclass(frozen=True)
class _TrialTable:
    """It is made when it is printed: then the width is known."""

    report: TrialReport
    title: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        heading = one_line(f"{self.title}: {_heading(self.report)}")
        yield Text(heading, style="bold", overflow="fold")
        table, left_out = fitted_table(self.report.rows, _columns(self.report), options.max_width)
        yield table
        failed = [row for row in self.report.rows if row.error]
        errors = [f"{row.name} failed: {_short(row.error)}" for row in failed]
        for sentence in (*errors, *_footnotes(self.report)):
            yield Text(one_line(sentence), overflow="fold")
        if left_out:
            yield Text(f"No room for: {', '.join(left_out)}.", overflow="fold")


def trial_terminal(report: TrialReport, title: str) -> RenderableType:
    """The same for the terminal: columns that do not fit are left out, and named.

    Errors are sentences below it: few would fit into a column.

    Args:
        report: The results.
        title: What was tried.
    """
    return _TrialTable(report, title)


def signed_change(change: float, reach: float | None = None) -> str:
    """A change, and how far its confidence interval reaches, with two digits of the latter.

    >>> print(signed_change(0.01234, 0.00731))
    +0.0123 ± 0.0073
    >>> signed_change(-0.5), signed_change(1.5e-9), signed_change(0)
    ('-0.5', '+1.5e-09', '0')
    """
    if change == 0 and not reach:
        return "0"
    if reach is None or not math.isfinite(reach):
        return f"{change:+.3g}"
    if reach == 0:
        return f"{change:+.3g} ± 0"
    decimals = 1 - math.floor(math.log10(reach))
    least = max(reach, abs(change))
    if least >= _LARGE or decimals > _DECIMALS:
        return f"{change:+.2g} ± {reach:.1g}"
    return f"{change:+.{max(decimals, 0)}f} ± {reach:.{max(decimals, 0)}f}"


def _heading(report: TrialReport) -> str:
    if not report.monitor:
        return "no metric to compare by"
    better = "lower" if report.mode == "min" else "higher"
    return f"{report.monitor}, {better} is better; baseline {_digits(report.baseline, 4)}"


def _columns(report: TrialReport) -> list[Column[TrialRow]]:
    """Columns that hold nothing are not there."""
    baseline, best = report.rows[0] if report.rows else None, report.best

    def of_variants(cell: Callable[[TrialRow], str]) -> Callable[[TrialRow], Text]:
        return lambda row: Text("" if row is baseline else one_line(cell(row)))

    def verdict(row: TrialRow) -> Text:
        word = "" if row is baseline else report.verdict(row)
        return Text(word, style=_STYLES.get(word, ""))

    whole = baseline.packed_bytes if baseline else 0
    columns = [Column[TrialRow]("trial", lambda row: _name(row, best), 0, left=True)]
    if report.monitor:
        columns += [
            Column("value", lambda row: Text(_value(report, row)), 2),
            Column("change", of_variants(lambda row: _change(report, row)), 0),
        ]
        if any(verdict(row) for row in report.rows):
            columns.append(Column("verdict", verdict, 1, left=True))
    if any(row.layers for row in report.rows):
        columns.append(Column("SQNR dB", of_variants(_sqnr), 4))
    if any("amount" in row.settings for row in report.rows):
        columns.append(
            Column(
                "zeros", of_variants(lambda row: _percent(row.sparsity) if row.layers else ""), 4
            )
        )
    columns += [
        Column("packed", lambda row: Text(human_bytes(row.packed_bytes) if _sized(row) else ""), 1),
        Column("ratio", lambda row: Text(_ratio(row, whole)), 3),
        Column("seconds", lambda row: Text(_digits(row.seconds, 3)), 6),
    ]
    return columns


def _short(error: str) -> str:
    """Enough to know what it was; the files have all of it."""
    return error if len(error) <= _LONGEST else f"{error[:_LONGEST]} …"


def _name(row: TrialRow, best: TrialRow | None) -> Text:
    return Text(one_line(row.name) + (" *" if row is best else ""))


def _value(report: TrialReport, row: TrialRow) -> str:
    value = row.metrics.get(report.monitor)
    return "–" if value is None else str(value) if math.isnan(value) else _digits(value, 4)


def _digits(value: float, count: int) -> str:
    """As many significant digits in every row, zeros too."""
    return "–" if math.isnan(value) else f"{value:#.{count}g}".rstrip(".")


def _change(report: TrialReport, row: TrialRow) -> str:
    """Unknown, or with the interval, which is as wide to either side."""
    change = report.delta(row)
    if math.isnan(change):
        return "nan" if report.monitor in row.metrics else "–"
    if row.interval is None:
        return signed_change(change)
    low, high = row.interval
    return signed_change(change, (high - low) / 2)


def _sqnr(row: TrialRow) -> str:
    if not row.layers or math.isnan(row.sqnr):
        return "–"
    return f"{row.sqnr:.1f}"


def _sized(row: TrialRow) -> bool:
    """A variant that failed before it was compressed has no size."""
    return row.packed_bytes > 0


def _ratio(row: TrialRow, whole: int) -> str:
    return _percent(row.packed_bytes / whole) if whole and _sized(row) else ""


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _footnotes(report: TrialReport) -> list[str]:
    """What has to be known to read the numbers, a sentence each."""
    sentences = []
    results = [row for row in report.rows[1:] if math.isfinite(report.delta(row))]
    within = f"within {100 * report.tolerance:.3g} % of the baseline"
    if report.best is not None:
        sentences.append(f"* smallest {within}: {report.best.name}.")
    elif results:
        sentences.append(f"None that is smaller is {within}.")
    if any(row.interval for row in report.rows):
        sentences.append(
            "± is the 95 % confidence interval over batches; same: it has 0 in it, the change may "
            "be chance. Worse and better say nothing of how much."
        )
    if report.no_interval:
        sentences.append(f"No confidence intervals: {report.no_interval.rstrip('.')}.")
    reasons: dict[str, list[str]] = {}
    for row in report.rows:
        if row.no_interval:
            reasons.setdefault(row.no_interval, []).append(row.name)
    sentences += [f"No interval for {_first(names)}: {why}." for why, names in reasons.items()]
    if report.stopped:
        done = len(report.rows) + len(report.alone)
        sentences.append(f"Stopped after {done} of {report.planned} evaluations: {report.stopped}.")
    if report.disk_bytes:
        sentences.append(
            "Packed sizes are computed: saved today each of these models takes "
            f"{human_bytes(report.disk_bytes)}."
        )
    if report.changed_by_evaluation:
        names = _first(report.changed_by_evaluation)
        sentences.append(f"Changed by the evaluation itself, and put back each time: {names}.")
    if report.skipped:
        names = _first([f"{item.name} ({item.reason})" for item in report.skipped])
        sentences.append(f"Left as they are: {names}.")
    return [*sentences, *_left_out(report), *_inputs_left(report)]


def _left_out(report: TrialReport) -> list[str]:
    """What single variants left as it is: never is a part reported as the whole."""
    variants: dict[tuple[Skipped, ...], list[TrialRow]] = {}
    for row in report.rows:
        if row.left_out:
            variants.setdefault(row.left_out, []).append(row)
    sentences = []
    for items, rows in variants.items():
        names = _first([f"{item.name} ({item.reason})" for item in items])
        whole = len(items) + len(rows[0].layers)
        verb = "leaves" if len(rows) == 1 else "leave"
        sentences.append(
            f"{_first([row.name for row in rows])} {verb} {len(items)} of {whole} weights as they "
            f"are: {names}."
        )
    return sentences


def _inputs_left(report: TrialReport) -> list[str]:
    """Of which layers variants with quantized activations leave the inputs as they are."""
    variants: dict[tuple[str, ...], list[str]] = {}
    for row in report.rows:
        if "activation_bits" in row.settings:
            left = tuple(f"{layer.name} ({layer.note})" for layer in row.layers if layer.note)
            variants.setdefault(left, []).append(row.name)
    return [f"{_first(rows)}: {_first(left)}." for left, rows in variants.items() if left]


def _first(names: Sequence[str]) -> str:
    """Ten of them, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
