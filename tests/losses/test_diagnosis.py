"""The verdict follows the rule of one line, and the rule holds on curves it was not made of."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from lightning_weightwatch.losses.diagnosis import diagnose
from lightning_weightwatch.losses.report import LossReport
from lightning_weightwatch.report import Skipped

NAN, INF = math.nan, math.inf
HISTORIES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "data" / "short_histories.json").read_text(encoding="utf-8")
)["histories"]


def falling(n: int) -> list[float]:
    return [1.0 / (epoch + 1) for epoch in range(n)]


def flipped(values: Sequence[float]) -> list[float]:
    """The same curve of a metric that is to rise."""
    return [2.0 - value for value in values]


def test_the_rule_is_right_on_labelled_runs_it_was_not_made_of() -> None:
    clear = [history for history in HISTORIES if history["label"] >= 0]
    assert len(clear) == 108
    labels = [history["label"] for history in clear]
    verdicts = [diagnose(history["train"], history["val"]).overfitting for history in clear]
    assert f1_score(labels, verdicts) >= 0.91
    assert f1_score(labels, verdicts, average="macro") >= 0.88


def test_the_verdict_is_the_rule_written_out() -> None:
    for history in HISTORIES:
        train, val = history["train"], history["val"]
        best = min(range(len(val)), key=lambda index: val[index])
        report = diagnose(train, val)
        assert report.best_epoch == best
        assert report.best_value == val[best]
        assert report.rise == pytest.approx(val[-1] / val[best] - 1, rel=1e-12, abs=1e-15)
        assert report.overfitting == (val[-1] > 1.04 * val[best] and train[-1] < train[best])


@pytest.mark.parametrize("factor", [1e-6, 0.37, 1e9])
def test_the_unit_of_the_loss_changes_no_verdict(factor: float) -> None:
    for history in HISTORIES[::5]:
        scaled = diagnose(
            [factor * value for value in history["train"]],
            [factor * value for value in history["val"]],
        )
        plain = diagnose(history["train"], history["val"])
        assert (scaled.overfitting, scaled.severity) == (plain.overfitting, plain.severity)
        assert scaled.rise == pytest.approx(plain.rise, rel=1e-9)


def test_epochs_before_the_best_change_no_verdict() -> None:
    for history in HISTORIES[::5]:
        plain = diagnose(history["train"], history["val"])
        worse = 2 * max(*history["train"], *history["val"])
        longer = diagnose([worse] * 4 + history["train"], [worse] * 4 + history["val"])
        assert longer.overfitting == plain.overfitting
        assert longer.epochs_since_best == plain.epochs_since_best


@pytest.mark.parametrize(
    ("last", "severity", "overfitting"),
    [
        (1.0, "none", False),
        (1.009, "none", False),
        (1.011, "mild", False),
        (1.039, "mild", False),
        (1.041, "moderate", True),
        (1.149, "moderate", True),
        (1.151, "severe", True),
        (9.0, "severe", True),
    ],
)
@pytest.mark.parametrize("mode", ["min", "max"])
def test_severity_is_the_rise_in_a_word(
    last: float, severity: str, overfitting: bool, mode: Literal["min", "max"]
) -> None:
    val = [1.5, 1.0, 1.0, last]
    if mode == "max":
        val = flipped(val)
    report = diagnose(falling(4), val, mode=mode)
    assert (report.severity, report.overfitting) == (severity, overfitting)
    assert report.rise == pytest.approx(last - 1.0, abs=1e-12)
    assert report.best_epoch == 1


@pytest.mark.parametrize(
    ("train", "fell"),
    [
        ([1.0, 0.5, 0.4, 0.3], True),
        ([1.0, 0.5, 0.4, 0.5], False),
        ([1.0, 0.5, 0.6, 0.7], False),
        # A run that was cut before it logged its last one is judged by those that are known.
        ([1.0, 0.5, 0.4, NAN], True),
        ([1.0, 0.5, NAN, NAN], False),
        ([NAN, 0.5, NAN, 0.4], True),
    ],
)
def test_a_rise_is_overfitting_only_while_the_training_loss_falls(
    train: list[float], fell: bool
) -> None:
    report = diagnose(train, [1.0, 0.5, 0.7, 0.9])
    assert report.training_fell is fell
    assert report.overfitting is fell


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ([], []),
        ([1.0], [1.0]),
        ([1.0, 0.5], [1.0, 2.0]),
        ([1.0, NAN, NAN], [1.0, 2.0, 3.0]),
        ([NAN] * 5, [1.0, 2.0, 3.0, 4.0, 5.0]),
        # At the best epoch nothing is known of the training loss, so nobody saw it fall or not.
        ([NAN, 0.5, 0.4], [1.0, 1.2, 1.5]),
        ([1.0, 0.5, 0.4, 0.3], [NAN, NAN, 1.0, 2.0]),
    ],
    ids=["empty", "one", "two", "last unknown", "all unknown", "unknown at the best", "nan val"],
)
def test_with_too_little_known_there_is_no_verdict(train: list[float], val: list[float]) -> None:
    report = diagnose(train, val)
    assert report.severity == "unknown"
    assert not report.overfitting


def test_non_finite_validations_are_left_out_and_named() -> None:
    report = diagnose([5.0, 4.0, 3.0, 2.0, 1.0, 0.5], [1.0, NAN, 0.5, INF, -INF, 0.8])
    assert report.val_values == (1.0, 0.5, 0.8)
    assert report.train_losses == (5.0, 3.0, 0.5)
    assert report.epochs == (0, 2, 5)
    assert (report.best_epoch, report.epochs_since_best) == (2, 3)
    assert report.overfitting
    assert report.skipped == (
        Skipped("epoch 1", "the validation metric is nan"),
        Skipped("epoch 3", "the validation metric is inf"),
        Skipped("epoch 4", "the validation metric is -inf"),
    )


def test_without_a_finite_validation_everything_is_unknown() -> None:
    report = diagnose([1.0, 0.5], [NAN, INF])
    assert (report.best_index, report.best_epoch, report.epochs_since_best) == (None, None, 0)
    assert all(map(math.isnan, (report.best_value, report.rise, report.gap)))
    assert not report.training_fell
    assert report.summary() == {}
    assert report.records() == []


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 1e-300, 1e300])
def test_a_constant_curve_rises_nowhere(value: float, mode: Literal["min", "max"]) -> None:
    report = diagnose(falling(5), [value] * 5, mode=mode)
    assert (report.rise, report.best_epoch, report.severity) == (0.0, 0, "none")


@pytest.mark.parametrize(
    ("val", "rise", "overfitting"),
    [
        # A log-likelihood: the rise is a share of the size of the best, whatever its sign.
        ([-1.0, -2.0, -1.9], 0.05, True),
        ([-1.0, -2.0, -1.98], 0.01, False),
        ([1.0, -2.0, 2.0], 2.0, True),
    ],
)
def test_negative_losses_are_judged_by_their_size(
    val: list[float], rise: float, overfitting: bool
) -> None:
    report = diagnose([1.0, 0.5, 0.2], val)
    assert report.rise == pytest.approx(rise, rel=1e-12)
    assert report.overfitting is overfitting


@pytest.mark.parametrize(
    ("from_best", "rise"),
    [
        ([1e-4, 1.1e-4, 1.2e-4], 0.2),
        ([1e-4, 1.01e-4], 0.01),
        ([0.0, 1e-4, 2e-4], 1.0),
        ([0.0, 0.3], 1.0),
        ([0.0, 0.0, 0.0], 0.0),
        ([-0.01, 0.02], 3.0),
        ([-1e-12, 1e-12], 2.0),
    ],
)
@pytest.mark.parametrize("start", [[], [0.2], [1.0, 0.5], [100.0] * 10 + [1.0, 0.5]])
def test_a_rise_next_to_zero_is_judged_whatever_came_before(
    start: list[float], from_best: list[float], rise: float
) -> None:
    val = start + from_best
    report = diagnose(falling(len(val)), val)
    assert report.rise == pytest.approx(rise, rel=1e-9)
    assert report.overfitting == (rise > 0.04 and len(val) >= 3)


def test_noise_about_zero_is_noise_like_any() -> None:
    noise = 1e-12 * np.random.default_rng(1).normal(size=(100, 60))
    about_zero = [diagnose(falling(62), [1.0, 0.1, *values]).overfitting for values in noise]
    alike = [diagnose(falling(62), [2.0, 1.5, *(1e11 * values)]).overfitting for values in noise]
    assert about_zero == alike
    assert sum(about_zero) < 55  # without regard to noise it would be nearly always


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_largest_values_rise_by_finite_shares(mode: Literal["min", "max"]) -> None:
    wild = [1e308, -1e308, 1e308] if mode == "min" else [-1e308, 1e308, -1e308]
    assert diagnose([3.0, 2.0, 1.0], wild, mode=mode).rise == 2.0
    report = diagnose([3.0, 2.0, 1.0], [1.0, 5e-324, 1.7e308])
    assert math.isfinite(100 * report.rise)
    assert math.isfinite(report.criteria.gl)
    assert math.isfinite(100 * diagnose(falling(4), [5e-324, 1e308, 1.0, 1e308]).noise)


def test_the_first_of_equals_is_the_best() -> None:
    assert diagnose(falling(4), [2.0, 1.0, 1.0, 1.5]).best_epoch == 1
    assert diagnose(falling(4), [1.0, 2.0, 2.0, 1.5], mode="max").best_epoch == 1


def test_given_epochs_are_kept_and_counted() -> None:
    report = diagnose([0.9, 0.5, 0.2], [1.0, 0.5, 0.9], epochs=[1, 3, 7])
    assert report.epochs == (1, 3, 7)
    assert (report.best_index, report.best_epoch, report.epochs_since_best) == (1, 3, 4)


def test_the_gap_compares_the_losses_of_the_last_epoch() -> None:
    assert diagnose([0.9, 0.25], [1.0, 1.5]).gap == 1.25
    assert math.isnan(diagnose([0.9, NAN], [1.0, 1.5]).gap)
    assert math.isnan(diagnose([0.9, 0.25], [1.0, 1.5], mode="max").gap)


def test_the_alarm_rests_at_zero_and_goes_to_one() -> None:
    calm = diagnose(falling(4), falling(4)).summary()
    alarms = ("val_loss_rise", "loss_gap", "overfit_alarm", "prechelt_gl", "prechelt_up")
    assert calm == dict.fromkeys(alarms, 0.0)
    alarmed = diagnose([1.0, 0.5, 0.25], [1.0, 0.5, 0.75]).summary()
    assert alarmed["val_loss_rise"] == alarmed["loss_gap"] == 0.5
    assert alarmed["overfit_alarm"] == 0  # three validations: the median has nothing behind it
    val = [1.0, 0.5, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    assert diagnose(falling(8), val).summary()["overfit_alarm"] == 1


@pytest.mark.parametrize("train", [[NAN] * 3, [INF, 1.0, 0.5], [1.0, 0.5, INF]])
def test_summaries_hold_finite_numbers_only(train: list[float]) -> None:
    assert all(map(math.isfinite, diagnose(train, [1.0, 0.5, 0.9]).summary().values()))


def test_rows_hold_what_was_given() -> None:
    assert diagnose([0.9, 0.5], [1.0, 0.75], epochs=[2, 4]).records() == [
        {"epoch": 2, "train_loss": 0.9, "val_value": 1.0},
        {"epoch": 4, "train_loss": 0.5, "val_value": 0.75},
    ]


def test_the_longest_runs_are_judged() -> None:
    n = 10_000
    val = [1 + abs(epoch - 4000) / 4000 for epoch in range(n)]
    report = diagnose(falling(n), val)
    assert (report.best_epoch, report.epochs_since_best) == (4000, 5999)
    assert report.severity == "severe"


@pytest.mark.parametrize(
    ("train", "val", "left_out"),
    [
        ([1.0, 0.5, 0.2], [1.0, 0.5], "a training loss without its counterpart"),
        ([1.0, 0.5], [1.0, 0.5, 0.4], "a validation without its counterpart"),
    ],
)
def test_a_run_that_was_cut_between_its_curves_loses_one_value_that_is_named(
    train: list[float], val: list[float], left_out: str
) -> None:
    report = diagnose(train, val)
    assert (report.train_losses, report.val_values) == ((1.0, 0.5), (1.0, 0.5))
    assert report.skipped == (Skipped("epoch 2", left_out),)


@pytest.mark.parametrize(
    ("train", "val", "epochs", "lengths"),
    [
        ([1.0], [1.0, 2.0, 3.0], None, "1, 3 and 3"),
        ([1.0, 2.0, 3.0], [1.0], None, "3, 1 and 1"),
        ([1.0, 2.0], [1.0, 2.0], [0], "2, 2 and 1"),
    ],
)
def test_unequal_lengths_are_refused(
    train: list[float], val: list[float], epochs: list[int] | None, lengths: str
) -> None:
    with pytest.raises(ValueError, match=f"one entry per validation, got {lengths}"):
        diagnose(train, val, epochs=epochs)


@pytest.mark.parametrize("epoch", [INF, NAN, -INF, 1.5, "2", None])
def test_epochs_that_are_no_integers_are_refused(epoch: Any) -> None:
    with pytest.raises(ValueError, match=r"epochs must be integers .* got .* after 1"):
        diagnose(falling(3), falling(3), epochs=[0, 1, epoch])


@pytest.mark.parametrize(
    ("curve", "kind"), [("123", "str"), (b"123", "bytes"), ({0: 1.0}, "dict"), ({1.0, 2.0}, "set")]
)
def test_what_has_no_order_or_no_numbers_is_no_curve(curve: Any, kind: str) -> None:
    with pytest.raises(ValueError, match=f"train_losses must be a sequence .* got a {kind}"):
        diagnose(curve, falling(3))
    with pytest.raises(ValueError, match=f"val_losses must be a sequence .* got a {kind}"):
        diagnose(falling(3), curve)


def test_a_tensor_with_a_gradient_is_a_curve() -> None:
    losses = torch.tensor([1.0, 0.5, 0.75], requires_grad=True)
    expected = diagnose([1.0, 0.5, 0.75], [1.0, 0.5, 0.75])
    assert diagnose(losses, losses) == expected
    assert diagnose(list(losses), [loss * 1 for loss in losses]) == expected


def test_another_mode_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mode must be 'min' .* or 'max' .*, got 'minimum'"):
        diagnose([1.0], [1.0], mode="minimum")  # type: ignore[arg-type]


def test_a_report_cannot_be_changed() -> None:
    report = diagnose([1.0], [1.0])
    with pytest.raises(AttributeError, match="cannot assign to field 'mode'"):
        report.mode = "max"  # type: ignore[misc]
    assert isinstance(report, LossReport)
    assert (report.train_losses, report.val_values, report.epochs) == ((1.0,), (1.0,), (0,))


def test_a_single_odd_training_loss_at_the_end_decides_nothing() -> None:
    train = [1, 0.8, 0.6, 0.5, 0.42, 0.40, 0.36, 0.33, 0.30, 0.28, 0.26, 0.25, 0.23, 0.51]
    val = [1, 0.8, 0.7, 0.65, 0.62, 0.6, 0.62, 0.65, 0.68, 0.7, 0.73, 0.75, 0.78, 0.8]
    assert diagnose(train, val).severity == diagnose(train[:-1], val[:-1]).severity == "severe"
    rising = [*train[:-3], 0.5, 0.51, 0.52]
    assert diagnose(rising, val).severity == "none"
