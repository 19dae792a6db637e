"""The figure of the damage: every change at its place, the bad side named, nothing flattened."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lightning_weightwatch.trials.report import TrialReport
from lightning_weightwatch.views.png import BLUE, VERMILION, pixels
from lightning_weightwatch.views.symlog import noise_of, symlog_ticks, threshold_of
from lightning_weightwatch.views.trial_damage import damage_figure
from tests.views.pictures import assert_legible, seen, words
from tests.views.trials_to_draw import GRID, layer_of, pruned, quantized, report_of, row_of

NAN = math.nan


def drawn(report: TrialReport) -> Figure:
    figure = damage_figure(report)
    assert figure is not None
    return figure


def curves(figure: Figure) -> list[NDArray[np.float64]]:
    """[points, 2] of each line but the one at 0, and the crosses."""
    (axes,) = figure.axes
    lines = [np.asarray(line.get_xydata(), float) for line in axes.lines
             if line.get_marker() not in ("None", "x")]  # fmt: skip
    return [line for line in lines if len(line)]


def bars(axes: Axes) -> list[NDArray[np.float64]]:
    return [np.asarray(segment, float) for lines in axes.collections
            if isinstance(lines, LineCollection) for segment in lines.get_segments()]  # fmt: skip


def height_of(axes: Axes, y: float) -> float:
    """As a share of the axis."""
    at = axes.transData.transform((axes.get_xlim()[0], y))[1]
    return float((at - axes.bbox.y0) / axes.bbox.height)


REPORTS = {
    "three": quantized(),
    "one": quantized((8,)),
    "grid": quantized((8, 4, 2), GRID),
    "grid without intervals": quantized((8, 6, 4), GRID, intervals=False),
    "accuracy": quantized(mode="max", baseline=0.93),
    "pruned": pruned(),
    "pruned accuracy": pruned(mode="max"),
    "many amounts": pruned([i / 40 for i in range(1, 40)]),
}


@pytest.mark.parametrize("name", REPORTS)
def test_any_trial_is_legible(name: str) -> None:
    figure = drawn(REPORTS[name])
    assert_legible(figure)
    assert pixels(figure).shape == (430, 700, 3)


def test_points_are_the_changes_at_their_bits_and_bars_their_intervals() -> None:
    report = quantized((8, 6, 4))
    figure = drawn(report)
    (line,) = curves(figure)
    expected = sorted((float(row.settings["bits"]), report.delta(row)) for row in report.rows[1:])
    np.testing.assert_allclose(line, expected)
    spans = sorted((float(row.settings["bits"]), *(row.interval or ())) for row in report.rows[1:])
    found = sorted((bar[0, 0], bar[0, 1], bar[1, 1]) for bar in bars(figure.axes[0]))
    np.testing.assert_allclose(found, spans)
    assert {"4", "6", "8", "bits", "val_loss: change from 0.5"} <= set(words(figure))


def test_pruned_models_stand_at_their_sparsity_and_patterns_are_single_markers() -> None:
    report = pruned((0.29, 0.5, 0.9), intervals=False)
    figure = drawn(report)
    lines = curves(figure)
    assert [line[:, 0].tolist() for line in lines] == [[29, 50, 90]] * 3 + [[50], [75]]
    assert "sparsity, %" in words(figure)
    assert {"magnitude, global", "magnitude, layer", "magnitude, 2:4", "magnitude, 1:4"} <= set(
        words(figure)
    )


def test_a_pattern_without_an_amount_stands_at_what_it_came_to() -> None:
    row = row_of("nm", 0.6, layers=[layer_of(zeros=250)], pattern="3:4")
    other = row_of("pruned50", 0.7, amount=0.5)
    (one, two) = curves(drawn(report_of(row, other)))
    assert sorted([one[0].tolist(), two[0].tolist()]) == [
        [25, pytest.approx(0.1)], [50, pytest.approx(0.2)],
    ]  # fmt: skip


@pytest.mark.parametrize(("mode", "share"), [("min", 1), ("max", 0)])
def test_worse_is_written_at_the_end_where_it_is_worse(mode: Any, share: int) -> None:
    figure = drawn(quantized(mode=mode, baseline=0.93))
    (word,) = (text for text in figure.axes[0].texts if "worse" in text.get_text())
    assert word.xy[1] == share  # type: ignore[attr-defined]
    (arrow,) = set(word.get_text()) & {"→", "←"}
    assert (arrow == "→") is (mode == "min")


def test_lines_are_told_apart_by_what_differs_and_by_nothing_else() -> None:
    figure = drawn(quantized((8, 4), GRID[:2]))
    assert {"absmax", "mse"} <= set(words(figure))
    assert not {"symmetric", "restricted", "tensor"} & set(words(figure))
    lines = [line for line in figure.axes[0].lines if line.get_marker() in ("o", "s")]
    assert [line.get_color() for line in lines] == [BLUE, VERMILION]


def test_nine_lines_have_a_colour_for_one_setting_and_a_kind_of_line_for_the_other() -> None:
    figure = drawn(quantized((8, 4, 2), GRID))
    assert {"tensor", "channel", "group", "absmax", "mse", "percentile"} <= set(words(figure))
    lines = [line for line in figure.axes[0].lines if line.get_marker() != "None"]
    looks = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in lines}
    assert len(lines) == len(looks) == 9
    assert {len({look[part] for look in looks}) for part in range(3)} == {3}


def test_more_lines_than_can_be_told_apart_are_grey_and_said_to_be_others() -> None:
    many = [{"method": f"m{i}", "scope": scope} for i in range(7) for scope in ("row", "layer")]
    figure = drawn(quantized((8, 4), many))
    assert "other" in words(figure)
    assert_legible(figure)


def test_intervals_of_lines_do_not_hide_each_other() -> None:
    figure = drawn(quantized((8, 4), GRID[:4]))
    places = [bar[0, 0] for bar in bars(figure.axes[0])]
    assert len(set(places)) == len(places) == 8
    assert max(abs(place - (4 if place < 6 else 8)) for place in places) < 0.5
    exact = curves(drawn(quantized((8, 4), GRID[:4], intervals=False)))
    assert {x for line in exact for x in line[:, 0]} == {4, 8}


@pytest.mark.parametrize("sign", [1, -1])
def test_a_hundredfold_damage_does_not_flatten_the_others(sign: int) -> None:
    changes = {8: 0.001, 6: 0.01, 4: 0.1, 2: 10.0}
    rows = [row_of(f"int{b}", 0.05 + sign * c, baseline=0.05, bits=b) for b, c in changes.items()]
    (axes,) = drawn(report_of(*rows, baseline=0.05, mode="min" if sign > 0 else "max")).axes
    heights = [height_of(axes, sign * change) for change in (0.0, *changes.values())]
    assert min(abs(a - b) for a, b in pairwise(heights)) > 0.08
    assert min(heights) > 0
    assert max(heights) < 1


@pytest.mark.parametrize("intervals", [True, False])
def test_noise_stays_close_to_0_and_damage_stands_out(intervals: bool) -> None:
    """A val_loss of 0.035 at ±0.003, or of 0.3 within 1 %, and one model that is lost."""
    baseline = 0.035 if intervals else 0.3
    changes = {8: 0.00002, 7: -0.0008, 6: 0.0004, 5: -0.0015, 4: 0.03, 2: 1.9}
    rows = [row_of(f"int{b}", baseline + c, 0.25, 0.003 if intervals else None,
                   baseline=baseline, bits=b) for b, c in changes.items()]  # fmt: skip
    (axes,) = drawn(report_of(*rows, baseline=baseline)).axes
    zero, *noise, damage, lost = (height_of(axes, change) for change in (0.0, *changes.values()))
    assert max(abs(height - zero) for height in noise) < 0.1
    assert damage - zero > 0.3
    assert lost - damage > 0.3
    assert height_of(axes, 0.003) - height_of(axes, -0.003) < 0.4
    assert lost < 1


def test_what_has_no_finite_result_is_a_cross_at_the_bad_end_and_a_gap_in_the_line() -> None:
    rows = [row_of("int8", 0.51, bits=8), row_of("int6", NAN, bits=6), row_of("int4", 0.53, bits=4),
            row_of("int3", math.inf, bits=3), row_of("int2", 0, bits=2, error="x")]  # fmt: skip
    figure = drawn(report_of(*rows))
    assert "no finite result" in words(figure)
    (line,) = curves(figure)
    np.testing.assert_allclose(line[:, 1], [NAN, NAN, 0.03, NAN, 0.01], atol=1e-12)
    (crosses,) = (line for line in figure.axes[0].lines if line.get_marker() == "x")
    assert np.asarray(crosses.get_xdata()).tolist() == [2, 3, 6]
    assert np.unique(np.asarray(crosses.get_ydata())).tolist() == [0.96]
    assert_legible(figure)


def test_nothing_to_draw_is_no_figure() -> None:
    assert damage_figure(TrialReport((), "", "min")) is None
    assert damage_figure(report_of()) is None
    assert damage_figure(report_of(row_of("int8", NAN, bits=8))) is None
    assert damage_figure(report_of(row_of("mine", 0.6))) is None
    assert damage_figure(replace(quantized(), monitor="")) is None


@pytest.mark.parametrize("word", ["$x_1$ " * 20, "y" * 100, "编码器 über", "%s {0} <b> & \\"])
def test_any_words_are_legible(word: str) -> None:
    report = replace(quantized((8, 4), [{"clip": word}, {"clip": "mse"}]), monitor=word)
    renamed = tuple(replace(row, metrics={word: row.metrics["val_loss"]}) for row in report.rows)
    figure = drawn(replace(report, rows=renamed))
    assert_legible(figure)
    assert seen(pixels(figure), BLUE) > 100


def test_the_scale_is_linear_unless_the_changes_differ_greatly() -> None:
    assert threshold_of([0.1, 0.2, 0.3]) is None
    assert threshold_of([]) is None
    assert threshold_of([0.0, NAN]) is None
    assert threshold_of([0.001, 0.02, 5.0]) == pytest.approx(0.01)
    assert threshold_of([1e-9, 1e-9, 5.0]) == pytest.approx(1e-4)


def test_the_scale_is_linear_as_far_as_noise_reaches() -> None:
    assert threshold_of([1e-9, 0.02, 5.0], 0.3) == 0.3
    assert threshold_of([1e-9, 0.02, 9.9], 0.98) == 0.98
    assert threshold_of([1e-9, 0.02, 5.0], 0.6) is None
    assert noise_of([0.1, 0.2, 9.0, NAN], 0.15) == 0.2
    assert noise_of([0.1], 0.15) == 0.15
    assert noise_of([], 0.0) == 0.0


def test_ticks_are_powers_of_ten_to_both_sides_of_0_and_few() -> None:
    ticks = symlog_ticks(-300, 4e5, 0.1)
    values = [value for value, _ in ticks]
    assert values == sorted(values)
    assert 4 <= len(ticks) <= 7
    np.testing.assert_allclose(np.log10(np.abs([v for v in values if v])) % 1 % 1, 0, atol=1e-9)
    assert symlog_ticks(0, 2, 0.03) == [(0.0, "0"), (0.1, "0.1"), (1.0, "1")]
    assert symlog_ticks(0, 2, 0.1) == [(0.0, "0"), (0.1, "0.1"), (1.0, "1")]
