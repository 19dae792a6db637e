"""The bulk is found where WeightWatcher finds it, and where the Marchenko–Pastur law puts it."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.neighbors import KernelDensity

from lightning_weightwatch.spectral.marchenko_pastur import (
    bulk_edges,
    fit_marchenko_pastur,
    kernel_density,
    marchenko_pastur_density,
)
from tests.data.golden_matrices import GOLDEN, build, spectrum, tolerance

Array = NDArray[np.float64]
# Where WeightWatcher has no row, fails, fits one eigenvalue and rounding, or swaps N and M.
NO_FIT = {"edge_m7_100x7", "edge_zeros_50x50", "edge_ones_50x50"}
SWAPPED = {"conv_evenk_32x64x2x2"}


def gaussian(seed: int, N: int, M: int, std: float = 1.0) -> Array:
    return np.asarray(std * np.random.default_rng(seed).standard_normal((N, M)))


@pytest.mark.parametrize("name", sorted(GOLDEN.keys() - NO_FIT - SWAPPED))
def test_the_fit_is_that_of_weightwatcher(name: str) -> None:
    array, golden = build(name), GOLDEN[name]["mp_fit"]
    sides = array.shape[:2]
    fit = fit_marchenko_pastur(spectrum(array), N=max(sides), M=min(sides))
    assert fit.status == "success"
    assert fit.num_spikes == golden["num_spikes"]
    relative = tolerance(name, array)
    assert fit.W_scale == pytest.approx(golden["W_scale"], rel=relative)
    for column in ("sigma_mp", "bulk_max", "bulk_min", "mp_softrank"):
        expected = pytest.approx(golden[column], rel=max(relative, 1e-6), abs=0)
        assert getattr(fit, column) == expected, column


def test_a_kernel_of_even_size_that_is_pure_noise_has_no_spikes() -> None:
    # WeightWatcher fits it with N and M swapped, and finds some.
    array, golden = build("conv_evenk_32x64x2x2"), GOLDEN["conv_evenk_32x64x2x2"]["mp_fit"]
    assert golden["num_spikes"] == 3
    fit = fit_marchenko_pastur(spectrum(array), N=64, M=32)
    assert fit.num_spikes == 0
    assert fit.sigma_mp == pytest.approx(1, abs=0.02)
    assert fit.W_scale == pytest.approx(golden["W_scale"], rel=1e-6)


@pytest.mark.parametrize(("N", "M"), [(300, 300), (400, 200), (600, 150), (900, 90)])
@pytest.mark.parametrize("std", [1.0, 0.02])
def test_the_edges_of_pure_noise_are_those_of_the_law(N: int, M: int, std: float) -> None:
    for seed in range(3):
        fit = fit_marchenko_pastur(spectrum(gaussian(seed, N, M, std)), N=N, M=M)
        # Of W^T W with N rows of variance std²: the law's edges, times N.
        assert fit.bulk_max == pytest.approx(N * std**2 * (1 + (M / N) ** 0.5) ** 2, rel=0.05)
        assert fit.bulk_min == pytest.approx(
            N * std**2 * (1 - (M / N) ** 0.5) ** 2, rel=0.05, abs=1e-12
        )
        assert fit.sigma_mp == pytest.approx(1, abs=0.03)
        assert fit.num_spikes == 0
        assert fit.mp_softrank == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("spikes", [1, 3, 7])
def test_planted_spikes_are_counted(spikes: int) -> None:
    N, M = 400, 200
    rng = np.random.default_rng(spikes)
    left = np.linalg.qr(rng.standard_normal((N, spikes)))[0]
    right = np.linalg.qr(rng.standard_normal((M, spikes)))[0]
    # Noise has its largest singular value at √N + √M = 34.
    evals = spectrum(gaussian(5, N, M) + 60 * left @ right.T)
    fit = fit_marchenko_pastur(evals, N=N, M=M)
    assert fit.num_spikes == spikes
    # The kernel widens a bulk that spikes have made narrow against the mean.
    assert fit.bulk_max == pytest.approx((math.sqrt(N) + math.sqrt(M)) ** 2, rel=0.07)
    assert fit.mp_softrank == pytest.approx(fit.bulk_max / evals.max(), rel=1e-12)


@pytest.mark.parametrize(("N", "M"), [(300, 200), (150, 150)])
@pytest.mark.parametrize("scale", [1e-6, 0.3, 1e9])
def test_the_scale_of_the_weights_is_a_factor_of_the_edges_alone(
    N: int, M: int, scale: float
) -> None:
    weight = gaussian(1, N, M) * np.linspace(0.5, 2, M)
    fit = fit_marchenko_pastur(spectrum(weight), N=N, M=M)
    scaled = fit_marchenko_pastur(spectrum(scale * weight), N=N, M=M)
    assert scaled.bulk_max == pytest.approx(scale**2 * fit.bulk_max, rel=1e-9)
    assert scaled.bulk_min == pytest.approx(scale**2 * fit.bulk_min, rel=1e-9, abs=0)
    assert scaled.W_scale == pytest.approx(fit.W_scale / scale, rel=1e-9)
    assert scaled.sigma_mp == pytest.approx(fit.sigma_mp, rel=1e-9)
    assert scaled.mp_softrank == pytest.approx(fit.mp_softrank, rel=1e-9)
    assert scaled.num_spikes == fit.num_spikes


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_weights_of_any_scale_have_finite_edges(scale: float) -> None:
    evals = spectrum(gaussian(2, 60, 30))
    fit, scaled = (fit_marchenko_pastur(x, N=60, M=30) for x in (evals, scale * evals))
    assert scaled.sigma_mp == pytest.approx(fit.sigma_mp, rel=1e-9)
    assert scaled.bulk_max == pytest.approx(scale * fit.bulk_max, rel=1e-9)


@pytest.mark.parametrize("shape", [0.0, 1.5, 5.0])
@pytest.mark.parametrize("n", [1, 2, 60, 3000])
def test_the_density_is_the_sum_of_its_kernels(n: int, shape: float) -> None:
    values = np.sort(np.random.default_rng(n).lognormal(0.0, shape, n))
    values /= values.mean()
    points = np.linspace(0, values[-1] + 0.5, 1000)
    density = kernel_density(points, values)
    direct = [math.fsum(np.maximum(1 - abs(x - values) / 0.1, 0)) / (0.1 * n) for x in points]
    np.testing.assert_allclose(density, direct, rtol=0, atol=1e-12 * max(*direct, 1 / n))
    estimate = KernelDensity(kernel="linear", bandwidth=0.1).fit(values[:, None])
    with np.errstate(divide="ignore"):  # the logarithm of its empty stretches
        log_density = estimate.score_samples(points[:, None])
    np.testing.assert_allclose(density, np.exp(log_density), rtol=0, atol=1e-9 * max(direct))


@pytest.mark.parametrize("Q", [1.1, 2.0, 9.0])
@pytest.mark.parametrize("sigma", [0.4, 1.0])
def test_the_law_has_mass_1_and_the_mean_and_variance_of_theory(Q: float, sigma: float) -> None:
    lower, upper = bulk_edges(sigma, Q)
    x = np.linspace(0, 1.1 * upper, 400_001)
    density, width = marchenko_pastur_density(x, sigma, Q), x[1]
    assert np.all(density[(x < lower) | (x > upper)] == 0)
    assert density.sum() * width == pytest.approx(1, rel=1e-3)
    mean = (x * density).sum() * width
    assert mean == pytest.approx(sigma**2, rel=1e-3)
    assert ((x - mean) ** 2 * density).sum() * width == pytest.approx(sigma**4 / Q, rel=1e-3)


def test_the_edges_of_known_shapes() -> None:
    assert bulk_edges(1.0, 1.0) == (0.0, 4.0)
    assert bulk_edges(2.0, 4.0) == (1.0, 9.0)


def test_a_bulk_that_no_sigma_of_the_grid_contains_sticks_at_its_end() -> None:
    # A peak at 0, below every bulk of a matrix that is not square.
    fit = fit_marchenko_pastur([0.0] * 80 + [1.0] * 20, N=400, M=100)
    assert fit.status == "success"
    assert fit.mp_softrank == pytest.approx(0.05**2, rel=1e-6)


def test_tensors_arrays_and_lists_in_any_order_give_the_same_fit() -> None:
    evals = np.sort(spectrum(gaussian(3, 120, 40))).astype(np.float32)
    expected = fit_marchenko_pastur(evals, N=120, M=40)
    for same in (evals[::-1], evals.tolist(), torch.from_numpy(evals).requires_grad_()):
        assert fit_marchenko_pastur(same, N=120, M=40) == expected


def test_threads_give_the_same_fit_at_once() -> None:
    spectra = [spectrum(gaussian(seed, 90, 60)) for seed in range(12)]

    def numbers(evals: Array) -> tuple[object, ...]:
        return astuple(fit_marchenko_pastur(evals, N=90, M=60))

    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(numbers, spectra)) == list(map(numbers, spectra))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([], "no eigenvalues"),
        ([0.0] * 50, "all eigenvalues are zero"),
        ([-1e-20] * 50, "all eigenvalues are zero"),
        ([2.0], "fewer than 2 eigenvalues above zero"),
        ([0.0] * 49 + [3.0], "fewer than 2 eigenvalues above zero"),
        ([1e-19, 1e-20, 1.0], "fewer than 2 eigenvalues above zero"),
    ],
    ids=["none", "zeros", "zeros less rounding", "one", "rank 1", "rank 1 rounded"],
)
@pytest.mark.parametrize("N", [50, 70])
def test_where_there_is_no_bulk_the_fit_is_nan_and_says_why(
    values: list[float], reason: str, N: int
) -> None:
    fit = fit_marchenko_pastur(values, N=N, M=50)
    assert fit.status == reason
    numbers = (fit.sigma_mp, fit.bulk_max, fit.bulk_min, fit.mp_softrank, fit.W_scale)
    assert all(map(math.isnan, numbers))
    assert fit.num_spikes == 0


def test_a_spike_so_large_that_the_grid_misses_every_eigenvalue_leaves_no_fit() -> None:
    fit = fit_marchenko_pastur([1.0] * 9999 + [9999.0], N=20_000, M=10_000)
    assert fit.status == "the density is nowhere above 0.01"
    assert math.isnan(fit.sigma_mp)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="got 1 of 3 that are NaN or infinite"):
        fit_marchenko_pastur([1.0, bad, 2.0], N=6, M=3)


@pytest.mark.parametrize(("N", "M"), [(3, 4), (5, 0), (0, 0)])
def test_the_sides_must_be_in_order(N: int, M: int) -> None:
    with pytest.raises(ValueError, match=f"larger and the smaller side of a matrix, got N={N}, M"):
        fit_marchenko_pastur([1.0, 2.0], N=N, M=M)
