"""Intervals of paired differences are those of the textbook, and hold what they promise."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from lightning_weightwatch.trials.evaluation import (
    FEWEST_BATCHES,
    Batches,
    Evaluation,
    interval_of,
    no_interval,
    paired_interval,
)

Array = NDArray[np.float64]


def batches(values: Array, sizes: Array | None = None) -> Batches:
    return Batches(values, np.full(len(values), 32.0) if sizes is None else sizes)


def test_for_batches_of_one_size_it_is_students_t_of_the_differences() -> None:
    draw = np.random.default_rng(0)
    first = draw.normal(size=40)
    second = first + draw.normal(0.1, 0.05, size=40)
    found = paired_interval(batches(first), batches(second))
    assert found is not None
    expected = stats.ttest_rel(second, first).confidence_interval(0.95)
    assert found == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_pairing_takes_away_what_the_batches_have_in_common() -> None:
    draw = np.random.default_rng(1)
    first = draw.normal(size=30)
    found = paired_interval(batches(first), batches(first + 0.01))
    assert found is not None
    assert found[1] - found[0] < 1e-12
    assert sum(found) / 2 == pytest.approx(0.01)


def test_with_batches_of_different_sizes_it_covers_the_truth_as_often_as_it_says() -> None:
    """Each sample has a difference of its own; a batch is the mean over its samples."""
    draw = np.random.default_rng(2)
    sizes = np.array([32.0] * 19 + [5.0])
    hits = 0
    for _ in range(2000):
        differences = np.array([draw.normal(0.3, 1.0, int(n)).mean() for n in sizes])
        base = draw.normal(size=20)
        found = paired_interval(batches(base, sizes), batches(base + differences, sizes))
        assert found is not None
        hits += found[0] <= 0.3 <= found[1]
    assert 0.93 < hits / 2000 < 0.97


def test_the_middle_is_the_difference_of_the_means_over_samples() -> None:
    sizes = np.array([10.0, 10, 10, 10, 1])
    first, second = np.zeros(5), np.array([1.0, 2, 3, 4, 100])
    found = paired_interval(batches(first, sizes), batches(second, sizes))
    assert found is not None
    assert sum(found) / 2 == pytest.approx((10 + 20 + 30 + 40 + 100) / 41)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (None, batches(np.zeros(9))),
        (batches(np.zeros(9)), None),
        (batches(np.zeros(9)), batches(np.zeros(8))),
        (batches(np.zeros(9)), Batches(np.zeros(9), np.full(9, 31.0))),
        (batches(np.zeros(FEWEST_BATCHES - 1)), batches(np.ones(FEWEST_BATCHES - 1))),
        (batches(np.zeros(9)), batches(np.full(9, math.nan))),
        (batches(np.zeros(9)), batches(np.full(9, math.inf))),
        (Batches(np.zeros(9), np.zeros(9)), Batches(np.ones(9), np.zeros(9))),
    ],
)
def test_there_is_none_where_batches_differ_are_few_or_not_finite(
    first: Batches | None, second: Batches | None
) -> None:
    assert paired_interval(first, second) is None


def evaluation(values: Array, value: float | None = None) -> Evaluation:
    mean = float(values.mean()) if value is None else value
    return Evaluation({"loss": mean}, {"loss": batches(values)})


def test_where_there_is_none_although_there_could_be_the_reason_is_given() -> None:
    first, second = np.zeros(10), np.linspace(0.9, 1.1, 10)
    base = evaluation(first)
    assert isinstance(interval_of(base, evaluation(second), "loss"), tuple)
    other = Evaluation({"loss": 1.0}, {"loss": batches(second)}, seen=1.0)
    sizes = Evaluation({"loss": 1.0}, {"loss": Batches(second, np.full(10, 31.0))})
    for tried, reason in [
        (evaluation(second, 2.0), "the metric is not the mean of its batches"),
        (other, "its batches were not those of the baseline"),
        (sizes, "its batches have other sizes than those of the baseline"),
        (Evaluation({"loss": 1.0}), "its batches have other sizes than those of the baseline"),
        (evaluation(np.full(10, math.nan)), "a batch has no finite value"),
    ]:
        assert interval_of(base, tried, "loss") == reason
    assert interval_of(base, evaluation(second), "accuracy") == ""
    assert interval_of(evaluation(np.zeros(3)), evaluation(np.zeros(3)), "loss") == ""


def test_it_stands_around_the_difference_of_the_metric() -> None:
    first, second = np.zeros(10), np.linspace(0.9, 1.1, 10)
    exact = interval_of(evaluation(first), evaluation(second), "loss")
    rounded = interval_of(evaluation(first), evaluation(second, 1.000004), "loss")
    assert isinstance(exact, tuple)
    assert isinstance(rounded, tuple)
    assert sum(rounded) / 2 == pytest.approx(1.000004, abs=1e-9)
    assert rounded[1] - rounded[0] == pytest.approx(exact[1] - exact[0])


def test_why_there_is_none_is_said() -> None:
    assert no_interval(evaluation(np.zeros(9)), "loss") == ""
    assert no_interval(evaluation(np.zeros(3)), "loss") == (
        "loss has 3 batches, and an interval needs 5"
    )
    plain = Evaluation({"acc": 0.5})
    assert no_interval(plain, "acc") == "the values of acc are not known batch by batch"
    assert no_interval(plain, "") == ""
