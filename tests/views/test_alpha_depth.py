"""Alpha over depth: every layer of the report is there, as what it is."""

import math
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from lightning_weightwatch.spectral.report import SpectralReport
from lightning_weightwatch.views.alpha_depth import alpha_depth_figure
from lightning_weightwatch.views.png import BLACK, BLUE, GREEN, GREY, VERMILION, pixels
from tests.views.pictures import assert_legible, contrast, seen, words
from tests.views.spectra_to_draw import HOSTILE, report_of

NAN = math.nan


def alphas_of(count: int) -> list[float]:
    return [float(alpha) for alpha in 2 + 6 * np.random.default_rng(count).random(count)]


def dots(report: SpectralReport, marker: str) -> list[list[float]]:
    """Where markers stand, of all lines without a stroke."""
    (axes,) = alpha_depth_figure(report).axes
    found: list[list[float]] = []
    for line in axes.lines:
        if line.get_marker() == marker and line.get_linestyle() == "None":
            found += xy(line).tolist()
    return sorted(found)


def xy(line: Line2D) -> NDArray[np.float64]:
    return np.asarray(line.get_xydata(), dtype=np.float64)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 20, 21, 30, 31, 50, 300])
def test_any_number_of_layers_is_legible_and_as_high_as_two_cards(count: int, first: bool) -> None:
    report = report_of(alphas_of(count))
    start = {layer.name: 9.0 for layer in report.layers} if first else None
    figure = alpha_depth_figure(report, start, title="alpha over depth, epoch 12")
    assert_legible(figure)
    assert pixels(figure).shape == (430, 700, 3)
    assert seen(pixels(figure), GREEN, alpha=0.15) > 5000


def test_any_name_is_legible_and_told_from_the_others() -> None:
    report = report_of(alphas_of(len(HOSTILE)), HOSTILE)
    figure = alpha_depth_figure(report, title="$x$ " * 50)
    assert_legible(figure)
    (axes,) = figure.axes
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert len(set(labels)) == len(labels)


RESNET = [f"layer{i}.{j}.conv{k}" for i in range(1, 5) for j in range(2) for k in (1, 2)]


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["net.0", "net.2"], ["net.0", "net.2"]),
        ([f"backbone.{index}" for index in range(9)], [f"backbone.{index}" for index in range(9)]),
        (RESNET, [name.replace("layer", "l") for name in RESNET]),
    ],
)
def test_layers_are_named_where_their_names_fit(names: list[str], labels: list[str]) -> None:
    figure = alpha_depth_figure(report_of(alphas_of(len(names)), names))
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == labels
    assert_legible(figure)


def test_layers_are_numbered_where_their_names_do_not_fit() -> None:
    names = [f"{index}{'x' * 30}" for index in range(9)]
    (axes,) = alpha_depth_figure(report_of(alphas_of(9), names)).axes
    assert axes.get_xlabel() == "layer"
    assert {"0", "4", "8"} <= {label.get_text() for label in axes.get_xticklabels()}


@pytest.mark.parametrize("count", [5, 50, 300])
def test_a_marker_stands_at_the_alpha_of_every_layer(count: int) -> None:
    alphas = alphas_of(count)
    expected = [[float(index), alpha] for index, alpha in enumerate(alphas)]
    assert dots(report_of(alphas), "o") == expected


@pytest.mark.parametrize("count", [20, 30, 31])
def test_up_to_30_layers_are_joined(count: int) -> None:
    alphas = alphas_of(count)
    (axes,) = alpha_depth_figure(report_of(alphas)).axes
    joined = [
        line for line in axes.lines if line.get_color() == BLUE and line.get_linestyle() == "-"
    ]
    assert len(joined) == (count <= 30)
    for line in joined:
        assert xy(line)[:, 1].tolist() == alphas


def test_more_layers_have_a_running_median() -> None:
    alphas = [3.0] * 50 + [5.0] * 50
    alphas[10] = 50.0
    (axes,) = alpha_depth_figure(report_of(alphas)).axes
    (median,) = [line for line in axes.lines if line.get_color() == BLACK]
    assert set(xy(median)[:, 1]) <= {3.0, 4.0, 5.0}
    assert xy(median)[[0, 10, 99], 1].tolist() == [3, 3, 5]


def test_an_alpha_beyond_the_axis_is_a_triangle_and_a_layer_without_a_fit_a_cross() -> None:
    report = report_of([3.0, 31.2, NAN, 4.0])
    figure = alpha_depth_figure(report)
    (axes,) = figure.axes
    assert axes.get_ylim() == (0, 12)
    (above,) = dots(report, "^")
    assert above[0] == 1
    assert 11 < above[1] < 12
    (cross,) = dots(report, "x")
    assert cross[0] == 2
    assert 0 < cross[1] < 1
    assert {"up to 31.2", "no fit"} <= set(words(figure))


@pytest.mark.parametrize("doubt", [{"D": 0.11}, {"num_pl_spikes": 9}])
@pytest.mark.parametrize("count", [4, 100])
def test_a_fit_that_says_little_is_hollow(doubt: dict[str, float], count: int) -> None:
    layers = list(report_of([3.0] * count).layers)
    layers[2] = replace(layers[2], **doubt)  # type: ignore[arg-type]
    figure = alpha_depth_figure(SpectralReport(tuple(layers), ()))
    (axes,) = figure.axes
    hollow = [
        xy(line)[:, 0].tolist()
        for line in axes.lines
        if line.get_marker() == "o" and line.get_markerfacecolor() == "white"
    ]
    assert hollow == [[2.0]]
    assert "fit says little" in words(figure)


def test_the_first_epoch_is_dashed_in_grey_and_has_no_hollow_markers() -> None:
    report = report_of([3.0, 4.0, 5.0])
    first = {report.layers[0].name: 7.0, report.layers[2].name: 20.0}
    (axes,) = alpha_depth_figure(report, first).axes
    (line,) = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert line.get_color() == GREY
    assert line.get_marker() == "+"
    shown = xy(line)[:, 1]
    assert shown[0] == 7
    assert math.isnan(shown[1])
    assert shown[2] < 12


def test_kinds_differ_in_shape_and_colour() -> None:
    layers = list(report_of(alphas_of(100)).layers)
    kinds = ["linear"] * 50 + ["conv2d"] * 30 + ["embedding"] * 15 + ["attention"] * 5
    drawn = [replace(layer, kind=kind) for layer, kind in zip(layers, kinds, strict=True)]  # type: ignore[arg-type]
    figure = alpha_depth_figure(SpectralReport(tuple(drawn), ()))
    assert_legible(figure)
    (axes,) = figure.axes
    looks = {
        (line.get_marker(), line.get_color()): len(xy(line))
        for line in axes.lines
        if line.get_linestyle() == "None"
    }
    assert looks == {("o", BLUE): 50, ("s", VERMILION): 30, ("v", GREY): 20}
    assert {"linear", "conv2d", "other"} <= set(words(figure))


@pytest.mark.parametrize("name", [BLUE, BLACK, GREY, VERMILION])
def test_markers_stand_out_from_the_band(name: str) -> None:
    assert contrast(name, "#D9F0EA") >= 3
