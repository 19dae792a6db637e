"""The results of trials as a table: what each variant did to the metric and to the size."""

from rich.console import Group
from rich.text import Text

from lightning_weightwatch.trials.trial import TrialReport
from lightning_weightwatch.views.tables import escape_markdown, markdown_table, terminal_table

_COLUMNS = ("trial", "value", "delta", "packed_bytes", "size_ratio", "seconds")
_NAMED = 10


def trial_markdown(report: TrialReport) -> str:
    """The table under the name of its metric, and the weights that no variant changed."""
    parts = [escape_markdown(_heading(report)), markdown_table(report.records(), _columns(report))]
    return "\n\n".join([*parts, *map(escape_markdown, _footnote(report))])


def trial_terminal(report: TrialReport, title: str) -> Group:
    """The same for the terminal.

    Args:
        report: The results.
        title: What was tried.
    """
    heading = f"{title}: {_heading(report)}"
    table = terminal_table(report.records(), _columns(report), heading)
    return Group(table, *map(Text, _footnote(report)))


def _heading(report: TrialReport) -> str:
    return f"{report.monitor or 'no metric'} on validation"


def _columns(report: TrialReport) -> tuple[str, ...]:
    """Errors have a column only where there are any."""
    return (*_COLUMNS, "error") if any(row.error for row in report.rows) else _COLUMNS


def _footnote(report: TrialReport) -> list[str]:
    """A sentence on the weights that no variant changed, if there are any."""
    if not report.skipped:
        return []
    names = ", ".join(f"{item.name} ({item.reason})" for item in report.skipped[:_NAMED])
    more = len(report.skipped) - _NAMED
    return [f"Left as they are: {names}" + (f" and {more} more." if more > 0 else ".")]
