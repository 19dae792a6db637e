"""Every sentence is borne by a number of the run, and says no more than the verdict does."""

import math
import re
from collections.abc import Sequence
from typing import Literal

import pytest

from lightning_weightwatch.losses.diagnosis import diagnose
from lightning_weightwatch.views.diagnosis import diagnosis_markdown, diagnosis_sentences
from tests.views.diagnosis_curves import COLORIZER_TRAIN, COLORIZER_VAL, FALLING, NAN


def told(
    train: Sequence[float],
    val: Sequence[float],
    mode: Literal["min", "max"] = "min",
    checkpoint: str | None = None,
) -> list[str]:
    return diagnosis_sentences(diagnose(train, val, mode=mode), "val_loss", checkpoint)


def numbers(sentence: str) -> list[float]:
    return [float(found) for found in re.findall(r"-?\d+(?:\.\d+)?(?:e[+-]\d+)?", sentence)]


@pytest.mark.parametrize(
    ("last", "ending"),
    [
        (1.0, "Epoch 4, the last, is as good as the best: no overfitting seen."),
        (
            1.0004,
            "Epoch 4, the last, is worse than the best by less than 0.1 %: no overfitting seen.",
        ),
        (1.005, "By epoch 4 it is 0.5 % worse, which is no more than 1.0 %: no overfitting seen."),
        (1.02, "Since then it rose by 2.0 % while the training loss fell: a mild rise."),
        (
            1.1,
            "Since then it rose by 10.0 % while the training loss fell: moderate overfitting.",
        ),
        (1.6, "Since then it rose by 60.0 % while the training loss fell: severe overfitting."),
    ],
)
def test_the_verdict_in_a_sentence(last: float, ending: str) -> None:
    sentences = told(FALLING, [1.5, 1.0, 1.2, last])
    assert sentences[0] == "val_loss was best in epoch 2 (1); no checkpoint of that epoch is known."
    assert sentences[1] == ending
    gap = last - FALLING[-1]
    assert sentences[2] == f"Validation minus training loss at the end: {gap:.4g}."
    assert len(sentences) == 3


@pytest.mark.parametrize("epoch", [0, 3])
def test_epochs_are_counted_from_one_and_the_file_is_named(epoch: int) -> None:
    val = [1.0] * 5
    val[epoch] = 0.5
    first = told([1.0] * 5, val, checkpoint="epoch=3.ckpt")[0]
    assert first == f"val_loss was best in epoch {epoch + 1} (0.5), kept in epoch=3.ckpt."


@pytest.mark.parametrize("train", [[1.0, 0.5, 0.5, 0.5], [1.0, 0.5, 0.6, 0.7]])
def test_where_training_got_no_better_either_it_is_not_called_overfitting(
    train: list[float],
) -> None:
    verdict = told(train, [1.5, 1.0, 1.2, 1.5])[1]
    assert verdict == (
        "By epoch 4 it is 50.0 % worse, but the training loss did not fall either: "
        "that is not overfitting."
    )


FEW = "The run has {}, and a verdict on overfitting takes 3."
UNKNOWN = "By epoch 3 it is 50.0 % worse. No verdict on overfitting: "
SOME = UNKNOWN + "{} of the 3 training losses {}."


@pytest.mark.parametrize(
    ("train", "val", "said"),
    [
        ([1.0], [1.0], FEW.format("1 validation")),
        ([1.0, 0.5], [1.0, 0.9], FEW.format("2 validations")),
        ([1.0, 0.5], [1.0, 2.0], "By epoch 2 it is 100.0 % worse. " + FEW.format("2 validations")),
        ([1.0, 0.5, 0.4], [1.0, 0.9, NAN], FEW.format("2 finite validations")),
        ([NAN] * 3, [1.0, 1.2, 1.5], UNKNOWN + "no training loss is known."),
        (
            [NAN, 0.5, 0.4],
            [1.0, 1.2, 1.5],
            SOME.format("2", "are finite, none as early as the best validation"),
        ),
        (
            [0.5, NAN, NAN],
            [1.0, 1.2, 1.5],
            SOME.format("1", "is finite, none later than the best validation"),
        ),
    ],
    ids=["one", "two", "two, worse", "two finite", "no loss", "none at the best", "none after it"],
)
def test_where_there_is_no_verdict_it_is_said_why(
    train: list[float], val: list[float], said: str
) -> None:
    assert told(train, val)[1] == said
    why = said.removeprefix("By epoch 3 it is 50.0 % worse. ")
    assert f"- {why}\n" in diagnosis_markdown(diagnose(train, val), "val_loss", None)


@pytest.mark.parametrize("train", [[1.0, 0.5, NAN, NAN], [NAN, NAN, 0.5, 0.4]])
def test_of_unknown_losses_it_is_not_said_that_they_did_not_fall(train: list[float]) -> None:
    assert told(train, [1.5, 1.0, 1.002, 1.005])[1] == (
        "By epoch 4 it is 0.5 % worse, which is no more than 1.0 %: no overfitting seen."
    )


def test_where_the_last_training_loss_is_unknown_the_one_before_it_counts() -> None:
    assert told([1.0, 0.5, 0.4, NAN], [1.5, 1.0, 1.2, 1.6])[1] == (
        "Since then it rose by 60.0 % while the training loss fell: severe overfitting."
    )


def test_without_a_validation_nothing_is_said() -> None:
    nothing = "There was no validation with a finite val_loss, so nothing can be said."
    assert told([], []) == [nothing]
    left_out = "2 validations were NaN or infinite: epochs 1–2."
    assert told([1.0] * 2, [NAN, math.inf]) == [nothing, left_out]


def test_the_last_validation_is_told_to_be_the_best() -> None:
    assert told(FALLING, [4.0, 3.0, 2.0, 1.0])[1] == (
        "That was the last of 4 validations: no overfitting seen."
    )


def test_a_run_that_diverged_did_not_end_with_its_last_finite_validation() -> None:
    train, val = [*FALLING, NAN, NAN], [1.0, 0.75, NAN, 0.75, NAN, math.inf]
    assert told(train, val)[1:] == [
        "Epoch 4, the last with a finite value, is as good as the best: no overfitting seen.",
        "Validation minus training loss in epoch 4: 0.625.",
        "3 validations were NaN or infinite: epochs 3, 5–6.",
    ]
    assert "the last of 3 finite validations:" in told(train, [1.0, 0.75, NAN, 0.5, NAN, NAN])[1]


def test_training_losses_that_are_not_finite_are_told() -> None:
    train = [1.0, NAN, 0.5, 0.25, math.inf, 0.125]
    assert told(train, [1.5, 1.0, 0.9, 0.8, 1.2, 1.5])[-1] == (
        "2 training losses were unknown, NaN or infinite: epochs 2, 5."
    )


def test_a_metric_to_maximise_gets_worse_and_does_not_rise() -> None:
    sentences = told(FALLING, [0.5, 0.8, 0.7, 0.6], mode="max")
    assert sentences == [
        "val_loss was best in epoch 2 (0.8); no checkpoint of that epoch is known.",
        "Since then it fell by 25.0 % to 0.6 while the training loss fell: severe overfitting.",
    ]


@pytest.mark.parametrize("scale", [1e-6, 1.0, 12345.678])
def test_each_number_told_is_one_of_the_run(scale: float) -> None:
    val = [scale * value for value in (1.7, 1.3, 1.4, 1.9)]
    train = [scale * value for value in FALLING]
    sentences = told(train, val)
    best, verdict, gap = map(numbers, sentences)
    assert best == [2, pytest.approx(val[1], rel=1e-3)]
    assert verdict == [pytest.approx(100 * (1.9 / 1.3 - 1), abs=0.05)]
    assert gap == [pytest.approx(val[-1] - train[-1], rel=1e-3)]


def test_the_knee_is_told_with_its_losses() -> None:
    assert told(COLORIZER_TRAIN, COLORIZER_VAL)[2] == (
        "Learning was rapid until epoch 4 (training loss 0.1159 → 0.079) and slower until "
        "epoch 10 (→ 0.065)."
    )


def test_a_rise_no_larger_than_the_noise_is_said_to_be_that() -> None:
    val = [1.0, 0.9, *([1.0, 0.95] * 6)]
    report = diagnose([1 - i / 20 for i in range(14)], val)
    assert report.within_noise
    most = 2 + math.sqrt(2 * math.log(12))
    assert diagnosis_sentences(report, "val_loss", None)[1] == (
        "By epoch 14 it is 5.6 % worse, no more than its noise makes it: "
        f"{most:.1f} standard deviations are {100 * most * report.noise:.1f} %, and there is no "
        "trend."
    )


def test_a_training_metric_that_is_to_rise_is_no_loss_that_fell() -> None:
    verdict = told([0.5, 0.6, 0.7, 0.8], [0.5, 0.8, 0.7, 0.6], mode="max")[1]
    assert verdict == (
        "Since then it fell by 25.0 % to 0.6 while the training metric rose: severe overfitting."
    )


THRESHOLDS = {0.01: "a mild rise", 0.04: "moderate overfitting", 0.15: "severe overfitting"}


@pytest.mark.parametrize("distance", [1e-3, 4e-4, 1e-4, 1e-5, 1e-6, 2e-9])
@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_what_is_printed_of_a_rise_lies_on_its_own_side_of_a_threshold(
    threshold: float, distance: float
) -> None:
    below, above = (
        told(FALLING, [1.5, 1.0, 1.001, 1 + threshold + side])[1] for side in (-distance, distance)
    )
    assert 100 * threshold - 0.1 <= percentage(below) < 100 * threshold < percentage(above)
    assert above.endswith(f"{THRESHOLDS[threshold]}.")
    assert not below.endswith(f"{THRESHOLDS[threshold]}.")


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_a_rise_at_a_threshold_is_not_yet_beyond_it(threshold: float) -> None:
    at = told(FALLING, [1.5, 1.0, 1.001, 1 + threshold])[1]
    assert f"{100 * threshold:.1f} %" in at
    assert not at.endswith(f"{THRESHOLDS[threshold]}.")


def percentage(sentence: str) -> float:
    found = re.search(r"([\d.]+) %", sentence)
    assert found is not None
    return float(found[1])


def test_where_the_best_is_zero_it_is_said_what_percentages_are_of() -> None:
    assert told(FALLING, [1.0, 0.0, 0.1, 0.2])[1:3] == [
        "Since then it rose by 100.0 % while the training loss fell: severe overfitting.",
        "The best is 0, of which there are no percentages: they are of the last value, 0.2.",
    ]


def test_a_mild_worsening_of_a_metric_to_rise_is_no_rise() -> None:
    report = diagnose(FALLING, [0.5, 0.8, 0.79, 0.78], mode="max")
    assert diagnosis_sentences(report, "val_acc", None)[1] == (
        "Since then it fell by 2.5 % to 0.78 while the training loss fell: a mild decline."
    )
    page = diagnosis_markdown(report, "val_acc", None)
    assert "Mild decline (epochs 3–4): val\\_acc falls from 0.8 to 0.78" in page
    assert "2.5 % worse (a mild decline)" in page
    assert "mild rise" not in page.lower()


def test_within_the_epoch_of_the_best_it_is_too_early_in_both() -> None:
    report = diagnose([1.0] * 4, [1.0, 0.8, 0.85, 0.9], epochs=[0] * 4)
    assert diagnosis_sentences(report, "val_loss", None)[1] == (
        "By epoch 1 it is 12.5 % worse, all within the epoch of the best: too early for a verdict."
    )
    page = diagnosis_markdown(report, "val_loss", None)
    assert "the training loss stays at 1: too early for a verdict." in page
    assert "not overfitting" not in page
