"""What a layer would look like without its correlations: the spectrum of its shuffled matrices."""

import math
import zlib
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_weightwatch.spectral.marchenko_pastur import (
    MarchenkoPasturFit,
    fit_marchenko_pastur,
)
from lightning_weightwatch.spectral.workers import Call, Work

Array = NDArray[Any]
FloatArray = NDArray[np.float64]

# A layer of few eigenvalues is shuffled several times for its largest random eigenvalue.
_FEW_EVALS = 100
_REPLICAS = 5


@dataclass(frozen=True)
class RandomizedSpectrum:
    """A layer beside itself with the entries of each matrix shuffled.

    Attributes:
        rand_distance: Jensen–Shannon distance (natural logarithm; 0 to 0.83) between the two sorted
            spectra, each divided by its sum.
        ww_softrank: Largest random eigenvalue over the largest: near 1 where there is nothing but
            noise, near 0 where correlations lead.
        ww_maxdist: Largest eigenvalue minus the largest random one.
        max_rand_eval: Largest random eigenvalue; of 5 shuffles for layers with less than 100.
        bulk: The Marchenko–Pastur fit of the random spectrum. Its spikes are correlation traps:
            outliers that come from single large entries, not from correlations among them.
    """

    rand_distance: float
    ww_softrank: float
    ww_maxdist: float
    max_rand_eval: float
    bulk: MarchenkoPasturFit


def replicas(num_evals: int) -> int:
    """How often a layer of so many eigenvalues is shuffled for its largest random one."""
    return _REPLICAS if num_evals < _FEW_EVALS else 1


def shuffled(stack: Array, *, seed: int, name: str, replica: int) -> Work[Array]:
    """Each matrix of a stack with its entries shuffled, as work for several threads.

    The order depends on the seed, the name of the layer, the replica and the matrix, and on no
    other random number.
    """
    result = np.empty(stack.shape, stack.dtype)
    yield [
        Call(
            partial(
                _shuffle,
                stack[index],
                result[index],
                (seed, zlib.crc32(name.encode()), replica, index),
            )
        )
        for index in range(len(stack))
    ]
    return result


def _shuffle(matrix: Array, into: Array, key: tuple[int, ...]) -> None:
    into[...] = matrix
    np.random.default_rng(key).shuffle(into.reshape(-1))


def compare(
    evals: FloatArray, random: list[FloatArray], again: FloatArray, *, N: int, M: int
) -> RandomizedSpectrum:
    """A spectrum beside those of its shuffled matrices.

    Args:
        evals: The eigenvalues, in any order and scaled.
        random: Of each replica, scaled in the same way.
        again: Of one more shuffle, which the distances are taken from, as WeightWatcher does.
        N: The larger side of each matrix.
        M: The smaller one.
    """
    largest, largest_random = float(evals.max()), float(again.max())
    pooled = np.concatenate([values.ravel() for values in random])
    return RandomizedSpectrum(
        rand_distance=_jensen_shannon(np.sort(evals, axis=None), np.sort(again, axis=None)),
        ww_softrank=largest_random / largest if largest > 0 else math.nan,
        ww_maxdist=largest - largest_random,
        max_rand_eval=float(pooled.max()),
        bulk=fit_marchenko_pastur(pooled, N=N, M=M),
    )


def _jensen_shannon(p: FloatArray, q: FloatArray) -> float:
    """√(½ KL(p‖m) + ½ KL(q‖m)), m = (p + q)/2, each of the three normalised to sum 1."""
    if p.sum() <= 0 or q.sum() <= 0:
        return math.nan
    middle = (p + q) / (p + q).sum()
    halves = (_relative_entropy(p / p.sum(), middle), _relative_entropy(q / q.sum(), middle))
    return math.sqrt(max(sum(halves) / 2, 0.0))


def _relative_entropy(p: FloatArray, q: FloatArray) -> float:
    there = p > 0
    return float((p[there] * np.log(p[there] / q[there])).sum())
