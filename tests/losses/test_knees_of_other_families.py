"""Knees are found within an epoch, and of curves that are not two lines of the logarithm too."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from lightning_weightwatch.losses.diagnosis import diagnose
from lightning_weightwatch.losses.knee import best_bend, find_knee

Array = NDArray[np.float64]

DRAWS = 400


class Shape(NamedTuple):
    """What the curves of all families have in common.

    The loss falls from 1 by a half to nine tenths until the knee, and three to ten times as slowly
    from there on: a knee that a person sees.
    """

    x: Array
    knee: int
    steepness: float
    left: float
    floor: float
    width: float


def drawn(rng: np.random.Generator) -> Shape:
    n = int(rng.integers(12, 61))
    return Shape(
        x=np.arange(n, dtype=np.float64),
        knee=int(rng.integers(max(3, round(0.15 * n)), int(0.7 * n) + 1)),
        steepness=float(rng.uniform(3, 10)),
        left=float(rng.uniform(0.1, 0.5)),
        floor=float(rng.uniform(0, 0.5)),
        width=float(rng.uniform(0.3, 1.5)),
    )


def rates(shape: Shape) -> tuple[float, float]:
    """Of the exponential before the knee, and of that after it."""
    rate = -np.log(shape.left) / shape.knee
    return rate, rate / shape.steepness


def before(shape: Shape) -> Array:
    """Epochs up to the knee."""
    return np.minimum(shape.x, shape.knee)


def beyond(shape: Shape) -> Array:
    """Epochs since the knee."""
    return np.maximum(shape.x - shape.knee, 0)


def exponentials(shape: Shape) -> Array:
    fast, slow = rates(shape)
    return np.exp(-fast * before(shape) - slow * beyond(shape))


def exponentials_above_a_floor(shape: Shape) -> Array:
    """An irreducible loss of up to a half beside what is learned."""
    return shape.floor + exponentials(shape)


def soft_exponentials(shape: Shape) -> Array:
    """The slopes go over into each other within an epoch or two; the knee is in the middle."""
    fast, slow = rates(shape)
    bent = shape.width * np.logaddexp(0, (shape.x - shape.knee) / shape.width)
    return np.exp(-fast * shape.x + (fast - slow) * bent)


def straight_lines(shape: Shape) -> Array:
    """Of the loss itself; after the knee it keeps a third of what was left at least."""
    slope = (1 - shape.left) / shape.knee
    most = 0.66 * shape.left / (len(shape.x) - 1 - shape.knee)
    return 1 - slope * before(shape) - min(slope / shape.steepness, most) * beyond(shape)


def a_line_and_a_plateau(shape: Shape) -> Array:
    return 1 - (1 - shape.left) / shape.knee * before(shape)


def power_laws(shape: Shape) -> Array:
    """Two of them: bent in time as well, most of all at the start, and at the knee by a jump."""
    power = -np.log(shape.left) / np.log1p(shape.knee)
    slow = np.log1p(shape.x) - np.log1p(before(shape))
    return np.asarray((1 + before(shape)) ** -power * np.exp(-power / shape.steepness * slow))


def an_exponential_and_a_power_law(shape: Shape) -> Array:
    fast, slow = rates(shape)
    ratio = (1 + shape.x) / (1 + before(shape))
    return np.asarray(np.exp(-fast * before(shape)) * ratio ** (-slow * (1 + shape.knee)))


def an_asymptote_and_a_line(shape: Shape) -> Array:
    """One to two time constants towards a floor, and from there on straight."""
    constants, floor = 1 + shape.left, 0.1 + shape.floor
    falling = floor + np.exp(-constants * before(shape) / shape.knee)
    slope = np.exp(-constants) * constants / shape.knee / shape.steepness
    return np.asarray(np.maximum(falling - slope * beyond(shape), 0.3 * falling[-1]))


def share_within_an_epoch(family: Callable[[Shape], Array], noise: float) -> float:
    """How often the knee that a report suggests to lower the learning rate at is the true one."""
    rng = np.random.default_rng(11)
    found = 0
    for _ in range(DRAWS):
        shape, unit = drawn(rng), 10 ** rng.uniform(-3, 2)
        clean = unit * family(shape)
        noisy = clean * (1 + rng.uniform(0, noise) * rng.normal(size=len(clean)))
        # The validation falls to the end, so that the whole training loss is before its best.
        window = diagnose(noisy, clean - unit * 1e-6 * shape.x).lr_decay_window
        found += window is not None and abs(window[0] - shape.knee) <= 1
    return found / DRAWS


@pytest.mark.parametrize(
    "family",
    [
        exponentials,
        exponentials_above_a_floor,
        soft_exponentials,
        straight_lines,
        a_line_and_a_plateau,
        power_laws,
        an_exponential_and_a_power_law,
    ],
)
def test_a_slope_that_falls_to_a_third_has_its_knee_found_within_an_epoch(
    family: Callable[[Shape], Array],
) -> None:
    assert share_within_an_epoch(family, noise=0.0) >= 0.95
    assert share_within_an_epoch(family, noise=0.02) >= 0.95


def test_a_knee_after_a_bend_of_the_same_curve_is_found_nine_times_in_ten() -> None:
    # Towards an asymptote the curve has slowed down by e to e² before the knee, gradually: that is
    # as much as it does at the knee, and noise hides which of the two is the sharp one.
    assert share_within_an_epoch(an_asymptote_and_a_line, noise=0.0) >= 0.95
    assert share_within_an_epoch(an_asymptote_and_a_line, noise=0.02) >= 0.9


@pytest.mark.parametrize("noise", [0.0, 0.005, 0.02])
@pytest.mark.parametrize("kind", ["exponential", "line", "constant"])
def test_a_curve_of_a_single_slope_seldom_has_a_knee(kind: str, noise: float) -> None:
    rng = np.random.default_rng(12)
    found = 0
    for _ in range(DRAWS):
        x = np.arange(int(rng.integers(12, 61)))
        fall = rng.uniform(0.3, 0.95)
        clean = {
            "exponential": (1 - fall) ** (x / x[-1]),
            "line": 1 - fall * x / x[-1],
            "constant": np.ones(len(x)),
        }[kind]
        found += find_knee(clean * (1 + noise * rng.normal(size=len(x)))) is not None
    # Without noise never; in noise as often as a test at 5 % errs, with room for the draws.
    assert found <= (0.08 * DRAWS if noise else 0)


def test_a_power_law_slows_down_early() -> None:
    # One slope of logarithms, but in epochs it is rapid and then slower, as people would say too.
    for power in (0.2, 0.5, 1.0, 1.5):
        for n in (12, 30, 60, 300):
            found = find_knee(np.asarray((1.0 + np.arange(n)) ** -power, dtype=np.float64))
            assert found is not None
            assert found <= n / 3


@pytest.mark.parametrize("value", [0.08135600913877156, 1101.9383660320725, 0.001405271004])
@pytest.mark.parametrize("n", [29, 84, 271])
def test_rounding_is_no_knee(value: float, n: int) -> None:
    # The mean of equal values is not always equal to them.
    assert find_knee(np.full(n, value)) is None
    assert find_knee(value * np.exp(-1e-12 * np.arange(n))) is None


def test_of_two_bends_that_fit_alike_the_first_is_taken_in_any_unit() -> None:
    # A parabola of the logarithm: what one line leaves of it is symmetric.
    values = np.exp((np.arange(4) - 4.0) ** 2 / 8)
    found = {find_knee(10**decades * values) for decades in np.linspace(-6, 6, 200)}
    assert found == {1}


def test_the_best_bend_is_that_of_a_search_with_a_solver() -> None:
    rng = np.random.default_rng(13)
    for _ in range(200):
        n = int(rng.integers(5, 60))
        x, y = np.cumsum(rng.uniform(0.1, 1, n)), rng.normal(size=n)
        weights = rng.uniform(0.05, 1, n)

        searched = [squares(y, weights, x, np.maximum(0, x - bend)) for bend in x[1:-1]]
        best = int(np.argmin([error for error, _ in searched]))
        found = best_bend(x, y, weights)
        two_lines, (_, slope, change) = searched[best]
        assert found.index == best + 1
        assert found.one_line == pytest.approx(squares(y, weights, x)[0])
        assert found.two_lines == pytest.approx(two_lines, rel=1e-6)
        assert found.steeper == (-slope > 1.5 * max(-slope - change, 0))


def squares(y: Array, weights: Array, *columns: Array) -> tuple[float, list[float]]:
    """Sum of squared errors of the weighted least-squares fit, and its coefficients."""
    design = np.stack([np.ones_like(y), *columns], axis=1) * weights[:, None]
    fit = np.linalg.lstsq(design, y * weights, rcond=None)[0]
    rest = y * weights - design @ fit
    return float(rest @ rest), fit.tolist()
