"""The knee of curves of two exponentials, and what has none."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from lightning_weightwatch.losses.knee import find_knee


def bent(n: int, knee: int, noise: float = 0.0, seed: int = 0) -> NDArray[np.float64]:
    x = np.arange(n)
    y = -0.3 * np.minimum(x, knee) - 0.03 * np.maximum(0, x - knee)
    return np.exp(y + noise * np.random.default_rng(seed).normal(size=n))


@pytest.mark.parametrize("noise", [0.0, 0.005, 0.02])
@pytest.mark.parametrize(("n", "knee"), [(12, 3), (15, 4), (30, 10), (50, 20)])
def test_a_knee_is_found_within_an_epoch(n: int, knee: int, noise: float) -> None:
    for seed in range(50):
        found = find_knee(bent(n, knee, noise, seed))
        assert found is not None
        assert abs(found - knee) <= 1


@pytest.mark.parametrize(
    "values",
    [
        np.exp(-0.2 * np.arange(30)),
        np.ones(30),
        np.array([3.0, 2.0, 1.0]),
        np.exp(-0.03 * np.minimum(np.arange(30), 10) - 0.3 * np.maximum(0, np.arange(30) - 10)),
        np.random.default_rng(7).normal(size=40) ** 2 + 1,
    ],
    ids=["one line", "constant", "three points", "faster and faster", "noise"],
)
def test_what_has_no_knee_is_given_none(values: NDArray[np.float64]) -> None:
    assert find_knee(values) is None


@pytest.mark.parametrize("factor", [1e-300, 1e-6, 0.3, 1e12])
def test_the_unit_of_the_loss_moves_no_knee(factor: float) -> None:
    assert find_knee(factor * bent(40, 12, 0.01)) == find_knee(bent(40, 12, 0.01))


def test_losses_below_zero_bend_too() -> None:
    values = np.concatenate([np.linspace(2.0, -3.0, 11), np.linspace(-3.0, -3.5, 21)[1:]])
    assert find_knee(values) == 10


def test_ten_thousand_epochs_have_a_knee() -> None:
    x = np.arange(10_000)
    values = np.exp(-1e-3 * np.minimum(x, 2500) - 1e-5 * np.maximum(0, x - 2500))
    found = find_knee(values)
    assert found is not None
    assert math.isclose(found, 2500, abs_tol=1)
