"""The spectrum of a layer as a figure: its density, the power law of its tail, its bulk."""

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lightning_weightwatch.spectral.layer import LayerSpectrum
from lightning_weightwatch.spectral.report import LARGE_D
from lightning_weightwatch.views.layer_names import drawable
from lightning_weightwatch.views.log_ticks import set_log_axis
from lightning_weightwatch.views.margins import (
    PAD,
    fit_axes,
    legend_below,
    shortened_to_fit,
    text_width,
)
from lightning_weightwatch.views.png import (
    BLUE,
    DPI,
    GREEN,
    VERMILION,
    WIDTH,
    in_our_style,
    new_figure,
    write,
)

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axis import XAxis, YAxis
    from matplotlib.figure import Figure

FloatArray = NDArray[np.float64]

# What is shown of a spectrum without a fit.
_DECADES = 5.0
# Eigenvalues in a bin.
_LEAST = 4
# How far below the dots the line is followed.
_BELOW = 1e3
# A line of the title, in inches.
_LINE = 0.14


@in_our_style
def esd_figure(layer: LayerSpectrum, evals: FloatArray, *, title: str = "") -> "Figure":
    """The density of the eigenvalues over logarithmic bins, as WeightWatcher draws it.

    The line is the fitted density on its tail, k/n · (alpha − 1)/xmin · (λ/xmin)^−alpha with k of
    the n eigenvalues in the tail: it lies on the dots where the tail is a power law.

    Args:
        layer: Its metrics, with `bulk_max` if the bulk was fitted.
        evals: Its eigenvalues, in the same units, in any order.
        title: Goes before the name.
    """
    figure = new_figure()
    axes = figure.subplots()
    values = np.sort(evals, axis=None)
    shown = _shown(values, layer)
    head = PAD
    for fact in _facts(figure, layer, values.size, title):
        write(figure, PAD, figure.get_figheight() - head, fact, va="top")
        head += _LINE
    if not shown.size:
        axes.text(0.5, 0.5, "no eigenvalue above 0", transform=axes.transAxes, ha="center")
        axes.set_xticks([])
        axes.set_yticks([])
        fit_axes(figure, axes, top=head)
        return figure
    where, density = _density(shown, values.size)
    drawn: dict[str, Artist] = {}
    (drawn["eigenvalues"],) = axes.plot(where, density, "o", color=BLUE, markersize=4.5, zorder=2.2)
    marks, bounds = [shown[0], shown[-1]], [density.min(), density.max()]
    if layer.status == "success":
        tail = np.geomspace(layer.xmin, layer.xmax, 2)
        scale = layer.num_pl_spikes / values.size * (layer.alpha - 1) / layer.xmin
        line = scale * (tail / layer.xmin) ** -layer.alpha
        (drawn["power law"],) = axes.plot(tail, line, color=VERMILION, linewidth=2, zorder=2.3)
        drawn["xmin"] = axes.axvline(layer.xmin, color=VERMILION, linestyle="--", linewidth=1.2)
        bounds += [line[0], max(line[-1], bounds[0] / _BELOW)]
    if layer.bulk_max is not None and layer.bulk_max > 0:
        edge = axes.axvline(layer.bulk_max, color=GREEN, linestyle=":", linewidth=2)
        drawn["MP edge"] = edge
        marks.append(layer.bulk_max)
    _set_limits(axes.xaxis, min(marks), max(marks))
    _set_limits(axes.yaxis, min(bounds), max(bounds))
    part = f" ({shown.size:,} of {values.size:,} shown)" if shown.size < values.size else ""
    axes.set_xlabel(f"eigenvalue λ{part}")
    axes.set_ylabel("density")
    foot = legend_below(figure, list(drawn.values()), list(drawn))
    fit_axes(figure, axes, top=head, bottom=foot)
    return figure


def _set_limits(axis: "XAxis | YAxis", low: float, high: float) -> None:
    """With a margin, in decades, that keeps the dots off the axes."""
    margin = 10 ** max(0.05 * math.log10(high / low), 0.03)
    set_log_axis(axis, low / margin, high * margin)


def _shown(values: FloatArray, layer: LayerSpectrum) -> FloatArray:
    """The positive eigenvalues down to where the tail still has two fifths of the axis.

    But a decade below it at least. Without a fit: the largest five decades.
    """
    largest = values[-1] if values.size else 0.0
    if largest <= 0:
        return values[:0]
    low = largest / 10**_DECADES
    if layer.status == "success":
        low = layer.xmin / max((layer.xmax / layer.xmin) ** 1.5, 10.0)
    return values[values >= max(low, np.finfo(float).tiny)]


def _density(values: FloatArray, total: int) -> tuple[FloatArray, FloatArray]:
    """Where the eigenvalues of each bin are, and their share of all per unit of λ.

    Bins are equal in log λ, but joined to the right until they hold a few: empty bins cannot be
    drawn, and the bins of one eigenvalue between them would all lie above the true density.
    """
    logs = np.log(values)
    span = max(logs[-1] - logs[0], 1e-6)
    bins = min(max(round(2 * values.size**0.5), 8), 40)
    edges = np.linspace(logs[0], logs[0] + span, bins + 1)
    counts, _ = np.histogram(logs, edges)
    inside = np.cumsum(counts)
    bounds = [0]
    for index, upto in enumerate(inside, start=1):
        left = values.size - upto
        if upto - (inside[bounds[-1] - 1] if bounds[-1] else 0) >= _LEAST and left >= _LEAST:
            bounds.append(index)
    bounds.append(bins)
    starts = np.array(bounds)
    held = np.add.reduceat(counts, starts[:-1])
    where = np.add.reduceat(logs, np.concatenate(([0], np.cumsum(held)[:-1]))) / held
    widths = np.exp(edges[starts[1:]]) - np.exp(edges[starts[:-1]])
    return np.exp(where), held / widths / total


def _facts(figure: "Figure", layer: LayerSpectrum, count: int, title: str) -> tuple[str, str]:
    """The title: the name, and the fit or why there is none."""
    room = WIDTH - 2 * PAD
    begin = f"{shortened_to_fit(figure, drawable(title), room / 2)}: " if title else ""
    left = room - text_width(figure, begin) / DPI
    name = begin + shortened_to_fit(figure, drawable(layer.name), left)
    if layer.status != "success":
        return name, shortened_to_fit(figure, f"no fit: {drawable(layer.status)}", room)
    digits = ".2f" if layer.alpha < 100 else ".3g"
    alpha = f"alpha {layer.alpha:{digits}} ± {layer.sigma:{digits}}"
    quality = f"D {layer.D:.2f}{' (large)' if layer.D > LARGE_D else ''}"
    facts = f"{alpha}, {quality}, {layer.num_pl_spikes:,} of {count:,} in the tail"
    if text_width(figure, facts) > room * DPI:
        facts = f"{alpha}, {quality}, tail {layer.num_pl_spikes:,}"
    return name, shortened_to_fit(figure, facts, room)
