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


def test_names_of_a_long_front_are_spread_over_it_and_the_best_is_among_them() -> None:
    rows = [row_of(f"int{i}", 0.7 - 0.02 * i, 0.1 + 0.07 * i, bits=8) for i in range(11)]
    figure = drawn(report_of(*rows))
    named = sorted(int(word[3:]) for word in words(figure) if word.startswith("int"))
    assert 5 <= len(named) <= 9
    assert {0, 10} <= set(named)
    assert max(np.diff(named)) <= 3


@pytest.mark.parametrize("mode", ["min", "max"])
def test_useless_variants_that_are_not_on_the_front_do_not_squeeze_it(mode: str) -> None:
    """As a val_loss of 0.035 has it, of which 2 bits make 0.3 or 1.9, and pruning 2.4."""
    sign = 1 if mode == "min" else -1
    front = [("int2", 0.067, 0.267), ("int3", 0.098, 0.007), ("int4", 0.129, -0.007)]
    others = [("int2_tensor", 0.068, 1.871), ("int3_tensor", 0.1, 0.154), ("p70", 0.33, 1.55),
              ("p50", 0.53, 0.12), ("p20", 0.83, 0.001), ("p90", 0.14, 2.345)]  # fmt: skip
    rows = [row_of(name, 0.035 + sign * harm, size, 0.005, baseline=0.035)
            for name, size, harm in (*front, *others)]  # fmt: skip
    report = report_of(*rows, baseline=0.035, mode="min" if sign > 0 else "max")
    figure = drawn(report)
    axes = figure.axes[0]
    worst, best = (0.035 + sign * harm for harm in (0.267, -0.007))
    bad, good = sorted(axes.get_ylim(), reverse=sign > 0)
    assert abs(worst - best) > 0.45 * abs(bad - good)
    assert abs(good - best) < 0.2 * abs(bad - good)
    assert {"int2", "int3", "int4"} <= set(words(figure))
    (edge,) = (line for line in axes.lines if line.get_marker() == ("^" if sign > 0 else "v"))
    beyond = sorted(row.packed_bytes / 1e6 for row in report.rows if report.harm(row) > 1)
    np.testing.assert_allclose(sorted(np.asarray(edge.get_xdata())), beyond)
    (level,) = set(np.asarray(edge.get_ydata()).tolist())
    assert min(bad, good) < level < max(bad, good)
    assert ("up to 2.38" if sign > 0 else "down to −2.31") in words(figure)
    assert_legible(figure)


def test_noise_of_variants_without_harm_is_in_view() -> None:
    rows = [row_of("a", 0.5001, 0.2, 0.02), row_of("b", 0.5, 0.3, 0.02), row_of("c", 9.0, 0.4)]
    figure = drawn(report_of(*rows))
    low, high = figure.axes[0].get_ylim()
    assert low < 0.48 < 0.52 < high < 0.6


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


def test_a_name_without_a_line_is_nearest_to_its_own_point() -> None:
    spots = [(100.0 + 70 * (i % 5), 100.0 + 60 * (i // 5)) for i in range(25)]
    labels = placed_labels([60.0] * 25, spots, range(25), Box(0, 0, 500, 500), [], side=1, most=25)
    assert len(labels) >= 9
    for label in labels:
        if label.leader is None:
            box = Box(label.x, label.y - 12, label.x + 60, label.y + 12)
            distances = [box.distance(spot) for spot in spots]
            assert distances[label.index] < min(distances) + 5


@pytest.mark.parametrize(
    ("size", "text"),
    [(999, "999 B"), (1000, "1.0 kB"), (999_949, "999.9 kB"), (999_960, "1.0 MB"),
     (2.5e12, "2.5 TB"), (3e15, "3000.0 TB")],
)  # fmt: skip
def test_bytes_are_decimal(size: float, text: str) -> None:
    assert human_bytes(size) == text
