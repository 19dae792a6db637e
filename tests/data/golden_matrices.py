"""Rebuilds the arrays behind golden_weightwatcher.json with numpy alone.

A recipe is ``{"kind": <a builder>, "seed": int, "shape": [...], **parameters}``. Every builder
works in float64 with ``numpy.random.default_rng(seed)`` and element-wise operations only (no BLAS,
no LAPACK; norms by ``math.fsum``), so that the float32 arrays are bit-identical wherever numpy's
streams and ``pow``, ``log``, ``exp`` agree. A matrix is [out, in], a kernel [out, in, kh, kw].

``GOLDEN[name]`` holds WeightWatcher's columns by mode: ``default``, ``mp_fit``, ``randomize``
(None where it left the layer out), ``randomize_seeds`` (mean, min and max over five seeds; None
where it was not run) and, for kernels alone, ``nopool``: a list of rows, one a kernel position.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

GOLDEN: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "golden_weightwatcher.json").read_text(encoding="utf-8")
)["matrices"]


def build(name: str) -> NDArray[np.float32]:
    """The array of a golden matrix."""
    recipe = dict(GOLDEN[name]["recipe"])
    builder = _BUILDERS[recipe.pop("kind")]
    return np.ascontiguousarray(builder(**recipe).astype(np.float32))


def spectrum(array: NDArray[Any]) -> Array:
    """The eigenvalues that WeightWatcher fits, by LAPACK in float64.

    The squared singular values of a matrix; half of those of all positions of a kernel, pooled.
    """
    if array.ndim == 2:
        return np.asarray(np.linalg.svd(array.astype(float), compute_uv=False) ** 2)
    positions = array.astype(float).transpose(2, 3, 0, 1)
    return np.asarray(np.linalg.svd(positions, compute_uv=False).ravel() ** 2 / 2)


def tolerance(name: str, array: NDArray[np.float32]) -> float:
    """The relative tolerance that its golden values deserve on this machine."""
    same_bits = hashlib.sha256(array.tobytes()).hexdigest() == GOLDEN[name]["sha256"]
    return 1e-9 if same_bits else 1e-6


def _unit(v: Array) -> Array:
    """A vector over its length, with an exactly rounded sum of squares."""
    return v / math.sqrt(math.fsum((v * v).tolist()))


def _rank_one(rng: np.random.Generator, shape: Sequence[int]) -> Array:
    u = _unit(rng.standard_normal(shape[0]))
    v = _unit(rng.standard_normal(shape[1]))
    return np.asarray(u[:, None] * v[None, :])


def _gaussian(seed: int, shape: Sequence[int], std: float) -> Array:
    return np.asarray(std * np.random.default_rng(seed).standard_normal(tuple(shape)))


def _uniform(seed: int, shape: Sequence[int], bound: float) -> Array:
    return np.asarray(bound * (2.0 * np.random.default_rng(seed).random(tuple(shape)) - 1.0))


def _pareto(seed: int, shape: Sequence[int], mu: float, scale: float) -> Array:
    """Symmetric Pareto entries: P(|w| > t) = (t / scale)^-mu."""
    rng = np.random.default_rng(seed)
    u, s = rng.random(tuple(shape)), rng.random(tuple(shape))
    return np.asarray(np.where(s < 0.5, -1.0, 1.0) * scale * (1.0 - u) ** (-1.0 / mu))


def _spiked(seed: int, shape: Sequence[int], std: float, spikes: Sequence[float]) -> Array:
    """A Gaussian bulk and a rank-one term of each strength."""
    rng = np.random.default_rng(seed)
    matrix = std * rng.standard_normal(tuple(shape))
    for theta in spikes:
        matrix = matrix + theta * _rank_one(rng, shape)
    return np.asarray(matrix)


def _lowrank(seed: int, shape: Sequence[int], rank: int, decay: float, noise: float) -> Array:
    """A sum over k of k^-decay times a rank-one term, and noise."""
    rng = np.random.default_rng(seed)
    matrix = np.zeros(tuple(shape))
    for k in range(1, rank + 1):
        matrix = matrix + (float(k) ** -decay) * _rank_one(rng, shape)
    if noise > 0:
        matrix = matrix + noise * rng.standard_normal(tuple(shape))
    return matrix


def _trained(
    seed: int, shape: Sequence[int], std: float, rank: int, top: float, decay: float
) -> Array:
    """Like a trained layer: a Gaussian start and a heavy-tailed update of low rank."""
    rng = np.random.default_rng(seed)
    matrix = std * rng.standard_normal(tuple(shape))
    for k in range(1, rank + 1):
        matrix = matrix + (top * float(k) ** -decay) * _rank_one(rng, shape)
    return np.asarray(matrix)


def _rowscaled(seed: int, shape: Sequence[int], std: float, sigma_log: float) -> Array:
    """Gaussian rows, each multiplied by exp(sigma_log · z)."""
    rng = np.random.default_rng(seed)
    matrix = std * rng.standard_normal(tuple(shape))
    z = rng.standard_normal(shape[0])
    return np.asarray(matrix * np.exp(sigma_log * z)[:, None])


def _diag_pareto(seed: int, shape: Sequence[int], alpha: float, xmin: float) -> Array:
    """A permuted diagonal whose squares are the quantiles of a power law."""
    rng = np.random.default_rng(seed)
    rows, columns = shape
    k = min(rows, columns)
    evals = xmin * (1.0 - (np.arange(k) + 0.5) / k) ** (-1.0 / (alpha - 1.0))
    p, q = rng.permutation(rows)[:k], rng.permutation(columns)[:k]
    matrix = np.zeros((rows, columns))
    matrix[p, q] = np.sqrt(evals)
    return matrix


def _diag_values(seed: int, shape: Sequence[int], values: Sequence[float]) -> Array:
    matrix = np.zeros(tuple(shape))
    matrix[range(len(values)), range(len(values))] = values
    return matrix


def _constant(seed: int, shape: Sequence[int], value: float) -> Array:
    return np.full(tuple(shape), value)


_BUILDERS: Mapping[str, Callable[..., Array]] = {
    "gaussian": _gaussian,
    "uniform": _uniform,
    "pareto": _pareto,
    "spiked": _spiked,
    "lowrank": _lowrank,
    "trained": _trained,
    "rowscaled": _rowscaled,
    "diag_pareto": _diag_pareto,
    "diag_values": _diag_values,
    "constant": _constant,
}
