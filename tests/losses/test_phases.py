"""The phases of a run, what they suggest, and the statements of the report it all began with."""

import math
from itertools import pairwise

import numpy as np
import pytest

from lightning_weightwatch.losses.advice import Drop
from lightning_weightwatch.losses.diagnosis import diagnose
from lightning_weightwatch.losses.report import LossReport

TRAIN = [0.1159, 0.102, 0.0898, 0.079, 0.0765, 0.0741, 0.0717, 0.0694, 0.0672, 0.065]
VAL = [0.1, 0.092, 0.085, 0.078, 0.0763, 0.0747, 0.0732, 0.0717, 0.0702, 0.0688]
AFTER_TRAIN = [0.0648, 0.0646, 0.0645, 0.0644, 0.0643]
AFTER_VAL = [0.069, 0.0692, 0.0695, 0.0697, 0.07]


def stretches(report: LossReport) -> list[tuple[str, int, int]]:
    """Name and epochs, counted from 1, of each phase."""
    return [(phase.label, phase.first_epoch + 1, phase.last_epoch + 1) for phase in report.phases]


@pytest.mark.parametrize(
    "train_after", [AFTER_TRAIN, [0.065] * 5], ids=["slightly improves", "holds steady"]
)
def test_the_run_of_the_first_report_has_its_phases(train_after: list[float]) -> None:
    report = diagnose(TRAIN + train_after, VAL + AFTER_VAL)
    assert stretches(report) == [("rapid", 1, 4), ("slower", 5, 10), ("mild rise", 11, 15)]
    assert report.best_epoch == report.early_stop_epoch == 9
    assert report.best_value == 0.0688
    assert report.patience == (2, 3)
    assert report.lr_decay_window == (3, 5)
    assert not report.overfitting
    rapid, slower, _ = report.phases
    assert (rapid.train_from, rapid.train_to) == (0.1159, 0.079)
    assert (slower.train_from, slower.train_to) == (0.079, 0.065)


def test_a_run_that_still_improves_has_no_end_to_suggest() -> None:
    report = diagnose(TRAIN, VAL)
    assert stretches(report) == [("rapid", 1, 4), ("slower", 5, 10)]
    assert report.early_stop_epoch is None


def test_a_descent_without_a_knee_is_steady() -> None:
    values = np.exp(-0.1 * np.arange(12))
    report = diagnose(values, values)
    assert stretches(report) == [("steady", 1, 12)]
    assert report.lr_decay_window is None


def test_a_validation_that_stays_is_a_plateau() -> None:
    train = 1 / (1 + np.arange(40))
    val = np.r_[np.linspace(1.0, 0.5, 10), np.linspace(0.5, 0.498, 21)[1:], [0.4985] * 10]
    report = diagnose(train, val)
    assert report.severity == "none"
    label, first, last = stretches(report)[-1]
    assert label == "plateau"
    assert first in (10, 11)
    assert last == 40


def test_a_double_descent_is_no_plateau() -> None:
    val = [1, 0.8, 0.6, 0.5, 0.6, 0.8, 1, 1.2, 1.3, 1.2, 1, 0.8, 0.6, 0.499]
    report = diagnose(np.exp(-0.3 * np.arange(14)), val)
    assert "plateau" not in [phase.name for phase in report.phases]
    # But the level it comes to rest on is one.
    rested = diagnose(np.exp(-0.1 * np.arange(34)), val + [0.499 - 1e-5 * i for i in range(20)])
    label, first, last = stretches(rested)[-1]
    assert (label, last) == ("plateau", 34)
    assert 14 <= first <= 16


@pytest.mark.parametrize("sigma", [0.003, 0.01, 0.05])
@pytest.mark.parametrize("n", [30, 100, 1000])
def test_a_noisy_plateau_stays_one(n: int, sigma: float) -> None:
    generator = np.random.default_rng(9)
    clean = 0.5 + 0.5 * np.exp(-15 * np.arange(n) / n)
    found = 0
    for _ in range(50):
        val = clean + sigma * generator.normal(size=n)
        val[-1] = val.min() - 0.1 * sigma  # so that all of it is before the best
        last = diagnose(np.exp(-np.arange(n) / n), val).phases[-1]
        found += last.name == "plateau" and last.first < n / 2
    assert found >= 48


@pytest.mark.parametrize("left_out", [1, 2, 4, 5, 6, 8])
def test_a_validation_that_is_nan_moves_no_knee(left_out: int) -> None:
    val = [*VAL]
    val[left_out] = math.nan
    whole, report = diagnose(TRAIN, VAL), diagnose(TRAIN, val)
    assert report.lr_decay_window is not None
    assert whole.lr_decay_window is not None
    assert report.lr_decay_window[0] == whole.lr_decay_window[0] == 3


def test_strong_overfitting_is_a_phase_from_the_best_on() -> None:
    report = diagnose(TRAIN + AFTER_TRAIN, [*VAL, 0.07, 0.073, 0.076, 0.08, 0.085])
    assert report.overfitting
    assert stretches(report)[-1] == ("overfitting", 11, 15)
    assert report.phases[-1].name == "overfit"


def test_a_rise_of_both_losses_is_named_so() -> None:
    report = diagnose([*TRAIN, 0.07, 0.08, 0.09], [*VAL, 0.07, 0.08, 0.09])
    assert report.severity == "none"
    assert stretches(report)[-1] == ("worse, and so is the training loss", 11, 13)


def test_phases_follow_each_other_without_a_gap() -> None:
    generator = np.random.default_rng(4)
    for n in (3, 5, 17, 200):
        train = np.exp(-3 * np.arange(n) / n) * (1 + 0.02 * generator.normal(size=n))
        val = 0.3 + np.abs(np.arange(n) - n / 2) / n + 0.02 * generator.normal(size=n)
        phases = diagnose(train, val).phases
        assert phases[0].first == 0
        assert phases[-1].last == n - 1
        for earlier, later in pairwise(phases):
            assert later.first == earlier.last + 1
            assert later.val_from == earlier.val_to


def test_a_metric_to_rise_has_the_phases_of_its_mirror_image() -> None:
    val = VAL + AFTER_VAL
    mirrored = diagnose(TRAIN + AFTER_TRAIN, [-value for value in val], mode="max")
    report = diagnose(TRAIN + AFTER_TRAIN, val)
    assert [stretch[1:] for stretch in stretches(mirrored)] == [s[1:] for s in stretches(report)]
    assert [phase.name for phase in mirrored.phases] == [phase.name for phase in report.phases]
    assert (mirrored.phases[-1].label, report.phases[-1].label) == ("mild decline", "mild rise")
    assert mirrored.phases[0].val_to == -report.phases[0].val_to


def test_an_accuracy_on_both_sides_is_told_by_its_direction() -> None:
    train = [0.5, 0.7, 0.8, 0.9, 0.95, 0.99]
    report = diagnose(train, [0.5, 0.7, 0.75, 0.72, 0.7, 0.66], mode="max")
    assert (report.train_mode, report.overfitting) == ("max", True)
    falling = diagnose(train[::-1], [0.5, 0.7, 0.75, 0.72, 0.7, 0.66], mode="max")
    assert (falling.train_mode, falling.overfitting) == ("min", True)


def test_patience_is_one_more_than_the_longest_wait_before_the_best() -> None:
    # 0.8 was waited for through three validations without a new best.
    val = [1.0, 0.9, 0.95, 0.93, 0.91, 0.8, 0.7, 0.75]
    assert diagnose(range(8, 0, -1), val).patience == (4, 5)


def test_drops_of_the_learning_rate_are_found_and_a_cosine_has_none() -> None:
    steps = [0.1] * 4 + [0.01] * 4
    cosine = [0.05 * (1 + math.cos(math.pi * i / 8)) for i in range(8)]
    report = diagnose(
        range(8, 0, -1), range(8, 0, -1), learning_rates={"lr-SGD": steps, "lr-Adam": cosine}
    )
    assert report.lr_drops == (Drop("lr-SGD", 4, 0.1, 0.01),)


def test_several_validations_in_an_epoch_stand_one_after_another() -> None:
    report = diagnose([1.0] * 5, [1.0] * 5, epochs=[0, 0, 1, 1, 2])
    assert report.positions == (0.5, 1.0, 1.5, 2.0, 2.5)
    assert diagnose([1.0] * 3, [1.0] * 3, epochs=[1, 3, 5]).positions == (2, 4, 6)


def test_a_steep_and_rough_descent_is_no_plateau() -> None:
    val = [4.5, 4.2, 4.6, 3.8, 4.3, 3.3, 3.2, *(3.21 + 0.01 * i for i in range(12))]
    report = diagnose([1 - 0.04 * i for i in range(len(val))], val)
    assert "plateau" not in [phase.name for phase in report.phases]
