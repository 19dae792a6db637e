"""The words for the curves are those of what they are: a loss, another metric, nothing known."""

import pytest

from lightning_weightwatch.losses.diagnosis import diagnose
from lightning_weightwatch.losses.report import Mode
from lightning_weightwatch.views.diagnosis import diagnosis_markdown, diagnosis_sentences
from tests.views.diagnosis_curves import FALLING, NAN

RISING = [0.5, 0.6, 0.7, 0.8]


@pytest.mark.parametrize(
    "monitor",
    [
        *("val_loss", "valid_loss", "Loss/val", "val/loss", "eval_loss", "validation loss"),
        *("val_loss/dataloader_idx_0", "val_loss_epoch", "valLoss", "losses.val", "VAL_LOSS"),
    ],
)
def test_of_two_losses_the_gap_is_told(monitor: str) -> None:
    report = diagnose(FALLING, [1.5, 1.0, 1.2, 1.5])
    gap = "Validation minus training loss at the end: 1.375."
    assert gap in diagnosis_sentences(report, monitor, None)
    assert f"- {gap}\n" in diagnosis_markdown(report, monitor, None)


@pytest.mark.parametrize(
    ("monitor", "mode"),
    [
        *(("val_mae", "min"), ("val_loss_std", "min"), ("val_box_loss", "min"), ("val", "min")),
        *(("val_lossless_size", "min"), ("perplexity", "min"), ("loss_ratio/val", "min")),
        *(("val_acc", "max"), ("val_loss", "max")),
    ],
)
def test_of_different_quantities_no_gap_is_told(monitor: str, mode: Mode) -> None:
    report = diagnose(RISING, [1.5, 1.0, 1.2, 1.5], mode=mode)
    assert not any("minus" in said for said in diagnosis_sentences(report, monitor, None))
    assert "minus" not in diagnosis_markdown(report, monitor, None)


@pytest.mark.parametrize("val", [[1.5, 1.0, 1.2, 1.5], [1.5, 1.0, 0.9, 0.8]])
def test_without_a_training_loss_it_is_not_said_that_there_are_some(val: list[float]) -> None:
    report = diagnose([NAN] * 4, val)
    said = diagnosis_sentences(report, "val_loss", None)
    assert said[1].endswith("No verdict on overfitting: no training loss is known.")
    for text in (*said, diagnosis_markdown(report, "val_loss", None)):
        assert "training losses" not in text
        assert "finite" not in text


@pytest.mark.parametrize(
    "train",
    [[*RISING[:2], 0.6, 0.4], [0.5, NAN, 0.4, 0.4], [0.5, 0.6, NAN, 0.4], [NAN, NAN, *RISING[2:]]],
)
def test_a_training_metric_is_nowhere_called_a_loss(train: list[float]) -> None:
    report = diagnose(train, [0.5, 0.8, 0.7, 0.6], mode="max", train_mode="max")
    said = diagnosis_sentences(report, "val_acc", None)
    page = diagnosis_markdown(report, "val_acc", None)
    assert "training metric" in page
    for text in (*said, page):
        assert "loss" not in text.lower()


def test_unknown_values_of_a_training_metric_are_counted_as_such() -> None:
    train = [0.5, NAN, 0.7, 0.8]
    report = diagnose(train, [0.5, 0.8, 0.7, 0.6], mode="max", train_mode="max")
    assert diagnosis_sentences(report, "val_acc", None)[-1] == (
        "1 value of the training metric was unknown, NaN or infinite: epoch 2."
    )
