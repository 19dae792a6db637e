"""The figure of a spectrum: the dots are its density, and the line lies on them where it fits."""

import math
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lightning_weightwatch.views.esd import esd_figure
from lightning_weightwatch.views.png import BLUE, GREEN, VERMILION, pixels
from tests.views.pictures import assert_legible, words
from tests.views.spectra_to_draw import HOSTILE, failed, power_law, spectrum_of


def line(axes: Axes, colour: str, style: str) -> NDArray[np.float64]:
    (found,) = [
        line for line in axes.lines if (line.get_color(), line.get_linestyle()) == (colour, style)
    ]
    return np.asarray(found.get_xydata(), dtype=np.float64)


def marchenko_pastur(count: int) -> NDArray[np.float64]:
    weights = np.random.default_rng(0).normal(size=(2 * count, count)) / math.sqrt(2 * count)
    return np.asarray(np.linalg.svd(weights, compute_uv=False) ** 2, dtype=np.float64)


@pytest.mark.parametrize("alpha", [1.5, 2.0, 2.5, 4.0, 8.0])
@pytest.mark.parametrize("count", [200, 2000])
def test_the_line_lies_on_the_tail_of_a_power_law(alpha: float, count: int) -> None:
    values = power_law(alpha, count)
    layer = spectrum_of(values)
    (axes,) = esd_figure(layer, values).axes
    (x0, y0), (x1, y1) = line(axes, VERMILION, "-")
    assert (x0, x1) == pytest.approx((layer.xmin, layer.xmax))
    slope = math.log(y1 / y0) / math.log(x1 / x0)
    assert slope == pytest.approx(-layer.alpha)
    dots = line(axes, BLUE, "None")
    tail = dots[(dots[:, 0] > 1.05 * layer.xmin)][:-2]
    assert len(tail) >= 5
    expected = y0 * (tail[:, 0] / x0) ** slope
    np.testing.assert_allclose(np.log(tail[:, 1]), np.log(expected), atol=0.25)


def test_the_line_holds_the_share_of_the_tail() -> None:
    values = np.concatenate([power_law(3.0, 500) * 10, np.linspace(0.5, 5, 500)])
    layer = spectrum_of(values)
    (axes,) = esd_figure(layer, values).axes
    (x0, y0), _ = line(axes, VERMILION, "-")
    assert y0 * x0 / (layer.alpha - 1) == pytest.approx(layer.num_pl_spikes / 1000)


def test_the_dots_are_a_density() -> None:
    values = np.linspace(1, 3, 4001)
    (axes,) = esd_figure(replace(failed("x"), status="none"), values).axes
    dots = line(axes, BLUE, "None")
    np.testing.assert_allclose(dots[:, 1], 0.5, rtol=0.05)


def test_xmin_and_the_edge_of_the_bulk_are_where_the_report_says() -> None:
    values = power_law()
    layer = replace(spectrum_of(values), bulk_max=7.5)
    figure = esd_figure(layer, values)
    (axes,) = figure.axes
    assert set(line(axes, VERMILION, "--")[:, 0]) == {layer.xmin}
    assert set(line(axes, GREEN, ":")[:, 0]) == {7.5}
    assert {"xmin", "MP edge", "power law", "eigenvalues"} <= set(words(figure))


@pytest.mark.parametrize("edge", [None, math.nan])
def test_without_a_bulk_there_is_no_edge(edge: float | None) -> None:
    figure = esd_figure(replace(spectrum_of(power_law()), bulk_max=edge), power_law())
    assert "MP edge" not in words(figure)


def heading(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def test_the_facts_are_in_the_title() -> None:
    layer = replace(spectrum_of(power_law()), alpha=2.5, sigma=0.034, D=0.12, num_pl_spikes=34)
    assert heading(esd_figure(layer, power_law(), title="epoch 12")) == [
        "epoch 12: net.0",
        "alpha 2.50 ± 0.03, D 0.12 (large), 34 of 2,000 in the tail",
    ]
    assert heading(esd_figure(layer, power_law()))[0] == "net.0"


def test_long_facts_are_said_shorter() -> None:
    layer = replace(spectrum_of(power_law()), alpha=25.0, sigma=13.0, D=0.2, num_pl_spikes=123456)
    _, facts = heading(esd_figure(layer, power_law()))
    assert facts == "alpha 25.00 ± 13.00, D 0.20 (large), tail 123,456"


@pytest.mark.parametrize("alpha", [1.5, 3.0, 8.0, 30.0])
def test_the_whole_line_is_within_the_axes(alpha: float) -> None:
    values = np.concatenate([power_law(3.0, 300), np.linspace(0.5, 1, 300)])
    (axes,) = esd_figure(replace(spectrum_of(values), alpha=alpha), values).axes
    (x0, y0), (_, y1) = line(axes, VERMILION, "-")
    low, high = axes.get_ylim()
    assert axes.get_xlim()[0] < x0
    assert y0 < high
    dots = line(axes, BLUE, "None")[:, 1]
    assert low < max(y1, dots.min() / 999)


def test_a_fit_that_failed_says_why_and_has_no_line() -> None:
    layer = replace(
        spectrum_of(power_law()), status="the eigenvalues are all equal", alpha=math.nan
    )
    figure = esd_figure(layer, power_law())
    assert "no fit: the eigenvalues are all equal" in heading(figure)
    assert [line.get_color() for line in figure.axes[0].lines] == [BLUE]


def test_what_is_not_shown_is_counted() -> None:
    values = np.concatenate([np.full(100, 1e-9), power_law(count=400)])
    shown = esd_figure(spectrum_of(values), values).axes[0].get_xlabel()
    assert shown == "eigenvalue λ (400 of 500 shown)"


CASES = {
    "power law": power_law(),
    "steep": power_law(30.0),
    "Marchenko and Pastur": marchenko_pastur(300),
    "2 eigenvalues": np.array([1.0, 2.0]),
    "10 eigenvalues": marchenko_pastur(10),
    "1 eigenvalue": np.array([3.0]),
    "equal": np.full(50, 2.0),
    "nearly equal": 2 + 1e-5 * np.arange(50),
    "zeros": np.zeros(50),
    "none": np.empty(0),
    "one spike": np.concatenate([np.linspace(1, 2, 99), [1e6]]),
    "rank 3": np.concatenate([np.zeros(97), [1.0, 2.0, 3.0]]),
    "1e-30": power_law() * 1e-30,
    "1e+30": power_law() * 1e30,
    "12 decades": np.logspace(-12, 0, 400),
}


@pytest.mark.parametrize("bulk", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_any_spectrum_is_legible(case: str, bulk: bool) -> None:
    values = CASES[case]
    layer = spectrum_of(values) if values.size else failed("x")
    if bulk:
        layer = replace(layer, bulk_max=float(values.max(initial=0)) / 2)
    figure = esd_figure(layer, values, title="epoch 12")
    assert_legible(figure)
    assert pixels(figure).shape == (430, 700, 3)


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_is_legible(name: str) -> None:
    assert_legible(
        esd_figure(replace(spectrum_of(power_law()), name=name), power_law(), title=name)
    )
    assert_legible(esd_figure(replace(failed(name), status=name), power_law()))
