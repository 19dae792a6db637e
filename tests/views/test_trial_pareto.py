"""The metric against the size: the front is the one that brute force finds, and it has names."""

import math
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lightning_weightwatch.trials.report import TrialReport, TrialRow
from lightning_weightwatch.views.byte_units import human_bytes
from lightning_weightwatch.views.label_places import Box, placed_labels
from lightning_weightwatch.views.png import BLACK, BLUE, GREY, VERMILION, pixels
from lightning_weightwatch.views.trial_pareto import pareto_figure
from tests.views.pictures import assert_legible, words
from tests.views.spectra_to_draw import HOSTILE
from tests.views.trials_to_draw import GRID, WHOLE, pruned, quantized, report_of, row_of

NAN = math.nan


def drawn(*reports: TrialReport) -> Figure:
    figure = pareto_figure(reports)
    assert figure is not None
    return figure


def points(figure: Figure, colour: str) -> NDArray[np.float64]:
    """[points, 2], sorted."""
    found = [np.asarray(line.get_xydata(), float) for line in figure.axes[0].lines
             if line.get_color() == colour and line.get_marker() not in ("None", "")]  # fmt: skip
    return np.array(sorted(np.concatenate([np.empty((0, 2)), *found]).tolist())).reshape(-1, 2)


def undominated(report: TrialReport) -> list[TrialRow]:
    """By comparing all with all, as the definition has it."""

    def dominates(a: TrialRow, b: TrialRow) -> bool:
        no_worse = a.packed_bytes <= b.packed_bytes and report.harm(a) <= report.harm(b)
        return no_worse and (a.packed_bytes, report.harm(a)) != (b.packed_bytes, report.harm(b))

    return [row for row in report.rows[1:] if not any(dominates(a, row) for a in report.rows)]


REPORTS = {
    "three": [quantized()],
    "one": [quantized((8,))],
    "five": [quantized((8, 6, 4, 3, 2))],
    "grid": [quantized((8, 4, 2), GRID)],
    "accuracy": [quantized(mode="max", baseline=0.93)],
    "pruned": [pruned()],
    "pruned accuracy": [pruned(mode="max")],
    "both": [quantized((8, 4, 2), GRID), pruned()],
    "both without intervals": [quantized(intervals=False), pruned(intervals=False)],
}


@pytest.mark.parametrize("name", REPORTS)
def test_any_trials_are_legible_and_some_of_the_front_is_named(name: str) -> None:
    figure = drawn(*REPORTS[name])
    assert_legible(figure)
    assert pixels(figure).shape == (430, 700, 3)
    assert any(word.startswith(("int", "pruned")) and word != "pruned" for word in words(figure))


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("seed", range(3))
def test_the_front_is_what_no_other_is_smaller_and_better_than(mode: str, seed: int) -> None:
    chance = np.random.default_rng(seed)
    sign = 1 if mode == "min" else -1
    rows = [row_of(f"v{i}", 0.5 + sign * chance.uniform(0.01, 0.05), chance.uniform(0.1, 0.9))
            for i in range(25)]  # fmt: skip
    report = report_of(*rows, mode="min" if sign > 0 else "max")
    figure = drawn(report)
    front = undominated(report)
    expected = sorted((row.packed_bytes / 1e6, row.metrics["val_loss"]) for row in front)
    np.testing.assert_allclose(points(figure, BLUE), expected)
    assert len(points(figure, GREY)) == 25 - len(front)
    (steps,) = (line for line in figure.axes[0].lines if line.get_drawstyle() == "steps-post")
    xy = np.asarray(steps.get_xydata(), float)
    np.testing.assert_allclose(xy[:-1], expected)
    np.testing.assert_allclose(xy[-1], (WHOLE / 1e6, 0.5))


def test_a_variant_that_is_worse_at_the_same_size_is_not_on_the_front() -> None:
    report = report_of(row_of("a", 0.51, 0.25), row_of("b", 0.52, 0.25), row_of("c", 0.5, 1.0))
    figure = drawn(report)
    np.testing.assert_allclose(points(figure, BLUE), [(round(0.25 * WHOLE) / 1e6, 0.51)])
    assert len(points(figure, GREY)) == 2


def test_the_baseline_and_the_best_are_marked() -> None:
    report = report_of(
        row_of("int8", 0.501, 0.25), row_of("int4", 0.504, 0.125), row_of("int2", 0.6, 0.1)
    )
    figure = drawn(report)
    np.testing.assert_allclose(points(figure, BLACK), [(WHOLE / 1e6, 0.5)])
    np.testing.assert_allclose(points(figure, VERMILION), [(round(0.125 * WHOLE) / 1e6, 0.504)])
    assert {"baseline", "best within 1 %", "int4"} <= set(words(figure))
    assert not any("best" in word for word in words(drawn(report_of(row_of("int2", 0.7)))))


def test_the_best_of_several_reports_is_the_smallest() -> None:
    one, two = (report_of(row_of(name, 0.5, size)) for name, size in (("a", 0.3), ("b", 0.2)))
    figure = drawn(one, two)
    np.testing.assert_allclose(points(figure, VERMILION), [(round(0.2 * WHOLE) / 1e6, 0.5)])


def test_kinds_of_trials_have_their_markers() -> None:
    shown = words(drawn(quantized(), pruned()))
    assert {"quantized", "pruned"} <= set(shown)
    assert not {"quantized", "pruned"} & set(words(drawn(quantized())))


@pytest.mark.parametrize(("least", "scale"), [(0.13, "linear"), (0.12, "log")])
def test_sizes_are_logarithmic_where_they_differ_by_more_than_8(least: float, scale: str) -> None:
    figure = drawn(report_of(row_of("a", 0.6, least)))
    assert figure.axes[0].get_xscale() == scale
    assert "packed size, MB" in words(figure)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_one_useless_variant_does_not_hide_the_others(mode: str) -> None:
    sign = 1 if mode == "min" else -1
    rows = [row_of(f"int{b}", 5 + sign * harm, b / 32, 0.001, baseline=5, bits=b)
            for b, harm in ((8, 0.01), (6, 0.02), (5, 0.03), (4, 0.06), (2, 4.5))]  # fmt: skip
    figure = drawn(report_of(*rows, baseline=5, mode="min" if sign > 0 else "max"))
    low, high = figure.axes[0].get_ylim()
    assert high - low < 0.5
    assert ("up to 9.5" if sign > 0 else "down to 0.5") in words(figure)
    edge = points(figure, BLUE)[0]
    assert low <= edge[1] <= high
    assert_legible(figure)


def test_what_has_no_finite_result_is_counted() -> None:
    rows = [row_of("a", 0.6), row_of("b", NAN), row_of("c", 0, error="x"), row_of("d", math.inf)]
    shown = words(drawn(report_of(*rows)))
    assert "val_loss, lower is better (3 without a finite result)" in shown


def test_nothing_to_draw_is_no_figure() -> None:
    assert pareto_figure([]) is None
    assert pareto_figure(report_of()) is None
    assert pareto_figure(TrialReport((), "", "min")) is None
    assert pareto_figure(report_of(row_of("a", NAN))) is None
    assert pareto_figure(report_of(row_of("a", 0.5), baseline=NAN)) is None


def test_reports_of_different_metrics_are_refused() -> None:
    with pytest.raises(ValueError, match="one metric and mode, got val_loss, val_acc"):
        pareto_figure([quantized(), replace(pruned(), monitor="val_acc")])


def test_any_names_are_legible() -> None:
    rows = [row_of(name, 0.6 - 0.01 * i, 0.1 + 0.05 * i) for i, name in enumerate(HOSTILE)]
    assert_legible(drawn(report_of(*rows)))


def test_at_most_six_are_named_the_best_first() -> None:
    rows = [row_of(f"int{i}", 0.7 - 0.02 * i, 0.1 + 0.07 * i, bits=8) for i in range(11)]
    figure = drawn(report_of(*rows))
    named = [word for word in words(figure) if word.startswith("int")]
    assert 3 <= len(named) <= 6
    assert "int10" in named


def test_labels_avoid_points_lines_and_each_other() -> None:
    chance = np.random.default_rng(0)
    spots = [(float(x), float(y)) for x, y in chance.uniform(0, 500, (30, 2))]
    lines = [Box(0, 250, 500, 250)]
    frame = Box(0, 0, 500, 500)
    labels = placed_labels([80.0] * 30, spots, range(30), frame, lines, side=-1, most=12)
    assert len(labels) >= 6
    letters = [Box(label.x, label.y - 8, label.x + 80, label.y + 8) for label in labels]
    for index, box in enumerate(letters):
        assert box.x0 >= 0
        assert box.x1 <= 500
        assert not box.meets(lines[0])
        assert not any(box.meets(other) for other in letters[:index])
        assert not any(box.x0 < x < box.x1 and box.y0 < y < box.y1 for x, y in spots)


@pytest.mark.parametrize(
    ("size", "text"),
    [(999, "999 B"), (1000, "1.0 kB"), (999_949, "999.9 kB"), (999_960, "1.0 MB"),
     (2.5e12, "2.5 TB"), (3e15, "3000.0 TB")],
)  # fmt: skip
def test_bytes_are_decimal(size: float, text: str) -> None:
    assert human_bytes(size) == text
