"""Alpha over depth as a figure: which layers lie in the healthy band, and what training moved."""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning_weightwatch.spectral.layer import LayerSpectrum
from lightning_weightwatch.spectral.report import ALPHA_BAND, LARGE_D, SpectralReport
from lightning_weightwatch.views.layer_names import drawable, short_names
from lightning_weightwatch.views.margins import fit_axes, legend_below, shortened_to_fit
from lightning_weightwatch.views.png import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    VERMILION,
    in_our_style,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# A line through more layers than this is noise.
_JOINED = 30
# More names than this do not stand side by side; turned ones are shorter, so that axes are left.
_NAMED, _TURNED = 20, 10
# An axis that shows the band well; larger alphas are clipped to it.
_LEAST_TOP, _MOST_TOP = 8.0, 12.0
# With fewer eigenvalues in the tail sigma exceeds a third of alpha - 1.
_FEW = 10
# Of the most frequent kinds; the others are grey triangles.
_MARKERS = (("o", BLUE), ("s", VERMILION))


@in_our_style
def alpha_depth_figure(
    report: SpectralReport, first: Mapping[str, float] | None = None, *, title: str = ""
) -> "Figure":
    """Alpha of every layer, in the order of the model, over the band from 2 to 6.

    Hollow markers are fits that say little: D above 0.1, or fewer than 10 eigenvalues in the tail.
    A triangle is an alpha beyond the axis, a cross at the foot a layer without a fit. Up to 30
    layers are joined; of more, markers tell the kinds apart and a line is their running median.

    Args:
        report: The spectra. Layers are numbered from 0, as in the tags.
        first: The alphas of the first epoch by name, dashed in grey.
        title: A line above.
    """
    from matplotlib.ticker import MaxNLocator, MultipleLocator

    layers = report.layers
    joined = len(layers) <= _JOINED
    figure = new_figure()
    axes = figure.subplots()
    alphas = [layer.alpha if layer.status == "success" else math.nan for layer in layers]
    start = [(first or {}).get(layer.name, math.nan) for layer in layers]
    top = _top([*alphas, *start])
    margin = max(0.6, 0.015 * len(layers))
    axes.set(ylim=(0, top), xlim=(-margin, max(len(layers), 1) - 1 + margin))
    _draw_band(axes, top)
    drawn: dict[str, Artist] = {}
    if first:
        drawn |= _draw_first(axes, start, top)
    if joined:
        axes.plot(_clipped(alphas, top), color=BLUE)
    drawn |= _draw_dots(axes, layers, alphas, top, by_kind=not joined)
    if not joined:
        (drawn["median"],) = axes.plot(
            _clipped(_running_median(alphas), top), color=BLACK, linewidth=2, zorder=3
        )
    axes.set_ylabel("alpha")
    axes.yaxis.set_major_locator(MultipleLocator(2))
    if not _set_names(axes, [layer.name for layer in layers]):
        axes.set_xlabel("layer")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(shortened_to_fit(figure, drawable(title), 2.8))
    foot = legend_below(figure, list(drawn.values()), list(drawn)) if drawn else 0.0
    fit_axes(figure, axes, bottom=foot)
    return figure


def _set_names(axes: "Axes", names: Sequence[str]) -> bool:
    """Names below the layers, upright or turned, where all of them fit; else they are numbered."""
    if not 0 < len(names) <= _NAMED:
        return False
    shown = short_names(names)
    turned = max(map(len, shown)) * 0.08 * len(names) > 2.3
    if turned:
        shown = short_names(names, _TURNED)
        if any("…" in name for name in shown):
            return False
    axes.set_xticks(range(len(names)), shown, rotation=90 if turned else 0)
    return True


def _top(alphas: Sequence[float]) -> float:
    known = [alpha for alpha in alphas if math.isfinite(alpha)]
    return min(max([_LEAST_TOP, *(1.08 * alpha for alpha in known)]), _MOST_TOP)


def _clipped(alphas: Sequence[float], top: float) -> list[float]:
    """What is beyond the axis lies just within it, where its triangle stands."""
    return [alpha if math.isnan(alpha) else min(alpha, 0.96 * top) for alpha in alphas]


def _draw_band(axes: "Axes", top: float) -> None:
    """The band, and the words for it and for what is above and below."""
    low, high = ALPHA_BAND
    axes.axhspan(low, high, color=GREEN, alpha=0.15, linewidth=0)
    middles = {
        "over-\ntrained": low / 2,
        "healthy": (low + high) / 2,
        "under-\ntrained": (high + top) / 2,
    }
    for word, middle in middles.items():
        axes.annotate(word, (1.01, middle), xycoords=("axes fraction", "data"), va="center")


def _draw_first(axes: "Axes", alphas: Sequence[float], top: float) -> "dict[str, Artist]":
    """The alphas of the first epoch; their running median where another line would be too much."""
    few = len(alphas) <= _NAMED
    shown = _clipped(alphas if few else _running_median(alphas), top)
    (line,) = axes.plot(
        shown, "+--" if few else "--", color=GREY, markersize=5, zorder=1.9 if few else 2.9
    )
    return {"first epoch": line}


def _draw_dots(
    axes: "Axes",
    layers: Sequence[LayerSpectrum],
    alphas: Sequence[float],
    top: float,
    *,
    by_kind: bool,
) -> "dict[str, Artist]":
    """A marker per layer: full, hollow, a triangle or a cross; the first of each, by its word."""
    from matplotlib.lines import Line2D

    groups: dict[tuple[str, str, bool], list[int]] = {}
    kinds = [kind for kind, _ in Counter(layer.kind for layer in layers).most_common()]
    looks = dict(zip(kinds, _MARKERS, strict=False)) if by_kind else {}
    for index, (layer, alpha) in enumerate(zip(layers, alphas, strict=True)):
        marker, colour = looks.get(layer.kind, ("v", GREY) if by_kind else _MARKERS[0])
        if math.isnan(alpha):
            marker, colour = "x", BLACK
        elif alpha > top:
            marker = "^"
        hollow = layer.D > LARGE_D or layer.num_pl_spikes < _FEW
        groups.setdefault((marker, colour, hollow), []).append(index)
    shown = _clipped(alphas, top)
    for (marker, colour, hollow), indices in sorted(groups.items()):
        axes.plot(
            indices,
            [shown[index] if marker != "x" else 0.04 * top for index in indices],
            marker,
            color=colour,
            markersize=3.5 if by_kind else 5,
            markerfacecolor="white" if hollow and marker != "x" else colour,
            clip_on=False,
            zorder=2.5,
        )

    def sample(marker: str, colour: str, face: str | None = None) -> Line2D:
        look: dict[str, Any] = {"color": colour, "markerfacecolor": face or colour}
        return Line2D([], [], marker=marker, linestyle="", markersize=5, **look)

    found = {marker for marker, _, _ in groups}
    words: dict[str, Artist] = {}
    if by_kind:
        for kind, look in looks.items():
            words[kind] = sample(*look)
        if len(kinds) > len(looks):
            words["other"] = sample("v", GREY)
    elif "o" in found:
        words["now"] = sample("o", BLUE)
    if any(hollow for marker, _, hollow in groups if marker != "x"):
        words["fit says little"] = sample("o", BLUE, "white")
    if "^" in found:
        beyond = max(alpha for alpha in alphas if alpha > top)
        words[f"up to {beyond:.3g}"] = sample("^", BLUE)
    if "x" in found:
        words["no fit"] = sample("x", BLACK)
    return words


def _running_median(values: Sequence[float]) -> list[float]:
    """Over a fifteenth of the layers to either side, of those that are known."""
    reach = max(len(values) // 30, 3)
    windows = (values[max(at - reach, 0) : at + reach + 1] for at in range(len(values)))
    known = ([value for value in window if math.isfinite(value)] for window in windows)
    return [statistics.median(window) if window else math.nan for window in known]
