"""What is selected is what sorting selects, whatever the bits, the blocks and the ties."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from torch import Tensor

from lightning_weightwatch.trials.selection import (
    Smallest,
    blocks,
    smallest_of_each,
)
from lightning_weightwatch.values.blocks import values_at_once
from tests.trials.layers import normal

CPU_BLOCK = values_at_once(torch.device("cpu"))


def mask_of(tensors: Sequence[Tensor], count: int) -> Tensor:
    smallest = Smallest(tensors, count)
    return torch.cat([smallest.among(block) for tensor in tensors for block in blocks(tensor)])


def first_of_a_stable_sort(magnitudes: Tensor, count: int) -> list[bool]:
    chosen = np.argsort(magnitudes.double().numpy(), kind="stable")[:count]
    return [place in chosen for place in range(len(magnitudes))]


@given(st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, 1e-45]), min_size=1), st.data())
def test_of_values_that_tie_the_first_of_a_stable_sort_go(
    values: list[float], data: st.DataObject
) -> None:
    tensor = torch.tensor(values)
    count = data.draw(st.integers(0, len(values)))
    assert mask_of([tensor], count).tolist() == first_of_a_stable_sort(tensor.abs(), count)


@given(
    arrays.arrays(np.float32, arrays.array_shapes(min_dims=2, max_dims=2), elements=st.sampled_from(
        [0.0, 1.0, 2.0, 3.0])),
    st.data(),
)  # fmt: skip
def test_of_each_row_the_first_of_a_stable_sort_go(
    rows: NDArray[np.float32], data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, rows.shape[1]))
    expected = [first_of_a_stable_sort(torch.tensor(row), count) for row in rows]
    assert smallest_of_each(torch.tensor(rows), count).tolist() == expected


def test_of_a_long_row_full_of_ties_the_first_of_a_stable_sort_go() -> None:
    row = normal(5000).abs().mul(3).round()
    expected = first_of_a_stable_sort(row, 1900)
    assert smallest_of_each(row[None], 1900).tolist() == [expected]


@pytest.mark.parametrize("count", [0, 3, CPU_BLOCK - 1, 2 * CPU_BLOCK + 11, 3 * CPU_BLOCK])
def test_among_equals_the_first_go_across_blocks(count: int) -> None:
    tensors = [torch.ones(2, CPU_BLOCK), -torch.ones(CPU_BLOCK)]
    gone = mask_of(tensors, count)
    assert gone[:count].all()
    assert not gone[count:].any()


STRIDED = {
    "contiguous": normal(700, 900),
    "transposed": normal(700, 900).t(),
    "channels last": normal(70, 90, 10, 10).to(memory_format=torch.channels_last),
    "a column of a larger one": normal(2 * CPU_BLOCK + 9, 2)[:, 1],
    "expanded": normal(700, 1).expand(700, 900),
    "one long row, strided": normal(2 * CPU_BLOCK + 9, 2).t()[1:],
    "a scalar": torch.tensor(3.0),
    "empty": torch.zeros(0, 4),
}


@pytest.mark.parametrize("values", STRIDED.values(), ids=STRIDED.keys())
def test_blocks_are_small_views_in_the_order_of_the_elements(values: Tensor) -> None:
    parts = list(blocks(values))
    assert all(part.numel() <= CPU_BLOCK for part in parts)
    assert torch.equal(torch.cat([part.reshape(-1) for part in parts]), values.reshape(-1))
    storage = values.untyped_storage().data_ptr()
    assert all(part.untyped_storage().data_ptr() == storage for part in parts)
