"""The spectral metrics of one layer, from the eigenvalues of its matrices."""

import math
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_weightwatch.model.weights import Kind
from lightning_weightwatch.spectral.convention import Convention
from lightning_weightwatch.spectral.marchenko_pastur import MarchenkoPasturFit
from lightning_weightwatch.spectral.power_law import PowerLawFit, fit_power_law
from lightning_weightwatch.spectral.randomization import RandomizedSpectrum

FloatArray = NDArray[np.float64]

#: The ε of float64.
EXACT = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class LayerSpectrum:
    """The spectrum of one layer; names and meanings are those of WeightWatcher 0.7.7.

    λ are the eigenvalues of WᵀW (squared singular values), so norms are squared norms. A layer of
    several matrices, such as the kernel positions of a convolution, has those of all of them
    pooled, times 1/2 for a convolution under WeightWatcher's convention. NaN: unknown.

    Attributes:
        layer_id: The place of the module in `named_modules()`; in a file the number of the layer.
        name: Dotted path of the module, or of the weight where the module has several.
        kind: The kind of the layer, such as `"linear"`, `"embedding"` or `"conv2d"`.
        slice_id: Which kernel position, where each is a row of its own (`pool=False`).
        N: The larger side of each matrix.
        M: The smaller one.
        Q: N / M.
        rf: How many matrices: the kernel positions (receptive field) of a convolution, else 1.
        num_evals: Eigenvalues: M · rf, or M for one kernel position.
        alpha: Exponent of the power-law tail.
        xmin: Where the tail begins.
        xmax: Largest eigenvalue of the fit.
        D: Kolmogorov–Smirnov distance of the fit: above about 0.1 alpha says little.
        sigma: Standard error of alpha.
        num_pl_spikes: Eigenvalues in the tail.
        norm: Σλ, the squared Frobenius norm.
        log_norm: log10 Σλ.
        spectral_norm: Largest λ, the squared spectral norm.
        lambda_max: The same, under WeightWatcher's other name.
        log_spectral_norm: log10 of it.
        alpha_weighted: alpha · log_spectral_norm.
        log_alpha_norm: log10 Σλ^alpha.
        stable_rank: norm / spectral_norm.
        sv_max: Largest singular value.
        sv_min: Smallest one. Of several matrices: WeightWatcher takes the largest of their
            smallest, the plain convention the smallest.
        rank_loss: Singular values that are 0 to rounding: at most N·ε of the largest of their
            matrix, ε = 2.2e-16.
        weak_rank_loss: Eigenvalues below 1e-6; in the plain convention below 1e-6 of the largest.
        matrix_rank: Singular values of all matrices above N·ε of the largest.
        entropy: −Σ p ln p / ln(matrix_rank), p = λ/Σλ: 1 when all are equal, 0 for rank 1.
        status: `"success"`, or why there is no power-law fit.
        warning: `"over-trained"` (alpha < 2), `"under-trained"` (alpha > 6) or `""`.
        sigma_mp: See `MarchenkoPasturFit`; this and the next six with `mp_fit=True`, else None.
        bulk_max: Upper edge of the bulk.
        bulk_min: Lower edge of the bulk.
        num_spikes: Eigenvalues beyond the upper edge.
        mp_softrank: bulk_max / lambda_max.
        W_scale: What the weights are multiplied with for eigenvalues of mean 1.
        mp_status: `"success"`, or why there is no bulk; `num_spikes` is then 0, the others NaN.
        rand_distance: See `RandomizedSpectrum`; this and the rest with `randomize=True`, else None.
        ww_softrank: Largest random eigenvalue over the largest.
        ww_maxdist: Largest eigenvalue minus the largest random one.
        max_rand_eval: Largest eigenvalue of the shuffled matrices.
        num_traps: Correlation traps: spikes that are left when the entries are shuffled. Below 100
            eigenvalues those of five shuffles together, as WeightWatcher counts them.
        rand_num_spikes: The same, under WeightWatcher's other name.
        rand_sigma_mp: sigma_mp of the shuffled matrices.
        rand_mp_softrank: mp_softrank of them.
        rand_W_scale: W_scale of them.
        rand_bulk_max: bulk_max of them.
        rand_bulk_min: bulk_min of them.
        rand_mp_status: mp_status of them; `num_traps` is 0 without a bulk.
        evals: The eigenvalues themselves [num_evals], ascending; for figures, in no record.
    """

    layer_id: int
    name: str
    kind: Kind
    slice_id: int | None
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
    lambda_max: float
    log_spectral_norm: float
    alpha_weighted: float
    log_alpha_norm: float
    stable_rank: float
    sv_max: float
    sv_min: float
    rank_loss: int
    weak_rank_loss: int
    matrix_rank: int
    entropy: float
    status: str
    warning: str
    sigma_mp: float | None = None
    bulk_max: float | None = None
    bulk_min: float | None = None
    num_spikes: int | None = None
    mp_softrank: float | None = None
    W_scale: float | None = None
    mp_status: str | None = None
    rand_distance: float | None = None
    ww_softrank: float | None = None
    ww_maxdist: float | None = None
    max_rand_eval: float | None = None
    num_traps: int | None = None
    rand_num_spikes: int | None = None
    rand_sigma_mp: float | None = None
    rand_mp_softrank: float | None = None
    rand_W_scale: float | None = None
    rand_bulk_max: float | None = None
    rand_bulk_min: float | None = None
    rand_mp_status: str | None = None
    evals: FloatArray = field(default_factory=lambda: np.empty(0), repr=False, compare=False)

    def record(self) -> dict[str, Any]:
        """The columns that were measured."""
        row = {column.name: getattr(self, column.name) for column in fields(self)}
        del row["evals"]
        return {column: value for column, value in row.items() if value is not None}

    def with_bulk(self, fit: MarchenkoPasturFit) -> "LayerSpectrum":
        """With the columns of `mp_fit`."""
        columns = asdict(fit)
        return replace(self, mp_status=columns.pop("status"), **columns)

    def with_randomized(self, randomized: RandomizedSpectrum) -> "LayerSpectrum":
        """With the columns of `randomize`."""
        bulk = asdict(randomized.bulk)
        bulk["mp_status"] = bulk.pop("status")
        return replace(
            self,
            rand_distance=randomized.rand_distance,
            ww_softrank=randomized.ww_softrank,
            ww_maxdist=randomized.ww_maxdist,
            max_rand_eval=randomized.max_rand_eval,
            num_traps=randomized.bulk.num_spikes,
            **{f"rand_{column}": value for column, value in bulk.items()},
        )


def layer_spectrum(
    values: FloatArray,
    *,
    name: str,
    kind: Kind,
    N: int,
    convention: Convention,
    layer_id: int = 0,
    slice_id: int | None = None,
    rf: int | None = None,
    epsilon: float = EXACT,
) -> LayerSpectrum:
    """The metrics of a layer.

    Args:
        values: The eigenvalues [matrices, M] of its matrices, ascending, scaled.
        name: See `LayerSpectrum`, as `kind`, `N`, `layer_id` and `slice_id`.
        kind: The kind of the layer.
        N: The larger side of each matrix.
        convention: Says what the floors are.
        layer_id: Its number.
        slice_id: The one kernel position that this is, if it is one.
        rf: Kernel positions of the layer; the number of matrices by default.
        epsilon: Of the precision that the eigenvalues were computed in. In float32 those below 8·ε
            of the largest are rounding, and no data for the power law.
    """
    count, smaller = values.shape
    evals = np.sort(values, axis=None)
    with np.errstate(over="ignore"):
        norm, largest = float(evals.sum()), float(evals[-1])
    if not math.isfinite(norm):
        raise OverflowError("the sum of its squares exceeds the range of float64")
    unit = convention.unit(largest)
    if largest > 0:
        unknown = 8 * epsilon * largest if epsilon > EXACT else 0.0
        fit = fit_power_law(evals, floor=max(convention.floor * unit, unknown))
    else:
        fit = PowerLawFit.failed("all values are zero", 0.0)
    least = values[:, 0].min() if convention.least_sv_min else values[:, 0].max()
    rank = _rank(evals, N, epsilon)
    log_largest = math.log10(largest) if largest > 0 else math.nan
    return LayerSpectrum(
        layer_id=layer_id,
        name=name,
        kind=kind,
        slice_id=slice_id,
        N=N,
        M=smaller,
        Q=N / smaller,
        rf=count if rf is None else rf,
        num_evals=evals.size,
        alpha=fit.alpha,
        xmin=fit.xmin,
        xmax=fit.xmax,
        D=fit.D,
        sigma=fit.sigma,
        num_pl_spikes=fit.num_pl_spikes,
        norm=norm,
        log_norm=math.log10(norm) if norm > 0 else math.nan,
        spectral_norm=largest,
        lambda_max=largest,
        log_spectral_norm=log_largest,
        alpha_weighted=fit.alpha * log_largest,
        log_alpha_norm=_log_alpha_norm(evals, fit.alpha),
        stable_rank=norm / largest if largest > 0 else math.nan,
        sv_max=math.sqrt(largest),
        sv_min=math.sqrt(least),
        rank_loss=values.size - sum(_rank(row, N, epsilon) for row in values),
        weak_rank_loss=int(np.count_nonzero((evals == 0) | (evals < convention.weak * unit))),
        matrix_rank=rank,
        entropy=_entropy(evals, rank, convention.entropy_offset),
        status=fit.status,
        warning=fit.warning,
        evals=evals,
    )


def _rank(evals: FloatArray, N: int, epsilon: float) -> int:
    """Eigenvalues of singular values above N·ε of the largest.

    In float32 it is the eigenvalues themselves that are known to N·ε: see `eigenvalues`.
    """
    values = np.sqrt(evals) if epsilon <= EXACT else evals
    return int(np.count_nonzero(values > values[-1] * N * epsilon))


def _entropy(evals: FloatArray, rank: int, offset: float) -> float:
    total = evals.sum()
    if total <= 0:
        return math.nan
    if rank < 2:
        return 0.0
    shares = evals / total + offset
    shares = shares[shares > 0]
    return -float((shares * np.log(shares)).sum()) / math.log(rank + offset)


def _log_alpha_norm(evals: FloatArray, alpha: float) -> float:
    """log10 Σλ^alpha, summed in the log domain, where a large alpha cannot overflow."""
    if math.isnan(alpha):
        return math.nan
    powers = alpha * np.log(evals[evals > 0])
    return float(powers[-1] + np.log(np.exp(powers - powers[-1]).sum())) / math.log(10)
