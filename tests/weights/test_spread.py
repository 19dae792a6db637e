"""Medians, MADs and outliers lie within their stated bounds of numpy's, for tensors and groups."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_weightwatch.values import measurement
from lightning_weightwatch.values.spread import Spread
from lightning_weightwatch.weights.description import WeightReport, describe_weights


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def of(*tensors: Tensor, outlier_mads: float = 10.0) -> WeightReport:
    return describe_weights(
        nn.ParameterList([nn.Parameter(values) for values in tensors]), outlier_mads=outlier_mads
    )


def array(*tensors: Tensor) -> NDArray[np.float64]:
    return np.concatenate([values.double().numpy().ravel() for values in tensors])


def assert_bounds_hold(found: Spread, values: NDArray[np.float64]) -> None:
    median = float(np.median(values))
    mad = float(np.median(np.abs(values - median)))
    rounding = 4 * float(np.spacing(np.abs(values).max()))  # that of numpy's own differences
    assert abs(found.median - median) <= found.median_error + rounding
    assert abs(found.mad - mad) <= found.mad_error + rounding
    assert found.mad >= 0


def beyond(found: Spread, values: NDArray[np.float64]) -> int:
    low, high = found.outlier_range
    return int(((values < low) | (values > high)).sum())


LARGE = {
    "gaussian": normal(20_000),
    "uniform": torch.rand(20_000, generator=torch.Generator().manual_seed(0)),
    "far from zero": 1000 + normal(20_000),
    "heavy tails": normal(20_000) ** 7,
    "skewed": normal(20_000).exp(),
    "two clusters": normal(20_000) / 100 + (torch.arange(20_000) % 2 * 2 - 1),
    "one outlier": torch.cat([normal(20_000), torch.tensor([1e30])]),
    "outliers on both sides": torch.cat([normal(20_000), torch.tensor([-1e30, 1e25, 300.0])]),
    "float64": normal(20_000).double() / 3,
    "1e300": normal(20_000).double() * 1e300,
    "sorted, so that no sample is typical": torch.sort(normal(20_000)).values ** 9,
}


@pytest.mark.parametrize("case", LARGE)
def test_the_mad_is_known_to_one_percent_and_no_worse_than_it_says(case: str) -> None:
    values = LARGE[case]
    (found,) = of(values).parameters
    assert_bounds_hold(found.spread, array(values))
    assert found.mad_error <= 0.01 * found.mad
    assert (found.median, found.mad, found.mad_error) == (
        found.spread.median, found.spread.mad, found.spread.mad_error
    )  # fmt: skip


def test_a_sample_that_misses_every_large_value_is_made_up_for_by_counting_again() -> None:
    values = torch.zeros(1 << 20)
    step = 1 + values.numel() // 512
    values[:] = normal(values.numel())
    values[::step] = 1e20 * normal(len(values[::step]))
    (found,) = of(values).parameters
    assert_bounds_hold(found.spread, array(values))
    assert found.outliers == beyond(found.spread, array(values))


@pytest.mark.parametrize("outlier_mads", [0.5, 3.0, 10.0, 1e6])
@pytest.mark.parametrize("case", LARGE)
def test_outliers_of_a_parameter_are_exactly_those_beyond_the_stated_range(
    case: str, outlier_mads: float
) -> None:
    values = LARGE[case]
    (found,) = of(values, outlier_mads=outlier_mads).parameters
    assert found.outliers == beyond(found.spread, array(values))
    low, high = found.spread.outlier_range
    assert low == pytest.approx(found.median - outlier_mads * found.mad)
    assert high == pytest.approx(found.median + outlier_mads * found.mad)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 4095, 4096])
def test_few_values_have_their_exact_median_and_mad(size: int) -> None:
    values = normal(size)
    values[0] = 50.0
    (found,) = of(values).parameters
    median = float(np.median(array(values)))
    assert found.median == median
    assert found.mad == float(np.median(np.abs(array(values) - median)))
    assert found.mad_error == 0
    assert found.outliers == beyond(found.spread, array(values))


@pytest.mark.parametrize("size", [5, 20_000])
def test_equal_values_have_no_spread_and_no_outliers(size: int) -> None:
    report = of(torch.full((size,), 0.1))
    for found in (report.parameters[0].spread, report.model.spread):
        assert found.median == pytest.approx(float(np.float32(0.1)), rel=1e-15)
        assert (found.mad, found.mad_error, found.outliers) == (0, 0, 0)


def test_more_zeros_than_other_values_leave_a_median_and_mad_of_exactly_zero() -> None:
    values = normal(20_000)
    values[:10_001] = 0
    report = of(values)
    for found in (report.parameters[0].spread, report.model.spread):
        assert (found.median, found.mad, found.mad_error) == (0, 0, 0)
        assert found.outliers <= 9_999
    assert report.parameters[0].outliers == 9_999


def test_without_a_finite_value_nothing_is_claimed() -> None:
    (found,) = of(torch.full((5,), math.nan)).parameters
    assert all(map(math.isnan, (found.median, found.mad, found.mad_error)))
    assert found.outliers == 0


@pytest.mark.parametrize("cases", [("gaussian", "uniform"), ("far from zero", "skewed"),
                                   ("one outlier", "gaussian"), ("1e300", "float64")])  # fmt: skip
def test_the_spread_of_a_model_is_bounded_too(cases: tuple[str, str]) -> None:
    tensors = [LARGE[case] for case in cases]
    found = of(*tensors, normal(70)).model.spread
    values = array(*tensors, normal(70))
    assert_bounds_hold(found, values)
    assert found.outliers <= beyond(found, values)


def test_the_outliers_of_a_model_are_all_but_those_in_the_cell_of_a_threshold() -> None:
    tensors = [LARGE["gaussian"], LARGE["uniform"], torch.cat([normal(9000), 80 * normal(100)])]
    found = of(*tensors).model.spread
    (low, high), values = found.outlier_range, array(*tensors)
    assert 0 < found.outliers <= beyond(found, values)
    width = 24 * 1.1 / 4096  # of a cell of a Gaussian with unit variance: 24 MADs in 4,096 cells
    inside = ((values < low - width) | (values > high + width)).sum()
    assert found.outliers >= min(inside, found.outliers)


floats = st.one_of(st.floats(-2, 2), st.floats(-(2.0**90), 2.0**90), st.sampled_from([0.0, 1.0]))


@settings(max_examples=100, deadline=None)
@given(
    sets=st.lists(st.lists(floats, min_size=1, max_size=12), min_size=1, max_size=4),
    outlier_mads=st.floats(0.1, 20),
)
def test_bounds_hold_for_any_values(sets: list[list[float]], outlier_mads: float) -> None:
    tensors = [torch.tensor(values, dtype=torch.float64) for values in sets]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measurement, "FEW", 0)
        report = of(*tensors, outlier_mads=outlier_mads)
    for found, values in zip(report.parameters, tensors, strict=True):
        assert_bounds_hold(found.spread, array(values))
        assert found.outliers == beyond(found.spread, array(values))
    assert_bounds_hold(report.model.spread, array(*tensors))
    assert report.model.spread.outliers <= beyond(report.model.spread, array(*tensors))
