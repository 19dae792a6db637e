"""Moments and histograms are numpy's, in float64, for every dtype, layout and block size."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from lightning_weightwatch.values import blocks, measurement
from lightning_weightwatch.values.measurement import Measured, measure
from lightning_weightwatch.values.statistics import Histogram, Moments, bin_edges


def measured(values: Tensor) -> Measured:
    (found,), _ = measure([values], outlier_mads=10.0)
    return found


def moments(values: Tensor) -> Moments:
    return measured(values).moments


def by_cells(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """Let small tensors go the way of large ones, in blocks of a given size."""
    monkeypatch.setattr(measurement, "FEW", 0)
    monkeypatch.setattr(blocks, "BLOCK", block)
    monkeypatch.setattr(blocks, "STRETCH", 4 * block)


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
    "float8 with infinities": lambda: (9 * normal(1000)).to(torch.float8_e5m2),
    "complex128": lambda: torch.complex(normal(200).double(), normal(200, seed=1).double()),
    "conjugated": lambda: torch.complex(normal(200), normal(200, seed=1)).conj(),
    "1e300": lambda: 1e300 * normal(3000).double(),
    "largest": lambda: torch.tensor([1.7e308, -1.7e308, 1.0, 0.0]).double(),
    "denormals": lambda: 5e-324 * torch.arange(-9, 90).double(),
    "float32 denormals": lambda: 1e-45 * torch.arange(-9, 90),
    "one outlier": lambda: torch.cat([normal(2000), torch.tensor([1e30])]),
    "mostly zeros": lambda: normal(3000) * (normal(3000, seed=1) > 1),
    "symmetric": lambda: torch.cat([normal(2000).clamp(-2, 2), 1e-20 * normal(100)]),
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
    scale = float(np.abs(expected).max())
    unit = scale if scale > 1e100 or 0 < scale < 1e-100 else 1.0  # numpy has no unit of its own
    whole = expected / unit
    assert found.mean == pytest.approx(float(whole.mean()) * unit, rel=1e-12, abs=1e-15 * scale)
    assert found.std == pytest.approx(float(whole.std()) * unit, rel=1e-10, abs=1e-15 * scale)
    assert found.norm == pytest.approx(float(np.linalg.norm(whole)) * unit, rel=1e-12)


def size_of(values: Tensor) -> int:
    return values.numel() * (2 if values.is_complex() else 1)


def assert_histogram_of(found: Histogram | None, expected: NDArray[np.float64]) -> None:
    assert found is not None
    assert found.edges == bin_edges(float(expected.min()), float(expected.max()))
    with np.errstate(over="ignore"):  # numpy's own, where the range is beyond float64
        counts, _ = np.histogram(expected, bins=np.array(found.edges))
    assert list(found.counts) == counts.tolist()
    assert sum(found.counts) == expected.size


@pytest.mark.parametrize("block", [None, 1 << 14, 499, 64])
@pytest.mark.parametrize("case", CASES)
def test_moments_and_histograms_are_those_of_numpy(
    monkeypatch: pytest.MonkeyPatch, case: str, block: int | None
) -> None:
    if block is not None:
        by_cells(monkeypatch, block)
    values = CASES[case]()
    expected = finite(values)
    found = measured(values)
    assert found.shape == values.shape
    assert_moments_of(found.moments, expected, size_of(values))
    assert_histogram_of(found.histogram, expected)


@pytest.mark.parametrize("block", [1, 7])
@pytest.mark.parametrize("case", ["float32", "nan and inf", "complex of nans", "offset", "strided"])
def test_blocks_of_a_few_values_change_nothing(
    monkeypatch: pytest.MonkeyPatch, case: str, block: int
) -> None:
    by_cells(monkeypatch, block)
    values = CASES[case]()[:90]
    assert_moments_of(moments(values), finite(values), size_of(values))
    assert_histogram_of(measured(values).histogram, finite(values))


def test_more_values_than_a_stretch_holds_are_all_counted() -> None:
    values = normal((1 << 21) + 1000)
    values[-1], values[0] = 9.0, -9.0
    assert_moments_of(moments(values), finite(values), values.numel())
    assert_histogram_of(measured(values).histogram, finite(values))


@pytest.mark.parametrize(
    "cases",
    [("float32", "one outlier"), ("float64", "bfloat16"), ("whole numbers on the edges",) * 2],
)
@pytest.mark.parametrize("few", [0, 4096])
def test_the_joint_histogram_is_numpys_over_all_tensors(
    monkeypatch: pytest.MonkeyPatch, cases: tuple[str, str], few: int
) -> None:
    monkeypatch.setattr(measurement, "FEW", few)
    tensors = [CASES[case]() for case in cases]
    _, joint = measure(tensors, outlier_mads=10.0)
    assert_histogram_of(joint, np.concatenate([finite(values) for values in tensors]))


numbers = {
    torch.float32: st.floats(-(2.0**100), 2.0**100, width=32),
    torch.float64: st.floats(-1e300, 1e300),
    torch.float16: st.floats(-2, 2, width=16),
}


@pytest.mark.parametrize("dtype", numbers)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_value_is_ever_counted_on_the_wrong_side_of_an_edge(
    dtype: torch.dtype, data: st.DataObject
) -> None:
    some = torch.tensor(data.draw(st.lists(numbers[dtype], min_size=2, max_size=40)), dtype=dtype)
    # the edges themselves, and their neighbours, are where it can go wrong
    edges = torch.tensor(bin_edges(some.min().item(), some.max().item()), dtype=torch.float64)
    near = edges[1:-1].to(dtype)
    infinity = torch.tensor(math.inf, dtype=dtype)
    values = torch.cat(
        [some, near, torch.nextafter(near, infinity), torch.nextafter(near, -infinity)]
    )
    values = values[(values >= some.min()) & (values <= some.max())]
    other = some[:1] * torch.tensor([0.5, 1.5], dtype=dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measurement, "FEW", 0)
        found, joint = measure([values, other], outlier_mads=10.0)
    assert_histogram_of(found[0].histogram, finite(values))
    assert_histogram_of(joint, np.concatenate([finite(values), finite(other)]))


def test_float64_values_one_ulp_beside_every_edge_fall_where_numpy_puts_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measurement, "FEW", 0)
    edges = np.array(bin_edges(-0.3, 1.7))
    near = [edges[1:-1], np.nextafter(edges[1:-1], 9), np.nextafter(edges[1:-1], -9)]
    values = np.concatenate([edges, *near])
    assert_histogram_of(measured(torch.from_numpy(values)).histogram, values)


@pytest.mark.parametrize("few", [0, 1 << 20])
@pytest.mark.parametrize(
    "values",
    [normal(20000), normal(20000) ** 3, 5 + normal(20000).exp(), 1e300 * normal(9000).double()],
    ids=["gaussian", "heavy tails", "skewed", "1e300"],
)
def test_kurtosis_is_the_fourth_standardised_moment_of_scipy(
    monkeypatch: pytest.MonkeyPatch, values: Tensor, few: int
) -> None:
    monkeypatch.setattr(measurement, "FEW", few)
    array = values.double().numpy()
    expected = float(stats.kurtosis(array / np.abs(array).max(), fisher=False))
    assert moments(values).kurtosis == pytest.approx(expected, rel=1e-9)


def test_the_kurtosis_of_equal_values_is_unknown() -> None:
    assert math.isnan(moments(torch.full((9000,), 0.1)).kurtosis)
    assert math.isnan(moments(torch.tensor([0.1])).kurtosis)
    assert math.isnan(Moments().kurtosis)


def test_a_norm_beyond_float64_is_not_an_error() -> None:
    found = moments(torch.full((9000,), 1.7e308, dtype=torch.float64))
    assert (found.norm, found.sum_of_squares, found.total) == (math.inf, math.inf, math.inf)
    assert found.mean == pytest.approx(1.7e308)
    assert found.std == 0


@pytest.mark.parametrize("values", [torch.tensor([math.nan, math.inf]), torch.zeros(0)])
def test_without_a_finite_value_nothing_is_claimed(values: Tensor) -> None:
    found = moments(values)
    assert (found.count, found.nonfinite) == (0, values.numel())
    assert all(map(math.isnan, (found.mean, found.std, found.min, found.max)))
    assert measured(values).histogram is None
    assert measured(values).spread is None


def test_the_moments_of_nothing_added_change_nothing() -> None:
    some = moments(normal(100))
    assert some + Moments() == Moments() + some == some


@pytest.mark.parametrize("cut", [0, 1, 250, 499, 500])
def test_the_moments_of_two_parts_are_those_of_the_whole(cut: int) -> None:
    values = holes()
    joined = moments(values[:cut]) + moments(values[cut:])
    assert_moments_of(joined, finite(values), values.numel())
    assert joined.kurtosis == pytest.approx(float(stats.kurtosis(finite(values), fisher=False)))


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


def test_a_parameter_is_only_read() -> None:
    values = holes().requires_grad_()
    before = values.detach().clone()
    assert not isinstance(moments(values).total, Tensor)
    assert torch.equal(values.detach().view(torch.int32), before.view(torch.int32))
