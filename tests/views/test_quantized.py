"""Histograms before and after quantization show their counts, the codes and the range of these."""

import math

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch
from numpy.typing import NDArray

from lightning_weightwatch.views.png import BLUE, VERMILION, pixels
from lightning_weightwatch.views.quantized import QuantizedLayer, quantized_figure
from lightning_weightwatch.weights.statistics import Histogram
from tests.views.pictures import assert_legible, seen, words
from tests.views.spectra_to_draw import HOSTILE


def histogram(values: NDArray[np.float64]) -> Histogram:
    counts, edges = np.histogram(values, 64)
    return Histogram(tuple(edges.tolist()), tuple(counts.tolist()))


def layer(
    name: str = "net.0.weight", bits: int = 4, scale: float = 0.05, clip: float = 0.7
) -> QuantizedLayer:
    """Gaussian values, rounded symmetrically, as few as 2 bits and as many as 8."""
    values = np.random.default_rng(bits).normal(0, scale, 5000)
    top = 2 ** (bits - 1) - 1
    step = clip * np.abs(values).max() / top
    rounded = np.clip(np.round(values / step), -top, top) * step
    return QuantizedLayer(
        name, histogram(values), histogram(rounded), -top * step, top * step, 6.0 * bits
    )


def drawn(*layers: QuantizedLayer) -> Figure:
    figure = quantized_figure(layers)
    assert figure is not None
    return figure


@pytest.mark.parametrize(
    ("count", "scale"), [(1, 1e-7), (1, 0.05), (2, 0.05), (3, 3e4), (6, 1e-7), (9, 3e4)]
)
def test_up_to_six_layers_are_drawn_and_legible(count: int, scale: float) -> None:
    layers = [layer(f"net.{i}.weight", 2 + i % 7, scale * 10**-i) for i in range(count)]
    figure = drawn(*layers)
    assert_legible(figure)
    assert len(figure.axes) == min(count, 6)
    assert seen(pixels(figure), BLUE) > 100
    for axes in figure.axes:
        assert len(axes.get_xticks()) >= 2


def test_any_names_are_legible() -> None:
    assert_legible(drawn(*map(layer, HOSTILE[:6])))
    assert_legible(drawn(*map(layer, HOSTILE[6:])))


def test_grey_steps_are_the_counts_before_and_blue_lines_the_codes_after() -> None:
    shown = layer(bits=4)
    (axes,) = drawn(shown).axes
    (before,) = (patch for patch in axes.patches if isinstance(patch, StepPatch))
    values, edges, _ = before.get_data()
    np.testing.assert_array_equal(values, shown.before.counts)
    np.testing.assert_allclose(edges, shown.before.edges)
    (stems,) = (each for each in axes.collections if isinstance(each, LineCollection))
    tops = {float(np.asarray(stem)[:, 1].max()) for stem in stems.get_segments()}
    assert len(stems.get_segments()) == 15
    assert tops == {float(count) for count in shown.after.counts if count}
    assert axes.get_yscale() == "log"
    assert axes.get_ylim()[0] < 1


def test_many_codes_are_steps() -> None:
    shown = layer(bits=8)
    (axes,) = drawn(shown).axes
    steps = [patch for patch in axes.patches if isinstance(patch, StepPatch)]
    assert [list(patch.get_data()[0]) for patch in steps] == [
        list(shown.before.counts), list(shown.after.counts),
    ]  # fmt: skip


def test_the_range_of_the_codes_is_marked_also_where_it_is_wider_than_the_values() -> None:
    wide = layer(clip=1.5)
    (axes,) = drawn(wide).axes
    ends = sorted(float(np.ravel(line.get_xdata())[0]) for line in axes.lines
                  if line.get_color() == VERMILION)  # fmt: skip
    np.testing.assert_allclose(ends, [wide.low, wide.high])
    low, high = axes.get_xlim()
    assert low < wide.low < wide.high < high


def test_titles_have_the_sqnr_where_it_is_finite() -> None:
    shown = layer()
    assert "net.0.weight, 24.0 dB" in words(drawn(shown))
    same = QuantizedLayer("a", shown.before, shown.before, -1, 1, math.inf)
    assert "a" in words(drawn(same))


def test_all_panels_have_one_scale() -> None:
    few = Histogram((0.0, 1.0, 2.0), (1, 0))
    figure = drawn(layer(), QuantizedLayer("few", few, few, 0.0, 2.0, 9.0))
    assert len({axes.get_ylim() for axes in figure.axes}) == 1


def test_nothing_to_draw_is_no_figure() -> None:
    assert quantized_figure([]) is None
    huge = Histogram((-1.7e308, 0.0, 1.7e308), (1, 1))
    assert quantized_figure([QuantizedLayer("a", huge, huge, 0.0, 1.0, 9.0)]) is None
