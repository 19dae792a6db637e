"""The table of the trials names its metric, its errors where there are any, and what was left."""

from io import StringIO

from rich.console import Console

from lightning_weightwatch.report import Skipped
from lightning_weightwatch.trials.trial import TrialReport, TrialRow
from lightning_weightwatch.views.trials import trial_markdown, trial_terminal


def report(error: str = "", skipped: int = 0) -> TrialReport:
    rows = (
        TrialRow("baseline", {"val_loss": 2.0}, 1000, 0.5),
        TrialRow("int8", {} if error else {"val_loss": 2.25}, 250, 0.5, error),
    )
    left = tuple(Skipped(f"[/]layer|{i}", "tied to <b>") for i in range(skipped))
    return TrialReport(rows, "val_loss", "min", left)


def in_terminal(shown: TrialReport) -> str:
    printed = StringIO()
    Console(width=100, file=printed).print(trial_terminal(shown, "QuantizationTrial"))
    return printed.getvalue()


def test_the_metric_is_named_above_the_numbers() -> None:
    lines = trial_markdown(report()).splitlines()
    assert lines[0] == r"val\_loss on validation"
    assert lines[2] == "| trial | value | delta | packed_bytes | size_ratio | seconds |"
    assert lines[5] == "| int8 | 2.25 | 0.25 | 250 | 0.25 | 0.5 |"
    assert in_terminal(report()).startswith("QuantizationTrial: val_loss on validation")


def test_errors_have_a_column_only_where_there_are_any() -> None:
    assert "error" not in trial_markdown(report())
    assert "| ValueError: no \\[x\\] |" in trial_markdown(report(error="ValueError: no [x]"))
    assert "ValueError: no [x]" in in_terminal(report(error="ValueError: no [x]"))


def test_what_was_left_is_named_as_it_is_up_to_ten() -> None:
    shown = " ".join(in_terminal(report(skipped=12)).split())
    assert "Left as they are: [/]layer|0 (tied to <b>), [/]layer|1" in shown
    assert "and 2 more." in shown
    assert "Left as they are: \\[/\\]layer&#124;0" in trial_markdown(report(skipped=1))
    assert "Left as" not in trial_markdown(report())
