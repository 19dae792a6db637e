"""The fit is Clauset's, rule for rule, and finds the exponent where there is one."""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_weightwatch.spectral import power_law
from lightning_weightwatch.spectral.power_law import PowerLawFit, fit_power_law
from tests.data.golden_matrices import GOLDEN, build, spectrum, tolerance

Array = NDArray[np.float64]
# Where WeightWatcher has no fit, or reports one of equal eigenvalues.
NO_FIT = {"edge_identity_64", "edge_m7_100x7", "edge_ones_50x50", "edge_zeros_50x50"}


def quantiles(alpha: float, n: int, xmin: float = 1.0) -> Tensor:
    """The n mid-quantiles of a continuous power law on [xmin, ∞)."""
    shares = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    return xmin * (1 - shares) ** (-1 / (alpha - 1))


def by_the_book(values: Array) -> tuple[float, float, float, int]:
    """alpha, xmin, D and tail size by the definitions: every candidate in full, exact sums."""
    x = np.sort(values)
    n, best = len(x), (math.inf, math.nan, math.nan, 0)
    for i in range(n - 1 if n >= 20 else max(n - 7, 1)):
        logs = np.log(x[i:]) - np.log(x[i])
        k, total = n - i, math.fsum(logs)
        if total > 0:
            alpha = 1 + (k if n >= 20 else k - 1) / total
            distance = abs(1 - np.exp(logs * (1 - alpha)) - np.arange(k) / k).max()
            # What differs by rounding is a tie, and the first one wins it.
            if distance < best[0] - 1e-13:
                best = (distance, alpha, x[i], k)
    return best[1], best[2], best[0], best[3]


def lognormal(rng: np.random.Generator, n: int) -> Array:
    return rng.lognormal(0.0, 1.5, n)


def pareto(rng: np.random.Generator, n: int) -> Array:
    return rng.pareto(1.7, n) + 1


def wishart(rng: np.random.Generator, n: int) -> Array:
    return spectrum(rng.standard_normal((2 * n, n)))


def tied(rng: np.random.Generator, n: int) -> Array:
    return rng.integers(1, 12, n).astype(float)


def two_clusters(rng: np.random.Generator, n: int) -> Array:
    return np.concatenate([np.ones(n - n // 3), rng.lognormal(2.0, 0.4, n // 3)])


def wide(rng: np.random.Generator, n: int) -> Array:
    return np.asarray(10.0 ** rng.uniform(-300, 300, n))


def steep(rng: np.random.Generator, n: int) -> Array:
    return np.asarray((1 - rng.random(n)) ** (-1 / 499))


def doubling(rng: np.random.Generator, n: int) -> Array:
    return np.asarray(2.0 ** rng.permutation(n))


def spiked(rng: np.random.Generator, n: int) -> Array:
    return np.concatenate([wishart(rng, n), 1e4 * rng.pareto(1.0, n // 8) + 1e3])


@pytest.mark.parametrize(
    "draw", [lognormal, pareto, wishart, tied, two_clusters, wide, steep, doubling, spiked]
)
@pytest.mark.parametrize("n", [2, 3, 6, 7, 8, 9, 12, 19, 20, 21, 49, 150, 400])
def test_the_pruned_search_gives_the_fit_of_the_definitions(
    draw: Callable[[np.random.Generator, int], Array], n: int
) -> None:
    for seed in range(3):
        values = np.asarray(draw(np.random.default_rng([seed, n]), n))
        fit = fit_power_law(values, floor=0)
        if fit.status == "the eigenvalues are all equal":
            assert values.max() < values.min() * 1.0002
            continue
        alpha, xmin, distance, size = by_the_book(values)
        assert (fit.status, fit.num_pl_spikes, fit.xmin) == ("success", size, xmin)
        assert fit.alpha == pytest.approx(alpha, rel=1e-9)
        assert pytest.approx(distance, rel=1e-9, abs=1e-12) == fit.D
        assert fit.sigma == pytest.approx((alpha - 1) / math.sqrt(size), rel=1e-9)
        assert fit.xmax == values.max()


@pytest.mark.parametrize("seed", range(3))
def test_a_long_spectrum_takes_a_few_full_distances(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    full = power_law._ks_distance
    evaluated: list[int] = []

    def counted(log_x: Array, exponents: Array, candidate: int) -> float:
        evaluated.append(candidate)
        return full(log_x, exponents, candidate)

    monkeypatch.setattr(power_law, "_ks_distance", counted)
    values = np.random.default_rng(seed).lognormal(0.0, 1.5, 2000)
    fit = fit_power_law(values)
    assert (fit.alpha, fit.xmin) == pytest.approx(by_the_book(values)[:2], rel=1e-9)
    assert len(evaluated) == len(set(evaluated)) < 100


@pytest.mark.parametrize("name", sorted(GOLDEN.keys() - NO_FIT))
def test_the_fit_is_that_of_weightwatcher(name: str) -> None:
    array, golden = build(name), GOLDEN[name]["default"]
    fit = fit_power_law(spectrum(array))
    assert fit.num_pl_spikes == golden["num_pl_spikes"]
    for column in ("alpha", "D", "sigma", "xmin", "xmax"):
        expected = pytest.approx(golden[column], rel=tolerance(name, array), abs=0)
        assert getattr(fit, column) == expected, column


@pytest.mark.parametrize("name", sorted(n for n in GOLDEN if GOLDEN[n].get("nopool")))
def test_the_fit_of_each_kernel_position_is_that_of_weightwatcher(name: str) -> None:
    array = build(name)
    positions = list(np.ndindex(array.shape[2:]))
    assert len(positions) == len(GOLDEN[name]["nopool"])
    for (i, j), golden in zip(positions, GOLDEN[name]["nopool"], strict=True):
        # WeightWatcher scales a kernel's eigenvalues by half their number of positions.
        values = spectrum(array[:, :, i, j]) * len(positions) / 2
        fit = fit_power_law(values)
        assert fit.num_pl_spikes == golden["num_pl_spikes"]
        for column in ("alpha", "D", "sigma", "xmin", "xmax"):
            expected = pytest.approx(golden[column], rel=tolerance(name, array), abs=0)
            assert getattr(fit, column) == expected, column


@pytest.mark.parametrize("alpha", [1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 10.0])
def test_alpha_of_a_known_power_law_is_recovered(alpha: float) -> None:
    fit = fit_power_law(quantiles(alpha, 2000, xmin=0.3))
    assert fit.alpha == pytest.approx(alpha, rel=0.01)
    assert fit.D < 0.002
    assert fit.num_pl_spikes > 1000


def test_the_tail_is_told_from_the_bulk() -> None:
    bulk = torch.linspace(0.01, 1.0, 1000, dtype=torch.float64)
    fit = fit_power_law(torch.cat([bulk, quantiles(2.5, 1000, xmin=2.0)]))
    assert fit.alpha == pytest.approx(2.5, rel=0.03)
    assert 2.0 <= fit.xmin < 2.2


def test_weightwatchers_own_number_for_its_pareto_sample() -> None:
    # The sample of its test suite; the values are those of weightwatcher 0.7.7.
    fit = fit_power_law(torch.from_numpy(np.random.RandomState(123).pareto(2.5, 100)))
    assert fit.alpha == pytest.approx(2.535777254844289, rel=1e-12)
    assert pytest.approx(0.0704370007, rel=1e-8) == fit.D
    assert fit.xmin == pytest.approx(0.4329722, rel=1e-6)
    assert fit.num_pl_spikes == 40


@pytest.mark.parametrize("scale", [1e-3, 7.0, 1e12])
def test_the_scale_of_the_weights_does_not_change_alpha(scale: float) -> None:
    values = quantiles(3.0, 300) * torch.linspace(1.0, 2.0, 300, dtype=torch.float64)
    fit, scaled = fit_power_law(values), fit_power_law(scale * values)
    assert scaled.alpha == pytest.approx(fit.alpha, rel=1e-9)
    assert pytest.approx(fit.D, rel=1e-9) == scaled.D
    assert scaled.xmin == pytest.approx(scale * fit.xmin, rel=1e-12)
    assert scaled.num_pl_spikes == fit.num_pl_spikes


def test_the_order_and_the_dtype_of_the_eigenvalues_do_not_matter() -> None:
    values = quantiles(2.2, 200).float()
    shuffled = values[torch.randperm(200, generator=torch.Generator().manual_seed(0))]
    assert fit_power_law(shuffled) == fit_power_law(values) == fit_power_law(values.double())


def test_tensors_arrays_and_lists_give_the_same_fit() -> None:
    values = quantiles(2.2, 200).float()
    expected = fit_power_law(values)
    assert fit_power_law(values.clone().requires_grad_()) == expected
    assert fit_power_law(values.numpy()) == expected
    assert fit_power_law(values.tolist()) == expected
    assert fit_power_law(values.reshape(20, 10)) == expected
    assert fit_power_law(values.bfloat16()) == fit_power_law(values.bfloat16().tolist())


def test_threads_give_the_same_fit_at_once() -> None:
    spectra = [np.random.default_rng(seed).lognormal(size=300) for seed in range(16)]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(fit_power_law, spectra)) == [fit_power_law(x) for x in spectra]


def test_eigenvalues_at_or_below_the_floor_are_no_data() -> None:
    values = quantiles(2.2, 100)
    floored = torch.tensor([0.0, 1e-30, 9e-6, 1e-5], dtype=torch.float64)
    assert fit_power_law(torch.cat([floored, values])) == fit_power_law(values)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([], "fewer than 2 eigenvalues above 1e-05"),
        ([3.0], "fewer than 2 eigenvalues above 1e-05"),
        ([0.0] * 50, "fewer than 2 eigenvalues above 1e-05"),
        ([1e-5, 1.0], "fewer than 2 eigenvalues above 1e-05"),
        ([1e-6] * 49 + [1.0], "fewer than 2 eigenvalues above 1e-05"),
        ([1.0] * 5, "the eigenvalues are all equal"),
        ([0.1] * 64, "the eigenvalues are all equal"),
    ],
    ids=[
        "none",
        "one",
        "zeros",
        "one at the floor",
        "one above the floor",
        "five equal",
        "many equal",
    ],
)
def test_where_there_is_no_tail_the_fit_is_nan_and_says_why(
    values: list[float], reason: str
) -> None:
    fit = fit_power_law(torch.tensor(values, dtype=torch.float64))
    assert fit.status == reason
    assert all(map(math.isnan, (fit.alpha, fit.xmin, fit.D, fit.sigma)))
    assert fit.num_pl_spikes == 0
    assert fit.warning == ""


def test_the_floor_is_the_callers() -> None:
    values = np.array([1e-9, 1e-8, 5e-8, 3.0, 4.0, 7.0, 9.0])
    assert fit_power_law(values, floor=3.0) == fit_power_law([4.0, 7.0, 9.0])
    assert fit_power_law(values, floor=0).num_pl_spikes == 7
    assert fit_power_law(1e-9 * values).status == "fewer than 2 eigenvalues above 1e-05"
    assert fit_power_law(values, floor=7.5).status == "fewer than 2 eigenvalues above 7.5"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="got 2 of 4 that are NaN or infinite"):
        fit_power_law([1.0, bad, 2.0, bad])


@pytest.mark.parametrize("floor", [-1e-9, math.nan, math.inf])
def test_a_floor_must_be_a_number_from_zero_on(floor: float) -> None:
    with pytest.raises(ValueError, match=r"floor must be finite and not negative, got .*Use 0"):
        fit_power_law([1.0, 2.0], floor=floor)


@pytest.mark.parametrize("n", [10, 64, 300])
def test_eigenvalues_that_differ_by_rounding_alone_are_all_equal(n: int) -> None:
    # What an orthogonal float32 matrix has: WeightWatcher reports an alpha of millions for it.
    noise = torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    fit = fit_power_law(1 + 1e-7 * noise)
    assert fit.status == "the eigenvalues are all equal"
    assert math.isnan(fit.alpha)


@pytest.mark.parametrize(
    ("alpha", "warning"),
    [
        (1.999, "over-trained"),
        (2.0, ""),
        (6.0, ""),
        (6.001, "under-trained"),
        (math.nan, ""),
    ],
)
def test_the_warning_is_that_of_weightwatcher_except_for_a_failed_fit(
    alpha: float, warning: str
) -> None:
    assert PowerLawFit(alpha, 1.0, 2.0, 0.1, 0.1, 9, "success").warning == warning


@pytest.mark.parametrize("elements", [1, 60, 61, 1000])
def test_the_size_of_the_blocks_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, elements: int
) -> None:
    values = torch.from_numpy(np.random.default_rng(8).lognormal(size=60))
    expected = fit_power_law(values)
    monkeypatch.setattr(power_law, "_BLOCK_ELEMENTS", elements)
    assert fit_power_law(values) == expected


def test_the_eigenvalues_are_left_as_they_were() -> None:
    values = torch.rand(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = values.clone()
    fit_power_law(values)
    assert torch.equal(values, before)
