"""Clips are where they should be: at a percentile, or where a dense search has least squares."""

import math
from collections.abc import Callable

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
    Codes,
    Scales,
    Scheme,
    codes_of,
    in_steps,
    rounded,
    squared_errors,
    values_of,
)
from lightning_weightwatch.trials.scales import Clip, find_scales

BITS = [2, 3, 4, 5, 6, 7, 8]
WAYS: list[tuple[Scheme, CodeRange]] = [
    ("symmetric", "restricted"), ("symmetric", "full"), ("asymmetric", "full"),
]  # fmt: skip


def sqnr(rows: Tensor, codes: Codes, clip: Clip, percentile: float = 99.9) -> list[float]:
    """Of each row, in dB."""
    scales = find_scales(
        lambda dtype: [rows.to(dtype)], rows.dtype, codes, clip, percentile, Memory()
    )
    values = rows.to(scales.scale.dtype)
    steps = in_steps(values, scales, torch.empty_like(values))
    found = values_of(rounded(steps, scales, torch.empty_like(values)), scales)
    noise = (rows.double() - found.double()).square().sum(1)
    return (10 * (rows.double().square().sum(1) / noise).log10()).tolist()


def samples(kind: str, size: int) -> Tensor:
    rng = np.random.default_rng(3)
    draw: dict[str, Callable[[], NDArray[np.float64]]] = {
        "gaussian": lambda: rng.standard_normal(size),
        "laplace": lambda: rng.laplace(size=size),
        "student": lambda: rng.standard_t(2, size),
        "uniform": lambda: rng.uniform(-1, 1, size),
        "exponential": lambda: rng.exponential(size=size),
        "outlier": lambda: np.concatenate([rng.standard_normal(size - 1), [40.0]]),
    }
    return torch.from_numpy(draw[kind]()).float().unsqueeze(0)


@pytest.mark.parametrize(
    ("bits", "restricted", "full"),
    # Max, "Quantizing for minimum distortion", IRE Trans. IT-6 (1960), where he tabulates it; the
    # others by the same closed form.
    [
        (2, 7.208, 8.26),
        (3, 13.292, 13.91),
        (4, 18.898, 19.26),
        (5, 24.326, 24.53),
        (6, 29.709, 29.82),
        (7, 35.106, 35.16),
        (8, 40.540, 40.57),
    ],
)
def test_least_squares_of_a_gaussian_are_those_of_max(
    bits: int, restricted: float, full: float
) -> None:
    # Its quantiles: in two million random numbers the tail alone makes a tenth of a decibel.
    shares = (torch.arange(2_000_000, dtype=torch.float64) + 0.5) / 2_000_000
    rows = torch.special.ndtri(shares).float().unsqueeze(0)
    (found,) = sqnr(rows, codes_of(bits, "symmetric", "restricted"), "mse")
    assert found == pytest.approx(restricted, abs=0.02)
    (found,) = sqnr(rows, codes_of(bits, "symmetric", "full"), "mse")
    assert found == pytest.approx(full, abs=0.02)


@pytest.mark.parametrize(("bits", "decibel"), [(2, 6.021), (3, 15.563), (4, 22.923), (8, 48.097)])
def test_up_to_the_largest_a_uniform_weight_has_the_noise_of_theory(
    bits: int, decibel: float
) -> None:
    uniform = torch.linspace(-1, 1, 1_000_001, dtype=torch.float64).unsqueeze(0)
    assert decibel == pytest.approx(20 * math.log10(2 * (2 ** (bits - 1) - 1)), abs=1e-3)
    (found,) = sqnr(uniform, codes_of(bits), "absmax")
    assert found == pytest.approx(decibel, abs=0.01)


def best_of_a_dense_search(rows: Tensor, codes: Codes) -> float:
    """The most dB of 2,000 clips, by torch's operator."""
    low, high = float(rows.min().clamp(max=0)), float(rows.max().clamp(min=0))
    if codes.symmetric:
        high = max(-low, high)
        low = -high
    least = math.inf
    for ratio in np.linspace(1 / 2000, 1, 2000).tolist():
        scale = ratio * (high - low) / codes.steps
        zero = 0 if codes.symmetric else round(codes.low - ratio * low / scale)
        found = torch.fake_quantize_per_tensor_affine(rows, scale, zero, codes.low, codes.high)
        least = min(least, float(found.sub_(rows).square_().sum()))
    return 10 * math.log10(float(rows.double().square().sum()) / least)


@pytest.mark.parametrize(
    ("kind", "bits", "scheme", "code_range"),
    [
        ("gaussian", 8, "symmetric", "restricted"),
        ("laplace", 8, "asymmetric", "full"),
        ("student", 8, "symmetric", "restricted"),
        ("student", 3, "asymmetric", "full"),
        ("uniform", 8, "symmetric", "restricted"),
        ("exponential", 5, "asymmetric", "full"),
        ("outlier", 4, "symmetric", "full"),
    ],
)
def test_least_squares_are_within_a_hundredth_of_a_decibel_of_a_dense_search(
    kind: str, bits: int, scheme: Scheme, code_range: CodeRange
) -> None:
    rows, codes = samples(kind, 20_000), codes_of(bits, scheme, code_range)
    (found,) = sqnr(rows, codes, "mse")
    assert found > best_of_a_dense_search(rows, codes) - 0.01


@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(
    st.integers(1, 60),
    st.integers(0, 2**32 - 1),
    st.integers(2, 8),
    st.sampled_from(WAYS),
    st.sampled_from(["normal", "heavy", "sparse", "positive"]),
)
def test_least_squares_are_never_worse_than_up_to_the_largest(
    size: int, seed: int, bits: int, way: tuple[Scheme, CodeRange], kind: str
) -> None:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((4, size))
    if kind == "heavy":
        values **= 5
    elif kind == "sparse":
        values *= rng.random((4, size)) < 0.2
    elif kind == "positive":
        values = np.abs(values)
    rows, codes = torch.from_numpy(values).float(), codes_of(bits, *way)
    errors = []
    for clip in ("mse", "absmax"):
        scales = find_scales(
            lambda dtype: [rows.to(dtype)], torch.float32, codes, clip, 99.9, Memory()
        )
        zero_point = None if scales.zero_point is None else scales.zero_point[None]
        candidate = Scales(codes, scales.scale[None], zero_point)
        errors.append(squared_errors(rows, candidate, Memory()))
    assert bool((errors[0] <= errors[1]).all())


@pytest.mark.parametrize("bits", BITS)
def test_what_is_on_a_grid_stays_on_it(bits: int) -> None:
    top = 2 ** (bits - 1) - 1
    rows = torch.arange(-top, top + 1).repeat(3, 1) * torch.tensor([[1.0], [0.25], [2.0**20]])
    assert sqnr(rows, codes_of(bits), "mse") == [math.inf] * 3


def test_a_single_outlier_is_clipped_where_that_is_worth_it() -> None:
    rows = samples("gaussian", 100_000)
    rows[0, 0] = 40.0
    clipped, unclipped = (sqnr(rows, codes_of(4), clip)[0] for clip in ("mse", "absmax"))
    assert clipped > unclipped + 5


@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
def test_a_row_is_searched_as_if_it_were_alone(scheme: Scheme) -> None:
    rows = torch.cat([samples(kind, 3000) for kind in ("gaussian", "outlier", "uniform")])
    codes = codes_of(3, scheme)

    def scale(rows: Tensor) -> Tensor:
        return find_scales(
            lambda dtype: [rows.to(dtype)], torch.float32, codes, "mse", 99.9, Memory()
        ).scale

    assert torch.equal(scale(rows), torch.cat([scale(row[None]) for row in rows]))


@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
def test_a_percentile_cuts_off_what_is_beyond_it(scheme: Scheme) -> None:
    rows = samples("exponential", 10_000)
    clip = np.quantile(rows.double().numpy(), 0.99)
    codes = codes_of(6, scheme)
    scales = find_scales(
        lambda dtype: [rows.to(dtype)], torch.float32, codes, "percentile", 99.0, Memory()
    )
    steps = 31 if scheme == "symmetric" else 63  # from 0 on, as nothing is below it
    assert float(scales.scale) == pytest.approx(clip / steps, rel=1e-6)


def test_a_row_of_which_that_percentile_is_zero_is_not_cut() -> None:
    rows = torch.zeros(1, 5000)
    rows[0, :2] = torch.tensor([7.0, -3.0])
    scales = find_scales(
        lambda dtype: [rows.to(dtype)], torch.float32, codes_of(4), "percentile", 99.9, Memory()
    )
    assert float(scales.scale) == 1.0
