"""Moments and histograms are numpy's, in float64, for every dtype, layout and block size."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_weightwatch.weights import statistics
from lightning_weightwatch.weights.statistics import Moments, bin_edges, histogram, moments

BLOCKS = ("_CACHE_BLOCK", "_COPY_BLOCK")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def holes() -> Tensor:
    values = normal(500)
    values[::7], values[3], values[4], values[5] = 0.0, math.nan, math.inf, -math.inf
    return values


CASES: dict[str, Callable[[], Tensor]] = {
    "float32": lambda: normal(40, 30),
    "float64": lambda: normal(40, 30).double() / 3,
    "bfloat16": lambda: normal(1000).bfloat16(),
    "float16": lambda: normal(1000).half(),
    "float8": lambda: normal(1000).to(torch.float8_e4m3fn),
    "int8": lambda: torch.arange(-128, 128, dtype=torch.int8),
    "bool": lambda: normal(100) > 0,
    "complex64": lambda: torch.complex(normal(200), normal(200, seed=1)),
    "complex of nans": lambda: torch.complex(holes(), normal(500, seed=1)),
    "nan and inf": holes,
    "1e30": lambda: 1e30 * normal(300),
    "1e-30": lambda: 1e-30 * normal(300),
    "offset": lambda: 1e4 + normal(3000).double(),
    "heavy tails": lambda: normal(2000) ** 9,
    "constant": lambda: torch.full((50,), 0.1),
    "zeros": lambda: torch.zeros(50),
    "negative zeros": lambda: torch.tensor([-0.0, 0.0, 1.0]),
    "one element": lambda: torch.tensor(-2.5),
    "two neighbours": lambda: torch.tensor([1.0, 1.0 + 2**-52], dtype=torch.float64),
    "whole numbers on the edges": lambda: torch.arange(-32.0, 33.0).repeat(3),
    "transposed": lambda: normal(30, 40).T,
    "strided": lambda: normal(60, 50)[::3, 1::2],
    "expanded": lambda: normal(1, 9).expand(20, 9),
    "four dimensions": lambda: normal(5, 4, 3, 3),
}


def finite(values: Tensor) -> NDArray[np.float64]:
    """The finite values in float64, a complex number as two."""
    if values.is_complex():
        array = np.concatenate(
            [values.real.double().numpy().ravel(), values.imag.double().numpy().ravel()]
        )
    else:
        array = values.double().numpy().ravel()
    return np.asarray(array[np.isfinite(array)])


def assert_moments_of(found: Moments, expected: NDArray[np.float64], size: int) -> None:
    assert found.count == expected.size
    assert found.nonfinite == size - expected.size
    assert found.zeros == np.count_nonzero(expected == 0)
    assert found.zero_share == found.zeros / size
    assert found.min == expected.min()
    assert found.max == expected.max()
    scale = np.abs(expected).max()
    assert found.mean == pytest.approx(float(expected.mean()), rel=1e-12, abs=1e-15 * scale)
    assert found.std == pytest.approx(float(expected.std()), rel=1e-10, abs=1e-15 * scale)
    assert found.norm == pytest.approx(float(np.linalg.norm(expected)), rel=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_moments_are_those_of_numpy(case: str) -> None:
    values = CASES[case]()
    size = values.numel() * (2 if values.is_complex() else 1)
    assert_moments_of(moments(values), finite(values), size)


@pytest.mark.parametrize("case", CASES)
def test_histograms_are_those_of_numpy_count_for_count(case: str) -> None:
    values = CASES[case]()
    expected = finite(values)
    edges = bin_edges(float(expected.min()), float(expected.max()))
    found = histogram(values, edges)
    counts, _ = np.histogram(expected, bins=np.array(edges))
    assert found.edges == edges
    assert list(found.counts) == counts.tolist()
    assert sum(found.counts) == expected.size


@pytest.mark.parametrize("block", [1, 7, 64, 499])
@pytest.mark.parametrize("case", ["float32", "nan and inf", "complex of nans", "offset", "zeros"])
def test_the_size_of_the_blocks_does_not_show(
    monkeypatch: pytest.MonkeyPatch, case: str, block: int
) -> None:
    values = CASES[case]()
    expected = finite(values)
    edges = bin_edges(float(expected.min()), float(expected.max()))
    in_one = histogram(values, edges)
    for name in ("_CACHE_BLOCK", "_COPY_BLOCK"):
        monkeypatch.setattr(statistics, name, block)
    size = values.numel() * (2 if values.is_complex() else 1)
    assert_moments_of(moments(values), expected, size)
    assert histogram(values, edges) == in_one


def test_more_values_than_a_block_holds_are_all_counted() -> None:
    values = normal((1 << 22) + 1000)
    values[-1], values[0] = 9.0, -9.0
    expected = finite(values)
    found = moments(values)
    assert_moments_of(found, expected, values.numel())
    edges = bin_edges(found.min, found.max)
    counts, _ = np.histogram(expected, bins=np.array(edges))
    assert list(histogram(values, edges).counts) == counts.tolist()


def test_values_outside_the_edges_are_not_counted() -> None:
    values = torch.tensor([-1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5, math.nan])
    assert histogram(values, (0.0, 1.0, 2.0)).counts == (2, 3)


@pytest.mark.parametrize("values", [torch.tensor([math.nan, math.inf]), torch.zeros(0)])
def test_without_a_finite_value_nothing_is_claimed(values: Tensor) -> None:
    found = moments(values)
    assert (found.count, found.nonfinite) == (0, values.numel())
    assert all(map(math.isnan, (found.mean, found.std, found.min, found.max)))
    assert sum(histogram(values, (0.0, 1.0)).counts) == 0


def test_the_moments_of_nothing_added_change_nothing() -> None:
    some = moments(normal(100))
    assert some + Moments() == Moments() + some == some


@pytest.mark.parametrize("cut", [0, 1, 250, 499, 500])
def test_the_moments_of_two_parts_are_those_of_the_whole(cut: int) -> None:
    values = holes()
    joined = moments(values[:cut]) + moments(values[cut:])
    assert_moments_of(joined, finite(values), values.numel())


@pytest.mark.parametrize(
    ("low", "high"), [(-1.0, 3.0), (0.0, 1e-30), (-1e30, 1e30), (5.0, 5.5), (-8e307, 8e307)]
)
def test_bins_divide_the_range_evenly(low: float, high: float) -> None:
    edges = bin_edges(low, high, bins=10)
    assert (edges[0], edges[-1]) == (low, high)
    scale = max(abs(low), abs(high))
    np.testing.assert_allclose(edges, np.linspace(low, high, 11), rtol=1e-15, atol=1e-15 * scale)
    assert all(left < right for left, right in itertools.pairwise(edges))


@pytest.mark.parametrize("low", [1.0, -1.0, 1e30, -1e-30])
@pytest.mark.parametrize("steps", [1, 2, 63, 65])
def test_values_too_close_for_bins_get_bins_that_can_be_told_apart(low: float, steps: int) -> None:
    high = low + steps * float(np.spacing(abs(low)))
    edges = bin_edges(low, high)
    assert edges[0] <= low < high <= edges[-1]
    assert all(left < right for left, right in itertools.pairwise(edges))


@pytest.mark.parametrize("value", [0.0, -0.0, 0.1, -7.0, 1e30, -1e30, 1e-30])
def test_a_single_value_gets_bins_of_some_width_around_it(value: float) -> None:
    edges = bin_edges(value, value, bins=8)
    assert edges[0] < value < edges[-1]
    assert all(left < right for left, right in itertools.pairwise(edges))
    assert sum(histogram(torch.tensor([value] * 3, dtype=torch.float64), edges).counts) == 3


def test_a_parameter_is_only_read() -> None:
    values = holes().requires_grad_()
    before = values.detach().clone()
    histogram(values, (-1.0, 0.0, 1.0))
    assert not isinstance(moments(values).total, Tensor)
    assert torch.equal(values.detach().view(torch.int32), before.view(torch.int32))
