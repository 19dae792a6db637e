"""What the learning curves of a run tell, in the terminal."""

import math
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from lightning_weightwatch.files.curves import Curves
from lightning_weightwatch.losses.phases import Phase
from lightning_weightwatch.losses.report import LossReport
from lightning_weightwatch.views.tables import Column, fitted_table, format_value, one_line


def diagnosis_view(
    report: LossReport,
    curves: Curves,
    sentences: Sequence[str],
    notes: Sequence[str],
    width: int | None,
) -> RenderableType:
    """The verdict, the phases, and where the reading is an approximation.

    Args:
        report: The verdict on the curves.
        curves: What was read.
        sentences: The verdict in words.
        notes: Of the reading, in sentences.
        width: Of the terminal; None for no limit.
    """
    count, epochs = len(curves.val_values), len(set(curves.epochs))
    heading = f"{curves.source}: {_counted(count, 'validation')}" + (
        f" in {_counted(epochs, 'epoch')}" if epochs != count else ""
    )
    training = curves.train or "not in the log"
    parts: list[RenderableType] = [
        _line(heading, "bold"),
        _line(f"Validation: {curves.monitor} (mode {report.mode}). Training: {training}."),
        Text(),
        *(_line(sentence) for sentence in sentences),
    ]
    if report.phases:
        table, _ = fitted_table(report.phases, _columns(report), width)
        parts += [Text(), table]
    if notes:
        parts += [Text(), *(_line(f"Note: {note}", "dim") for note in notes)]
    return Group(*parts)


def _line(text: str, style: str = "") -> Text:
    return Text(one_line(text), style=style, overflow="fold")


def _epochs(phase: Phase) -> Text:
    first, last = phase.first_epoch + 1, phase.last_epoch + 1
    return Text(str(first) if first == last else f"{first}–{last}")


def _way(start: float, end: float) -> Text:
    return Text(f"{format_value(start)} → {format_value(end)}")


def _columns(report: LossReport) -> list[Column[Phase]]:
    """Without the training where nothing is known of it."""
    columns: list[Column[Phase]] = [
        Column("phase", lambda phase: Text(one_line(phase.label)), 0, left=True),
        Column("epochs", _epochs, 0),
    ]
    if any(map(math.isfinite, report.train_losses)):
        name = report.training_word
        columns.append(Column(name, lambda phase: _way(phase.train_from, phase.train_to), 0))
    return [*columns, Column("validation", lambda phase: _way(phase.val_from, phase.val_to), 0)]


def _counted(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
