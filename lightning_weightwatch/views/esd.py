"""The spectrum of a layer as a figure: its density, the power law of its tail, its bulk."""

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lightning_weightwatch.spectral.layer import LayerSpectrum
from lightning_weightwatch.views.layer_names import drawable
from lightning_weightwatch.views.log_ticks import set_log_axis
from lightning_weightwatch.views.margins import fit_axes, legend_below, shortened_to_fit
from lightning_weightwatch.views.png import BLUE, GREEN, VERMILION, in_our_style, new_figure
from lightning_weightwatch.views.spectra import LARGE_D

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
_BELOW = 10.0
# What a line of the title has room for, in characters and in inches.
_LINE, _WIDE = 54, 2.8


@in_our_style
def esd_figure(layer: LayerSpectrum, evals: FloatArray) -> "Figure":
    """The density of the eigenvalues over logarithmic bins, as WeightWatcher draws it.

    The line is the fitted density on its tail, k/n · (alpha − 1)/xmin · (λ/xmin)^−alpha with k of
    the n eigenvalues in the tail: it lies on the dots where the tail is a power law.

    Args:
        layer: Its metrics, with `bulk_max` if the bulk was fitted.
        evals: Its eigenvalues, in the same units, in any order.
    """
    figure = new_figure(3.0)
    axes = figure.subplots()
    values = np.sort(evals, axis=None)
    shown = _shown(values, layer)
    axes.set_title("\n".join(_facts(figure, layer, values.size)))
    if not shown.size:
        axes.text(0.5, 0.5, "no eigenvalue above 0", transform=axes.transAxes, ha="center")
        axes.set_xticks([])
        axes.set_yticks([])
        fit_axes(figure, axes)
        return figure
    where, density = _density(shown, values.size)
    drawn: dict[str, Artist] = {}
    (drawn["eigenvalues"],) = axes.plot(where, density, "o", color=BLUE, markersize=4.5, zorder=2.2)
    marks, lowest = [shown[0], shown[-1]], density.min()
    if layer.status == "success":
        tail = np.geomspace(layer.xmin, layer.xmax, 2)
        scale = layer.num_pl_spikes / values.size * (layer.alpha - 1) / layer.xmin
        line = scale * (tail / layer.xmin) ** -layer.alpha
        (drawn["power law"],) = axes.plot(tail, line, color=VERMILION, linewidth=2, zorder=2.3)
        drawn["xmin"] = axes.axvline(layer.xmin, color=VERMILION, linestyle="--", linewidth=1.2)
        lowest = min(lowest, max(line[-1], lowest / _BELOW))
    if layer.bulk_max is not None and layer.bulk_max > 0:
        edge = axes.axvline(layer.bulk_max, color=GREEN, linestyle=":", linewidth=2)
        drawn["MP edge"] = edge
        marks.append(layer.bulk_max)
    _set_limits(axes.xaxis, min(marks), max(marks))
    _set_limits(axes.yaxis, lowest, density.max())
    part = f" ({shown.size:,} of {values.size:,} shown)" if shown.size < values.size else ""
    axes.set_xlabel(f"eigenvalue λ{part}")
    axes.set_ylabel("density")
    fit_axes(figure, axes, bottom=legend_below(figure, list(drawn.values()), list(drawn)))
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


def _facts(figure: "Figure", layer: LayerSpectrum, count: int) -> list[str]:
    """The title: the name, and the fit or why there is none."""
    name = shortened_to_fit(figure, drawable(layer.name), _WIDE)
    if layer.status != "success":
        return [name, shortened_to_fit(figure, f"no fit: {drawable(layer.status)}", _WIDE)]
    digits = ".2f" if layer.alpha < 100 else ".3g"
    alpha = f"alpha {layer.alpha:{digits}} ± {layer.sigma:{digits}}"
    quality = f"D {layer.D:.2f}{' (large)' if layer.D > LARGE_D else ''}"
    tail = f"{layer.num_pl_spikes:,} of {count:,} in the tail"
    together = f"{alpha}, {quality}, {tail}"
    return [name, *([together] if len(together) <= _LINE else [f"{alpha}, {quality}", tail])]
