"""The power-law fit of a spectrum's tail: maximum likelihood, xmin by the least KS distance.

Clauset, Shalizi and Newman, "Power-law distributions in empirical data", SIAM Review 51 (2009),
with the conventions of WeightWatcher 0.7.7: eigenvalues at or below 1e-5 are left out, every
eigenvalue but the largest is tried as xmin, the empirical distribution is the lower step (j/k).
The search finds what trying every xmin finds, and evaluates a few of them in full.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

# Eigenvalues at or below this are no data (WeightWatcher's EVALS_THRESH, an absolute floor).
FLOOR = 1e-5
# Below this many eigenvalues the estimate is corrected for bias and tails must hold 8 points.
SMALL_SAMPLE = 20
SMALL_TAIL = 8
# Eigenvalues whose logarithms span less than this differ by the rounding of float32 weights.
_LEAST_SPREAD = 1e-4
# Sampled points per candidate in the first round, and how many times more in each that follows.
_FIRST_POINTS = 12
_REFINEMENT = 4
# So few candidates are evaluated at once rather than sampled again.
_FEW_CANDIDATES = 4
# A sampled and a full KS distance may differ by this much through rounding alone.
_SLACK = 1e-12
# Elements of the arrays that a round works on: 2 MB each, whatever the size of the spectrum.
_BLOCK_ELEMENTS = 1 << 18

Array = NDArray[np.float64]


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


def fit_power_law(
    eigenvalues: Tensor | NDArray[Any] | Sequence[float], *, floor: float = FLOOR
) -> PowerLawFit:
    """Fit a power law to the upper tail of a spectrum.

    For each candidate xmin = x_i with its tail x_i ≤ … ≤ x_n of k points:
    alpha_i = 1 + k / Σ_j ln(x_j/x_i) and D_i = max_j |1 − (x_j/x_i)^(1−alpha_i) − j/k|, j < k.
    The first candidate of the least D is taken. Fewer than 20 points: k − 1 in place of k in
    alpha (the correction for bias), and tails of at least 8 points (all of them if fewer).

    It computes in float64 on the calling thread alone, and any number of threads may call it.

    Args:
        eigenvalues: Non-negative, in any order and of any shape.
        floor: Eigenvalues at or below it are no data: an absolute number, in the units of the
            eigenvalues. The default is WeightWatcher's; a layer of very small weights may have
            all of its spectrum below.

    Returns:
        The fit; a failed one (NaN, `status` says why) where there is no tail to fit.

    Raises:
        ValueError: An eigenvalue is NaN or infinite, or `floor` is negative or not finite.

    Examples:
        >>> grid = [(i + 0.5) / 1000 for i in range(1000)]
        >>> round(fit_power_law([(1 - q) ** (-1 / 1.5) for q in grid]).alpha, 1)  # exponent 2.5
        2.5
    """
    if not 0 <= floor < math.inf:
        raise ValueError(f"floor must be finite and not negative, got {floor}. Use 0 for no floor.")
    x = sorted_eigenvalues(eigenvalues)
    x = x[x > floor]
    n = x.size
    if n < 2:
        return PowerLawFit.failed(f"fewer than 2 eigenvalues above {floor:g}")
    xmax = float(x[-1])
    log_x = np.log(x)
    if log_x[-1] - log_x[0] < _LEAST_SPREAD:
        return PowerLawFit.failed("the eigenvalues are all equal", xmax)
    small = n < SMALL_SAMPLE
    candidates = n - 1 if not small else max(n - SMALL_TAIL + 1, 1)
    # Σ_j ln(x_j/x_i): each step between neighbours counts once for every point above it. A sum of
    # nothing but positive terms, so that a tail of equal values has exactly 0.
    above = np.arange(n - 1, 0, -1, dtype=np.float64)
    excess = np.cumsum((above * np.diff(log_x))[::-1])[::-1][:candidates]
    valid = np.flatnonzero(excess > 0)
    exponents = np.full(candidates, math.nan)  # alpha − 1
    exponents[valid] = (above if small else above + 1)[valid] / excess[valid]

    distance, best = _least_ks_distance(log_x, exponents, valid)
    size = n - best
    return PowerLawFit(
        alpha=1 + float(exponents[best]),
        xmin=float(x[best]),
        xmax=xmax,
        D=distance,
        sigma=float(exponents[best]) / math.sqrt(size),
        num_pl_spikes=size,
        status="success",
    )


def sorted_eigenvalues(eigenvalues: Tensor | NDArray[Any] | Sequence[float]) -> Array:
    """The eigenvalues in ascending order, as a float64 array of their own on the CPU.

    Args:
        eigenvalues: Of any dtype, shape and device; a gradient is left behind.

    Raises:
        ValueError: One of them is NaN or infinite.
    """
    if isinstance(eigenvalues, Tensor):
        eigenvalues = eigenvalues.detach().cpu().double().numpy()
    values = np.sort(np.asarray(eigenvalues, dtype=np.float64), axis=None)
    finite = int(np.isfinite(values).sum())
    if finite < values.size:
        raise ValueError(
            f"eigenvalues must be finite, got {values.size - finite} of {values.size} that are NaN "
            "or infinite. Look for NaN or infinite weights first."
        )
    return values


def _least_ks_distance(
    log_x: Array, exponents: Array, candidates: NDArray[np.intp]
) -> tuple[float, int]:
    """The least KS distance and the first candidate that has it.

    The distance at a few points of a tail is a lower bound of the distance over all of it. Each
    round samples the candidates left more finely, evaluates the most promising one in full, and
    drops those whose bound exceeds the least distance found so far.
    """
    least = (math.inf, -1)
    points = _FIRST_POINTS
    while True:
        bounds = _lower_bounds(log_x, exponents, candidates, points)
        promising = int(candidates[bounds.argmin()])
        least = min(least, (_ks_distance(log_x, exponents, promising), promising))
        left = (bounds <= least[0] + _SLACK) & (candidates != promising)
        candidates, bounds = candidates[left], bounds[left]
        points *= _REFINEMENT
        if candidates.size <= _FEW_CANDIDATES or points >= log_x.size:
            break
    for i in np.argsort(bounds):
        if bounds[i] > least[0] + _SLACK:
            break
        candidate = int(candidates[i])
        least = min(least, (_ks_distance(log_x, exponents, candidate), candidate))
    return least


def _lower_bounds(
    log_x: Array, exponents: Array, candidates: NDArray[np.intp], points: int
) -> Array:
    """The KS distance of each candidate over points spread evenly over the ranks of its tail."""
    shares = np.arange(1, points + 1, dtype=np.float64) / points
    step = max(_BLOCK_ELEMENTS // points, 1)
    bounds = np.empty(candidates.size)
    for start in range(0, candidates.size, step):
        block = candidates[start : start + step]
        last = log_x.size - 1.0 - block
        ranks = np.floor(np.multiply.outer(shares, last))
        gaps = log_x[ranks.astype(np.intp) + block] - log_x[block]
        bounds[start : start + step] = _deviation(gaps, exponents[block], ranks / (last + 1))
    return bounds


def _ks_distance(log_x: Array, exponents: Array, candidate: int) -> float:
    tail = log_x[candidate:]
    steps = np.arange(tail.size, dtype=np.float64) / tail.size
    return float(_deviation(tail - tail[0], exponents[candidate], steps))


def _deviation(gaps: Array, exponents: Any, steps: Array) -> Any:
    """The maximum of |1 − exp(−gap · exponent) − step| over the first axis; overwrites the gaps."""
    with np.errstate(under="ignore"):
        gaps *= -exponents
        np.exp(gaps, out=gaps)
    gaps += steps
    return np.maximum(gaps.max(0) - 1, 1 - gaps.min(0))
