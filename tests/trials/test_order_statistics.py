"""The k-th magnitude is that of a sort, percentiles are those of numpy, and size is no limit."""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from lightning_weightwatch.trials.order_statistics import (
    order_statistics,
    quantile_of_blocks,
    quantile_of_rows,
)
from lightning_weightwatch.trials.selection import blocks, widened, widest
from lightning_weightwatch.values.blocks import values_at_once
from tests.trials.layers import normal

CPU_BLOCK = values_at_once(torch.device("cpu"))
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
SUBNORMALS = [-0.0, 0.0, 1e-45, -1e-45, 1e-40, 5e-324, -1e-310, 6e-8, math.inf, 1.0, -1.0]


def sorted_magnitudes(tensors: Sequence[Tensor]) -> NDArray[np.float64]:
    flat = [np.abs(tensor.double().numpy()).ravel() for tensor in tensors]
    return np.sort(np.concatenate(flat))


def of_ranks(tensors: Sequence[Tensor], *ranks: int) -> list[tuple[float, int]]:
    """As pruning asks for them."""
    dtype = widest(tensors)
    return order_statistics(
        lambda: [widened(block, dtype) for tensor in tensors for block in blocks(tensor)], ranks
    )


@given(st.lists(st.floats(allow_nan=False) | st.sampled_from(SUBNORMALS), min_size=1), st.data())
def test_the_magnitudes_of_two_ranks_are_those_of_a_sort(
    values: list[float], data: st.DataObject
) -> None:
    dtype = data.draw(st.sampled_from(DTYPES))
    tensors = [torch.tensor(values, dtype=torch.float64).to(dtype)]
    ranks = [data.draw(st.integers(0, len(values) - 1)) for _ in range(2)]
    expected = sorted_magnitudes(tensors)
    for rank, (value, smaller) in zip(ranks, of_ranks(tensors, *ranks), strict=True):
        assert value == expected[rank]
        assert smaller == int((expected < value).sum())


def test_dtypes_are_ranked_together_by_value() -> None:
    tensors = [
        torch.tensor([4.0, 1.0, 1.0 + 1e-12], dtype=torch.float64),
        torch.tensor([-2.0, 5.0], dtype=torch.bfloat16),
        torch.tensor([0.5, -3.0], dtype=torch.float16),
    ]
    expected = [(value, rank) for rank, value in enumerate(sorted_magnitudes(tensors))]
    assert of_ranks(tensors, *range(7)) == expected


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_value_is_found_across_blocks_and_tensors(dtype: torch.dtype) -> None:
    tensors = [normal(3, CPU_BLOCK + 5).to(dtype), normal(7, seed=1).to(dtype)]
    expected = sorted_magnitudes(tensors)
    ranks = [0, len(expected) // 3, len(expected) - 1]
    assert [value for value, _ in of_ranks(tensors, *ranks)] == [expected[rank] for rank in ranks]


def in_blocks_of(values: Tensor, size: int) -> Callable[[], Iterator[Tensor]]:
    return lambda: iter(values.view(1, -1).split(size, 1))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("percentile", [0.001, 50.0, 99.0, 99.9, 99.99, 100.0])
def test_percentiles_are_those_of_numpy(percentile: float) -> None:
    rows = torch.from_numpy(np.random.default_rng(3).standard_t(2, (8, 5_000))).float()
    found = quantile_of_rows(rows.abs(), percentile / 100)
    expected = np.quantile(rows.abs().double().numpy(), percentile / 100, axis=1)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    of_all = np.quantile(rows.abs().double().numpy(), percentile / 100)
    assert quantile_of_blocks(in_blocks_of(rows, 999), percentile / 100) == pytest.approx(
        of_all, rel=1e-12
    )


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=40),
    st.floats(0, 1),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_percentiles_are_those_of_numpy_whatever_the_values(
    values: list[float], share: float, dtype: torch.dtype
) -> None:
    tensor = torch.tensor(values, dtype=dtype)
    expected = np.quantile(np.abs(tensor.double().numpy()), share)
    for found in (
        quantile_of_rows(tensor.abs().unsqueeze(0), share).item(),
        quantile_of_blocks(in_blocks_of(tensor, 7), share),
    ):
        assert found == pytest.approx(expected, rel=1e-12, abs=1e-300)


def test_there_is_no_limit_to_the_size_of_what_a_percentile_is_of() -> None:
    values = torch.arange(17_000_000, dtype=torch.float64)  # torch.quantile refuses so many
    found = quantile_of_blocks(in_blocks_of(values, 1 << 17), 0.999)
    assert found == pytest.approx(0.999 * 16_999_999, rel=1e-12)
