"""The Marchenko–Pastur fit of a spectrum's bulk: what of it is noise, and what stands out of it.

Marchenko and Pastur, "Distribution of eigenvalues for some sets of random matrices" (1967), as
used by Martin and Mahoney, "Implicit self-regularization in deep neural networks", JMLR 22 (2021),
with the conventions of WeightWatcher 0.7.7: the eigenvalues are rescaled to a mean of 1, sigma is
what brings the density closest to an estimate of the spectrum's, by least squares.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lightning_weightwatch.spectral.power_law import sorted_eigenvalues

Array = NDArray[np.float64]
Sigma = TypeVar("Sigma", float, Array)

# The density estimate: half the width of its triangular kernel, and where it is evaluated.
BANDWIDTH = 0.1
_POINTS = 1000
_MARGIN = 0.5
# Where the estimate is at or below this there is nothing to fit.
_LEAST_DENSITY = 0.01
# The residual at every point for a sigma whose bulk leaves the spectrum or misses its peak.
_PENALTY = 1000.0


@dataclass(frozen=True)
class MarchenkoPasturFit:
    """The bulk of a spectrum as that of a random matrix.

    Attributes:
        sigma_mp: Standard deviation of the noise, for eigenvalues rescaled to a mean of 1: about 1
            where everything is noise, less where spikes hold part of the norm. NaN, as every
            number here, when the fit failed.
        bulk_max: Upper edge of the bulk, in the units of the eigenvalues.
        bulk_min: Lower edge.
        num_spikes: Eigenvalues above the upper edge by more than its fluctuation; 0 when the fit
            failed.
        mp_softrank: bulk_max over the largest eigenvalue: near 1 for noise, near 0 for a spectrum
            led by its spikes. It exceeds 1 where the fitted edge lies above every eigenvalue.
        W_scale: What the weights are multiplied with for eigenvalues of mean 1.
        status: `"success"`, or why there is no fit.
    """

    sigma_mp: float
    bulk_max: float
    bulk_min: float
    num_spikes: int
    mp_softrank: float
    W_scale: float
    status: str

    @classmethod
    def failed(cls, reason: str) -> "MarchenkoPasturFit":
        """No fit, with the reason as its status."""
        return cls(math.nan, math.nan, math.nan, 0, math.nan, math.nan, reason)


def fit_marchenko_pastur(
    eigenvalues: Tensor | NDArray[Any] | Sequence[float], *, N: int, M: int
) -> MarchenkoPasturFit:
    """Fit the Marchenko–Pastur density to the bulk of a spectrum.

    With Q = N/M, λ the eigenvalues over their mean, and ρ their density estimated with a triangular
    kernel of half-width 0.1: sigma_mp minimises Σ_x (ρ_MP(x; sigma, Q) − ρ(x))² over the points of
    a grid of 1000 where ρ > 0.01, by Nelder and Mead from the best of 0.05 s, 0.06 s, … 2 s,
    s = √λ_max / (1 + Q^−½). Spikes are the eigenvalues above b + √(Q^−½ (b/M)^⅔),
    b = (sigma_mp (1 + Q^−½))².

    What to know of it, all as in WeightWatcher:

    - Where no sigma of the grid gives a bulk that ends within the spectrum and contains the peak of
      its density, sigma_mp stays at the grid's lower end, mp_softrank is 0.0025, and `status` is
      `"success"` all the same.
    - For square matrices (Q = 1) the quarter-circle law is fitted to √λ, and its support is kept at
      [0, 2] whatever sigma is: there sigma is a factor of the density's height alone.
    - sigma_mp is good to about 1e-4, the tolerance of the search.

    It computes on the calling thread alone, and any number of threads may call it.

    Args:
        eigenvalues: Non-negative, in any order, zeros included; M of them, or M for each of several
            matrices (the positions of a kernel).
        N: The larger side of each matrix.
        M: The smaller side.

    Returns:
        The fit; a failed one (NaN, `status` says why) where there is no bulk to fit.

    Raises:
        ValueError: An eigenvalue is NaN or infinite, or not N ≥ M ≥ 1.

    Examples:
        >>> weight = np.random.default_rng(0).normal(size=(400, 200))
        >>> weight[0] += 8  # a row that all inputs share: one spike
        >>> fit = fit_marchenko_pastur(np.linalg.svd(weight, compute_uv=False) ** 2, N=400, M=200)
        >>> fit.num_spikes
        1
    """
    if not N >= M >= 1:
        raise ValueError(
            f"N and M must be the larger and the smaller side of a matrix, got N={N}, M={M}."
        )
    # Rounding may leave eigenvalues of a singular matrix below zero.
    x = np.maximum(sorted_eigenvalues(eigenvalues), 0.0)
    n = x.size
    if n == 0 or x[-1] == 0:
        return MarchenkoPasturFit.failed("all eigenvalues are zero" if n else "no eigenvalues")
    largest = float(x[-1])
    with np.errstate(under="ignore"):
        relative = x / largest
        mean = float(relative.mean())
        scaled = relative / mean
    if np.count_nonzero(relative > n * np.finfo(np.float64).eps) < 2:
        return MarchenkoPasturFit.failed("fewer than 2 eigenvalues above zero")

    Q = N / M
    sigma = _least_squares_sigma(scaled, Q)
    if isinstance(sigma, str):
        return MarchenkoPasturFit.failed(sigma)
    lower, upper = bulk_edges(sigma, Q)
    # The scale of the Tracy–Widom law, and its root as WeightWatcher takes it.
    fluctuation = math.sqrt(Q**-0.5 * (upper / M) ** (2 / 3))
    return MarchenkoPasturFit(
        sigma_mp=sigma,
        bulk_max=upper * mean * largest,
        bulk_min=lower * mean * largest,
        num_spikes=int(np.count_nonzero(scaled > upper + fluctuation)),
        mp_softrank=upper / float(scaled[-1]),
        W_scale=1 / (math.sqrt(mean) * math.sqrt(largest)),
        status="success",
    )


def bulk_edges(sigma: Sigma, Q: float) -> tuple[Sigma, Sigma]:
    """The lower and the upper end of the bulk, (sigma (1 ∓ Q^−½))².

    Args:
        sigma: Standard deviation of the noise; 1 for eigenvalues of mean 1 that are all noise.
        Q: N/M, at least 1.

    Examples:
        >>> bulk_edges(1.0, 4.0)
        (0.25, 2.25)
    """
    return (sigma * (1 - Q**-0.5)) ** 2, (sigma * (1 + Q**-0.5)) ** 2


def marchenko_pastur_density(x: Array, sigma: Sigma, Q: float) -> Array:
    """The density Q √((b − x)(x − a)) / (2π sigma² x) on [a, b], the bulk's edges; 0 elsewhere.

    Args:
        x: Eigenvalues over their mean, not negative.
        sigma: Standard deviation of the noise; it broadcasts against x.
        Q: N/M, above 1.
    """
    lower, upper = bulk_edges(sigma, Q)
    inside = np.maximum((upper - x) * (x - lower), 0.0)
    below = 2 * math.pi / Q * np.square(sigma) * np.where(x > 0, x, 1.0)
    return np.asarray(np.sqrt(inside) / below)


def kernel_density(points: Array, values: Array, bandwidth: float = BANDWIDTH) -> Array:
    """The density of sorted values, each a triangle of area 1 and the bandwidth's half-width.

    In a window the triangles add up to a number of values and to their sum, both differences of
    running totals: O(n + points · log n) in place of O(n · points).

    Args:
        points: Where to estimate it.
        values: In ascending order.
        bandwidth: Half of a triangle's base.
    """
    totals = np.concatenate(([0.0], np.cumsum(values)))
    start, middle, stop = (
        np.searchsorted(values, points + shift) for shift in (-bandwidth, 0.0, bandwidth)
    )
    rising = (middle - start) * (bandwidth - points) + (totals[middle] - totals[start])
    falling = (stop - middle) * (bandwidth + points) - (totals[stop] - totals[middle])
    return np.asarray((rising + falling) / (values.size * bandwidth**2))


def _least_squares_sigma(scaled: Array, Q: float) -> float | str:
    """The sigma that fits eigenvalues of mean 1 best, or why there is none."""
    from scipy.optimize import fmin  # its import costs a fraction of a second: on first use only

    # Where Q = 1 the law of the eigenvalues is infinite at 0; that of their roots is not.
    values = np.sqrt(scaled) if Q == 1 else scaled
    x = np.linspace(0, values[-1] + _MARGIN, _POINTS)
    density = kernel_density(x, values)
    dense = density > _LEAST_DENSITY
    x, density = x[dense], density[dense]
    if x.size == 0:
        return f"the density is nowhere above {_LEAST_DENSITY:g}"
    peak, end = x[density.argmax()], x[-1]

    def misfit(sigma: Array) -> Array:
        sigma = sigma[:, None]
        if Q == 1:
            law = np.sqrt(np.maximum(4 - x**2, 0.0)) / (math.pi * sigma**2)
            return np.asarray(np.square(law - density).sum(1))
        lower, upper = bulk_edges(sigma, Q)
        residual = marchenko_pastur_density(x, sigma, Q) - density
        residual[((upper < peak) | (upper > end) | (lower > peak))[:, 0]] = _PENALTY
        return np.asarray(np.square(residual).sum(1))

    unit = math.sqrt(scaled[-1]) / (1 + Q**-0.5)
    grid = np.arange(0.05 * unit, 2.0 * unit, 0.01 * unit)
    with np.errstate(all="ignore"):
        start = grid[misfit(grid).argmin()]
        found, _, _, _, flag = fmin(
            lambda sigma: misfit(sigma)[0], start, full_output=True, disp=False
        )
    sigma = float(found[0])
    if flag != 0 or not 0 < sigma < math.inf:
        return "the search for sigma did not converge"
    return sigma
