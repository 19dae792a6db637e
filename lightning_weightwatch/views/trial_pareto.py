"""The metric against the packed size as a figure: which variants are worth a look."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_weightwatch.trials.report import TrialReport, TrialRow
from lightning_weightwatch.views.byte_units import byte_unit
from lightning_weightwatch.views.label_places import Box, placed_labels, scattered
from lightning_weightwatch.views.layer_names import drawable, short_names
from lightning_weightwatch.views.log_ticks import set_log_axis
from lightning_weightwatch.views.margins import (
    fit_axes,
    legend_below,
    shortened_to_fit,
    text_width,
)
from lightning_weightwatch.views.png import (
    BLACK,
    BLUE,
    DPI,
    GREY,
    MID_GREY,
    VERMILION,
    in_our_style,
    new_figure,
    write,
)
from lightning_weightwatch.views.symlog import noise_of

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Sizes that differ by more than this factor need a logarithmic axis.
_FACTOR = 8
# The front is shown to so many times its upper quartile, if any of it exceeds that by a factor.
_QUARTILES, _BEYOND = 4, 10
# Other variants are shown as far as so many times the span of the front, and of the noise.
_SPANS, _NOISES = 1.6, 3.0
# Of the axis: to the bad side, to the good side for one line of names, and at the ends of sizes.
_BAD, _GOOD, _ENDS = 0.08, 0.2, 0.06
_LABELS, _LONGEST = 9, 22
_MARKERS = ("o", "s", "P", "X")


@dataclass(frozen=True)
class _Point:
    """A variant in the figure; `harm` is positive where it is worse than its baseline."""

    row: TrialRow
    report: int
    size: float
    value: float
    harm: float

    @property
    def reach(self) -> float:
        """Of its confidence interval, to either side."""
        low, high = self.row.interval or (0.0, 0.0)
        return (high - low) / 2


@in_our_style
def pareto_figure(reports: TrialReport | Sequence[TrialReport]) -> "Figure | None":
    """The metric over the packed size, the Pareto front as steps, its points by their names.

    No other variant is both smaller and better than one of the front; all others are grey. A star
    is the smallest within the tolerance, bars are 95 % confidence intervals. The axis fits the
    front: variants that are far worse are triangles at its edge. Sizes are logarithmic where they
    differ by more than a factor of 8.

    Args:
        reports: One or several, of the same model and metric.

    Returns:
        None where the baseline or every variant is without a finite result.

    Raises:
        ValueError: If the reports have different metrics.
    """
    reports = [reports] if isinstance(reports, TrialReport) else list(reports)
    if len({(report.monitor, report.mode) for report in reports}) > 1:
        monitors = ", ".join(report.monitor or "none" for report in reports)
        raise ValueError(f"reports must have one metric and mode, got {monitors}: draw each alone")
    variants = [row for report in reports for row in report.rows[1:]]
    points = _points(reports)
    if not points:
        return None
    first = reports[0]
    baseline = _Point(first.rows[0], 0, first.rows[0].packed_bytes, first.baseline, 0.0)
    sign = 1 if first.mode == "min" else -1
    front = _front([baseline, *points])
    cap = _cap(front, points, first.tolerance * abs(first.baseline))
    figure = new_figure()
    axes = figure.subplots()
    factor, unit = byte_unit(max(point.size for point in [baseline, *points]))

    def x(point: _Point) -> float:
        return point.size / factor

    def y(point: _Point) -> float:
        return first.baseline + sign * min(point.harm, cap)

    _set_scales(axes, [x(p) for p in [baseline, *points]], points, baseline.value, sign, cap)
    drawn: dict[str, Artist] = {}
    axes.axhline(baseline.value, color=MID_GREY, zorder=0.9)
    (drawn["Pareto front"],) = axes.plot(
        [x(point) for point in front],
        [y(point) for point in front],
        color=BLUE,
        drawstyle="steps-post",
        zorder=2,
    )
    beyond = "^" if sign > 0 else "v"
    groups: dict[tuple[bool, str], list[_Point]] = {}
    for point in points:
        marker = beyond if point.harm > cap else _MARKERS[point.report % len(_MARKERS)]
        groups.setdefault((point in front, marker), []).append(point)
    for (good, marker), group in groups.items():
        _draw_intervals(axes, group, factor, baseline.value, BLUE if good else MID_GREY)
        axes.plot(
            [x(point) for point in group],
            [y(point) for point in group],
            marker,
            color=BLUE if good else GREY,
            markersize=4 if good else 3,
            zorder=3 if good else 2.5,
            clip_on=False,
        )
    look: dict[str, Any] = {"linestyle": "", "zorder": 3.5, "clip_on": False}
    (drawn["baseline"],) = axes.plot(
        x(baseline), baseline.value, marker="D", color=BLACK, markersize=5, **look
    )
    best = _best(reports, points)
    if best is not None:
        (drawn[f"best within {100 * first.tolerance:.3g} %"],) = axes.plot(
            x(best), y(best), marker="*", color=VERMILION, markersize=9, **look
        )
    drawn |= _samples(reports, points, cap, beyond)
    axes.set_xlabel(f"packed size, {unit}")
    lost = len(variants) - len(points)
    note = f" ({lost} without a finite result)" if lost else ""
    better = f", {'lower' if sign > 0 else 'higher'} is better{note}"
    name = shortened_to_fit(figure, drawable(first.monitor), 2.9 - text_width(figure, better) / DPI)
    axes.set_title(name + better)
    fit_axes(figure, axes, bottom=legend_below(figure, list(drawn.values()), list(drawn)))
    shown = [baseline, *points]
    places = [(float(px), float(py)) for px, py in axes.transData.transform(
        [(x(point), y(point)) for point in shown])]  # fmt: skip
    steps = [shown.index(point) for point in front]
    start = steps[0] if best is None or best not in front else shown.index(best)
    order = [index for index in scattered(steps, places, start) if index]
    _name(figure, axes, shown, places, steps, order, -sign)
    return figure


def _points(reports: Sequence[TrialReport]) -> list[_Point]:
    return [
        _Point(row, index, row.packed_bytes, row.metrics[report.monitor], report.harm(row))
        for index, report in enumerate(reports)
        for row in report.rows[1:]
        if math.isfinite(report.delta(row))
    ]


def _front(points: Sequence[_Point]) -> list[_Point]:
    """Those than which no other is smaller and as good, or as small and better."""
    kept: list[_Point] = []
    for point in sorted(points, key=lambda point: (point.size, point.harm)):
        if not kept or point.harm < kept[-1].harm:
            kept.append(point)
    return kept


def _best(reports: Sequence[TrialReport], points: Sequence[_Point]) -> _Point | None:
    """The smallest of the best of each report."""
    bests = [report.best for report in reports]
    found = [point for point in points if any(point.row is row for row in bests)]
    return min(found, key=lambda point: (point.size, point.harm), default=None)


def _cap(front: Sequence[_Point], points: Sequence[_Point], tolerance: float) -> float:
    """The largest harm that the axis shows: useless variants must not hide the others."""
    worse = [point.harm for point in front if point.harm > 0]
    cap = _QUARTILES * float(np.quantile(worse, 0.75, method="lower")) if worse else 0.0
    harms = [point.harm for point in front if point.harm <= cap or max(worse) <= _BEYOND * cap]
    least = min([0.0, *harms])
    noise = noise_of([point.reach for point in front if point.row.interval], tolerance)
    cap = max(least + _SPANS * (max([0.0, *harms]) - least), _NOISES * noise)
    return cap if 0 < cap < max(point.harm for point in points) else math.inf


def _set_scales(
    axes: "Axes",
    sizes: Sequence[float],
    points: Sequence[_Point],
    baseline: float,
    sign: int,
    cap: float,
) -> None:
    """Room for all points, and for a line of names: a loss has nothing far below 0."""
    from matplotlib.ticker import MaxNLocator

    low, high = min(sizes), max(sizes)
    if low > 0 and high > _FACTOR * low:
        margin = (high / low) ** _ENDS
        set_log_axis(axes.xaxis, low / margin, high * margin)
    else:
        axes.set_xlim(0, high * (1 + _ENDS))
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    shown = [point for point in points if point.harm <= cap]
    worst = max([0.0, *(point.harm + point.reach for point in shown)])
    worst = cap if len(shown) < len(points) else worst
    # An interval of a large harm that ends on the good side would take half of the axis.
    ends = (max(point.harm - point.reach, -worst / 2) for point in shown)
    least = min([0.0, *(point.harm for point in shown), *ends])
    span = worst - least or abs(baseline) or 1.0
    axes.set_ylim(
        *sorted(baseline + sign * end for end in (least - _GOOD * span, worst + _BAD * span))
    )
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.ticklabel_format(axis="y", useOffset=False)


def _draw_intervals(
    axes: "Axes", points: Sequence[_Point], factor: int, baseline: float, colour: str
) -> None:
    bars = [(p.size / factor, *p.row.interval) for p in points if p.row.interval is not None]
    if bars:
        x, low, high = np.array(bars).T
        axes.vlines(x, baseline + low, baseline + high, color=colour, linewidth=1, zorder=1.5)


def _samples(
    reports: Sequence[TrialReport], points: Sequence[_Point], cap: float, marker: str
) -> "dict[str, Artist]":
    """What the other markers mean."""
    from matplotlib.lines import Line2D

    def sample(marker: str) -> Line2D:
        return Line2D([], [], color=GREY, marker=marker, linestyle="", markersize=4)

    words: dict[str, Artist] = {}
    if len(reports) > 1:
        for index, report in enumerate(reports):
            words.setdefault(_kind(report), sample(_MARKERS[index % len(_MARKERS)]))
    worst = max(points, key=lambda point: point.harm)
    if worst.harm > cap:
        value = f"{worst.value:.3g}".replace("-", "−")
        words[f"{'up' if marker == '^' else 'down'} to {value}"] = sample(marker)
    return words


def _kind(report: TrialReport) -> str:
    settings = {key for row in report.rows for key in row.settings}
    return "quantized" if "bits" in settings else "pruned" if "amount" in settings else "other"


def _name(
    figure: "Figure",
    axes: "Axes",
    points: Sequence[_Point],
    places: Sequence[tuple[float, float]],
    front: Sequence[int],
    order: Sequence[int],
    side: int,
) -> None:
    """The names of points of the front, as many as there is room for.

    Args:
        figure: To write to.
        axes: Within which they stay.
        points: The baseline, and the variants.
        places: Of the same, in pixels.
        front: Which of them the steps join, by their size.
        order: Which get names, the most important first.
        side: 1 where the good side is above, -1 where it is below.
    """
    from matplotlib.collections import LineCollection

    names = dict(
        zip(order, short_names([points[i].row.name for i in order], _LONGEST), strict=True)
    )
    frame = axes.get_window_extent()
    level = places[0][1]
    lines = [Box(frame.x0, level, frame.x1, level)]
    for one, other in pairwise(front):
        (x0, y0), (x1, y1) = places[one], places[other]
        lines += [Box(x0, y0, x1, y0), Box(x1, min(y0, y1), x1, max(y0, y1))]
    for index, point in enumerate(points):
        if point.row.interval is not None:
            ends = [points[0].value + end for end in point.row.interval]
            (_, low), (_, high) = axes.transData.transform([(1, end) for end in ends])
            x = places[index][0]
            lines.append(Box(x, low, x, high))
    labels = placed_labels(
        [text_width(figure, names.get(index, "")) for index in range(len(points))],
        places,
        order,
        Box(frame.x0 + 2, frame.y0 + 2, frame.x1, frame.y1),
        lines,
        side=side,
        most=_LABELS,
    )
    leaders = []
    for label in labels:
        write(figure, label.x / DPI, label.y / DPI, names[label.index], va="center_baseline")
        if label.leader is not None:
            leaders.append([(places[label.index][0] / DPI, end / DPI) for end in label.leader])
    figure.add_artist(
        LineCollection(leaders, colors=GREY, linewidths=1, transform=figure.dpi_scale_trans)
    )
