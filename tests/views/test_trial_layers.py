"""The heat map of a trial shows the change or the noise of every weight at its place."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lightning_weightwatch.trials.report import TrialReport
from lightning_weightwatch.views.png import VERMILION, pixels
from lightning_weightwatch.views.trial_layers import layer_heat_map
from tests.views.pictures import assert_legible, lightness, words
from tests.views.spectra_to_draw import HOSTILE
from tests.views.trials_to_draw import GRID, Mode, layer_of, pruned, quantized, report_of, row_of

NAN = math.nan
THREE = ["net.0.weight", "net.2.weight", "net.4.weight"]


def names_of(count: int) -> list[str]:
    return [f"encoder.layers.{index}.attention.out_proj.weight" for index in range(count)]


def alone(
    changes: Mapping[str, Mapping[float, float]], mode: Mode = "min", key: str = "bits"
) -> TrialReport:
    """The change by weight and strength."""
    rows = [row_of("v", 0.5 + change, layer=name, layers=[layer_of(name)], settings={key: strength})
            for name, by in changes.items() for strength, change in by.items()]  # fmt: skip
    return replace(report_of(mode=mode), alone=tuple(rows))


def chosen(names: list[str], columns: list[float]) -> dict[str, dict[float, float]]:
    chance = np.random.default_rng(len(names))
    return {name: {column: float(chance.normal(0, 10 ** -(column % 7))) for column in columns}
            for name in names}  # fmt: skip


def drawn(report: TrialReport) -> Figure:
    figure = layer_heat_map(report)
    assert figure is not None
    return figure


def values(figure: Figure) -> NDArray[np.float64]:
    shown: Any = figure.axes[0].images[0].get_array()
    filled: NDArray[np.float64] = np.ma.filled(np.ma.asarray(shown, float), NAN)
    return filled


def cell(figure: Figure, row: int, column: int) -> NDArray[np.float64]:
    """The colour of a cell, in its upper left corner, beside the value."""
    x, y = figure.axes[0].transData.transform((column - 0.45, row - 0.4))
    image = pixels(figure)
    shown: NDArray[np.float64] = image[len(image) - 1 - int(y), int(x)].astype(float)
    return shown


REPORTS = {
    "3": quantized(names=THREE),
    "12": quantized((8, 4, 2), GRID, names=names_of(12)),
    "30": quantized((8, 6, 5, 4, 3, 2), names=names_of(30)),
    "300": quantized(names=names_of(300)),
    "hostile": quantized(names=HOSTILE),
    "alone 3": alone(chosen(THREE, [8, 6, 4, 2])),
    "alone 12": alone(chosen(names_of(12), [8, 4])),
    "alone 40": alone(chosen(names_of(40), [8, 4])),
    "alone 300": alone(chosen(names_of(300), [8, 6, 4, 2])),
    "alone accuracy": alone(chosen(THREE, [8, 4]), "max"),
    "alone hostile": alone(chosen(HOSTILE, [8, 4])),
    "alone pruned": alone(chosen(THREE, [i / 20 for i in range(1, 20)]), key="amount"),
    "a cell": alone({"x": {8: -0.001}}),
}


@pytest.mark.parametrize("name", REPORTS)
def test_any_number_of_weights_is_legible(name: str) -> None:
    figure = drawn(REPORTS[name])
    assert_legible(figure)
    count = len(values(figure))
    inches = 0.42 + 0.21 + 0.15 + 0.13 * count
    expected = 430 if count <= 12 else min(200 * inches, 1300)
    assert pixels(figure).shape[0] == pytest.approx(expected, abs=1)


def test_without_weights_alone_the_noise_of_the_first_variants_is_shown() -> None:
    report = quantized((8, 4), GRID[:2], names=THREE)
    figure = drawn(report)
    by_name = {row.name: row for row in report.rows}
    first = [by_name["int4_tensor_absmax"], by_name["int8_tensor_absmax"]]
    expected = [[row.layers[index].sqnr for row in first] for index in range(3)]
    np.testing.assert_allclose(values(figure), expected)
    shown = set(words(figure))
    assert {"SQNR, dB", "bits", "4", "8", *THREE} <= shown
    assert {f"{value:.1f}" for row in expected for value in row} <= shown
    assert "int4_tensor_absmax, int8_tensor_absmax" in shown
    shades = [lightness(figure.axes[0].images[0].cmap(share)) for share in np.linspace(0, 1, 20)]
    assert shades == sorted(shades)


def test_weights_alone_are_shown_by_their_change_in_the_order_of_the_model() -> None:
    changes: dict[str, dict[float, float]] = {
        name: {4: 0.1 * i + 0.1, 8: -0.01 * i} for i, name in enumerate(THREE)
    }
    whole = quantized((8, 4), names=THREE)
    report = replace(whole, alone=alone({name: changes[name] for name in reversed(THREE)}).alone)
    figure = drawn(report)
    np.testing.assert_allclose(values(figure), [[0.1, 0], [0.2, -0.01], [0.3, -0.02]], atol=1e-12)
    assert {"+0.1", "+0.2", "+0.3", "0", "−0.01", "−0.02", *THREE} <= set(words(figure))
    assert {"val_loss: better", "worse", "change when it alone is compressed"} <= set(words(figure))


@pytest.mark.parametrize(("mode", "sign"), [("min", 1), ("max", -1)])
def test_worse_is_vermilion_no_change_white_and_better_blue(mode: Mode, sign: int) -> None:
    figure = drawn(alone({"a": {2: sign * 0.3, 4: 0.0, 8: -sign * 0.3}}, mode))
    np.testing.assert_allclose(cell(figure, 0, 0), 255 * np.array(to_rgb(VERMILION)), atol=3)
    np.testing.assert_allclose(cell(figure, 0, 1), 255, atol=3)
    red, _, blue = cell(figure, 0, 2)
    assert blue > red + 50
    ends = [text.get_text() for text in sorted(figure.texts, key=lambda text: text.get_position())
            if "worse" in text.get_text() or "better" in text.get_text()]  # fmt: skip
    expected = ["val_loss: better", "worse"] if sign > 0 else ["val_loss: worse", "better"]
    assert sorted(ends) == sorted(expected)


def test_a_change_within_the_tolerance_is_white_where_there_is_no_interval() -> None:
    figure = drawn(alone({"a": {2: 0.3, 4: 0.0051, 6: -0.0049, 8: 0.0049}}))
    assert [bool(cell(figure, 0, column).min() == 255) for column in range(4)] == [
        False, False, True, True,
    ]  # fmt: skip
    assert {"+0.3", "+0.0051", "−0.005", "+0.005"} <= set(words(figure))
    assert "each compressed alone; white: within 1 %" in words(figure)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_what_may_be_chance_is_white_and_what_is_not_has_its_colour(mode: Mode) -> None:
    """White is the verdict: an interval with 0 in it, however large the change is."""
    cells = {2: (0.9, 0.2), 3: (-0.3, 0.1), 4: (0.2, 0.3), 6: (0.006, 0.002), 8: (-0.04, 0.05)}
    rows = [row_of("v", 0.5 + change, reach=reach, layer="a", layers=[layer_of("a")], bits=bits)
            for bits, (change, reach) in cells.items()]  # fmt: skip
    report = replace(report_of(mode=mode), alone=tuple(rows))
    figure = drawn(report)
    white = [bool(cell(figure, 0, column).min() == 255) for column in range(5)]
    assert white == [report.verdict(row) == "same" for row in rows]
    assert white == [False, False, True, False, True]
    assert {"+0.9", "−0.3", "+0.2", "+0.006", "0"} <= set(words(figure))
    assert "each compressed alone; white: within noise" in words(figure)


def test_small_damage_in_noise_is_paler_than_damage_beyond_it() -> None:
    changes = ((2, 2.0, 0.02), (4, 0.2, 0.02), (8, 0.003, 0.002))
    rows = [row_of("v", 0.5 + change, reach=reach, layer="a", layers=[layer_of("a")], bits=bits)
            for bits, change, reach in changes]  # fmt: skip
    figure = drawn(replace(report_of(), alone=tuple(rows)))
    strong, weak, pale = (cell(figure, 0, column)[2] for column in range(3))
    assert strong < weak - 50 < pale - 100


@pytest.mark.parametrize("by_metric", [True, False])
def test_30_cells_have_their_values(by_metric: bool) -> None:
    names, bits = [f"net.{i}.weight" for i in range(5)], (8, 6, 5, 4, 3, 2)
    report = alone(chosen(names, list(bits))) if by_metric else quantized(bits, names=names)
    figure = drawn(report)
    frame = figure.axes[0].get_window_extent()
    boxes = [text.get_window_extent() for text in figure.texts if text.get_text()]
    inside = [box for box in boxes if frame.x0 < box.x0 < frame.x1 and frame.y0 < box.y0 < frame.y1]
    assert len(inside) == 30
    columns = [int(((box.x0 + box.x1) / 2 - frame.x0) / frame.width * 6) for box in inside]
    rows = [int(((box.y0 + box.y1) / 2 - frame.y0) / frame.height * 5) for box in inside]
    assert len(set(zip(rows, columns, strict=True))) == 30
    assert max(box.width for box in inside) < frame.width / 6


def test_a_hundredfold_damage_does_not_bleach_the_others() -> None:
    figure = drawn(alone({"a": {2: 5.0, 4: 0.05, 6: 0.05, 8: 0.0}}))
    strong, weak, none = (cell(figure, 0, column)[2] for column in (0, 1, 3))
    assert none - weak > 60
    assert weak - strong > 60


def test_what_was_not_evaluated_is_hatched_and_infinity_is_said() -> None:
    report = alone({"a": {4: math.inf, 8: 0.1}, "b": {8: NAN}})
    figure = drawn(report)
    assert np.isnan(values(figure)).tolist() == [[False, False], [True, True]]
    assert {"no value", "+∞"} <= set(words(figure))
    assert "no value" not in words(drawn(alone({"a": {8: 0.1}})))


def test_what_did_not_change_has_infinite_sqnr_and_zeros_none() -> None:
    layers = [layer_of("a", math.inf), layer_of("b", 20.0), replace(layer_of("c"), signal=0.0)]
    figure = drawn(report_of(row_of("int8", 0.5, layers=layers, bits=8)))
    assert {"∞", "20.0", "no value"} <= set(words(figure))
    np.testing.assert_allclose(values(figure), [[20.5], [20.0], [NAN]])


def test_pruned_weights_stand_at_their_sparsity() -> None:
    assert {"sparsity, %", "10", "90"} <= set(words(drawn(pruned())))


@pytest.mark.parametrize("count", [3, 300])
def test_values_are_written_only_where_there_is_room(count: int) -> None:
    shown = words(drawn(quantized((8,), names=names_of(count))))
    assert (sum("." in word for word in shown) >= 3) is (count == 3)


def test_the_worst_weights_are_named_even_among_300() -> None:
    changes: dict[str, dict[float, float]] = {f"block{i}": {4: 0.001} for i in range(300)}
    changes["block7"], changes["block202"] = {4: 0.9}, {4: 0.8}
    shown = words(drawn(alone(changes)))
    assert {"block7", "block202"} <= set(shown)


def test_nothing_to_draw_is_no_figure() -> None:
    assert layer_heat_map(TrialReport((), "", "min")) is None
    assert layer_heat_map(report_of(row_of("int8", 0.5, bits=8))) is None
    assert layer_heat_map(alone({"a": {8: NAN}})) is None
