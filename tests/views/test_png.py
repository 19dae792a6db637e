"""A PNG shows what was drawn: its size, its colours, whatever the user's style is."""

import io
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from lightning_weightwatch.losses.diagnosis import diagnose
from lightning_weightwatch.views.heat_map import heat_map_figure
from lightning_weightwatch.views.loss_curve import loss_figure
from lightning_weightwatch.views.png import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    VERMILION,
    new_figure,
    pixels,
    png_bytes,
)
from tests.views.pictures import contrast, seen


def curves() -> Figure:
    return loss_figure(diagnose([0.9, 0.5, 0.2, 0.1], [0.8, 0.6, 0.7, 0.9]), "val_loss")


def heat_map() -> Figure:
    values = np.random.default_rng(0).uniform(0, 8, (60, 40))
    return heat_map_figure([str(row) for row in range(60)], range(40), values)


def decoded(png: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(png)) as image:
        assert image.mode == "P"
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize(("height", "expected"), [(2.6, 520), (1.0, 200), (5.25, 1050)])
def test_heights_are_inches_of_200_dots(height: float, expected: int) -> None:
    image = pixels(new_figure(height))
    assert image.shape == (expected, 700, 3)
    assert (image == 255).all()
    assert (decoded(png_bytes(new_figure(height))) == image).all()


def test_pixels_are_a_copy_of_their_own() -> None:
    figure = new_figure(1.0)
    image = pixels(figure)
    image[:] = 0
    assert (pixels(figure) == 255).all()


@pytest.mark.parametrize("name", [BLUE, VERMILION, BLACK])
def test_a_png_keeps_the_colours_of_the_lines(name: str) -> None:
    figure = curves()
    image, shown = pixels(figure), decoded(png_bytes(figure))
    exactly = (image == np.round(255 * np.array(matplotlib.colors.to_rgb(name)))).all(-1)
    assert exactly.sum() > 100
    np.testing.assert_array_equal(shown[exactly], image[exactly])
    assert seen(shown, name) >= seen(image, name)


@pytest.mark.parametrize("draw", [curves, heat_map])
def test_no_pixel_of_a_png_is_far_from_what_was_drawn(draw: Callable[[], Figure]) -> None:
    figure = draw()
    away = np.abs(decoded(png_bytes(figure)).astype(int) - pixels(figure)).max(-1)
    assert away.max() <= 32
    assert (away == 0).mean() > 0.97


def test_a_png_of_more_than_256_areas_shows_the_nearest_of_256_colours() -> None:
    figure = new_figure(2.0)
    gradient = np.random.default_rng(0).integers(0, 256, (20, 35, 3), dtype=np.uint8)
    figure.figimage(np.kron(gradient, np.ones((20, 20, 1), np.uint8)))
    shown, drawn = (
        image[::20, ::20].reshape(-1, 3).astype(int)
        for image in (decoded(png_bytes(figure)), pixels(figure))
    )
    kept = np.unique(shown, axis=0)
    assert len(kept) <= 256
    nearest = np.abs(drawn[:, None] - kept).max(-1).min(-1)
    np.testing.assert_array_equal(np.abs(drawn - shown).max(-1), nearest)


def test_a_png_is_small_and_the_same_for_the_same_figure() -> None:
    assert len(png_bytes(curves())) < 15_000
    assert png_bytes(curves()) == png_bytes(curves())


def test_a_figure_looks_the_same_whatever_the_style_of_the_user() -> None:
    plain = png_bytes(curves())
    theirs: dict[Any, Any] = {
        "axes.facecolor": "black",
        "font.size": 20,
        "text.usetex": True,
        "lines.linewidth": 9,
    }
    with matplotlib.rc_context(theirs):
        assert png_bytes(curves()) == plain
        assert matplotlib.rcParams["font.size"] == 20
        assert matplotlib.rcParams["text.usetex"]


@pytest.mark.parametrize("name", [BLUE, VERMILION, GREEN, BLACK, GREY])
def test_lines_stand_out_from_the_page(name: str) -> None:
    # WCAG 2.1, 1.4.11: graphics need a contrast of 3 to 1.
    assert contrast(name) >= 3
