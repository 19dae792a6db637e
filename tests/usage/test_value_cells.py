"""Counts in cells tell quantiles and histograms of values of any magnitude."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_weightwatch.usage.value_cells import (
    CELLS,
    FAR_WIDTH,
    FINE,
    RELATIVE_WIDTH,
    SMALLEST,
    cells_of,
    histogram_of,
    size_quantile,
)
from tests.trials.layers import normal


def counted(values: Tensor) -> tuple[NDArray[np.int64], float, float]:
    return cells_of(values).numpy(), values.min().item(), values.max().item()


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 300.0, 1e8, 1e30])
@pytest.mark.parametrize("shift", [0.0, 3.0, -3.0])
def test_a_quantile_is_that_of_numpy_to_the_width_of_a_cell(
    share: float, scale: float, shift: float
) -> None:
    values = (normal(20_000) + shift) * scale
    found = size_quantile(*(counted(values)[:1]), share, *counted(values)[1:])
    sizes = values.abs().double().numpy()
    expected = np.quantile(sizes, share, method="inverted_cdf")
    width = RELATIVE_WIDTH if FINE[0] < expected < FINE[1] else FAR_WIDTH
    assert found == pytest.approx(expected, rel=width, abs=SMALLEST)


def test_between_the_ends_of_a_cell_it_is_interpolated() -> None:
    values = normal(1_000_000)
    cells, low, high = counted(values)
    for share in (0.5, 0.9, 0.99):
        expected = np.quantile(values.abs().double().numpy(), share)
        assert size_quantile(cells, share, low, high) == pytest.approx(expected, rel=5e-4)


def test_the_quantile_of_few_or_equal_values_is_one_of_them() -> None:
    assert size_quantile(*(counted(torch.full((7,), -0.3))[:1]), 0.999, -0.3, -0.3) == 0.3
    assert size_quantile(*(counted(torch.zeros(7))[:1]), 0.999, 0.0, 0.0) == 0.0
    two = torch.tensor([0.1, 40.0])
    assert 39.3 <= size_quantile(cells_of(two).numpy(), 0.999, 0.1, 40.0) <= 40.0


def test_values_beyond_float32_are_counted_all_the_same() -> None:
    values = torch.tensor(
        [0.0, -0.0, 1e-40, -1e-40, 3.3e38, -3.3e38, 1e300, -1e300], dtype=torch.double
    )
    cells = cells_of(values)
    assert len(cells) == CELLS
    assert [int(cells[0]), int(cells[CELLS // 2]), int(cells[-1])] == [2, 4, 2]
    assert np.isnan(size_quantile(cells.numpy(), 0.999, -1e300, 1e300))
    assert size_quantile(cells.numpy(), 0.1, -1e300, 1e300) <= SMALLEST


def test_every_float32_is_within_the_ends_of_its_cell() -> None:
    sizes = torch.logspace(-37.9, 38.5, 3001, dtype=torch.double).float()
    for size in sizes.tolist():
        cells = cells_of(torch.tensor([size, 0.0])).numpy()
        found = size_quantile(cells, 1.0, 0.0, size * (1 + FAR_WIDTH))
        width = RELATIVE_WIDTH if FINE[0] <= size < FINE[1] else FAR_WIDTH
        assert found == pytest.approx(size, rel=width)


def test_what_is_not_finite_is_in_no_cell() -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        values = torch.tensor([1.0, float("nan"), float("inf"), -float("inf"), -2.0], dtype=dtype)
        assert cells_of(values).sum() == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_the_cells_of_two_parts_are_those_of_the_whole(dtype: torch.dtype) -> None:
    values = normal(1000).to(dtype)
    assert cells_of(values[:300]).add(cells_of(values[300:])).equal(cells_of(values))


def test_the_cells_of_negative_values_are_those_of_positive_ones_reversed() -> None:
    values = normal(1000) * torch.logspace(-12, 12, 1000)
    assert cells_of(-values).equal(cells_of(values).flip(0))


@pytest.mark.parametrize("shift", [0.0, 5.0, -5.0])
def test_a_value_is_in_the_bin_in_which_numpy_counts_it_but_for_the_width_of_a_cell(
    shift: float,
) -> None:
    values = normal(50_000) + shift
    found = histogram_of(cells_of(values).numpy(), 50_000, values.min().item(), values.max().item())
    exact = values.double().numpy()
    assert sum(found.counts) == 50_000
    assert (found.edges[0], found.edges[-1]) == (exact.min(), exact.max())
    below = np.cumsum(found.counts)
    for edge, count in zip(found.edges[1:-1], below, strict=False):
        reach = abs(edge) * RELATIVE_WIDTH + SMALLEST
        assert (exact < edge - reach).sum() - 1 <= count <= (exact < edge + reach).sum() + 1


def test_zeros_are_in_the_bin_that_begins_with_zero() -> None:
    values = torch.tensor([-32.0, 32.0] + [0.0] * 98)
    found = histogram_of(cells_of(values).numpy(), 100, -32.0, 32.0)
    assert (found.edges[32], found.counts[32], sum(found.counts)) == (0.0, 98, 100)
    relu = normal(1000).relu()
    first = histogram_of(cells_of(relu).numpy(), 1000, 0.0, relu.max().item()).counts[0]
    assert first >= int((relu == 0).sum())


def test_equal_values_are_all_in_one_bin() -> None:
    for value in (3.0, 0.0, -1e-3):
        cells = cells_of(torch.full((10,), value)).numpy()
        found = histogram_of(cells, 10, value, value)
        at = next(index for index, count in enumerate(found.counts) if count)
        assert found.counts[at] == 10
        assert found.edges[at] <= value <= found.edges[at + 1]


def test_a_sample_is_blown_up_to_the_number_of_all_values() -> None:
    values = normal(1001)
    found = histogram_of(cells_of(values).numpy(), 7 * 1001 + 3, -5.0, 5.0)
    assert sum(found.counts) == 7 * 1001 + 3
