"""The spectral report of a model: its layers, and the scalars to log and to monitor."""

import math
import statistics
from dataclasses import dataclass
from typing import Any

from lightning_weightwatch.report import Skipped
from lightning_weightwatch.spectral.layer import LayerSpectrum

#: Where alpha is held to be healthy (Martin and Mahoney, JMLR 22(165), 2021).
ALPHA_BAND = (2.0, 6.0)
#: Above this distance between the tail and the fit alpha says little.
LARGE_D = 0.1


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
        """A row per layer: the columns of `LayerSpectrum` that were asked for."""
        return [layer.record() for layer in self.layers]

    def summary(self) -> dict[str, float]:
        """Over the layers with enough eigenvalues: what a fit gives over those with a fit.

        `log_norm_mean` needs no fit, and is over all of them whose norm is not 0.
        """
        large = [layer for layer in self.layers if layer.num_evals >= self.summary_min_evals]
        fitted = [layer for layer in large if layer.status == "success"]
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
        for column in ("log_norm", "mp_softrank"):
            values = [getattr(layer, column) for layer in large]
            known = [value for value in values if value is not None and math.isfinite(value)]
            if known:
                summary[f"{column}_mean"] = statistics.fmean(known)
        return {key: value for key, value in summary.items() if math.isfinite(value)}
