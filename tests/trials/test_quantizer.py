"""The quantizer is torch's own operator bit for bit, and the formulas of its papers in float64."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from lightning_weightwatch.trials.memory import Memory
from lightning_weightwatch.trials.quantizer import (
    CodeRange,
    Scales,
    Scheme,
    codes_of,
    in_steps,
    packed_bytes,
    rounded,
    scales_between,
    squared_errors,
    values_of,
)

BITS = [2, 3, 4, 5, 6, 7, 8]
WAYS: list[tuple[Scheme, CodeRange]] = [
    ("symmetric", "restricted"), ("symmetric", "full"), ("asymmetric", "full"),
]  # fmt: skip
Array = NDArray[np.float64]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def quantized(rows: Tensor, scales: Scales) -> Tensor:
    steps = in_steps(rows, scales, torch.empty_like(rows))
    return values_of(rounded(steps, scales, torch.empty_like(rows)), scales)


def absmax_scales(rows: Tensor, bits: int, scheme: Scheme, code_range: CodeRange) -> Scales:
    low, high = (side.double() for side in rows.aminmax(dim=1))
    low, high = low.clamp(max=0), high.clamp(min=0)
    if scheme == "symmetric":
        high = torch.maximum(-low, high)
        low = -high
    return scales_between(low, high, codes_of(bits, scheme, code_range), rows.dtype)


def zero_point_of(scales: Scales) -> Tensor:
    if scales.zero_point is None:
        return torch.zeros_like(scales.scale, dtype=torch.int32)
    return scales.zero_point.int()


def bits_of(values: Tensor) -> Tensor:
    """Of float32: −0 differs from 0 here, which `torch.equal` would not see."""
    return values.contiguous().view(torch.int32)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(("scheme", "code_range"), WAYS)
def test_it_is_torchs_operator_per_channel_bit_for_bit(
    scheme: Scheme, code_range: CodeRange, bits: int
) -> None:
    rows = normal(64, 1000) * torch.logspace(-20, 20, 64).unsqueeze(1)
    rows[3] = 0
    rows[4] = rows[4].abs()
    rows[5] = -rows[5].abs()
    rows[6] = torch.arange(1000).sub(500) / 8  # many ties
    scales = absmax_scales(rows, bits, scheme, code_range)
    shrunk = Scales(scales.codes, 0.7 * scales.scale, scales.zero_point)  # so that some are clipped
    for each in (scales, shrunk):
        expected = torch.fake_quantize_per_channel_affine(
            rows, each.scale, zero_point_of(each), 0, each.codes.low, each.codes.high
        )
        assert torch.equal(bits_of(quantized(rows, each)), bits_of(expected))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(("scheme", "code_range"), WAYS)
def test_it_is_torchs_operator_per_tensor_bit_for_bit(
    scheme: Scheme, code_range: CodeRange, bits: int
) -> None:
    rows = normal(1, 10_000, seed=1) + 0.3
    scales = absmax_scales(rows, bits, scheme, code_range)
    expected = torch.fake_quantize_per_tensor_affine(
        rows,
        float(scales.scale),
        int(zero_point_of(scales)),
        scales.codes.low,
        scales.codes.high,
    )
    assert torch.equal(bits_of(quantized(rows, scales)), bits_of(expected))


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20),
    st.integers(2, 8),
    st.sampled_from(WAYS),
)
def test_it_is_torchs_operator_whatever_the_values(
    values: list[float], bits: int, way: tuple[Scheme, CodeRange]
) -> None:
    rows = torch.tensor([values])
    if 0 < rows.abs().max() < 1e-30:
        return  # torch's operator has no inverse of such a scale
    scales = absmax_scales(rows, bits, *way)
    expected = torch.fake_quantize_per_channel_affine(
        rows, scales.scale, zero_point_of(scales), 0, scales.codes.low, scales.codes.high
    )
    assert torch.equal(bits_of(quantized(rows, scales)), bits_of(expected))


def by_numpy(rows: Array, bits: int, scheme: Scheme, code_range: CodeRange) -> Array:
    """The formulas as they are printed, in float64."""
    top = 2 ** (bits - 1) - 1
    bottom = -top if (scheme, code_range) == ("symmetric", "restricted") else -top - 1
    if scheme == "asymmetric":
        low = np.minimum(rows.min(1, keepdims=True), 0)
        high = np.maximum(rows.max(1, keepdims=True), 0)
        scale = (high - low) / (2**bits - 1)
        zero: Any = np.clip(np.round(bottom - low / scale), bottom, top)
    else:
        largest = np.abs(rows).max(1, keepdims=True)
        scale = largest / top if code_range == "restricted" else 2 * largest / (2**bits - 1)
        zero = 0
    values: Array = scale * (np.clip(np.round(rows / scale) + zero, bottom, top) - zero)
    return values


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(("scheme", "code_range"), WAYS)
def test_in_float64_it_is_the_printed_formula(
    scheme: Scheme, code_range: CodeRange, bits: int
) -> None:
    rows = normal(20, 500, seed=2).double() + torch.linspace(-2, 2, 20).unsqueeze(1)
    found = quantized(rows, absmax_scales(rows, bits, scheme, code_range)).numpy()
    expected = by_numpy(rows.numpy(), bits, scheme, code_range)
    # In the full range the largest magnitude is halfway between two codes, where w / s and
    # w · (1/s) may differ.
    no_tie = np.abs(rows.numpy()) < np.abs(rows.numpy()).max(1, keepdims=True)
    np.testing.assert_allclose(found[no_tie], expected[no_tie], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("bits", BITS)
def test_the_full_scale_is_that_of_torchao(bits: int) -> None:
    rows = normal(5, 100)
    found = absmax_scales(rows, bits, "symmetric", "full").scale
    torch.testing.assert_close(found, 2 * rows.abs().amax(1) / (2**bits - 1))


@pytest.mark.parametrize("bits", BITS)
def test_zero_is_exact_in_every_asymmetric_range(bits: int) -> None:
    rows = torch.stack([normal(50) + shift for shift in (-9.0, -1.0, 0.0, 1.0, 9.0)])
    rows[:, 7] = 0
    assert not quantized(rows, absmax_scales(rows, bits, "asymmetric", "full"))[:, 7].any()


@pytest.mark.parametrize(("scheme", "code_range"), WAYS)
def test_no_row_takes_more_values_than_it_has_codes(scheme: Scheme, code_range: CodeRange) -> None:
    rows = normal(3, 4000)
    for bits in BITS:
        codes = codes_of(bits, scheme, code_range)
        assert codes.steps + 1 == 2**bits - (code_range == "restricted")
        found = quantized(rows, absmax_scales(rows, bits, scheme, code_range))
        assert all(len(row.unique()) <= codes.steps + 1 for row in found)


def test_halves_round_to_the_nearest_even_code() -> None:
    rows = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5]])
    found = quantized(rows, absmax_scales(rows, 8, "symmetric", "restricted"))
    assert found.tolist() == [[127.0, 0.0, 2.0, 2.0, 0.0, -2.0]]


@pytest.mark.parametrize(("scheme", "code_range"), WAYS)
def test_squared_errors_are_those_of_the_values_for_each_candidate(
    scheme: Scheme, code_range: CodeRange
) -> None:
    rows = normal(6, 3000) * torch.logspace(-25, 15, 6).unsqueeze(1)
    largest = absmax_scales(rows, 4, scheme, code_range)
    candidates = [largest, Scales(largest.codes, 0.6 * largest.scale, largest.zero_point)]
    zero = None if largest.zero_point is None else torch.stack([largest.zero_point] * 2)
    both = Scales(largest.codes, torch.stack([each.scale for each in candidates]), zero)
    for found, scales in zip(squared_errors(rows, both, Memory()), candidates, strict=True):
        expected = (rows.double() - quantized(rows, scales).double()).square().sum(1)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("size", "scales", "bits", "zero_points", "expected"),
    [
        # 3·3·1024·1024 codes and 1024 scales: the bottleneck of a U-Net.
        (9_437_184, 1024, 8, False, 9_441_280),
        (9_437_184, 1024, 4, False, 4_718_592 + 4096),
        (9_437_184, 294_912, 4, False, 4_718_592 + 4 * 294_912),
        (9_437_184, 1024, 8, True, 9_441_280 + 1024),
        (9_437_184, 1024, 4, True, 4_718_592 + 4096 + 512),
        (15, 3, 3, False, 6 + 12),
        (15, 3, 3, True, 6 + 12 + 2),
        (15, 0, 8, True, 15),
    ],
)
def test_packed_bytes_are_codes_end_to_end_scales_and_zero_points(
    size: int, scales: int, bits: int, zero_points: bool, expected: int
) -> None:
    assert packed_bytes(size, scales, bits, zero_points=zero_points) == expected
