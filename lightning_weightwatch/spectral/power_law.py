"""The power-law fit of a spectrum's tail: maximum likelihood, xmin by the least KS distance.

Clauset, Shalizi and Newman, "Power-law distributions in empirical data", SIAM Review 51 (2009),
with the conventions of WeightWatcher 0.7.7: eigenvalues at or below 1e-5 are left out, every
eigenvalue but the largest is tried as xmin, the empirical distribution is the lower step (j/k).
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

# Eigenvalues at or below this are no data (WeightWatcher's EVALS_THRESH, an absolute floor).
FLOOR = 1e-5
# Below this many eigenvalues the estimate is corrected for bias and tails must hold 8 points.
SMALL_SAMPLE = 20
SMALL_TAIL = 8
# Eigenvalues whose logarithms span less than this differ by the rounding of float32 weights.
_LEAST_SPREAD = 1e-4
# Candidates for xmin that are evaluated together: bounds the memory at about 8 MB per matrix.
_BLOCK_ELEMENTS = 1 << 20


@dataclass(frozen=True)
class PowerLawFit:
    """The density ρ(λ) ∝ λ^−alpha on [xmin, xmax], and how well it fits.

    Attributes:
        alpha: The exponent, above 1; NaN when the fit failed.
        xmin: Where the tail begins.
        xmax: The largest eigenvalue.
        D: Kolmogorov–Smirnov distance between the tail and the fit, 0 to 1.
        sigma: Standard error of alpha, (alpha − 1)/√k.
        num_pl_spikes: k, the number of eigenvalues in the tail.
        status: `"success"`, or why there is no fit.
    """

    alpha: float
    xmin: float
    xmax: float
    D: float
    sigma: float
    num_pl_spikes: int
    status: str

    @classmethod
    def failed(cls, reason: str, xmax: float = math.nan) -> "PowerLawFit":
        """No fit, with the reason as its status."""
        return cls(math.nan, math.nan, xmax, math.nan, math.nan, 0, reason)

    @property
    def warning(self) -> Literal["over-trained", "under-trained", ""]:
        """WeightWatcher's word for alpha < 2 and for alpha > 6; an alarm, not a verdict."""
        if self.alpha < 2:
            return "over-trained"
        return "under-trained" if self.alpha > 6 else ""


def fit_power_law(eigenvalues: Tensor) -> PowerLawFit:
    """Fit a power law to the upper tail of a spectrum.

    For each candidate xmin = x_i with its tail x_i ≤ … ≤ x_n of k points:
    alpha_i = 1 + k / Σ_j ln(x_j/x_i) and D_i = max_j |1 − (x_j/x_i)^(1−alpha_i) − j/k|, j < k.
    The first candidate of the least D is taken. Fewer than 20 points: k − 1 in place of k in
    alpha (the correction for bias), and tails of at least 8 points (all of them if fewer).

    Args:
        eigenvalues: Non-negative, 1-D, in any order.

    Returns:
        The fit; a failed one (NaN, `status` says why) where there is no tail to fit.

    Examples:
        >>> grid = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
        >>> round(fit_power_law((1 - grid) ** (-1 / 1.5)).alpha, 1)  # quantiles of exponent 2.5
        2.5
    """
    x = eigenvalues.detach().double().cpu().flatten().sort().values
    x = x[x > FLOOR]
    n = x.numel()
    if n < 2:
        return PowerLawFit.failed(f"fewer than 2 eigenvalues above {FLOOR:g}")
    xmax = float(x[-1])
    log_x = x.log()
    if float(log_x[-1] - log_x[0]) < _LEAST_SPREAD:
        return PowerLawFit.failed("the eigenvalues are all equal", xmax)
    small = n < SMALL_SAMPLE
    candidates = n - 1 if not small else max(n - SMALL_TAIL + 1, 1)
    # Σ_{j>=i} ln x_j for every i, summed from the top.
    log_sums = log_x.flip(0).cumsum(0).flip(0)
    sizes = torch.arange(n, 0, -1, dtype=torch.float64)
    excess = log_sums - sizes * log_x
    alphas = 1 + (sizes - 1 if small else sizes) / excess

    distances = torch.cat(
        [_ks_distances(log_x, alphas, start, stop) for start, stop in _blocks(candidates, n)]
    )
    best = int(distances.argmin())
    alpha, size = float(alphas[best]), n - best
    if not math.isfinite(alpha) or alpha <= 1:
        return PowerLawFit.failed("the eigenvalues are all equal", xmax)
    return PowerLawFit(
        alpha=alpha,
        xmin=float(x[best]),
        xmax=xmax,
        D=float(distances[best]),
        sigma=(alpha - 1) / math.sqrt(size),
        num_pl_spikes=size,
        status="success",
    )


def _blocks(candidates: int, n: int) -> list[tuple[int, int]]:
    """Ranges of candidates whose distances fit the memory bound together."""
    step = max(_BLOCK_ELEMENTS // n, 1)
    return [(start, min(start + step, candidates)) for start in range(0, candidates, step)]


def _ks_distances(log_x: Tensor, alphas: Tensor, start: int, stop: int) -> Tensor:
    """The KS distance of each candidate start ≤ i < stop; 1 where alpha ≤ 1 or is not finite."""
    n = log_x.numel()
    first = torch.arange(start, stop, dtype=torch.float64).unsqueeze(1)
    rank = torch.arange(start, n, dtype=torch.float64).unsqueeze(0) - first
    gap = log_x[start:].unsqueeze(0) - log_x[start:stop].unsqueeze(1)
    fitted = 1 - torch.exp(gap * (1 - alphas[start:stop]).unsqueeze(1))
    distance = (fitted - rank / (n - first)).abs().masked_fill_(rank < 0, 0).amax(1)
    valid = alphas[start:stop].isfinite() & (alphas[start:stop] > 1)
    return distance.where(valid, torch.ones_like(distance))
