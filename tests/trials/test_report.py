"""What a report says of its rows."""

import math
from typing import Any

import pytest

from lightning_weightwatch.trials.compression import CompressedLayer
from lightning_weightwatch.trials.report import TrialReport, TrialRow

ROWS = (
    TrialRow("baseline", {"loss": 0.5, "other": 1.0}, 1000, 0.1),
    TrialRow("int8", {"loss": 0.75}, 250, 0.2),
    TrialRow("int4", {}, 0, 0.3, "ValueError: x"),
    TrialRow("int2", {"loss": math.nan}, 100, 0.4),
)


def test_summaries_hold_finite_numbers_of_variants_with_a_result() -> None:
    assert TrialReport(ROWS, "loss", "min").summary() == {
        "int8_delta": 0.25,
        "int8_bytes": 250.0,
        "int2_bytes": 100.0,
    }


def test_rows_hold_deltas_and_ratios() -> None:
    records = TrialReport(ROWS, "loss", "min").records()
    assert [record["trial"] for record in records] == ["baseline", "int8", "int4", "int2"]
    expected = {
        "trial": "int8",
        "monitor": "loss",
        "value": 0.75,
        "delta": 0.25,
        "packed_bytes": 250,
        "size_ratio": 0.25,
        "seconds": 0.2,
        "error": "",
        "metrics": {"loss": 0.75},
    }
    assert {key: records[1][key] for key in expected} == expected
    assert records[2]["error"] == "ValueError: x"
    assert math.isnan(records[2]["value"])


@pytest.mark.parametrize("monitor", ["", "accuracy"])
def test_an_unknown_monitor_has_no_deltas(monitor: str) -> None:
    report = TrialReport(ROWS, monitor, "min")
    assert all(math.isnan(report.delta(row)) for row in ROWS)
    assert not any(key.endswith("_delta") for key in report.summary())


def test_a_report_without_rows_is_empty() -> None:
    report = TrialReport((), "loss", "min")
    assert math.isnan(report.delta(ROWS[1]))
    assert (report.summary(), report.records()) == ({}, [])


def row(name: str, loss: float, size: int, **other: object) -> TrialRow:
    return TrialRow(name, {"loss": loss}, size, 0.1, **other)  # type: ignore[arg-type]


def test_the_best_is_the_smallest_that_does_no_harm_beyond_the_tolerance() -> None:
    rows = (
        row("baseline", 1.0, 1000),
        row("int8", 0.99, 260),
        row("int6", 1.009, 200),
        row("int4", 1.011, 130),
        row("wide", 0.5, 2000),
        TrialRow("int2", {}, 70, 0.1, "ValueError: x"),
    )
    best = TrialReport(rows, "loss", "min").best
    assert best is not None
    assert best.name == "int6"
    assert TrialReport(rows, "loss", "min", tolerance=0.02).best == rows[3]
    assert TrialReport(rows, "loss", "min", tolerance=0.0).best == rows[1]
    rising = TrialReport(rows, "loss", "max").best
    assert rising is not None
    assert rising.name == "int4", "which rose, as it should"
    assert TrialReport(rows[:1], "loss", "min").best is None


def test_a_baseline_of_zero_has_no_room_for_harm() -> None:
    rows = (row("baseline", 0.0, 1000), row("int8", 1e-9, 260), row("int4", 0.0, 130))
    assert TrialReport(rows, "loss", "min").best == rows[2]
    assert TrialReport(rows[:2], "loss", "min").best is None


@pytest.mark.parametrize(
    ("interval", "lower_is_better", "higher_is_better"),
    [
        ((0.1, 0.4), "worse", "better"),
        ((-0.4, -0.1), "better", "worse"),
        ((-0.1, 0.6), "same", "same"),
        (None, "", ""),
    ],
)
def test_the_verdict_is_that_of_the_interval(
    interval: tuple[float, float] | None, lower_is_better: str, higher_is_better: str
) -> None:
    tried = row("int8", 1.25, 260, interval=interval)
    rows = (row("baseline", 1.0, 1000), tried)
    assert TrialReport(rows, "loss", "min").verdict(tried) == lower_is_better
    assert TrialReport(rows, "loss", "max").verdict(tried) == higher_is_better


def test_ratios_of_signal_to_noise_and_zeros_are_those_of_all_weights_together() -> None:
    layers = (
        CompressedLayer("a", "linear", (10,), 40, 10, signal=3.0, noise=0.02, live=5),
        CompressedLayer("b", "linear", (30,), 120, 30, signal=1.0, noise=0.02, live=30),
    )
    tried = row("int8", 1.0, 40, layers=layers)
    assert tried.sqnr == pytest.approx(20.0)
    assert tried.sparsity == pytest.approx(1 - 35 / 40)
    assert layers[0].sqnr == pytest.approx(10 * math.log10(150))
    assert layers[0].mse == pytest.approx(0.002)
    assert math.isnan(row("x", 1.0, 1).sqnr)


def test_without_noise_the_ratio_is_infinite_and_without_a_signal_unknown() -> None:
    def layer(signal: float, noise: float) -> float:
        return CompressedLayer("a", "linear", (4,), 16, 4, signal, noise, 4).sqnr

    assert layer(1.0, 0.0) == math.inf
    assert math.isnan(layer(0.0, 0.0))


@pytest.mark.parametrize(
    ("value", "mode", "verdict"),
    [
        (math.nan, "min", "worse"),
        (math.nan, "max", "worse"),
        (math.inf, "min", "worse"),
        (math.inf, "max", "better"),
    ],
)
def test_a_metric_that_is_ruined_is_not_unknown(value: float, mode: Any, verdict: str) -> None:
    tried = row("int2", value, 100)
    report = TrialReport((row("baseline", 1.0, 1000), tried), "loss", mode)
    assert report.verdict(tried) == verdict
    missing = TrialRow("int2", {}, 100, 0.1, "ValueError: x")
    assert report.verdict(missing) == ""
