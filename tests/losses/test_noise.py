"""Noise is told from a rise: by its size, estimated apart from any trend, and by its direction."""

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from lightning_weightwatch.losses.diagnosis import diagnose
from lightning_weightwatch.losses.noise import beyond_noise, is_rough, noise_of, trend_of


@pytest.mark.parametrize("slope", [0.0, 0.5, -3.0])
def test_the_standard_deviation_is_found_beneath_any_line(slope: float) -> None:
    generator = np.random.default_rng(1)
    values = slope * np.arange(20_000) + 0.25 * generator.normal(size=20_000)
    assert noise_of(values) == pytest.approx(0.25, rel=0.03)


def test_a_straight_line_has_no_noise_and_two_points_tell_none() -> None:
    assert noise_of(np.linspace(1.0, 2.0, 17)) == pytest.approx(0, abs=1e-15)
    assert np.isnan(noise_of(np.array([1.0, 2.0])))


def test_the_trend_is_spearmans_rank_correlation_with_time() -> None:
    generator = np.random.default_rng(2)
    for n in (3, 8, 50):
        values = generator.integers(0, 6, size=n).astype(float)  # with ties
        rho = spearmanr(np.arange(n), values).statistic
        assert trend_of(values) == pytest.approx(rho * np.sqrt(n - 1), rel=1e-12)
    assert trend_of(np.ones(9)) == 0


def test_a_noisy_plateau_is_rarely_called_overfitting_and_a_rise_in_the_same_noise_always() -> None:
    generator = np.random.default_rng(3)
    train = 1 / (1 + 0.2 * np.arange(200))
    level = 0.5 + 0.5 * np.exp(-np.arange(200) / 25)
    rising = level + 0.2 * np.clip(np.arange(200) - 80, 0, None) / 120
    alarms = {"plateau": 0, "rise": 0, "bare rule": 0}
    for _ in range(200):
        noise = 1 + 0.03 * generator.normal(size=200)
        plateau = level * noise
        alarms["plateau"] += diagnose(train, plateau).overfitting
        alarms["rise"] += diagnose(train, rising * noise).overfitting
        alarms["bare rule"] += plateau[-1] > 1.04 * plateau.min()
    assert alarms["bare rule"] > 150  # without regard to noise it would be nearly always
    assert alarms["plateau"] < 60
    assert alarms["rise"] == 200


def test_of_noise_the_last_value_is_rarely_further_above_the_lowest_than_the_limit() -> None:
    generator = np.random.default_rng(4)
    for n in (8, 30, 100, 1000):
        values = generator.normal(size=(2000, n))
        beyond = values[:, -1] - values.min(axis=1) > beyond_noise(n)
        assert beyond.mean() < 0.06
    assert beyond_noise(100) == pytest.approx(math.sqrt(2 * math.log(100)) + 2)


def share_of_overfitting(n: int, level: float, sigma: float, seed: int) -> float:
    """Of 200 runs whose validation falls to 1 in five steps, goes to a level, and stays there."""
    generator, train = np.random.default_rng(seed), np.exp(-3 * np.arange(n) / n)
    clean = np.r_[np.linspace(2, 1, 5), np.full(n - 5, level)]
    noisy = clean + sigma * generator.normal(size=(200, n))
    return float(np.mean([diagnose(train, values).overfitting for values in noisy]))


@pytest.mark.parametrize("sigma", [0.02, 0.1])
def test_the_longer_a_level_of_noise_is_the_seldomer_it_is_called_overfitting(sigma: float) -> None:
    assert share_of_overfitting(100, 1.0, sigma, seed=5) < 0.32
    assert share_of_overfitting(1000, 1.0, sigma, seed=6) < 0.2


def test_a_level_that_is_held_above_the_best_is_no_noise_though_no_value_is_beyond_it() -> None:
    # Six and four standard deviations; of the latter, half the runs look like noise to anyone.
    assert share_of_overfitting(100, 1.3, 0.05, seed=7) > 0.9
    assert share_of_overfitting(100, 1.2, 0.05, seed=8) > 0.45


def test_a_curve_is_rough_where_it_turns_as_noise_does() -> None:
    noise = np.random.default_rng(0).normal(size=50)
    assert is_rough(noise)
    assert not is_rough(np.exp(np.arange(50) / 3))
    assert not is_rough(np.sin(np.arange(50) / 5))
    assert not is_rough(np.ones(50))
