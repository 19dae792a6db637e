"""The loss curves show what the report says: in pixels, within their frame."""

import math

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from lightning_weightwatch.losses.diagnosis import diagnose
from lightning_weightwatch.losses.report import LossReport
from lightning_weightwatch.views.loss_curve import loss_figure
from lightning_weightwatch.views.png import BLACK, BLUE, GREY, ORANGE, VERMILION, pixels
from tests.views.diagnosis_curves import CASES, NAN, run
from tests.views.pictures import assert_legible, seen, shown_texts


def assert_within_the_frame(figure: Figure) -> None:
    """Nothing that is drawn leaves the picture, and the legend stays between the axes."""
    height, width = pixels(figure).shape[:2]
    drawn = figure.get_tightbbox()
    left, bottom, right, top = (np.asarray(drawn.extents) * figure.dpi).round(1)
    assert left >= 0
    assert bottom >= 0
    assert right <= width
    assert top <= height
    axes = figure.axes[-1]
    legend = axes.get_legend()
    assert legend is not None
    inner, outer = legend.get_window_extent(), axes.get_window_extent()
    assert inner.x0 >= outer.x0
    assert inner.x1 <= outer.x1
    assert {text.get_fontsize() for text in shown_texts(figure)} == {8}


@pytest.mark.parametrize("case", CASES)
def test_figures_are_twice_a_card_and_nothing_is_cut_off(case: str) -> None:
    figure = loss_figure(CASES[case], "val_loss")
    image = pixels(figure)
    assert image.shape == (430, 700, 3)
    assert image.dtype == np.uint8
    assert_within_the_frame(figure)


@pytest.mark.parametrize("case", CASES)
def test_both_curves_are_seen_where_there_are_both(case: str) -> None:
    report = CASES[case]
    image = pixels(loss_figure(report, "val_loss"))
    assert seen(image, VERMILION) > 100
    assert (seen(image, BLUE) > 100) is any(map(math.isfinite, report.train_losses))


@pytest.mark.parametrize("case", CASES)
def test_a_black_star_stands_at_the_best(case: str) -> None:
    report = CASES[case]
    figure = loss_figure(report, "val_loss")
    image = pixels(figure)
    assert report.best_index is not None
    axes = figure.axes[-1]
    place = report.positions[report.best_index]
    x, y = axes.transData.transform((place, report.best_value))
    around = image[
        len(image) - round(y) - 2 : len(image) - round(y) + 3, round(x) - 2 : round(x) + 3
    ]
    assert seen(around, BLACK) == 25


@pytest.mark.parametrize("epochs", [3, 15, 300])
@pytest.mark.parametrize(("rise", "overfitting"), [(0.0, False), (0.02, False), (0.9, True)])
def test_the_region_is_shaded_only_where_the_verdict_is_overfitting(
    epochs: int, rise: float, overfitting: bool
) -> None:
    report = run(epochs, rise=rise)
    assert report.overfitting is overfitting
    figure = loss_figure(report, "val_loss")
    assert (seen(pixels(figure), ORANGE, alpha=0.2) > 1000) is overfitting
    assert ("overfitting" in [text.get_text() for text in shown_texts(figure)]) is overfitting


def test_the_curves_hold_the_values_of_the_report_counted_from_one() -> None:
    report = diagnose([0.9, NAN, 0.3], [0.8, 0.6, 0.7], epochs=[1, 3, 7])
    (axes,) = loss_figure(report, "val_f1").axes
    lines = {line.get_color(): np.asarray(line.get_xydata()).tolist() for line in axes.lines}
    assert lines[VERMILION] == [[2, 0.8], [4, 0.6], [8, 0.7]]
    assert lines[BLACK] == [[4, 0.6]]
    np.testing.assert_array_equal(lines[BLUE], [[2, 0.9], [4, NAN], [8, 0.3]])
    assert axes.get_xlabel() == "epoch"


@pytest.mark.parametrize(("epochs", "step"), [(2, 1), (15, 5), (30, 5), (120, 20), (10_000, 2000)])
def test_epochs_begin_with_the_first_and_stand_at_round_numbers(epochs: int, step: int) -> None:
    (axes,) = loss_figure(run(epochs), "val_loss").axes
    first, *ticks = axes.get_xticks().tolist()
    assert first == 1
    assert ticks == list(range(step if step > 1 else 2, epochs + 1, step))
    assert 0 < axes.get_xlim()[0] < 1 or epochs > 30


def test_the_word_overfitting_keeps_off_the_edge() -> None:
    assert (pixels(loss_figure(run(15, rise=0.9), "val_loss"))[:8] == 255).all()


@pytest.mark.parametrize("case", CASES)
def test_epochs_are_marked_with_whole_numbers(case: str) -> None:
    figure = loss_figure(CASES[case], "val_loss")
    pixels(figure)
    axes = figure.axes[0]
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert all(label.replace("−", "").isdigit() for label in labels), labels


@pytest.mark.parametrize(
    "monitor",
    [
        "val_loss",
        "validation/some/very/long/metric_name/dataloader_idx_0_mean_squared_error",
        "cost in $",
        "from $a$ to $b",
        "$\\nosuch$",
        "$\\alpha$",
        "_val",
        "a_b^c{d}",
        "100 %",
        "réseau",
    ],
)
def test_any_name_of_a_metric_is_in_the_legend_as_it_is(monitor: str) -> None:
    figure = loss_figure(run(15), monitor)
    assert_within_the_frame(figure)
    legend = figure.axes[0].get_legend()
    assert legend is not None
    first, shown, last = map(as_read, legend.get_texts())
    assert (first, last) == ("train loss", "best")
    head, dots, tail = shown.partition("…")
    if dots:
        assert monitor.startswith(head)
        assert monitor.endswith(tail)
        assert len(shown) > 20
    else:
        assert shown == monitor


@pytest.mark.parametrize(
    ("monitor", "shown"), [("line\nbreak", "line break"), ("损失", "\\u635f\\u5931")]
)
def test_what_a_legend_cannot_show_is_escaped(monitor: str, shown: str) -> None:
    legend = loss_figure(run(15), monitor).axes[0].get_legend()
    assert legend is not None
    assert legend.get_texts()[1].get_text() == shown


def as_read(text: Text) -> str:
    """What stands in the picture: nothing is taken for mathematics."""
    assert not text.get_parse_math()
    return str(text.get_text())


def test_the_same_report_gives_the_same_pixels() -> None:
    assert np.array_equal(pixels(loss_figure(run(15), "a")), pixels(loss_figure(run(15), "a")))


@pytest.mark.parametrize("case", [case for case in CASES if case != "nearly constant"])
def test_the_texts_do_not_touch(case: str) -> None:
    assert_legible(loss_figure(CASES[case], "val_loss"))


def with_a_knee(worse: float) -> LossReport:
    """Fifteen epochs: rapid until the fourth, best in the tenth, then worse by this share."""
    train = [0.1159, 0.098, 0.086, 0.079, 0.0755, 0.073, 0.0708, 0.0685, 0.0665, 0.065]
    train += [0.0648, 0.0646, 0.0645, 0.0643, 0.0642]
    val = [1.1 * loss for loss in train[:10]]
    return diagnose(train, val + [val[-1] * (1 + worse * i / 5) for i in range(1, 6)])


@pytest.mark.parametrize(
    ("worse", "labels"),
    [
        (0.0, {"rapid", "slower", "plateau"}),
        (0.02, {"rapid", "slower", "mild rise"}),
        (0.2, {"rapid", "slower", "overfitting"}),
    ],
)
def test_each_phase_has_its_name_above_its_stretch(worse: float, labels: set[str]) -> None:
    report = with_a_knee(worse)
    figure = loss_figure(report, "val_loss")
    assert_legible(figure)
    (axes,) = figure.axes
    shown = {text.get_text(): text for text in axes.texts}
    assert set(shown) == labels == {phase.label for phase in report.phases}
    for phase in report.phases:
        box = shown[phase.label].get_window_extent()
        middle = axes.transData.inverted().transform(((box.x0 + box.x1) / 2, 0))[0]
        start, end = report.positions[max(phase.first - 1, 0)], report.positions[phase.last]
        assert middle == pytest.approx((start + end) / 2, abs=0.05)
        assert box.y0 >= axes.get_window_extent().y1


def test_a_mild_rise_is_shaded_grey() -> None:
    image = pixels(loss_figure(with_a_knee(0.02), "val_loss"))
    assert seen(image, GREY, alpha=0.15) > 1000
    assert seen(pixels(loss_figure(with_a_knee(0.2), "val_loss")), GREY, alpha=0.15) < 1000


def test_a_dotted_line_stands_at_the_knee() -> None:
    (axes,) = loss_figure(with_a_knee(0.0), "val_loss").axes
    (line,) = [line for line in axes.lines if line.get_linestyle() == ":"]
    assert set(np.asarray(line.get_xdata()).tolist()) == {4.0}


def test_the_name_of_a_phase_too_short_for_it_is_left_out() -> None:
    loss = [0.3 + 0.7 * 0.5**i for i in range(80)]
    report = diagnose(loss, [value + 0.1 for value in loss])
    figure = loss_figure(report, "val_loss")
    assert len(figure.axes[0].texts) < len(report.phases)
    assert_legible(figure)


def test_validations_of_the_same_epoch_stand_side_by_side() -> None:
    report = CASES["several validations an epoch"]
    (axes,) = loss_figure(report, "val_loss").axes
    lines = {line.get_color(): np.asarray(line.get_xdata()).tolist() for line in axes.lines}
    assert lines[VERMILION] == list(report.positions) == [0.5, 1.0, 1.5, 2.0]
