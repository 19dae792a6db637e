"""Activations are drawn to scale, legibly, whatever their number and size."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_weightwatch.usage.activations import (
    Activations,
    LayerActivations,
    observed_modules,
)
from lightning_weightwatch.views.activations import (
    activation_figure,
    activation_markdown,
    activation_row,
)
from lightning_weightwatch.views.png import BLACK, BLUE, VERMILION, pixels
from tests.trials.layers import normal
from tests.views.pictures import assert_legible, colour, seen, words


def seen_of(model: nn.Module, x: Tensor) -> tuple[LayerActivations, ...]:
    with torch.no_grad(), Activations(observed_modules(model)) as activations:
        model(x)
    return activations.of_layers()


def tower(layers: int, scale: float = 1.0, dead: int = 0) -> tuple[LayerActivations, ...]:
    torch.manual_seed(0)
    parts: list[nn.Module] = []
    for _ in range(layers // 2):
        linear = nn.Linear(8, 8)
        with torch.no_grad():
            linear.weight.mul_(scale)
            linear.bias[:dead] = -1e6
        parts += [linear, nn.ReLU()]
    return seen_of(nn.Sequential(*parts), normal(32, 8))


@pytest.mark.parametrize("layers", [2, 4, 12, 60, 300])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_any_number_of_layers_is_legible(layers: int, scale: float) -> None:
    figure = activation_figure(tower(layers, scale, dead=2), "after epoch 3")
    assert_legible(figure)
    assert {"after epoch 3", "zeros", "dead channels", "100 %"} <= set(words(figure))


@pytest.mark.parametrize("scale", [1e-20, 1e-4, 1e9])
def test_any_size_is_legible(scale: float) -> None:
    identity = nn.Sequential(nn.ReLU(), nn.Tanh())
    assert_legible(activation_figure(seen_of(identity, normal(64, 5) * scale)))


def test_nothing_and_constants_are_drawn_too() -> None:
    figure = activation_figure([])
    assert_legible(figure)
    assert "no activations" in words(figure)
    assert_legible(activation_figure(seen_of(nn.ReLU(), torch.zeros(3, 4))))


def test_names_and_titles_are_shown_as_they_are() -> None:
    model = nn.ModuleDict({"$\\alpha$_编": nn.Linear(2, 2)})
    with torch.no_grad(), Activations(observed_modules(model)) as activations:
        model["$\\alpha$_编"](normal(3, 2))
    figure = activation_figure(activations.of_layers(), "$x^2$ " * 30)
    assert_legible(figure)
    assert any(word.startswith("$\\alpha$_") for word in words(figure))
    assert "编" not in "".join(words(figure))


def test_a_box_is_as_wide_as_two_standard_deviations() -> None:
    x = torch.tensor([1.0, 2.0, 4.0, 5.0]).repeat(100).view(-1, 1)
    figure = activation_figure(seen_of(nn.ReLU(), x))
    axes, image = figure.axes[0], pixels(figure)
    ends = axes.transData.transform([(3 - 2.5**0.5, 0), (3 + 2.5**0.5, 0)])
    row = image[image.shape[0] - round(ends[0, 1]) - 3]
    blue = np.flatnonzero(np.abs(row - colour(BLUE)).max(-1) <= 2)
    assert blue.min() == pytest.approx(ends[0, 0], abs=2)
    assert blue.max() == pytest.approx(ends[1, 0], abs=2)


def test_dead_channels_are_black_and_only_where_there_are_any() -> None:
    alive = pixels(activation_figure(tower(4)))
    dead = pixels(activation_figure(tower(4, dead=4)))
    assert seen(dead, BLACK) > seen(alive, BLACK) + 500
    for image in (alive, dead):
        assert seen(image, BLUE) > 200
        assert seen(image, VERMILION) > 20


def test_the_table_has_a_row_for_each_layer() -> None:
    found = tower(4, dead=2)
    lines = activation_markdown(found).splitlines()
    assert len(lines) == 2 + 4
    assert lines[0].startswith("| name | type | channels | mean | std |")
    row = activation_row(found[1])
    assert (row["type"], row["channels"], row["dead"]) == ("ReLU", 8, 2)
    assert row["zeros"] == found[1].zero_share
