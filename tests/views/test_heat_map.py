"""A heat map shows every value at its place, in the colour that its side of the band has."""

import math

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lightning_weightwatch.views.heat_map import heat_map_figure
from lightning_weightwatch.views.png import BLACK, GREY, MID_GREY, VERMILION, pixels
from tests.views.pictures import assert_legible, contrast, lightness, words
from tests.views.spectra_to_draw import HOSTILE

NAN = math.nan


def values_of(layers: int, epochs: int) -> NDArray[np.float64]:
    values = np.random.default_rng(layers).uniform(1, 9, (layers, epochs))
    values[layers // 2, 0] = NAN
    return values


def names_of(layers: int) -> list[str]:
    return [f"transformer.encoder.layers.{index}.attention.out_proj" for index in range(layers)]


def cell(figure: Figure, row: int, column: int) -> NDArray[np.uint8]:
    """The pixel at a quarter of a cell, beside the cross."""
    x, y = figure.axes[0].transData.transform((column - 0.3, row - 0.3))
    image = pixels(figure)
    shown: NDArray[np.uint8] = image[len(image) - 1 - int(y), int(x)]
    return shown


def rgb(name: str) -> list[int]:
    return [round(255 * part) for part in to_rgb(name)]


@pytest.mark.parametrize("epochs", [1, 7, 60, 1000])
@pytest.mark.parametrize("layers", [1, 3, 7, 50, 96, 300])
def test_any_number_of_layers_and_epochs_is_legible(layers: int, epochs: int) -> None:
    assert_legible(heat_map_figure(names_of(layers), range(epochs), values_of(layers, epochs)))


def test_any_name_is_legible() -> None:
    figure = heat_map_figure(HOSTILE, [0, 1], values_of(len(HOSTILE), 2), label="$x$ " * 9)
    assert_legible(figure)


def test_no_layer_is_no_error() -> None:
    assert_legible(heat_map_figure([], [], np.empty((0, 0))))


@pytest.mark.parametrize("layers", [1, 7, 30])
def test_every_layer_is_named_where_there_is_room(layers: int) -> None:
    figure = heat_map_figure(names_of(layers), [0], values_of(layers, 1))
    named = [word for word in words(figure) if "out_proj" in word or word.isdigit()]
    assert len(named) >= layers


def test_the_image_holds_the_values() -> None:
    values = values_of(5, 4)
    (image,) = heat_map_figure(names_of(5), range(4), values).axes[0].images
    shown = image.get_array()
    assert shown is not None
    np.testing.assert_array_equal(np.ma.filled(shown, NAN), values)
    assert image.get_clim() == (2, 6)


def test_below_the_band_is_vermilion_with_a_cross_above_it_grey_and_within_neither() -> None:
    values = np.array([[1.9, 2.0], [6.0, 6.1], [4.0, NAN]])
    figure = heat_map_figure(["a", "b", "c"], [0, 1], values)
    assert cell(figure, 0, 0).tolist() == rgb(VERMILION)
    assert cell(figure, 1, 1).tolist() == rgb(MID_GREY)
    for row, column in ((0, 1), (1, 0), (2, 0)):
        assert cell(figure, row, column).tolist() not in (rgb(VERMILION), rgb(MID_GREY))
    (crosses,) = figure.axes[0].lines
    assert np.asarray(crosses.get_xydata()).tolist() == [[0, 0]]
    assert crosses.get_color() == BLACK


def test_the_colours_of_the_band_rise_in_lightness_and_do_not_glare() -> None:
    (image,) = heat_map_figure(["a"], [0], np.array([[3.0]])).axes[0].images
    shades = [lightness(image.cmap(share)) for share in np.linspace(0, 1, 20)]
    assert shades == sorted(shades)
    assert shades[-1] < 0.6


def test_above_the_band_is_told_from_the_page_and_from_the_hatching() -> None:
    assert contrast(MID_GREY) > 2
    assert contrast(MID_GREY, GREY) > 1.5


@pytest.mark.parametrize(("layers", "height"), [(1, 430), (12, 430), (13, 494), (300, 1300)])
def test_up_to_12_layers_are_as_high_as_two_cards(layers: int, height: int) -> None:
    figure = heat_map_figure(names_of(layers), range(9), values_of(layers, 9))
    assert len(pixels(figure)) == height


def test_a_fit_that_says_little_is_faded_and_no_alarm() -> None:
    values = np.array([[1.5, 1.5], [8.0, 8.0], [4.0, NAN]])
    trusted = np.array([[True, False]] * 3)
    figure = heat_map_figure(["a", "b", "c"], [0, 1], values, trusted=trusted)
    for row, name in enumerate((VERMILION, MID_GREY)):
        full, faded = (cell(figure, row, column).astype(float) for column in (0, 1))
        assert full.tolist() == rgb(name)
        np.testing.assert_allclose(faded, 0.3 * full + 0.7 * 255, atol=2)
    (crosses,) = figure.axes[0].lines
    assert np.asarray(crosses.get_xydata()).tolist() == [[0, 0]]
    assert {"faded: the fit says little", "no value"} <= set(words(figure))
    assert_legible(figure)


@pytest.mark.parametrize("trusted", [None, np.full((3, 2), fill_value=True)])
def test_nothing_is_faded_where_every_fit_is_trusted(trusted: NDArray[np.bool_] | None) -> None:
    values = np.array([[1.5, NAN]] * 3)
    figure = heat_map_figure(["a", "b", "c"], [0, 1], values, trusted=trusted)
    assert "faded: the fit says little" not in words(figure)
    assert len(np.asarray(figure.axes[0].lines[0].get_xydata())) == 3


@pytest.mark.parametrize(("layers", "alarms"), [(54, [1, 33]), (300, [7, 101, 299])])
def test_alarms_are_named_even_where_not_every_layer_is(layers: int, alarms: list[int]) -> None:
    values, names = np.full((layers, 5), 4.0), [f"block{index}" for index in range(layers)]
    values[alarms, 3] = 1.5
    doubtful = alarms[0] + 4
    values[doubtful] = 1.0
    trusted = np.full(values.shape, fill_value=True)
    trusted[doubtful] = False
    figure = heat_map_figure(names, range(5), values, trusted=trusted)
    shown = {word for word in words(figure) if word.startswith("block")}
    assert {f"block{index}" for index in alarms} <= shown
    assert len(shown) < layers
    assert_legible(figure)


@pytest.mark.parametrize("known", [True, False])
def test_hatching_is_explained_where_there_is_some(known: bool) -> None:
    figure = heat_map_figure(
        ["a", "b"], [0, 1], np.array([[3.0, 4.0], [5.0, 5.0 if known else NAN]])
    )
    assert ("no value" in words(figure)) is not known


def test_epochs_begin_with_the_first_and_stand_at_round_numbers_where_none_is_left_out() -> None:
    values = np.full((1, 120), 4.0)
    for count, expected in (
        (7, [*range(1, 8)]),
        (12, [1, 5, 10]),
        (60, [1, *range(10, 61, 10)]),
        (120, [1, 50, 100]),
    ):
        figure = heat_map_figure(
            ["a" * 20], range(count), values[:, :count], label="x", band=(0, 1)
        )
        below = [text for text in figure.texts if text.get_text().isdigit()]
        assert [int(text.get_text()) for text in below] == expected
    shown = words(heat_map_figure(["a"], [0, 3, 99], values_of(1, 3)))
    assert {"1", "4", "100"} <= set(shown)


def test_the_words_for_alpha_are_not_said_of_other_values() -> None:
    alpha = words(heat_map_figure(["a"], [0], np.array([[3.0]])))
    assert {"alpha: over-trained", "under-trained"} <= set(alpha)
    norms = words(heat_map_figure(["a"], [0], np.array([[3.0]]), label="log_norm", band=(0, 9)))
    assert "log_norm" in norms
    assert "under-trained" not in norms
