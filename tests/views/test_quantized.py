"""Histograms before and after quantization show their counts, the codes and the range of these."""

import math

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import same_color, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch
from numpy.typing import NDArray

from lightning_weightwatch.values.statistics import Histogram
from lightning_weightwatch.views.png import BLUE, MID_GREY, VERMILION, pixels
from lightning_weightwatch.views.quantized import QuantizedLayer, quantized_figure
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


def steps_of(figure: Figure, name: str) -> list[StepPatch]:
    """The histogram before, and that after if it has many codes."""
    found = (each for each in figure.artists if each.get_label() == name)
    return [each for each in found if isinstance(each, StepPatch)]


def lines_of(figure: Figure, name: str, colour: str) -> list[NDArray[np.float64]]:
    """[2, 2] of each line of a panel: values and logarithms of counts."""
    found = [each for each in figure.artists if isinstance(each, LineCollection)]
    return [np.asarray(line, float) for each in found if each.get_label() == name
            and np.allclose(np.ravel(each.get_edgecolor())[:3], to_rgb(colour))
            for line in each.get_segments()]  # fmt: skip


@pytest.mark.parametrize(
    ("count", "scale"), [(1, 1e-7), (1, 0.05), (2, 0.05), (3, 3e4), (6, 1e-7), (9, 3e4)]
)
def test_up_to_six_layers_are_drawn_and_legible(count: int, scale: float) -> None:
    layers = [layer(f"net.{i}.weight", 2 + i % 7, scale * 10**-i) for i in range(count)]
    figure = drawn(*layers)
    assert_legible(figure)
    names = {patch.get_label() for patch in figure.artists if isinstance(patch, StepPatch)}
    assert names == {each.name for each in layers[:6]}
    assert seen(pixels(figure), BLUE) > 100


@pytest.mark.parametrize("scale", [1e-7, 0.05, 3e4])
def test_every_panel_has_two_numbers_to_read_its_values(scale: float) -> None:
    figure = drawn(*(layer(f"net.{i}.weight", 4, scale * 3**-i) for i in range(5)))
    for name in (f"net.{i}.weight" for i in range(5)):
        before = steps_of(figure, name)[0]
        ends = before.get_data()[1][[0, -1]]
        (left, foot), (right, _) = before.get_transform().transform([(x, -0.5) for x in ends])
        boxes = [text.get_window_extent() for text in figure.texts if text.get_text()]
        below = [box for box in boxes if foot - 40 < box.y1 < foot
                 and left - 5 < (box.x0 + box.x1) / 2 < right + 5]  # fmt: skip
        assert len(below) >= 2


def test_any_names_are_legible() -> None:
    assert_legible(drawn(*map(layer, HOSTILE[:6])))
    assert_legible(drawn(*map(layer, HOSTILE[6:])))


def test_grey_steps_are_the_counts_before_and_blue_lines_the_codes_after() -> None:
    shown = layer(bits=4)
    figure = drawn(shown)
    (before,) = steps_of(figure, shown.name)
    assert same_color(before.get_facecolor(), MID_GREY)
    levels, edges, foot = before.get_data()
    counts = np.array(shown.before.counts)
    np.testing.assert_allclose(levels[counts > 0], np.log10(counts[counts > 0]))
    assert (levels[counts == 0] == foot).all()
    np.testing.assert_allclose(edges, shown.before.edges)
    stems = lines_of(figure, shown.name, BLUE)
    assert len(stems) == 15
    tops = sorted(float(10 ** stem[:, 1].max()) for stem in stems)
    np.testing.assert_allclose(tops, sorted(count for count in shown.after.counts if count))
    step = (shown.high - shown.low) / 14
    width = shown.after.edges[1] - shown.after.edges[0]
    codes = sorted(float(stem[0, 0]) for stem in stems)
    np.testing.assert_allclose(codes, np.arange(-7, 8) * step, atol=width)


def test_counts_stand_at_their_height_in_pixels_and_single_values_are_seen() -> None:
    histogram = Histogram((0.0, 1.0, 2.0, 3.0), (1, 10, 1000))
    figure = drawn(QuantizedLayer("a", histogram, histogram, 0.0, 3.0, 9.0))
    place = steps_of(figure, "a")[0].get_transform()
    foot, one, ten, most = (place.transform((0, power))[1] for power in (-0.5, 0, 1, 3))
    assert one - foot > 15
    assert most - one == pytest.approx(3 * (ten - one))
    labels = {text.get_text(): text.get_window_extent() for text in figure.texts}
    assert (labels["10⁰"].y0 + labels["10⁰"].y1) / 2 == pytest.approx(one, abs=3)


def test_many_codes_are_steps() -> None:
    shown = layer(bits=8)
    after = steps_of(drawn(shown), shown.name)[1]
    assert same_color(after.get_edgecolor(), BLUE)
    counts = np.array(shown.after.counts)
    np.testing.assert_allclose(after.get_data()[0][counts > 0], np.log10(counts[counts > 0]))


def test_the_range_of_the_codes_is_marked_also_where_it_is_wider_than_the_values() -> None:
    wide = layer(clip=1.5)
    figure = drawn(wide)
    ends = sorted(line[0, 0] for line in lines_of(figure, wide.name, VERMILION))
    np.testing.assert_allclose(ends, [wide.low, wide.high])
    place = steps_of(figure, wide.name)[0].get_transform()
    low, high = (float(place.transform((end, 0))[0]) for end in ends)
    assert 0 < low < high < 700


def test_titles_have_the_sqnr_where_it_is_finite() -> None:
    shown = layer()
    assert "net.0.weight, 24.0 dB" in words(drawn(shown))
    same = QuantizedLayer("a", shown.before, shown.before, -1, 1, math.inf)
    assert "a" in words(drawn(same))


def test_all_panels_have_one_scale() -> None:
    few = Histogram((0.0, 1.0, 2.0), (1, 0))
    figure = drawn(layer(), QuantizedLayer("few", few, few, 0.0, 2.0, 9.0))
    places = [steps_of(figure, name)[0].get_transform() for name in ("net.0.weight", "few")]
    heights = [np.diff(place.transform([(0, 0), (0, 3)])[:, 1]) for place in places]
    assert heights[0] == pytest.approx(heights[1])


def test_nothing_to_draw_is_no_figure() -> None:
    assert quantized_figure([]) is None
    huge = Histogram((-1.7e308, 0.0, 1.7e308), (1, 1))
    assert quantized_figure([QuantizedLayer("a", huge, huge, 0.0, 1.0, 9.0)]) is None
