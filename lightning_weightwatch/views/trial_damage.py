"""The damage that compression does, against the bits or the sparsity, as a figure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lightning_weightwatch.trials.report import TrialReport, TrialRow
from lightning_weightwatch.views.layer_names import drawable
from lightning_weightwatch.views.margins import (
    PAD,
    fit_axes,
    legend_below,
    shortened_to_fit,
    text_width,
)
from lightning_weightwatch.views.png import (
    BLACK,
    BLUE,
    DPI,
    GREEN,
    GREY,
    ORANGE,
    VERMILION,
    WIDTH,
    in_our_style,
    new_figure,
)
from lightning_weightwatch.views.symlog import noise_of, set_symlog_axis, threshold_of
from lightning_weightwatch.views.trial_strength import STRENGTH_SETTINGS, strengths

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = (BLUE, VERMILION, GREEN, ORANGE, BLACK)
_Line = Literal["-", "--", ":", "-.", ""]
_STYLES: tuple[tuple[_Line, str], ...] = (("-", "o"), ("--", "s"), (":", "^"), ("-.", "D"))
_MARKERS = ("o", "s", "^", "D", "v")
_OTHER, _DEFAULT = "other", "default"
# Intervals of several lines stand beside each other, over this share of the least distance;
# more than 5 lines do over more of it, and are thinner.
_DODGE, _WIDE_DODGE = 0.25, 0.5
# Of the axis beyond the data, and where the crosses are.
_MARGIN, _EDGE = 0.08, 0.04
# Inches for the axes, and around a word of the legend.
_AXES, _AROUND = 2.8, 0.33
# Inches of the longest name in the legend, before it is cut.
_LONGEST = 3.0


@dataclass(frozen=True)
class _Look:
    colour: str
    line: _Line
    marker: str


@in_our_style
def damage_figure(report: TrialReport) -> "Figure | None":
    """By how much the metric changed, over the bits or the sparsity: a line for all else.

    Settings that differ have colours and kinds of lines. Bars are the 95 % confidence intervals,
    crosses at the edge variants without a finite result. Where the largest change is more than 10
    times the median, and the noise, the axis is logarithmic beyond the noise.

    Args:
        report: The results.

    Returns:
        None where no variant has a finite result.
    """
    rows = report.rows[1:]
    label, places = strengths(rows)
    changes = [report.delta(row) for row in rows]
    placed = [index for index, place in enumerate(places) if math.isfinite(place)]
    if not any(math.isfinite(changes[index]) for index in placed):
        return None
    rows = tuple(rows[index] for index in placed)
    places = [places[index] for index in placed]
    changes = [changes[index] for index in placed]
    figure = new_figure()
    axes = figure.subplots()
    lines = _lines(rows)
    looks, drawn = _looks(list(lines))
    xs = sorted(set(places))
    between = min(np.diff(xs), default=1.0)
    spans = [row.interval if math.isfinite(change) else None
             for row, change in zip(rows, changes, strict=True)]  # fmt: skip
    many = len(lines) > len(_COLOURS)
    dodge = _WIDE_DODGE if many else _DODGE if any(spans) else 0.0
    step = dodge * between / len(lines)
    _set_scale(axes, report, changes, [span for span in spans if span])
    axes.axhline(0, color=GREY, zorder=1)
    bad = 1 - _EDGE if report.mode == "min" else _EDGE
    lost = any(not math.isfinite(change) for change in changes)
    for number, (settings, indices) in enumerate(lines.items()):
        aside = (number - (len(lines) - 1) / 2) * step
        indices = sorted(indices, key=lambda index: places[index])
        _draw_line(
            axes,
            looks[settings],
            [places[index] + aside for index in indices],
            [changes[index] for index in indices],
            [spans[index] for index in indices],
            size=3 if many else 4,
            bad=bad,
        )
    if lost:
        drawn["no finite result"] = _sample(_Look(BLACK, "", "x"))
    _set_words(figure, axes, report, label)
    axes.set_xlim(xs[0] - between * 0.5, xs[-1] + between * 0.5)
    _set_places(figure, axes, xs)
    foot = _legend(figure, drawn) if len(lines) > 1 or lost else 0.0
    fit_axes(figure, axes, bottom=foot)
    return figure


def _draw_line(
    axes: "Axes",
    look: _Look,
    at: Sequence[float],
    changes: Sequence[float],
    spans: Sequence[tuple[float, float] | None],
    *,
    size: float,
    bad: float,
) -> None:
    """The changes, their intervals, and crosses at the bad end for those that are not finite."""
    known = [change if math.isfinite(change) else math.nan for change in changes]
    axes.plot(
        at, known, color=look.colour, linestyle=look.line, marker=look.marker, markersize=size,
        linewidth=1.5 if size > 3 else 1,
    )  # fmt: skip
    bars = [(x, *span) for x, span in zip(at, spans, strict=True) if span]
    if bars:
        axes.vlines(*zip(*bars, strict=True), color=look.colour, linewidth=1)
    failed = [x for x, change in zip(at, known, strict=True) if math.isnan(change)]
    if failed:
        axes.plot(
            failed, [bad] * len(failed), "x", color=look.colour, markersize=5,
            transform=axes.get_xaxis_transform(), clip_on=False,
        )  # fmt: skip


def _lines(rows: Sequence[TrialRow]) -> dict[tuple[str, ...], list[int]]:
    """The rows by the words for those of their other settings that tell them apart."""
    told: list[str] = []
    for key in dict.fromkeys(key for row in rows for key in row.settings):
        if key not in STRENGTH_SETTINGS and len({row.settings.get(key) for row in rows}) > 1:
            told += [key] if not any(_follows(rows, key, other) for other in told) else []
    found: dict[tuple[str, ...], list[int]] = {}
    for index, row in enumerate(rows):
        found.setdefault(tuple(_word(row, key) for key in told), []).append(index)
    return found


def _follows(rows: Sequence[TrialRow], key: str, other: str) -> bool:
    """Whether a setting says nothing more than another that all have, as the size of a group."""
    pairs = {(row.settings.get(other), row.settings.get(key)) for row in rows}
    return all(other in row.settings for row in rows) and len(pairs) == len(dict(pairs))


def _word(row: TrialRow, key: str) -> str:
    value, name = row.settings.get(key, ""), key.replace("_", " ")
    if isinstance(value, bool):
        return name if value else f"no {name}"
    return value if isinstance(value, str) else f"{name} {value:g}"


def _looks(
    lines: Sequence[tuple[str, ...]],
) -> "tuple[dict[tuple[str, ...], _Look], dict[str, Artist]]":
    """How each line looks, and the words of the legend with their samples.

    A colour for each as long as there are enough; else one for the first of the settings, and a
    kind of line for the others together.
    """
    if len(lines) <= len(_COLOURS):
        looks = {
            line: _Look(colour, "-", marker)
            for line, colour, marker in zip(lines, _COLOURS, _MARKERS, strict=False)
        }
        return looks, {_joined(line): _sample(look) for line, look in looks.items()}
    heads = list(dict.fromkeys(line[:1] for line in lines))
    tails = list(dict.fromkeys(line[1:] for line in lines))
    looks, drawn = {}, {}
    for head, colour in zip(heads, _COLOURS, strict=False):
        drawn[_joined(head)] = _sample(_Look(colour, "-", ""))
    for tail, style in zip(tails, _STYLES, strict=False):
        if len(tails) > 1:
            drawn[_joined(tail)] = _sample(_Look(BLACK, *style))
    for line in lines:
        first, rest = heads.index(line[:1]), tails.index(line[1:])
        if first < len(_COLOURS) and rest < len(_STYLES):
            looks[line] = _Look(_COLOURS[first], *_STYLES[rest])
        else:
            looks[line] = _Look(GREY, "-", ".")
            drawn[_OTHER] = _sample(looks[line])
    return looks, drawn


def _joined(words: Sequence[str]) -> str:
    return ", ".join(word for word in words if word) or _DEFAULT


def _sample(look: _Look) -> "Artist":
    from matplotlib.lines import Line2D

    return Line2D([], [], color=look.colour, linestyle=look.line, marker=look.marker, markersize=4)


def _set_scale(
    axes: "Axes",
    report: TrialReport,
    changes: Sequence[float],
    spans: Sequence[tuple[float, float]],
) -> None:
    """Room for the changes and their intervals; to the good side for no more than is needed."""
    from matplotlib.ticker import MaxNLocator

    known = [change for change in changes if math.isfinite(change)]
    noise = noise_of(
        [(high - low) / 2 for low, high in spans], report.tolerance * abs(report.baseline)
    )
    threshold = threshold_of(known, noise)
    ends = [end for span in spans for end in span if math.isfinite(end)]
    low, high = min([*known, *ends, 0.0]), max([*known, *ends, 0.0])
    if threshold is None:
        margin = _MARGIN * (high - low) or 1.0
        axes.set_ylim(low - margin, high + margin)
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        return
    # An interval of a large harm that ends on the good side would take half of the axis.
    if report.mode == "min":
        low = min([*known, max(low, -10 * threshold), 0.0])
    else:
        high = max([*known, min(high, 10 * threshold), 0.0])
    set_symlog_axis(axes.yaxis, low, high, threshold, _MARGIN)


def _set_words(figure: "Figure", axes: "Axes", report: TrialReport, label: str) -> None:
    """What is shown, and which side is the bad one."""
    start = f": change from {report.baseline:.4g}"
    name = shortened_to_fit(
        figure, drawable(report.monitor), _AXES - text_width(figure, start) / DPI
    )
    axes.set_title(name + start.replace("-", "−"))
    axes.set_xlabel(label)
    at, word, place = (
        (1.0, "worse →", "top") if report.mode == "min" else (0.0, "← worse", "bottom")
    )
    axes.annotate(word, (1.01, at), xycoords="axes fraction", rotation=90, va=place)


def _set_places(figure: "Figure", axes: "Axes", xs: Sequence[float]) -> None:
    """As many of the places as stand side by side."""
    low, high = axes.get_xlim()
    ticks, end = [], -math.inf
    for x in xs:
        at = (x - low) / (high - low) * _AXES * 0.95
        half = text_width(figure, f"{x:g}") / DPI / 2
        if at - half > end:
            ticks.append(x)
            end = at + half + 2 * PAD
    axes.set_xticks(ticks, [f"{x:g}" for x in ticks])


def _legend(figure: "Figure", drawn: "dict[str, Artist]") -> float:
    """Two rows at most, the longest names cut until they fit into them."""
    names, room = list(map(drawable, drawn)), _LONGEST
    while not _fits_two_rows([text_width(figure, name) / DPI + _AROUND for name in names]):
        room -= 0.1
        names = [shortened_to_fit(figure, name, room) for name in names]
    look: list[Any] = list(drawn.values())
    return legend_below(figure, look, names)


def _fits_two_rows(widths: Sequence[float]) -> bool:
    cuts = range(len(widths))
    return min(max(sum(widths[:cut]), sum(widths[cut:])) for cut in cuts) <= WIDTH
