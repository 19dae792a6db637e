"""What must hold of every pair of curves: units, directions, earlier epochs, and wild values."""

import math
from itertools import pairwise
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lightning_weightwatch.losses.diagnosis import diagnose
from lightning_weightwatch.losses.growing import GrowingCurves
from lightning_weightwatch.losses.knee import find_knee
from lightning_weightwatch.losses.report import LossReport
from lightning_weightwatch.views.diagnosis import diagnosis_markdown, diagnosis_sentences

Array = NDArray[np.float64]
Run = tuple[Array, Array]

modest = settings(max_examples=150, deadline=None, derandomize=True, database=None)

KINDS = ("falling", "bent", "overfit", "plateau", "rising", "constant", "two digits", "negative")


@st.composite
def curve(draw: st.DrawFn, n: int) -> Array:
    """A loss as runs have them: 1 at first, or about so, with up to 10 % of noise.

    Values that are not equal differ by more than rounding: in another unit they would be equal.
    """
    x, kind = np.arange(n), draw(st.sampled_from(KINDS))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    speed, turn = draw(st.floats(0.001, 1.0)), draw(st.integers(0, n - 1))
    falling = np.exp(-speed * x)
    values = {
        "falling": falling,
        "bent": np.exp(-speed * np.minimum(x, turn) - 0.1 * speed * np.maximum(x - turn, 0)),
        "overfit": 0.3 + np.abs(x - turn) / n,
        "plateau": 0.5 + 0.5 * np.maximum(falling, 1e-6),
        "rising": 1 + 0.2 * speed * x,
        "constant": np.ones(n),
        # The unit must not matter to ties and to values that are right at a threshold either.
        "two digits": np.round(1 + np.maximum(0, 1 - speed * x) + rng.integers(0, 6, n) / 100, 2),
        "negative": 1 - 2 * x / n,
    }[kind]
    if kind not in ("constant", "two digits"):
        noise = draw(st.sampled_from([0.0, 1e-4, 0.01, 0.1]))
        values = values * (1 + noise * rng.normal(size=n))
    return np.asarray(values, dtype=np.float64)


@st.composite
def runs(draw: st.DrawFn, gaps: bool = True) -> Run:
    """Two curves; with gaps, some values of either are unknown."""
    n = draw(st.one_of(st.integers(3, 30), st.integers(3, 300)))
    train, val = draw(curve(n)), draw(curve(n))
    if gaps and draw(st.booleans()):
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        train[rng.random(n) < 0.2] = math.nan
        val[rng.random(n) < 0.2] = math.nan
    return train, val


def verdict(report: LossReport) -> dict[str, Any]:
    """All that a report says without a number in the unit of a loss."""
    return {
        "overfitting": report.overfitting,
        "severity": report.severity,
        "best_index": report.best_index,
        "best_epoch": report.best_epoch,
        "epochs_since_best": report.epochs_since_best,
        "early_stop_epoch": report.early_stop_epoch,
        "patience": report.patience,
        "lr_decay_window": report.lr_decay_window,
        "training_fell": report.training_fell,
        "within_noise": report.within_noise,
        "phases": [(phase.name, phase.first, phase.last) for phase in report.phases],
        "alarm": report.criteria.alarm,
        "up": report.criteria.up,
    }


def close(value: float, size: float = 1.0) -> Any:
    """Equal but for the rounding of a difference of values, `size` times as large as its share."""
    return pytest.approx(value, rel=1e-9, abs=1e-13 * size, nan_ok=True)


@modest
@given(runs(), st.floats(-6, 6), st.floats(-6, 6))
def test_the_units_of_the_losses_are_in_the_losses_alone(
    run: Run, train_decades: float, val_decades: float
) -> None:
    (train, val), by_train, by_val = run, 10**train_decades, 10**val_decades
    plain, scaled = diagnose(train, val), diagnose(by_train * train, by_val * val)
    assert verdict(scaled) == verdict(plain)
    assert scaled.best_value == close(by_val * plain.best_value, 0)
    largest = float(np.nanmax(np.abs(val), initial=0)) / max(abs(plain.best_value), 1e-300)
    assert scaled.rise == close(plain.rise, largest)
    assert scaled.noise == close(plain.noise, largest)
    assert scaled.criteria.gl == close(plain.criteria.gl, 100 * largest)
    # P of a training loss that stays within rounding of where it is, is nothing but rounding.
    if plain.criteria.gl > 1e-3 * plain.criteria.pq > 0 and largest < 100:
        assert scaled.criteria.pq == pytest.approx(plain.criteria.pq, rel=1e-7)


def coarse(most: int, lowest: int) -> st.SearchStrategy[list[float]]:
    """Short curves in steps of a tenth, where two of anything are often equal."""
    step = st.integers(lowest, 10).map(lambda tenths: tenths / 10)
    return st.lists(step, min_size=4, max_size=most)


@settings(modest, max_examples=1000)
@given(coarse(12, 1), st.floats(-15, 15))
@example([0.3, 0.3, 0.3, 0.4], math.log10(3301130799355.381))
@example([0.3, 0.6, 0.3, 0.9], math.log10(0.03392607876255228))
def test_ties_bend_nowhere_else_in_another_unit(values: list[float], decades: float) -> None:
    curve = np.array(values)
    assert find_knee(10**decades * curve) == find_knee(curve)


@settings(modest, max_examples=500)
@given(coarse(25, -5), st.randoms(use_true_random=False), st.sampled_from(["min", "max"]))
def test_ties_have_the_same_verdict_in_another_unit(
    train: list[float], random: Random, mode: Any
) -> None:
    val = [random.randint(-5, 10) / 10 for _ in train]
    by_train, by_val = 10 ** random.uniform(-12, 12), 10 ** random.uniform(-12, 12)
    plain = diagnose(train, val, mode=mode)
    scaled = diagnose([by_train * x for x in train], [by_val * x for x in val], mode=mode)
    assert verdict(scaled) == verdict(plain)
    assert scaled.train_mode == plain.train_mode


@modest
@given(runs(), st.floats(-6, 6))
def test_one_unit_of_both_losses_is_that_of_the_gap(run: Run, decades: float) -> None:
    (train, val), factor = run, 10**decades
    plain, scaled = diagnose(train, val).gap, diagnose(factor * train, factor * val).gap
    assert scaled == pytest.approx(factor * plain, rel=1e-9, abs=1e-13 * factor, nan_ok=True)


@st.composite
def runs_begun_earlier(draw: st.DrawFn) -> tuple[Run, Run]:
    """A run, and the same after up to 30 epochs that are worse than all that follow in both losses.

    Of three epochs and more, because fewer have no verdict, and with a training loss that is known
    from the first, because what it was at the best is otherwise known only of the longer run. The
    best may be as near to zero as it likes, or zero.
    """
    train, val = draw(runs(gaps=False))
    if draw(st.booleans()):
        val = val - val.min() + draw(st.sampled_from([0.0, 1e-12, -1e-12, 1e-4, -0.01]))
    if draw(st.booleans()):
        train[1 + np.flatnonzero(np.arange(1, len(train)) % 3 == 0)] = math.nan
    count = draw(st.integers(1, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    worst = np.nanmax(train) + np.nanmax(np.abs(train)) * rng.uniform(0.01, 5, count)
    above = val.max() + (np.abs(val).max() or 1.0) * 10 ** rng.uniform(-2, 6, count)
    return (train, val), (np.r_[worst, train], np.r_[above, val])


@modest
@given(runs_begun_earlier())
def test_epochs_before_the_best_change_no_verdict(pair: tuple[Run, Run]) -> None:
    (train, val), (longer_train, longer_val) = pair
    plain, longer = diagnose(train, val), diagnose(longer_train, longer_val)
    added = len(longer_val) - len(val)
    for name in ("overfitting", "severity", "rise", "noise", "within_noise", "best_value"):
        assert getattr(longer, name) == pytest.approx(getattr(plain, name), nan_ok=True), name
    assert longer.gap == pytest.approx(plain.gap, nan_ok=True)
    assert longer.training_fell == plain.training_fell
    assert longer.epochs_since_best == plain.epochs_since_best
    assert longer.best_index == (plain.best_index or 0) + added


@modest
@given(runs())
def test_a_metric_to_rise_is_the_mirror_image_of_one_to_fall(run: Run) -> None:
    train, val = run
    plain = diagnose(train, val)
    for turned in (
        diagnose(train, -val, mode="max", train_mode="min"),
        diagnose(-train, -val, mode="max", train_mode="max"),
    ):
        assert verdict(turned) == verdict(plain)
        assert (turned.rise, turned.best_value) == pytest.approx(
            (plain.rise, -plain.best_value), rel=0, abs=0, nan_ok=True
        )
        assert repr(turned.criteria) == repr(plain.criteria)


@modest
@given(runs(), st.data())
def test_a_growing_run_says_at_any_time_what_its_curves_so_far_say(
    run: Run, data: st.DataObject
) -> None:
    train, val = run
    grown, now = GrowingCurves(), data.draw(st.integers(1, len(val)))
    for epoch in range(now):
        grown.report()
        grown.add(epoch, float(train[epoch]), float(val[epoch]))
    # As text: NaN equals nothing.
    assert repr(grown.report()) == repr(diagnose(train[:now], val[:now]))
    assert grown.report() is grown.report()


wild = st.one_of(
    st.none(),
    st.floats(),
    st.floats(-10, 10),
    st.sampled_from([0.0, -0.0, 1.0, 5e-324, 1e-310, 1.7e308, -1.7e308]),
)


@st.composite
def wild_runs(draw: st.DrawFn) -> tuple[list[float | None], list[float | None]]:
    """Up to 200 values of any size and kind, at times repeated."""
    pairs = draw(st.lists(st.tuples(wild, wild), max_size=40)) * draw(st.integers(1, 5))
    if draw(st.booleans()):
        constant = draw(wild)
        return [constant for _ in pairs], [val for _, val in pairs]
    return [train for train, _ in pairs], [val for _, val in pairs]


@settings(modest, max_examples=400)
@given(wild_runs(), st.sampled_from(["min", "max"]), st.sampled_from([None, "min", "max"]))
def test_whatever_the_values_all_that_a_report_says_is_within_its_bounds(
    run: tuple[list[float | None], list[float | None]], mode: Any, train_mode: Any
) -> None:
    report = diagnose(*run, mode=mode, train_mode=train_mode)
    count = len(report.val_values)
    assert all(map(math.isfinite, report.val_values))
    assert count + sum("validation" in skipped.reason for skipped in report.skipped) == len(run[1])
    assert report.overfitting == (report.severity in ("moderate", "severe"))
    assert report.severity == "unknown" or count >= 3
    assert math.isnan(report.rise) == (count == 0)
    assert not math.isinf(report.rise)
    assert not math.isinf(report.noise)
    assert not report.rise < 0
    assert not report.noise < 0
    assert not report.overfitting or (report.rise > 0.04 and report.training_fell)
    assert all(map(math.isfinite, report.summary().values()))
    assert len(report.records()) == count
    assert all(
        0 < place - epoch <= 1 for place, epoch in zip(report.positions, report.epochs, strict=True)
    )
    if report.patience is not None:
        assert 2 <= report.patience[0] == report.patience[1] - 1 <= max(2, count)
    if report.best_epoch is not None:
        assert report.epochs_since_best == report.epochs[-1] - report.best_epoch
        assert report.early_stop_epoch == (report.best_epoch if report.epochs_since_best else None)
    if report.lr_decay_window is not None and report.best_epoch is not None:
        first, last = report.lr_decay_window
        assert 0 < first <= last <= report.best_epoch
    assert_tiled(report)
    for checkpoint in (None, "epoch=3.ckpt"):
        assert all(diagnosis_sentences(report, "val_loss", checkpoint))
        assert "nan" not in diagnosis_markdown(report, "val_loss", checkpoint)


@modest
@given(runs())
def test_the_phases_tile_the_run_in_their_order(run: Run) -> None:
    assert_tiled(diagnose(*run))


def assert_tiled(report: LossReport) -> None:
    phases, count = report.phases, len(report.val_values)
    assert bool(phases) == (count >= 3)
    if not phases:
        return
    assert (phases[0].first, phases[-1].last) == (0, count - 1)
    for earlier, later in pairwise(phases):
        assert later.first == earlier.last + 1
    for phase in phases:
        assert phase.first <= phase.last
        assert phase.first_epoch == report.epochs[phase.first]
        assert phase.last_epoch == report.epochs[phase.last]
        assert phase.val_to == report.val_values[phase.last]
    order = {"rapid": 0, "slower": 1, "steady": 1, "plateau": 2, "overfit": 3, "rise": 3}
    places = [order[phase.name] for phase in phases]
    assert places == sorted(set(places))
