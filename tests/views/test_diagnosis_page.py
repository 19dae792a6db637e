"""The page on learning curves says what a person would write of them, from numbers alone."""

import math
import re

import pytest

from lightning_weightwatch.losses.diagnosis import diagnose
from lightning_weightwatch.views.diagnosis import diagnosis_markdown
from tests.views.diagnosis_curves import COLORIZER_TRAIN, COLORIZER_VAL, FALLING, NAN

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
        "above 4 %.",
        "- Validation minus training loss at the end: 0.0058.",
    ]
    inferences = found["Practical inferences"]
    assert "best.pt holds epoch 10 (`epoch=9` in the file names of ModelCheckpoint)" in inferences
    assert "Early stopping candidate: epoch 10; the 5 validations after the best are" in inferences
    assert "epochs 1–4 brought 72 % of the fall of the training loss until epoch 10" in inferences
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


def test_of_many_left_out_the_first_stretches_are_named() -> None:
    val = [0.5, *[NAN, NAN, 0.6, NAN, 0.6] * 4]
    page = diagnosis_markdown(diagnose([1.0] * 21, val), "val_loss", None)
    assert (
        "- 12 validations were NaN or infinite: epochs 2–3, 5, 7–8, 10, 12–13 and 4 more." in page
    )
    page = diagnosis_markdown(diagnose([1.0] * 9, [0.5, *[NAN] * 8]), "val_loss", None)
    assert "- 8 validations were NaN or infinite: epochs 2–9." in page


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
    assert all(re.search(r"\d|no validation|no training loss", line) for line in said)


def test_names_are_shown_as_they_are() -> None:
    report = diagnose(COLORIZER_TRAIN, COLORIZER_VAL)
    page = diagnosis_markdown(report, "a`b|<c>", "x_*.ckpt", ["1 | <2>\n# 3"])
    assert page.startswith("# What the learning curves say: a\\`b&#124;&#60;c&#62;\n")
    assert "x\\_\\*.ckpt holds" in page
    assert "``EarlyStopping(monitor='a`b|<c>', patience=2)``" in page
    assert "- 1 &#124; &#60;2&#62; \\# 3\n" in page


def test_a_run_that_diverged_could_have_ended_at_its_last_finite_validation() -> None:
    page = diagnosis_markdown(diagnose([*FALLING, NAN], [4, 3, 2, 1, NAN]), "val_loss", None)
    assert "- Early stopping candidate: epoch 4, the last with a finite val\\_loss." in page
    assert "- 1 validation was NaN or infinite: epoch 5." in page
    assert "> Training loss and val\\_loss over 4 finite validations (epochs 1–4)." in page


def test_a_fall_too_small_to_be_seen_is_still_a_fall() -> None:
    page = diagnosis_markdown(diagnose([1.0, 0.5, 0.5, 0.499999], [3, 1, 2, 3]), "val_loss", None)
    assert "while the training loss fell: severe overfitting." in page


@pytest.mark.parametrize(("low", "there"), [(0.5, "at 0.5"), (0.499, "between 0.499 and 0.5")])
def test_a_plateau_is_told_with_its_ends(low: float, there: str) -> None:
    page = diagnosis_markdown(diagnose(COLORIZER_TRAIN, [low, *[0.5] * 14]), "val_loss", None)
    assert f"falls from 0.1159 to 0.0642; val\\_loss stays {there}." in page
