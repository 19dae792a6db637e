"""Every sentence is borne by a number of the run, and says no more than the verdict does."""

import math
import re
from collections.abc import Sequence
from typing import Literal

import pytest

from lightning_weightwatch.losses.diagnosis import diagnose
from lightning_weightwatch.views.diagnosis import diagnosis_markdown, diagnosis_sentences

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
        sentences[0] == "val_loss was best in epoch 2 (1); no checkpoint of that epoch was found."
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
        ([NAN] * 3, [1.0, 2.0, 3.0]),
        ([NAN, 0.5, 0.4], [1.0, 1.2, 1.5]),
    ],
    ids=["one", "two", "unknown", "unknown at the best"],
)
def test_without_enough_to_go_by_there_is_no_verdict(train: list[float], val: list[float]) -> None:
    assert told(train, val)[1] == (
        "Too few epochs, or no training loss, for a verdict on overfitting."
    )


def test_where_the_last_training_loss_is_unknown_the_one_before_it_counts() -> None:
    assert told([1.0, 0.5, 0.4, NAN], [1.5, 1.0, 1.2, 1.6])[1] == (
        "Since then it rose by 60.0 % while the training loss fell: severe overfitting."
    )


@pytest.mark.parametrize("val", [[], [NAN, math.inf]])
def test_without_a_validation_nothing_is_said(val: list[float]) -> None:
    assert told([1.0] * len(val), val) == [
        "There was no validation with a finite val_loss, so nothing can be said."
    ]


def test_a_metric_to_maximise_gets_worse_and_does_not_rise() -> None:
    sentences = told(FALLING, [0.5, 0.8, 0.7, 0.6], mode="max")
    assert sentences == [
        "val_loss was best in epoch 2 (0.8); no checkpoint of that epoch was found.",
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


# The curves of the hand-written diagnosis that `diagnosis_markdown` is to say from numbers alone.
COLORIZER_TRAIN = [0.1159, 0.098, 0.086, 0.079, 0.0755, 0.073, 0.0708, 0.0685, 0.0665, 0.065]
COLORIZER_TRAIN += [0.0648, 0.0646, 0.0645, 0.0643, 0.0642]
COLORIZER_VAL = [0.118, 0.1, 0.088, 0.081, 0.0782, 0.0755, 0.073, 0.0712, 0.0698, 0.0688]
COLORIZER_VAL += [0.069, 0.0692, 0.0694, 0.0697, 0.07]
SECTIONS = [
    "Key observations",
    "Practical inferences",
    "Recommendations",
    "Suggested caption for the figure",
    "Notes",
]


def sections(markdown: str) -> dict[str, str]:
    _, *found = re.split(r"^## (.+)$", markdown, flags=re.MULTILINE)
    return {title: text.strip() for title, text in zip(found[::2], found[1::2], strict=True)}


def test_the_knee_is_told_with_its_losses() -> None:
    assert told(COLORIZER_TRAIN, COLORIZER_VAL)[2] == (
        "Learning was rapid until epoch 4 (training loss 0.1159 → 0.079) and slower until "
        "epoch 10 (→ 0.065)."
    )


def test_a_rise_no_larger_than_the_noise_is_said_to_be_that() -> None:
    val = [1.0, 0.9, *([1.0, 0.95] * 6)]
    report = diagnose([1 - i / 20 for i in range(14)], val)
    assert report.within_noise
    assert diagnosis_sentences(report, "val_loss", None)[1] == (
        f"By epoch 14 it is 5.6 % worse, which is no more than its noise "
        f"(±{100 * report.noise:.1f} %) makes it."
    )


def test_a_training_metric_that_is_to_rise_is_no_loss_that_fell() -> None:
    verdict = told([0.5, 0.6, 0.7, 0.8], [0.5, 0.8, 0.7, 0.6], mode="max")[1]
    assert verdict == (
        "Since then it is 25.0 % worse while the training metric rose: severe overfitting."
    )


def test_the_page_says_what_a_person_wrote_about_these_curves() -> None:
    report = diagnose(COLORIZER_TRAIN, COLORIZER_VAL)
    found = sections(diagnosis_markdown(report, "val_loss", "best.pt", ["From a log."]))
    assert list(found) == SECTIONS
    assert found["Key observations"].splitlines() == [
        "- Rapid initial learning (epochs 1–4): the training loss falls from 0.1159 to 0.079; "
        "val\\_loss falls from 0.118 to 0.081.",
        "- Slower convergence (epochs 5–10): the training loss falls from 0.079 to 0.065; "
        "val\\_loss falls from 0.081 to 0.0688.",
        "- Validation best in epoch 10 (val\\_loss 0.0688).",
        "- Mild rise (epochs 11–15): val\\_loss rises from 0.0688 to 0.07, 1.7 % worse than its "
        "best, while the training loss falls from 0.065 to 0.0642: no overfitting, which begins "
        "at 4 %.",
        "- Validation minus training loss at the end: 0.0058.",
    ]
    inferences = found["Practical inferences"]
    assert "best.pt holds epoch 10 (`epoch=9` in the file names of ModelCheckpoint)" in inferences
    assert "Early stopping candidate: epoch 10; the 5 validations after it" in inferences
    assert "epochs 1–4 brought 72 % of what the training loss gained until epoch 10" in inferences
    assert (
        "`EarlyStopping(monitor='val_loss', patience=2)`, a patience of 2–3 validations"
        in (found["Recommendations"])
    )
    assert (
        "A suggestion without proof: let the learning rate decay around epochs 4–6"
        in (found["Recommendations"])
    )
    assert found["Suggested caption for the figure"].startswith("> Training loss and val\\_loss")
    assert found["Notes"] == "- From a log."


def test_without_a_file_the_page_says_which_callback_keeps_the_best() -> None:
    report = diagnose(FALLING, [0.5, 0.8, 0.7, 0.6], mode="max")
    page = diagnosis_markdown(report, "val_acc", None)
    assert "no file is known to hold epoch 2 (`epoch=1`" in page
    assert "`ModelCheckpoint(monitor='val_acc', mode='max')` keeps it." in page
    assert "`EarlyStopping(monitor='val_acc', mode='max', patience=2)`" in page
    assert "val\\_acc falls from 0.8 to 0.6, 25.0 % worse than its best" in page


def test_what_was_left_out_is_counted_with_epochs_from_one() -> None:
    val = [1.0, NAN, 0.9, math.inf, 0.8, NAN]
    page = diagnosis_markdown(diagnose([NAN, *[0.5] * 5], val), "val_loss", None)
    assert "- 3 validations were NaN or infinite: epochs 2, 4, 6." in page
    assert "- 1 training loss was unknown, NaN or infinite: epoch 1." in page


def test_of_many_left_out_the_first_are_named() -> None:
    page = diagnosis_markdown(diagnose([1.0] * 9, [0.5, *[NAN] * 8]), "val_loss", None)
    assert "- 8 validations were NaN or infinite: epochs 2, 3, 4, 5, 6 and 3 more." in page


def test_a_drop_of_the_learning_rate_is_told_and_not_recommended_again() -> None:
    rates = {"lr-Adam": [1e-3] * 4 + [1e-4] * 11}
    report = diagnose(COLORIZER_TRAIN, COLORIZER_VAL, learning_rates=rates)
    page = diagnosis_markdown(report, "val_loss", None)
    assert "The learning rate lr-Adam drops from 0.001 to 0.0001 by epoch 5." in page
    assert "decay" not in page


@pytest.mark.parametrize(
    ("val", "titles"),
    [
        ([], SECTIONS[:1]),
        ([NAN], SECTIONS[:1]),
        ([1.0], [*SECTIONS[:2], SECTIONS[3]]),
        ([1.0, 0.5], [*SECTIONS[:2], SECTIONS[3]]),
        ([1.0, 0.5, 0.4], SECTIONS[:4]),
        ([1.0, 1.1, 1.2], [*SECTIONS[:2], SECTIONS[3]]),
    ],
    ids=["none", "no finite one", "one", "two", "three", "best at once"],
)
@pytest.mark.parametrize("known", [True, False])
def test_a_section_without_a_number_is_left_out(
    val: list[float], titles: list[str], known: bool
) -> None:
    page = diagnosis_markdown(diagnose([0.5 if known else NAN] * len(val), val), "val_loss", None)
    found = sections(page)
    assert list(found) == titles
    assert all(found.values())
    assert "nan" not in page.replace("NaN", "")
    said = [line for line in page.splitlines() if line.startswith(("-", ">"))]
    assert all(re.search(r"\d|no validation", line) for line in said)


def test_names_are_shown_as_they_are() -> None:
    report = diagnose(COLORIZER_TRAIN, COLORIZER_VAL)
    page = diagnosis_markdown(report, "a`b|<c>", "x_*.ckpt", ["1 | <2>\n# 3"])
    assert page.startswith("# What the learning curves say: a\\`b&#124;&#60;c&#62;\n")
    assert "x\\_\\*.ckpt holds" in page
    assert "``EarlyStopping(monitor='a`b|<c>', patience=2)``" in page
    assert "- 1 &#124; &#60;2&#62; \\# 3\n" in page
