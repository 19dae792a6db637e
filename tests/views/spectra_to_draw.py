"""Spectral reports with chosen alphas, for the figures of them."""

from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from lightning_weightwatch.spectral.convention import CONVENTIONS
from lightning_weightwatch.spectral.layer import LayerSpectrum, layer_spectrum
from lightning_weightwatch.spectral.report import SpectralReport

HOSTILE = [
    "$\\alpha$",
    "$\\nosuch$ {",
    "x" * 200,
    "block." * 30 + "weight",
    "two\nlines",
    "réseau.überlagerung",
    "编码器.层",
    "\U0001f600.\u202e",
    "",
    "transformer.encoder.layers.11.attention.query",
    "transformer.encoder.layers.11.attention.query",
    "%s {0} <b> & \\",
]


@cache
def power_law(alpha: float = 2.5, count: int = 2000) -> NDArray[np.float64]:
    """The quantiles of a power law from 1."""
    shares = (np.arange(count) + 0.5) / count
    return np.asarray((1 - shares) ** (-1 / (alpha - 1)))


@cache
def measured(count: int = 200) -> LayerSpectrum:
    return spectrum_of(power_law(count=count))


def spectrum_of(values: NDArray[np.float64], name: str = "net.0") -> LayerSpectrum:
    return layer_spectrum(
        np.sort(values)[None],
        name=name,
        kind="linear",
        N=2 * values.size,
        convention=CONVENTIONS["weightwatcher"],
    )


def failed(name: str) -> LayerSpectrum:
    return spectrum_of(np.zeros(40), name)


def report_of(alphas: list[float], names: list[str] | None = None) -> SpectralReport:
    """Layers with these alphas; NaN for one without a fit."""
    names = [f"encoder.layers.{i}.linear" for i in range(len(alphas))] if names is None else names
    return SpectralReport(
        tuple(
            failed(name) if np.isnan(alpha) else replace(measured(), alpha=alpha, name=name)
            for alpha, name in zip(alphas, names, strict=True)
        ),
        (),
    )
