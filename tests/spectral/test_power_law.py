"""The fit is Clauset's, rule for rule, and finds the exponent where there is one."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_weightwatch.spectral import power_law
from lightning_weightwatch.spectral.power_law import PowerLawFit, fit_power_law


def quantiles(alpha: float, n: int, xmin: float = 1.0) -> Tensor:
    """The n mid-quantiles of a continuous power law on [xmin, ∞)."""
    shares = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    return xmin * (1 - shares) ** (-1 / (alpha - 1))


def by_the_book(values: Sequence[float]) -> tuple[float, float, float, int]:
    """alpha, xmin, D and tail size, by the definitions: plain loops, exactly rounded sums."""
    x = sorted(value for value in values if value > 1e-5)
    small = len(x) < 20
    best = (math.inf, math.nan, math.nan, 0)
    for i in range(len(x) - 1):
        tail = x[i:]
        k = len(tail)
        if small and k < 8 and i > 0:
            break
        total = math.fsum(math.log(value / x[i]) for value in tail)
        alpha = 1 + ((k - 1) if small else k) / total
        distance = max(
            abs(1 - (value / x[i]) ** (1 - alpha) - j / k) for j, value in enumerate(tail)
        )
        if distance < best[0]:
            best = (distance, alpha, x[i], k)
    return best[1], best[2], best[0], best[3]


def lognormal(rng: np.random.Generator, n: int) -> list[float]:
    return list(rng.lognormal(0.0, 1.5, n))


def pareto(rng: np.random.Generator, n: int) -> list[float]:
    return list(rng.pareto(1.7, n) + 1)


def wishart(rng: np.random.Generator, n: int) -> list[float]:
    return list(np.linalg.svd(rng.standard_normal((2 * n, n)), compute_uv=False) ** 2)


@pytest.mark.parametrize("draw", [lognormal, pareto, wishart])
@pytest.mark.parametrize("n", [3, 7, 8, 9, 12, 19, 20, 21, 40, 120])
def test_the_fit_is_that_of_the_definitions(
    draw: Callable[[np.random.Generator, int], list[float]], n: int
) -> None:
    for seed in range(5):
        values = draw(np.random.default_rng([seed, n]), n)
        alpha, xmin, distance, size = by_the_book(values)
        fit = fit_power_law(torch.tensor(values))
        assert fit.status == "success"
        assert fit.num_pl_spikes == size
        assert fit.alpha == pytest.approx(alpha, rel=1e-10)
        assert fit.xmin == pytest.approx(xmin, rel=1e-14)
        assert fit.xmax == pytest.approx(max(values), rel=1e-14)
        assert pytest.approx(distance, rel=1e-9) == fit.D
        assert fit.sigma == pytest.approx((alpha - 1) / math.sqrt(size), rel=1e-10)


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
