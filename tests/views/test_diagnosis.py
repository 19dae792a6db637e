"""Every sentence is borne by a number of the run, and says no more than the verdict does."""

import math
import re
from collections.abc import Sequence
from typing import Literal

import pytest

from lightning_weightwatch.losses.diagnosis import diagnose
from lightning_weightwatch.views.diagnosis import diagnosis_sentences

NAN = math.nan
FALLING = [1.0, 0.5, 0.25, 0.125]


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
        (1.005, "By epoch 4 it is 0.5 % worse, which is less than 1 %."),
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
    assert (
        sentences[0] == "val_loss was best in epoch 2 (1); no ModelCheckpoint keeps the best by it."
    )
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


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ([1.0], [1.0]),
        ([1.0, 0.5], [1.0, 2.0]),
        ([1.0, 0.5, NAN], [1.0, 2.0, 3.0]),
        ([NAN] * 3, [1.0, 2.0, 3.0]),
        ([NAN, 0.5, 0.4], [1.0, 1.2, 1.5]),
    ],
    ids=["one", "two", "last unknown", "unknown", "unknown at the best"],
)
def test_without_enough_to_go_by_there_is_no_verdict(train: list[float], val: list[float]) -> None:
    assert told(train, val)[1] == (
        "Too few epochs, or no training loss, for a verdict on overfitting."
    )


@pytest.mark.parametrize("val", [[], [NAN, math.inf]])
def test_without_a_validation_nothing_is_said(val: list[float]) -> None:
    assert told([1.0] * len(val), val) == [
        "There was no validation with a finite val_loss, so nothing can be said."
    ]


def test_a_metric_to_maximise_gets_worse_and_does_not_rise() -> None:
    sentences = told(FALLING, [0.5, 0.8, 0.7, 0.6], mode="max")
    assert sentences == [
        "val_loss was best in epoch 2 (0.8); no ModelCheckpoint keeps the best by it.",
        "Since then it is 25.0 % worse while the training loss fell: severe overfitting.",
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
