"""Every weight against every number of bits, or every sparsity, as a heat map."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lightning_weightwatch.trials.report import TrialReport, TrialRow
from lightning_weightwatch.views.cell_map import draw_colour_bar, hatch_behind, map_axes, new_map
from lightning_weightwatch.views.layer_names import drawable, short_names
from lightning_weightwatch.views.margins import PAD, shortened_to_fit, text_width
from lightning_weightwatch.views.png import DPI, VERMILION, WIDTH, in_our_style, write
from lightning_weightwatch.views.symlog import noise_of, symlog_ticks, threshold_of
from lightning_weightwatch.views.trial_strength import strengths

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

FloatArray = NDArray[np.float64]

# Okabe and Ito's sky blue: black is read on it, as it is on vermilion.
_SKY = "#56B4E9"
# The darkest part of cividis, on which black is not read.
_DARK = 0.48
# Inches: a line of 8 pt, what is free beside a value, the words at the foot.
_LINE, _FREE, _WORDS = 0.11, 0.06, 2.5
# Writing more values than this takes longer than all else.
_CELLS = 50
# Changes outside of this range are written with an exponent.
_PLAIN = 0.00095, 9_500
# An odd number has white in the middle; steps of the bar that are so wide keep their colours.
_SHADES = 65
# The least distance of labels below the bar, as a share of it, for each of their characters.
_CHARACTER = 0.045
# Labels of the bar, of which those are kept that have room.
_ALL = 20
# So many of the layers that matter most are named, whatever else is.
_FIRST = 10


@dataclass(frozen=True)
class _Map:
    """[layers, strengths]: the colours, NaN where there are none, and how they are shown.

    `texts` has the same values in several ways, the longest first.
    """

    names: Sequence[str]
    columns: Sequence[float]
    values: FloatArray
    texts: Sequence[Sequence[str]]
    colours: "Colormap"
    norm: "Normalize"
    label: str
    words: tuple[str, str]
    ticks: Sequence[tuple[float, str]]
    badness: FloatArray
    foot: str


@in_our_style
def layer_heat_map(report: TrialReport) -> "Figure | None":
    """Weights from top to bottom, bits or sparsities from left to right.

    Where weights were compressed alone: the change of the metric, vermilion where it is worse, blue
    where it is better, white where its interval has 0 in it or, without one, where it is within the
    tolerance. Else the SQNR in dB of the first variant of each number of bits. Hatched where the
    value is not known. Values stand in the cells where there is room for all of them.

    Args:
        report: The results.

    Returns:
        None where there is no value at all.
    """
    shown = _changes(report) if report.alone else _noise(report)
    if shown is None:
        return None
    figure = new_map(len(shown.names))
    known = ~np.isnan(shown.values)
    columns = [f"{column:g}" for column in shown.columns]
    word, _ = strengths([*report.rows, *report.alone])
    order = np.argsort(-np.where(known, shown.badness, -math.inf).max(axis=1), kind="stable")

    def labelled(cell: float) -> Sequence[int]:
        widest = max(text_width(figure, column) for column in columns) / DPI
        return range(0, len(columns), math.ceil((widest + _FREE) / cell))

    axes = map_axes(
        figure,
        short_names(shown.names),
        columns,
        word=word,
        labelled=labelled,
        first=order[:_FIRST].tolist(),
        words=bool(shown.foot) or not known.all(),
    )
    if not known.all():
        hatch_behind(figure, axes)
    axes.imshow(
        np.ma.masked_where(~known, shown.values),
        cmap=shown.colours,
        norm=shown.norm,
        aspect="auto",
        interpolation="nearest",
    )
    _write_values(figure, axes, shown)
    foot = shortened_to_fit(figure, drawable(shown.foot), _WORDS)
    write(figure, WIDTH - PAD, PAD / 2, foot, ha="right", va="bottom")
    draw_colour_bar(figure, shown.colours, shown.norm, shown.label, shown.words, shown.ticks)
    return figure


def _write_values(figure: "Figure", axes: "Axes", shown: _Map) -> None:
    """All values or none: one that is missing would say something."""
    frame, (rows, columns) = axes.get_window_extent(), shown.values.shape
    width, height = frame.width / columns, frame.height / rows
    if height < _LINE * DPI or rows * columns > _CELLS:
        return
    room = width - _FREE * DPI
    fitting = (
        texts for texts in shown.texts if all(text_width(figure, text) <= room for text in texts)
    )
    for index, text in enumerate(next(fitting, ())):
        row, column = divmod(index, columns)
        x, y = frame.x0 + (column + 0.5) * width, frame.y1 - (row + 0.5) * height
        write(figure, x / DPI, y / DPI, text, ha="center", va="center_baseline")


def _changes(report: TrialReport) -> _Map | None:
    """Of the metric, when one weight alone is compressed."""
    from matplotlib.colors import LinearSegmentedColormap, Normalize, SymLogNorm

    _, places = strengths(report.alone)
    # What is within the tolerance is no alarm.
    least = report.tolerance * abs(report.baseline)
    found: dict[tuple[str, float], float] = {}
    silent: dict[tuple[str, float], float] = {}
    for row, place in zip(report.alone, places, strict=True):
        cell, change = (row.layer, place), report.delta(row)
        if cell not in found:
            found[cell] = change
            within = abs(change) <= least if row.interval is None else report.verdict(row) == "same"
            silent[cell] = float(within)
    names, columns, values = _table(report, found)
    if np.isnan(values).all():
        return None
    neutral = _table(report, silent)[2] == 1
    known = values[np.isfinite(values)]
    most = float(np.abs(known).max(initial=least)) or 1.0
    spans = [row.interval for row in report.alone if row.interval is not None]
    noise = noise_of([(high - low) / 2 for low, high in spans], least)
    threshold = threshold_of(known.tolist(), noise)
    told = "noise" if spans else f"{100 * report.tolerance:.3g} %"
    foot = f"each compressed alone; white: within {told}"
    norm: Normalize
    if threshold is None:
        norm = Normalize(-most, most)
        ticks = [(value, _signed(value)) for value in (-most, 0.0, most)]
    else:
        norm = SymLogNorm(threshold, linscale=0.6, vmin=-most, vmax=most)
        ticks = _apart(symlog_ticks(-most, most, threshold, _ALL), norm)
    # What is beyond the noise is not white, however small it is: it has the first of the shades.
    tint = float(norm.inverse(0.5 + 1 / _SHADES))
    cells = list(zip(values.ravel().tolist(), neutral.ravel().tolist(), strict=True))
    ends, words = (_SKY, "white", VERMILION), ("better", "worse")
    if report.mode == "max":
        ends, words = ends[::-1], words[::-1]
    return _Map(
        names,
        columns,
        np.where(neutral, 0.0, np.copysign(np.clip(np.abs(values), tint, most), values)),
        _texts(cells, noise),
        LinearSegmentedColormap.from_list("harm", ends, _SHADES),
        norm,
        report.monitor,
        words,
        ticks,
        values if report.mode == "min" else -values,
        foot if (neutral & (values != 0)).any() else "change when it alone is compressed",
    )


def _apart(ticks: Sequence[tuple[float, str]], norm: "Normalize") -> list[tuple[float, str]]:
    """The 0, and from the ends on those whose labels have room."""
    kept: list[tuple[float, str]] = [(0.0, "0")]
    for value, text in sorted(ticks, key=lambda tick: -abs(tick[0])):
        if all(
            abs(norm(value) - norm(other)) > _CHARACTER * (len(text) + len(label) + 1) / 2
            for other, label in kept
        ):
            kept.append((value, text))
    return sorted(kept)


def _texts(cells: Sequence[tuple[float, bool]], noise: float) -> list[list[str]]:
    """Values and whether they are white, with ever fewer digits."""
    precise = [_signed(value, 2, noise if quiet else 0.0) for value, quiet in cells]
    rounded = [
        [_signed(value, digits, noise, quiet) for value, quiet in cells] for digits in (2, 1)
    ]
    return [
        precise,
        rounded[0],
        *([re.sub(r"\b0\.", ".", text) for text in way] for way in rounded),
    ]


def _signed(value: float, digits: int = 2, noise: float = 0.0, quiet: bool = True) -> str:
    """A change with so many digits, or with those down to the first one of the noise.

    >>> _signed(0.02749), _signed(-0.00041), _signed(0.02749, noise=0.03), _signed(1e-5, noise=0.03)
    ('+0.027', '−4.1e−4', '+0.03', '0')
    >>> _signed(0.00012, noise=0.03, quiet=False)
    '+1e−4'
    """
    if math.isnan(value):
        return ""
    if math.isinf(value):
        return "+∞" if value > 0 else "−∞"
    if noise:
        rounded = round(value, -math.floor(math.log10(noise)))
        # What is more than chance is not said to be nothing.
        value, digits = (rounded, digits) if rounded or quiet else (value, 1)
    if not value:
        return "0"
    text, (factor, power) = f"{value:+.{digits}g}", f"{value:+.{digits - 1}e}".split("e")
    if not _PLAIN[0] <= abs(value) < _PLAIN[1]:
        text = f"{factor}e{int(power)}"
    return text.replace("-", "−")


def _noise(report: TrialReport) -> _Map | None:
    """SQNR of each weight in the first variant of each strength."""
    import matplotlib
    from matplotlib.colors import ListedColormap, Normalize
    from matplotlib.ticker import MaxNLocator

    rows, places = report.rows[1:], strengths(report.rows[1:])[1]
    first: dict[float, TrialRow] = {}
    for row, place in zip(rows, places, strict=True):
        if row.layers and math.isfinite(place):
            first.setdefault(place, row)
    found = {
        (layer.name, place): layer.sqnr if layer.sqnr > -math.inf else math.nan
        for place, row in first.items()
        for layer in row.layers
    }
    names, columns, values = _table(report, found)
    if np.isnan(values).all():
        return None
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    low, high = (low, high) if low < high else (low - 0.5, high + 0.5)
    ticks = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high)
    several = len(first) < sum(math.isfinite(place) for place in places)
    return _Map(
        names,
        columns,
        np.where(np.isinf(values), high, values),
        [[_decibels(value, digits) for value in values.flat] for digits in (1, 0)],
        ListedColormap(matplotlib.colormaps["cividis"](np.linspace(_DARK, 1, 128))),
        Normalize(low, high),
        "SQNR, dB",
        ("", ""),
        [(tick, f"{tick:g}".replace("-", "−")) for tick in ticks if low <= tick <= high],
        -values,
        ", ".join(first[column].name for column in columns) if several else "",
    )


def _decibels(value: float, digits: int) -> str:
    if math.isnan(value):
        return ""
    return "∞" if math.isinf(value) else f"{value:.{digits}f}".replace("-", "−")


def _table(
    report: TrialReport, found: dict[tuple[str, float], float]
) -> tuple[list[str], list[float], FloatArray]:
    """The weights in the order of the model, the strengths that any has, and a table of both."""
    known = {name for name, _ in found}
    ordered = [layer.name for row in report.rows for layer in row.layers]
    names = [name for name in dict.fromkeys([*ordered, *(n for n, _ in found)]) if name in known]
    columns = sorted({place for _, place in found if math.isfinite(place)})
    values = [[found.get((name, column), math.nan) for column in columns] for name in names]
    return names, columns, np.array(values).reshape(len(names), len(columns))
