"""The table of the trials says what changed, how surely, and what has to be known about it."""

import math
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from lightning_weightwatch.report import Skipped
from lightning_weightwatch.trials.compression import CompressedLayer
from lightning_weightwatch.trials.report import TrialReport, TrialRow
from lightning_weightwatch.views.trials import signed_change, trial_markdown, trial_terminal
from tests.views.trials_to_draw import GRID, layer_of, pruned, quantized, report_of, row_of

NAN = math.nan


def in_terminal(report: TrialReport, width: int = 100) -> str:
    printed = StringIO()
    Console(width=width, file=printed).print(trial_terminal(report, "QuantizationTrial"))
    return printed.getvalue()


def in_words(report: TrialReport) -> str:
    """Without the breaks of the lines."""
    return " ".join(in_terminal(report).split())


def cells(report: TrialReport, name: str) -> list[str]:
    (line,) = (line for line in trial_markdown(report).splitlines() if line.startswith(f"| {name}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def header(report: TrialReport) -> list[str]:
    return cells(report, "trial")


def test_the_heading_names_the_metric_its_direction_and_the_baseline() -> None:
    assert trial_markdown(quantized()).splitlines()[0] == (
        r"val\_loss, lower is better; baseline 0.5000"
    )
    start = "QuantizationTrial: val_loss, higher is better; baseline 0.9300"
    assert in_terminal(quantized(mode="max", baseline=0.93)).startswith(start)
    nameless = replace(quantized(), monitor="")
    assert "no metric to compare by" in trial_markdown(nameless)
    assert "change" not in header(nameless)


def test_a_row_has_value_change_verdict_noise_size_and_seconds() -> None:
    report = report_of(
        row_of("int8", 0.5123, 0.25, 0.0073, layers=[layer_of(sqnr=31.26)], bits=8),
        row_of("int4", 0.4877, 0.125, 0.0073, layers=[layer_of(sqnr=9.0)], bits=4),
        row_of("int3", 0.5023, 0.1, 0.0073, layers=[layer_of(sqnr=9.0)], bits=3),
    )
    assert header(report) == [
        "trial", "value", "change", "verdict", "SQNR dB", "packed", "ratio", "seconds",
    ]  # fmt: skip
    assert cells(report, "baseline") == ["baseline", "0.5000", "", "", "", "124.1 MB", "100.0 %",
                                         "1.00"]  # fmt: skip
    assert cells(report, "int8") == ["int8", "0.5123", "+0.0123 ± 0.0073", "worse", "31.3",
                                     "31.0 MB", "25.0 %", "1.25"]  # fmt: skip
    assert cells(report, "int4")[2:4] == ["-0.0123 ± 0.0073", "better"]
    assert cells(report, "int3")[2:4] == ["+0.0023 ± 0.0073", "same"]
    assert "± is the 95 % confidence interval over batches; same: it has 0 in it" in in_words(
        report
    )


@pytest.mark.parametrize(
    ("change", "reach", "shown"),
    [
        (0.0, None, "0"),
        (0.0, 0.001, "+0.0000 ± 0.0010"),
        (-12.3456, 1.5, "-12.3 ± 1.5"),
        (512.3, 38.2, "+512 ± 38"),
        (2e-9, 1e-9, "+2e-09 ± 1e-09"),
        (3.2e7, 1e6, "+3.2e+07 ± 1e+06"),
        (0.25, 0.0, "+0.25 ± 0"),
        (math.inf, None, "+inf"),
        (0.25, NAN, "+0.25"),
    ],
)
def test_an_interval_has_two_digits_and_the_change_as_many_decimals(
    change: float, reach: float | None, shown: str
) -> None:
    assert signed_change(change, reach) == shown


def test_without_intervals_there_is_no_verdict_and_the_reason_is_given() -> None:
    report = replace(quantized(intervals=False), no_interval="val_loss has 3 batches")
    assert "verdict" not in header(report)
    assert "±" not in trial_markdown(report)
    assert "No confidence intervals: val_loss has 3 batches." in in_words(report)


def test_the_share_of_zeros_is_shown_of_pruned_models_only() -> None:
    assert "zeros" not in header(quantized())
    report = pruned((0.5, 0.9))
    assert cells(report, "pruned90 |")[header(report).index("zeros")] == "90.0 %"


def test_the_smallest_within_the_tolerance_is_marked_and_named() -> None:
    report = report_of(
        row_of("int8", 0.501, 0.25), row_of("int4", 0.504, 0.125), row_of("int2", 0.6, 0.07)
    )
    assert "| int4 \\* |" in trial_markdown(report)
    assert "\\* smallest within 1 % of the baseline: int4." in trial_markdown(report)
    assert "int4 *" in in_terminal(report)
    harmful = report_of(row_of("int2", 0.6, 0.07))
    assert "*" not in in_terminal(harmful)
    assert "None that is smaller is within 1 % of the baseline." in in_terminal(harmful)
    nothing = report_of(row_of("int2", NAN, 0.07))
    assert "within" not in in_terminal(nothing)


def test_errors_are_a_column_in_markdown_and_sentences_in_the_terminal() -> None:
    assert "error" not in header(quantized())
    report = report_of(row_of("int4", 0.5, 0.1, error="ValueError: no [x]\nat all"), row_of("x", 1))
    assert "| ValueError: no \\[x\\] at all |" in trial_markdown(report)
    assert "int4 failed: ValueError: no [x] at all" in in_words(report)
    assert cells(report, "int4")[1:3] == ["–", "–"]


def test_what_ended_early_says_after_how_many_evaluations_and_why() -> None:
    report = replace(quantized(), planned=27, stopped="max_seconds=60")
    assert "Stopped after 4 of 27 evaluations: max_seconds=60." in in_words(report)
    alone = replace(report, alone=(row_of("int8", 0.5, layer="net.0.weight", bits=8),))
    assert "Stopped after 5 of 27" in in_words(alone)
    assert "Stopped" not in in_terminal(quantized())


def test_packed_sizes_are_said_to_be_computed() -> None:
    said = "Packed sizes are computed: saved today each of these models takes 124.1 MB."
    assert said in in_words(quantized())
    assert said in trial_markdown(quantized())


def test_what_was_left_is_named_as_it_is_up_to_ten() -> None:
    left = tuple(Skipped(f"[/]layer|{i}", "tied to <b>") for i in range(12))
    report = replace(quantized(), skipped=left)
    assert "Left as they are: [/]layer|0 (tied to <b>), [/]layer|1" in in_words(report)
    assert "and 2 more." in in_words(report)
    assert "Left as they are: \\[/\\]layer&#124;0 (tied to &#60;b&#62;)" in trial_markdown(report)
    assert "Left as" not in trial_markdown(quantized())


def test_what_the_evaluation_changed_is_named() -> None:
    report = replace(quantized(), changed_by_evaluation=tuple(f"bn{i}.mean" for i in range(11)))
    said = "Changed by the evaluation itself, and put back each time: bn0.mean, bn1.mean,"
    assert said in in_words(report)
    assert "bn9.mean and 1 more." in in_words(report)


def test_names_of_the_user_are_shown_as_they_are() -> None:
    report = replace(report_of(row_of("int8", 0.5)), monitor="a|b[red]_\n\x1b[31m")
    assert r"a&#124;b\[red\]\_ \\x1b\[31m" in trial_markdown(report)
    assert r"a|b[red]_ \x1b[31m" in in_terminal(report)


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize(
    "report", [quantized(), quantized((8, 4, 2), GRID), pruned()], ids=["3", "27", "pruned"]
)
def test_the_table_fits_the_terminal_with_a_line_for_each_variant(
    report: TrialReport, width: int
) -> None:
    printed = in_terminal(report, width)
    lines = printed.splitlines()
    assert max(map(len, lines)) <= width
    for row in report.rows:
        (line,) = (line for line in lines if line.split(" ")[0] == row.name and "MB" in line)
        assert "±" in line or row.name == "baseline"
    everything = in_terminal(report, 200).splitlines()[1]
    assert "seconds" in everything
    assert ("No room for" in printed) is (lines[1].split() != everything.split())


def test_no_more_than_25_rows_go_to_tensorboard() -> None:
    assert "3 more rows are not shown." in trial_markdown(quantized((8, 4, 2), GRID))


def test_a_report_without_rows_is_no_error() -> None:
    empty = TrialReport((), "", "min")
    assert "no metric" in trial_markdown(empty)
    assert "no metric" in in_terminal(empty)


def test_what_a_variant_leaves_as_it_is_is_said_once_for_all_that_do() -> None:
    left = (Skipped("conv.weight", "no int8 kernel for Conv2d"), Skipped("emb.weight", "a lookup"))
    layer = CompressedLayer("fc.weight", "linear", (4,), 16, 4, 1.0, 0.1, 4)
    rows = tuple(
        TrialRow(name, {"loss": 0.5}, 10, 0.1, layers=(layer,), left_out=left)
        for name in ("one", "two")
    )
    report = TrialReport((TrialRow("baseline", {"loss": 0.5}, 20, 0.1), *rows), "loss", "min")
    sentence = "one, two leave 2 of 3 weights as they are: conv.weight (no int8 kernel for Conv2d)"
    assert sentence in in_terminal(report, 200)
    assert trial_markdown(report).count("leave 2 of 3 weights") == 1
    assert report.records()[1]["left_out"] == "conv.weight, emb.weight"
