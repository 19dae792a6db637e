"""The figure shows all of curves with gaps, and of curves that differ in size or in kind."""

import math

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lightning_weightwatch.losses.diagnosis import diagnose
from lightning_weightwatch.losses.report import LossReport, Mode
from lightning_weightwatch.views.loss_curve import loss_figure
from lightning_weightwatch.views.png import BLUE, pixels
from tests.views.diagnosis_curves import CASES, HUMP, NAN
from tests.views.pictures import assert_legible, seen


def at(figure: Figure, curve: int, epoch: float, value: float) -> NDArray[np.uint8]:
    """The pixels around a point of the first or last axes."""
    image = pixels(figure)
    x, y = figure.axes[curve].transData.transform((epoch, value))
    row, column = len(image) - round(y), round(x)
    return image[row - 2 : row + 2, column - 2 : column + 2]


def test_a_training_loss_between_two_unknown_ones_is_a_dot_and_the_gap_stays() -> None:
    losses = [0.9, 0.8, 0.7, NAN, 0.5, NAN, 0.3, 0.2]
    figure = loss_figure(diagnose(losses, [0.1] * 8), "val_loss")
    assert seen(at(figure, 0, 5, 0.5), BLUE) == 16
    assert seen(at(figure, 0, 4, 0.6), BLUE) == seen(at(figure, 0, 6, 0.4), BLUE) == 0
    line = figure.axes[0].lines[0]
    assert line.get_markevery() == [4]
    assert line.get_linestyle() == "-"


@pytest.mark.parametrize("case", ["every other training loss", "a single training loss"])
def test_of_training_losses_far_from_each_other_each_is_seen(case: str) -> None:
    report = CASES[case]
    figure = loss_figure(report, "val_loss")
    for place, loss in zip(report.positions, report.train_losses, strict=True):
        if math.isfinite(loss):
            assert seen(at(figure, 0, place, loss), BLUE) > 4
    assert figure.axes[0].lines[0].get_linestyle() == "None"


@pytest.mark.parametrize("case", ["a huge first loss", "a huge first loss, then below zero"])
def test_a_huge_first_loss_does_not_hide_what_comes_after_it(case: str) -> None:
    report = CASES[case]
    (axes,) = loss_figure(report, "val_loss").axes
    best, last = axes.transData.transform(
        [(report.positions[0], report.best_value), (report.positions[-1], report.val_values[-1])]
    )
    assert last[1] - best[1] > 4
    assert axes.get_ylim()[1] >= 1e6


@pytest.mark.parametrize("train", [[2.0, 1.0, 0.5, 0.1, 1e-4, 1e-7], [5.0, 2.0, 1.0, 0.5, 0.2, 0]])
def test_a_training_loss_that_goes_to_zero_leaves_the_axis_linear(train: list[float]) -> None:
    (axes,) = loss_figure(diagnose(train, [2.0, 1.0, 0.8, 0.7, 0.9, 1.2]), "val_loss").axes
    assert axes.get_yscale() == "linear"


@pytest.mark.parametrize(
    ("report", "monitor"),
    [
        (CASES["accuracy beside a large loss"], "val_acc"),
        (CASES["to maximise"], "val_acc"),
        (diagnose([0.01 * value for value in HUMP], [50 * value for value in HUMP]), "val_mae"),
    ],
    ids=["to rise, much smaller", "to rise", "much larger"],
)
def test_different_quantities_have_an_axis_each_and_its_name_beside_it(
    report: LossReport, monitor: str
) -> None:
    figure = loss_figure(report, monitor)
    assert_legible(figure)
    axes, right = figure.axes
    assert axes.get_ylabel() == "train loss"
    assert right.get_ylabel() == monitor
    assert right.yaxis.get_label().get_window_extent().x0 > axes.get_window_extent().x1
    for shown, values in ((axes, report.train_losses), (right, report.val_values)):
        low, high = shown.get_ylim()
        assert max(values) - min(values) > 0.85 * (high - low)


@pytest.mark.parametrize(
    ("scale", "monitor", "count"),
    [(1e-3, "val_loss", 1), (1e-3, "val_mae", 2), (0.1, "val_mae", 1), (1e3, "Loss/val", 1)],
)
def test_the_loss_stays_beside_the_loss_however_far_they_are_apart(
    scale: float, monitor: str, count: int
) -> None:
    report = diagnose([scale * value for value in HUMP], HUMP)
    assert len(loss_figure(report, monitor).axes) == count


@pytest.mark.parametrize(("mode", "name"), [("min", "train loss"), ("max", "train metric")])
def test_the_training_curve_is_a_loss_only_if_it_is_to_fall(mode: Mode, name: str) -> None:
    report = diagnose([0.1, 0.5, 0.7, 0.9], [0.5, 0.8, 0.7, 0.6], mode="max", train_mode=mode)
    legend = loss_figure(report, "val_acc").axes[-1].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [name, "val_acc", "best"]


def test_epochs_of_seven_digits_are_written_in_full() -> None:
    figure = loss_figure(CASES["a million epochs before"], "val_loss")
    pixels(figure)
    (axes,) = figure.axes
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == ["1000001", "1000010", "1000020"]
    assert axes.xaxis.get_offset_text().get_text() == ""


def test_the_legend_keeps_off_curves_of_both_axes() -> None:
    figure = loss_figure(CASES["accuracy beside a large loss"], "val_acc")
    pixels(figure)
    legend = figure.axes[-1].get_legend()
    assert legend is not None
    box = legend.get_window_extent()
    for axes in figure.axes:
        for line in axes.lines:
            if line.get_linestyle() != ":":
                path = line.get_transform().transform_path(line.get_path())
                assert not path.intersects_bbox(box, filled=False)
