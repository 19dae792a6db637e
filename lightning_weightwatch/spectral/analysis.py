"""The spectral report of a model: alpha and the log-norms, layer by layer."""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lightning_weightwatch.model.weights import (
    Kind,
    Weight,
    clean_name,
    matches,
    non_finite,
    unreadable,
    walk,
    whole,
)
from lightning_weightwatch.report import Skipped
from lightning_weightwatch.spectral.eigenvalues import eigenvalues
from lightning_weightwatch.spectral.power_law import PowerLawFit, fit_power_law

#: Where alpha is held to be healthy (Martin and Mahoney, JMLR 22(165), 2021).
ALPHA_BAND = (2.0, 6.0)
#: Layers with fewer eigenvalues are skipped, as WeightWatcher 0.7.7 does.
MIN_EVALS = 8
#: Matrices whose smaller side exceeds this are skipped: their spectrum takes hours.
MAX_SIDE = 15_000

_MEASURED_KINDS: tuple[Kind, ...] = ("linear", "embedding", "conv2d")


@dataclass(frozen=True)
class LayerSpectrum:
    """The spectrum of one layer; names and meanings are those of WeightWatcher 0.7.7.

    λ are the eigenvalues of WᵀW (squared singular values), so norms are squared norms; for a
    convolution they are those of its kernel positions, pooled and halved. NaN: unknown.

    Attributes:
        name: Dotted path of the module.
        kind: `"linear"`, `"embedding"` or `"conv2d"`.
        N: The larger of the output and input sizes.
        M: The smaller one.
        Q: N / M.
        rf: Kernel positions of a convolution, else 1.
        num_evals: Eigenvalues, M · rf.
        alpha: Exponent of the power-law tail.
        xmin: Where the tail begins.
        xmax: Largest eigenvalue.
        D: Kolmogorov–Smirnov distance of the fit: above about 0.1 alpha says little.
        sigma: Standard error of alpha.
        num_pl_spikes: Eigenvalues in the tail.
        norm: Σλ, the squared Frobenius norm.
        log_norm: log10 Σλ.
        spectral_norm: Largest λ, the squared spectral norm.
        log_spectral_norm: log10 of it.
        alpha_weighted: alpha · log_spectral_norm.
        log_alpha_norm: log10 Σλ^alpha.
        stable_rank: norm / spectral_norm.
        status: `"success"`, or why there is no fit.
        warning: `"over-trained"` (alpha < 2), `"under-trained"` (alpha > 6) or `""`.
    """

    name: str
    kind: Kind
    N: int
    M: int
    Q: float
    rf: int
    num_evals: int
    alpha: float
    xmin: float
    xmax: float
    D: float
    sigma: float
    num_pl_spikes: int
    norm: float
    log_norm: float
    spectral_norm: float
    log_spectral_norm: float
    alpha_weighted: float
    log_alpha_norm: float
    stable_rank: float
    status: str
    warning: str


@dataclass(frozen=True)
class SpectralReport:
    """The spectra of a model's layers.

    Attributes:
        layers: One per measured layer, in the order of the model.
        skipped: Every other place with a weight, with its reason.
        summary_min_evals: Layers with fewer eigenvalues stay out of `summary`.
    """

    layers: tuple[LayerSpectrum, ...]
    skipped: tuple[Skipped, ...]
    summary_min_evals: int = 32

    def records(self) -> list[dict[str, Any]]:
        """A row per layer: the fields of `LayerSpectrum`."""
        return [asdict(layer) for layer in self.layers]

    def summary(self) -> dict[str, float]:
        """Over the layers with enough eigenvalues and a fit; a failed fit is in no mean."""
        large = [layer for layer in self.layers if layer.num_evals >= self.summary_min_evals]
        fitted = [layer for layer in large if layer.status == "success"]
        log_norms = [layer.log_norm for layer in large if math.isfinite(layer.log_norm)]
        summary = {}
        if fitted:
            alphas = [layer.alpha for layer in fitted]
            mean = statistics.fmean(alphas)
            low, high = ALPHA_BAND
            summary = {
                "alpha_mean": mean,
                "alpha_median": statistics.median(alphas),
                "alpha_min": min(alphas),
                "alpha_max": max(alphas),
                "alpha_weighted_mean": statistics.fmean(layer.alpha_weighted for layer in fitted),
                "overtrained_share": sum(alpha < low for alpha in alphas) / len(alphas),
                "undertrained_share": sum(alpha > high for alpha in alphas) / len(alphas),
                "alpha_distance": max(low - mean, mean - high, 0.0),
            }
        if log_norms:
            summary["log_norm_mean"] = statistics.fmean(log_norms)
        return {key: value for key, value in summary.items() if math.isfinite(value)}


def analyze(
    model: nn.Module,
    *,
    layers: Sequence[str] | None = None,
    summary_min_evals: int = 32,
) -> SpectralReport:
    """Measure the spectrum of every linear, embedding and 2-D convolution layer.

    One layer is in memory at a time. With sharded parameters this is a collective: call it on
    every rank.

    Args:
        model: Any module, in any mode; it is only read.
        layers: Names or shell patterns (`"encoder.*"`); None for all.
        summary_min_evals: See `SpectralReport`.
    """
    measured: list[LayerSpectrum] = []
    skipped: dict[Skipped, None] = {}  # an LSTM is named once, not once per matrix
    for found in candidates(model, layers):
        result = found if isinstance(found, Skipped) else _measure(found)
        if isinstance(result, Skipped):
            skipped[result] = None
        else:
            measured.append(result)
    return SpectralReport(tuple(measured), tuple(skipped), summary_min_evals)


def candidates(model: nn.Module, layers: Sequence[str] | None = None) -> Iterator[Weight | Skipped]:
    """The weights that `analyze` would measure, judged by kind and shape alone."""
    for name, module in model.named_modules():
        layer = clean_name(name) or type(module).__name__
        reason = _without_weight(module)
        if reason is not None and matches(layer, layers):
            yield Skipped(layer, reason)
    for found in walk(model):
        if isinstance(found, Skipped):
            if matches(found.name, layers) or matches(found.name.rpartition(".")[0], layers):
                yield found
        elif matches(found.layer, layers) and not _within_parametrization(found.layer):
            reason = _unfit(found)
            if reason is None:
                yield found
            elif found.kind != "bias":
                main = found.attribute in ("weight", "weight_orig")
                several = found.kind in ("rnn", "attention")
                yield Skipped(found.layer if main or several else found.name, reason)


def _without_weight(module: nn.Module) -> str | None:
    """Why a module has no weight to read, where one would look for it; None when it has."""
    if parametrize.is_parametrized(module):
        return "parametrized: its effective weight is not measured yet"
    for held in (module._parameters, module._buffers):
        if "weight" in held and held["weight"] is None:
            return f"{type(module).__name__} has weight=None"
    return None


def _within_parametrization(layer: str) -> bool:
    return "parametrizations" in layer.split(".")


def _unfit(weight: Weight) -> str | None:
    """Why a weight has no spectrum here, by its kind and shape; None when it has one."""
    unread = unreadable(weight.parameter)
    if unread is not None:
        return unread
    shape = tuple(weight.parameter.shape)
    if len(shape) < 2:
        return f"{type(weight.module).__name__}: a 1-D weight has no spectrum"
    if weight.kind not in _MEASURED_KINDS or len(shape) not in (2, 4):
        return f"{type(weight.module).__name__}: the spectrum of this kind is not measured yet"
    if weight.attribute != "weight" and _mask(weight) is None:
        if "weight" in weight.attribute:
            return "parametrized: its effective weight is not measured yet"
        return f"not the weight of {type(weight.module).__name__}, but an addition to it"
    if weight.parameter.is_complex():
        return "complex weights are not measured yet"
    if number_of_eigenvalues(weight) < MIN_EVALS:
        return f"{number_of_eigenvalues(weight)} eigenvalues, fewer than {MIN_EVALS}"
    if min(shape[:2]) > MAX_SIDE:
        return f"its smaller side is {min(shape[:2])}, above {MAX_SIDE}"
    return None


def number_of_eigenvalues(weight: Weight) -> int:
    """M · rf of a weight [out, in] or [out, in, kh, kw], by its shape."""
    return min(weight.parameter.shape[:2]) * math.prod(weight.parameter.shape[2:])


def _measure(weight: Weight) -> LayerSpectrum | Skipped:
    values, mask = whole(weight.parameter), _mask(weight)
    if mask is not None:
        values = values * mask
    reason = non_finite(values)
    if reason is not None:
        return Skipped(weight.layer, reason)
    return layer_spectrum(weight.layer, weight.kind, tuple(values.shape), eigenvalues(values))


def _mask(weight: Weight) -> Tensor | None:
    """What torch.nn.utils.prune multiplies `weight_orig` with at each forward pass."""
    mask = getattr(weight.module, "weight_mask", None)
    return mask if weight.attribute == "weight_orig" and isinstance(mask, Tensor) else None


def layer_spectrum(name: str, kind: Kind, shape: tuple[int, ...], evals: Tensor) -> LayerSpectrum:
    """The metrics of one spectrum.

    Args:
        name: Dotted path of the layer.
        kind: Its kind.
        shape: Of the weight, [out, in] or [out, in, kh, kw].
        evals: Its eigenvalues, as `eigenvalues` gives them.
    """
    norm, largest = float(evals.sum()), float(evals.max())
    fit = fit_power_law(evals) if largest > 0 else PowerLawFit.failed("all values are zero", 0.0)
    log_largest = math.log10(largest) if largest > 0 else math.nan
    larger, smaller = max(shape[:2]), min(shape[:2])
    return LayerSpectrum(
        name=name,
        kind=kind,
        N=larger,
        M=smaller,
        Q=larger / smaller,
        rf=math.prod(shape[2:]),
        num_evals=evals.numel(),
        alpha=fit.alpha,
        xmin=fit.xmin,
        xmax=fit.xmax,
        D=fit.D,
        sigma=fit.sigma,
        num_pl_spikes=fit.num_pl_spikes,
        norm=norm,
        log_norm=math.log10(norm) if norm > 0 else math.nan,
        spectral_norm=largest,
        log_spectral_norm=log_largest,
        alpha_weighted=fit.alpha * log_largest,
        log_alpha_norm=_log_alpha_norm(evals, fit.alpha),
        stable_rank=norm / largest if largest > 0 else math.nan,
        status=fit.status,
        warning=fit.warning,
    )


def _log_alpha_norm(evals: Tensor, alpha: float) -> float:
    """log10 Σλ^alpha, summed in the log domain, where a large alpha cannot overflow."""
    if math.isnan(alpha):
        return math.nan
    return float(torch.logsumexp(alpha * evals[evals > 0].log(), 0)) / math.log(10)
