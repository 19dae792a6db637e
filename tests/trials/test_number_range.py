"""Zeros, the ends of the number range and every dtype are quantized as the middle is."""

import itertools
import math
from typing import Any

import pytest
import torch

from lightning_weightwatch.trials.scale_groups import Granularity
from lightning_weightwatch.trials.scales import Clip
from tests.trials.layers import applied, by_torch, normal

BITS = [2, 3, 4, 5, 6, 7, 8]
GRANULARITIES: list[Granularity] = ["model", "tensor", "channel", "group"]
CLIPS: list[Clip] = ["absmax", "percentile", "mse"]
WAYS: list[dict[str, Any]] = [{}, {"range": "full"}, {"scheme": "asymmetric"}]


@pytest.mark.parametrize("bits", BITS)
def test_values_on_the_grid_are_kept_bit_for_bit(bits: int) -> None:
    top = 2 ** (bits - 1) - 1
    grid = torch.arange(-top, top + 1).repeat(3, 1) * torch.tensor([[1.0], [0.25], [2.0**20]])
    for clip in ("absmax", "mse"):
        found, layer = applied(grid, bits, clip)
        assert torch.equal(found, grid)
        assert layer.noise == 0
        assert layer.sqnr == math.inf


@pytest.mark.parametrize(
    ("granularity", "clip", "scheme"),
    list(itertools.product(["channel", "group"], CLIPS, ["symmetric", "asymmetric"])),
)
def test_a_channel_of_zeros_stays(granularity: Granularity, clip: Clip, scheme: str) -> None:
    values = normal(3, 40)
    values[1] = 0
    settings: dict[str, Any] = {"granularity": granularity, "scheme": scheme}
    found, _ = applied(values, 4, clip, **settings)
    assert not found[1].any()
    assert torch.equal(found[[0, 2]], applied(values[[0, 2]], 4, clip, **settings)[0])


@pytest.mark.parametrize("clip", CLIPS)
def test_a_weight_of_zeros_has_no_ratio(clip: Clip) -> None:
    found, layer = applied(torch.zeros(3, 4), 4, clip)
    assert not found.any()
    assert math.isnan(layer.sqnr)
    assert layer.clipped == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_dtype_is_kept_and_the_arithmetic_is_at_least_float32(dtype: torch.dtype) -> None:
    values = normal(8, 50).to(dtype)
    found, layer = applied(values, 8)
    assert found.dtype == dtype
    assert layer.bytes == 400 * values.element_size()
    if dtype != torch.float64:
        assert torch.equal(found, by_torch(values.float(), 8).to(dtype))
    wide, _ = applied(values.double(), 8)
    torch.testing.assert_close(found.double(), wide, rtol=1e-2, atol=1e-7)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (torch.float64, 1.7e308),
        (torch.float64, 1e-308),
        (torch.float64, 5e-324),
        (torch.float32, 3.4e38),
        (torch.float32, 3e38),
        (torch.float32, 1e-38),
        (torch.float32, 1e-45),
        (torch.float16, 65504.0),
        (torch.float16, 6e-8),
        (torch.bfloat16, 3e38),
        (torch.bfloat16, 1e-38),
    ],
)
def test_the_ends_of_the_number_range_stay_finite(dtype: torch.dtype, value: float) -> None:
    values = torch.tensor([[value, -value, 0.0], [1.0, -0.5, 0.25]], dtype=dtype)
    for bits, granularity, clip in itertools.product((2, 5, 8), GRANULARITIES, CLIPS):
        for way in WAYS:
            found, layer = applied(values, bits, clip, granularity=granularity, **way)
            assert torch.isfinite(found).all()
            if dtype != torch.float64:
                assert math.isfinite(layer.noise)
                assert layer.signal > 0


@pytest.mark.parametrize("value", [3e38, 1e-30, 1e-44])
def test_the_ends_of_the_number_range_are_as_exact_as_its_middle(value: float) -> None:
    ratios = torch.tensor([[1.0, 0.5, -1.0, 0.0]])
    found, _ = applied(ratios * value, 8)
    expected = by_torch(ratios, 8).double() * value
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1.5e-45)
