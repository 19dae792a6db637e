"""Alpha over depth as a figure: which layers lie in the healthy band, and what training moved."""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning_weightwatch.spectral.layer import LayerSpectrum
from lightning_weightwatch.spectral.report import ALPHA_BAND, SpectralReport
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
from lightning_weightwatch.views.spectra import LARGE_D

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# A line through more layers than this is noise.
_JOINED = 60
# More names than this do not stand side by side.
_NAMED = 20
# An axis that shows the band well; larger alphas are clipped to it.
_LEAST_TOP, _MOST_TOP = 8.0, 12.0
# With fewer eigenvalues in the tail sigma exceeds a third of alpha - 1.
_FEW = 10
_MARKERS = (("o", BLUE), ("s", VERMILION), ("D", BLACK))


@in_our_style
def alpha_depth_figure(
    report: SpectralReport, first: Mapping[str, float] | None = None, *, title: str = ""
) -> "Figure":
    """Alpha of every layer, in the order of the model, over the band from 2 to 6.

    Hollow markers are fits that say little: D above 0.1, or fewer than 10 eigenvalues in the tail.
    A triangle is an alpha beyond the axis, a cross at the foot a layer without a fit. Up to 60
    layers are joined; of more, markers tell the kinds apart and a line is their running median.

    Args:
        report: The spectra. Layers are numbered from 0, as in the tags.
        first: The alphas of the first epoch by name, dashed in grey.
        title: A line above.
    """
    from matplotlib.ticker import MaxNLocator

    layers = report.layers
    names = short_names([layer.name for layer in layers])
    named = 0 < len(layers) <= _NAMED
    joined = len(layers) <= _JOINED
    # Names that fit into their place stand upright.
    upright = max(map(len, names), default=0) * 0.08 * len(layers) < 2.3
    turned = 0.065 * max(map(len, names), default=0) if named and not upright else 0.0
    figure = new_figure((2.8 if joined else 3.4) + turned)
    axes = figure.subplots()
    alphas = [layer.alpha if layer.status == "success" else math.nan for layer in layers]
    start = [(first or {}).get(layer.name, math.nan) for layer in layers]
    top = _top([*alphas, *start])
    axes.set_ylim(0, top)
    margin = max(0.6, 0.015 * len(layers))
    axes.set_xlim(-margin, max(len(layers), 1) - 1 + margin)
    _draw_band(axes, top)
    drawn: dict[str, Artist] = {}
    if first:
        drawn |= _draw_first(axes, start, top)
    if joined:
        axes.plot(_clipped(alphas, top), color=BLUE)
    drawn |= _draw_dots(axes, layers, alphas, top, by_kind=not joined)
    if not joined:
        (drawn["running median"],) = axes.plot(
            _clipped(_running_median(alphas), top), color=BLACK, linewidth=2, zorder=3
        )
    axes.set_ylabel("alpha")
    if named:
        axes.set_xticks(range(len(layers)), names, rotation=90 if turned else 0)
        axes.set_xlabel("" if turned else "layer")
    else:
        axes.set_xlabel("layer")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if title:
        axes.set_title(shortened_to_fit(figure, drawable(title), 2.8))
    foot = legend_below(figure, list(drawn.values()), list(drawn)) if drawn else 0.0
    fit_axes(figure, axes, bottom=foot)
    return figure


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
    look: dict[str, Any] = {"color": GREY, "markerfacecolor": "white", "markersize": 4}
    (line,) = axes.plot(shown, "o--" if few else "--", zorder=1.9 if few else 2.9, **look)
    beyond = [at for at, alpha in enumerate(alphas) if few and alpha > top]
    axes.plot(beyond, [shown[at] for at in beyond], "^", zorder=1.95, **look)
    return {"first epoch" if few else "first epoch, median": line}


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
    looks = _looks(layers) if by_kind else {}
    for index, (layer, alpha) in enumerate(zip(layers, alphas, strict=True)):
        marker, colour = looks.get(layer.kind, ("v", GREY) if by_kind else _MARKERS[0])
        if math.isnan(alpha):
            marker, colour = "x", BLACK
        elif alpha > top:
            marker = "^"
        hollow = layer.D > LARGE_D or layer.num_pl_spikes < _FEW
        groups.setdefault((marker, colour, hollow), []).append(index)
    shown = _clipped(alphas, top)
    size = 3.5 if by_kind else 5
    for (marker, colour, hollow), indices in sorted(groups.items()):
        axes.plot(
            indices,
            [shown[index] if marker != "x" else 0.04 * top for index in indices],
            marker,
            color=colour,
            markersize=size,
            markerfacecolor="white" if hollow and marker != "x" else colour,
            clip_on=False,
            zorder=2.5,
        )

    def sample(marker: str, colour: str, *, hollow: bool = False) -> Line2D:
        face = "white" if hollow else colour
        return Line2D(
            [], [], color=colour, marker=marker, linestyle="", markersize=5, markerfacecolor=face
        )

    found = {marker for marker, _, _ in groups}
    words: dict[str, Artist] = {}
    if by_kind:
        for kind, look in looks.items():
            words[kind] = sample(*look)
        if len({layer.kind for layer in layers}) > len(looks):
            words["other kinds"] = sample("v", GREY)
    elif "o" in found:
        words["now"] = sample("o", BLUE)
    if any(hollow for marker, _, hollow in groups if marker != "x"):
        words["fit says little"] = sample("o", BLUE, hollow=True)
    if "^" in found:
        beyond = max(alpha for alpha in alphas if alpha > top)
        words[f"above {top:g}, up to {beyond:.3g}"] = sample("^", BLUE)
    if "x" in found:
        words["no fit"] = sample("x", BLACK)
    return words


def _looks(layers: Sequence[LayerSpectrum]) -> dict[str, tuple[str, str]]:
    """Marker and colour of the most frequent kinds."""
    kinds = Counter(layer.kind for layer in layers).most_common(len(_MARKERS))
    return {kind: look for (kind, _), look in zip(kinds, _MARKERS, strict=False)}


def _running_median(values: Sequence[float]) -> list[float]:
    """Over a fifteenth of the layers to either side, of those that are known."""
    reach = max(len(values) // 30, 3)
    windows = (values[max(at - reach, 0) : at + reach + 1] for at in range(len(values)))
    known = ([value for value in window if math.isfinite(value)] for window in windows)
    return [statistics.median(window) if window else math.nan for window in known]
