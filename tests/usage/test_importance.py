"""The statistics of importance are those of numpy on all weights at once, and keep their bounds."""

import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from torch import Tensor

from lightning_weightwatch.usage import importance as module
from lightning_weightwatch.usage.importance import importance, most_important
from lightning_weightwatch.values.blocks import on_one_core
from tests.trials.layers import normal

SHAPES = [(1, 7, 5, 1), (1, 40, 33, 9), (4, 6, 3, 4), (6, 1, 1, 9), (1, 1, 1, 1), (2, 1, 70_000, 1)]


def all_at_once(weights: Tensor, sizes: Tensor) -> NDArray[np.float64]:
    """I, [g, O, I, K]."""
    expanded = sizes.double().expand(weights.shape).numpy()
    return np.asarray(np.abs(weights.double().numpy()) * expanded)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("turned", [False, True])
def test_statistics_are_those_of_all_weights_at_once(
    shape: tuple[int, int, int, int], turned: bool
) -> None:
    weights = normal(*shape)
    if turned:
        weights = normal(shape[0], shape[2], shape[1], shape[3]).transpose(1, 2)
    groups, _, inputs, offsets = shape
    sizes = normal(groups, 1, inputs, offsets, seed=1).abs().double()
    found = importance(weights, sizes)
    scores = all_at_once(weights, sizes)
    p = scores.flatten() / scores.sum()
    assert found.entropy == pytest.approx(-(p * np.log(p)).sum(), rel=1e-12, abs=1e-15)
    assert found.effective_weights == pytest.approx(math.exp(found.entropy), rel=1e-12)
    assert found.participation_ratio == pytest.approx(1 / (p**2).sum(), rel=1e-12)
    assert found.low_share == np.mean(scores < 0.01 * scores.mean())
    carried = np.cumsum(np.sort(p)[::-1])
    assert found.top90_share == (np.searchsorted(carried, 0.9 - 1e-12) + 1) / p.size
    np.testing.assert_allclose(found.inputs, scores.sum((1, 3)).flatten(), rtol=1e-12)
    np.testing.assert_allclose(found.outputs, scores.sum((2, 3)).flatten(), rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_blocks_are_sums_over_runs_of_about_one_length(shape: tuple[int, int, int, int]) -> None:
    weights, sizes = normal(*shape), torch.ones(1, 1, 1, 1, dtype=torch.float64)
    groups, outputs, inputs, _ = shape
    whole = np.zeros((groups * outputs, groups * inputs))
    for group, scores in enumerate(all_at_once(weights, sizes).sum(-1)):
        rows = slice(group * outputs, (group + 1) * outputs)
        whole[rows, group * inputs : (group + 1) * inputs] = scores
    for axis in (0, 1):
        size = whole.shape[axis]
        starts = [math.ceil(run * size / min(size, 32)) for run in range(min(size, 32))]
        assert max(np.diff([*starts, size])) - min(np.diff([*starts, size])) <= 1
        whole = np.add.reduceat(whole, starts, axis)
    assert importance(weights, sizes).blocks.numpy() == pytest.approx(whole, rel=1e-12)


def test_the_size_of_blocks_makes_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = [(1, 30, 20, 9), (5, 4, 3, 2)]
    for shape in shapes:
        weights, sizes = normal(*shape), normal(shape[0], 1, *shape[2:], seed=1).abs().double()
        expected = importance(weights, sizes)
        for block in (1, 7, 64, 1000):
            monkeypatch.setattr(module, "BLOCK", block)
            found = importance(weights, sizes)
            assert found.entropy == pytest.approx(expected.entropy, rel=1e-13)
            assert (found.low_share, found.top90_share) == (
                expected.low_share,
                expected.top90_share,
            )
            for name in ("inputs", "outputs", "blocks"):
                torch.testing.assert_close(getattr(found, name), getattr(expected, name))
            monkeypatch.undo()


SCORES = arrays.arrays(
    np.float32,
    st.integers(1, 60),
    elements=st.floats(0, 2.0**60, width=32, allow_subnormal=False),
)


@given(SCORES)
@settings(deadline=None)
def test_one_to_participation_ratio_to_effective_weights_to_all(
    scores: NDArray[np.float32],
) -> None:
    found = importance(torch.from_numpy(scores).view(1, 1, -1, 1), torch.ones(1, 1, 1, 1))
    if not scores.any():
        assert math.isnan(found.entropy)
        return
    assert 1 <= found.participation_ratio <= found.effective_weights <= scores.size
    assert 0 <= found.entropy <= math.log(scores.size)
    assert 1 / scores.size <= found.top90_share <= 1
    assert 0 <= found.low_share < 1
    needed = round(found.top90_share * scores.size)
    largest = np.sort(scores.astype(np.float64))[::-1]
    assert largest[:needed].sum() >= 0.9 * largest.sum() * (1 - 1e-9)
    assert largest[: needed - 1].sum() < 0.9 * largest.sum() * (1 + 1e-7)


@given(SCORES, st.floats(1e-10, 1e10))
@settings(deadline=None)
def test_no_statistic_depends_on_the_scale(scores: NDArray[np.float32], scale: float) -> None:
    weights = torch.from_numpy(scores).double().view(1, 1, -1, 1)
    first = importance(weights, torch.ones(1, 1, 1, 1))
    second = importance(-weights * scale, torch.ones(1, 1, 1, 1))
    assert second.entropy == pytest.approx(first.entropy, rel=1e-12, abs=1e-12, nan_ok=True)
    assert second.participation_ratio == pytest.approx(first.participation_ratio, nan_ok=True)


@pytest.mark.parametrize("size", [1, 2, 10, 1000, 100_000])
def test_of_equal_weights_all_are_effective_and_nine_in_ten_carry_nine_tenths(size: int) -> None:
    found = importance(torch.full((1, 1, size, 1), -0.1), torch.ones(1, 1, 1, 1))
    assert found.effective_weights == pytest.approx(size, rel=1e-12)
    assert found.participation_ratio == pytest.approx(size, rel=1e-12)
    assert (found.low_share, found.top90_share) == (0, math.ceil(0.9 * size) / size)


def test_of_a_single_one_that_matters_one_is_effective() -> None:
    weights = torch.zeros(1, 4, 5, 1)
    weights[0, 2, 3] = 7
    found = importance(weights, torch.full((1, 1, 1, 1), 2.0))
    assert (found.entropy, found.effective_weights, found.participation_ratio) == (0, 1, 1)
    assert (found.low_share, found.top90_share) == (19 / 20, 1 / 20)
    assert found.inputs.tolist() == [0, 0, 0, 14, 0]


def test_where_nothing_matters_nothing_is_known() -> None:
    found = importance(torch.ones(1, 2, 3, 1), torch.zeros(1, 1, 3, 1))
    values = (found.entropy, found.effective_weights, found.participation_ratio)
    assert all(map(math.isnan, (*values, found.low_share, found.top90_share)))
    assert found.inputs.tolist() == [0, 0, 0]


def test_a_sum_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        importance(torch.full((1, 1, 9, 1), 1e308, dtype=torch.float64), torch.full((1,), 10.0))


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float64, torch.complex64, torch.float8_e5m2]
)
def test_every_dtype_is_read(dtype: torch.dtype) -> None:
    weights = normal(1, 5, 6, 1).to(dtype)
    found = importance(weights, torch.ones(1, 1, 1, 1))
    magnitudes = (weights.abs() if weights.is_complex() else weights.float()).double().abs()
    torch.testing.assert_close(found.outputs, magnitudes.sum((0, 2, 3)))


def test_a_parameter_in_float64_is_only_read() -> None:
    weights = -normal(1, 5, 6, 1).double()
    before = weights.clone()
    importance(weights, torch.full((1, 1, 1, 1), 3.0))
    assert weights.equal(before)


def test_the_fewest_that_carry_a_share() -> None:
    importances = torch.tensor([0.0, 1.0, 90.0, 0.0, 9.0])
    for share, expected in ((0.9, [2]), (0.99, [2, 4]), (1.0, [1, 2, 4])):
        assert most_important(importances, share).nonzero().flatten().tolist() == expected
    assert most_important(torch.full((10,), 0.1, dtype=torch.float64), 0.9).sum() == 9
    assert not most_important(torch.zeros(3), 0.9).any()


def test_nine_million_weights_take_a_fraction_of_a_second_on_one_core() -> None:
    weights, sizes = normal(1, 3072, 3072, 1), normal(1, 1, 3072, 1, seed=1).abs().double()
    seconds = []
    for _ in range(3):
        start = time.process_time()
        with on_one_core():
            importance(weights, sizes)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 1.5  # 0.2 s, on a machine that has nothing else to do
