"""The grid of histograms: the counts of the report, on one logarithmic scale."""

import math

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch
from torch import nn

from lightning_weightwatch.views.histogram_grid import histogram_figure
from lightning_weightwatch.views.png import BLUE, pixels
from lightning_weightwatch.weights.description import WeightReport, describe_weights
from tests.views.pictures import assert_legible, seen, words
from tests.views.spectra_to_draw import HOSTILE


def report_of(*parameters: torch.Tensor, names: list[str] | None = None) -> WeightReport:
    model = nn.Module()
    for index, values in enumerate(parameters):
        name = f"weight{index}" if names is None else names[index].replace(".", "·")
        model._parameters[f"{name}{'' if names is None else index}"] = nn.Parameter(values)
    return describe_weights(model)


def normal(size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def bars(figure: Figure) -> list[StepPatch]:
    return [patch for patch in figure.artists if isinstance(patch, StepPatch)]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 6, 7, 11, 12, 13, 300])
def test_any_number_of_parameters_is_legible(count: int) -> None:
    figure = histogram_figure(report_of(*(normal(100 + i, i) for i in range(count))))
    assert_legible(figure)
    assert len(bars(figure)) == min(count, 12)
    assert (seen(pixels(figure), BLUE) > 500) is (count > 0)


def test_any_name_is_legible_and_told_from_the_others() -> None:
    kept = [name for name in HOSTILE if name]
    figure = histogram_figure(report_of(*(normal(50, i) for i in range(len(kept))), names=kept))
    assert_legible(figure)
    assert len({patch.get_label() for patch in bars(figure)}) == len(kept)


def test_bars_are_the_logarithms_of_the_counts_over_the_edges() -> None:
    report = report_of(normal(5000), normal(300, 1) * 9 + 4)
    for patch, parameter in zip(bars(histogram_figure(report)), report.parameters, strict=True):
        assert parameter.histogram is not None
        values, edges, foot = patch.get_data()
        np.testing.assert_array_equal(edges, parameter.histogram.edges)
        counts = np.array(parameter.histogram.counts)
        np.testing.assert_allclose(values[counts > 0], np.log10(counts[counts > 0]))
        assert (values[counts == 0] == foot).all()


def test_counts_share_a_scale_and_single_values_are_seen() -> None:
    values = torch.zeros(10_000)
    values[0] = 1.0
    figure = histogram_figure(report_of(values, torch.zeros(10)))
    large, small = bars(figure)
    for patch in (large, small):
        height = (
            patch.get_transform().transform((0, 1))[1] - patch.get_transform().transform((0, 0))[1]
        )
        assert height > 20
    image = pixels(figure)
    x, y = large.get_transform().transform((0.995, -0.1))
    assert seen(image[len(image) - int(y)][None, int(x) - 1 : int(x) + 2], BLUE) >= 2


def test_the_12_largest_are_shown_in_the_order_of_the_model() -> None:
    sizes = [*range(10, 30), 5]
    figure = histogram_figure(report_of(*(normal(size) for size in sizes)))
    assert [patch.get_label() for patch in bars(figure)] == [f"weight{i}" for i in range(8, 20)]
    assert "12 largest of 21 parameters, log counts" in words(figure)


def test_of_equally_large_parameters_some_from_everywhere_are_shown() -> None:
    sizes = [50] * 4 + [100] * 150
    figure = histogram_figure(report_of(*(normal(size) for size in [*sizes, 200])), title="epoch 3")
    shown = [int(str(patch.get_label()).removeprefix("weight")) for patch in bars(figure)]
    assert shown[0] == 4
    assert shown[-2:] == [153, 154]
    assert set(np.diff(shown[:-1])) <= {14, 15}
    assert "epoch 3: 12 largest of 155 parameters, log counts" in words(figure)


@pytest.mark.parametrize(
    "values",
    [
        torch.linspace(-0.1105, 0.09305, 99),
        torch.linspace(0.013, 0.0199, 99),
        torch.linspace(-7e-8, 1.3e-3, 99),
        1e8 + torch.linspace(0, 1e-2, 99, dtype=torch.float64),
        torch.tensor([-1.0, 1000.0]),
        torch.ones(64),
        torch.tensor([-1.1e-38, 3e38]),
    ],
)
def test_every_panel_has_two_numbers_to_read_its_scale(values: torch.Tensor) -> None:
    figure = histogram_figure(report_of(values, normal(50)))
    left, _ = bars(figure)
    edge, foot = left.get_transform().transform([(left.get_data()[1][-1], -0.5)])[0]
    numbers = [
        text.get_text()
        for text in figure.texts
        if 20 < text.get_window_extent().y1 < foot and text.get_window_extent().x1 < edge + 20
    ]
    assert len(set(numbers) - {"value of the weights"}) >= 2


def test_zeros_and_values_that_are_not_finite_are_said() -> None:
    pruned, broken, lost = normal(1000), normal(100), torch.full((9,), math.nan)
    pruned[:900] = 0
    broken[:2] = math.inf
    figure = histogram_figure(report_of(pruned, broken, lost))
    assert {"90 % zeros", "2 not finite", "no finite value"} <= set(words(figure))
    assert len(bars(figure)) == 2
    assert_legible(figure)


@pytest.mark.parametrize(
    "values",
    [
        torch.ones(64),
        torch.zeros(64),
        torch.tensor(3.0),
        normal(99) * 1e-30,
        normal(99) * 1e37,
        normal(99, 1).double() * 1e306,
        1e8 + normal(99).double() * 1e-3,
        torch.tensor([1e-45, 3e38]),
        torch.tensor([-1.7e308, 1.7e308], dtype=torch.float64),
    ],
)
def test_values_of_any_size_are_legible(values: torch.Tensor) -> None:
    assert_legible(histogram_figure(report_of(values, normal(50))))
