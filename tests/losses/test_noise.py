"""Noise is told from a rise: by its size, estimated apart from any trend, and by its direction."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from lightning_weightwatch.losses.diagnosis import diagnose
from lightning_weightwatch.losses.noise import noise_of, trend_of


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
    assert alarms["plateau"] < 70
    assert alarms["rise"] == 200
