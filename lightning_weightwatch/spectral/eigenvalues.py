"""The eigenvalues of WᵀW: squared singular values, through the Gram matrix of the smaller side."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_weightwatch.spectral.workers import Call, Work, run_one

Array = NDArray[Any]
FloatArray = NDArray[np.float64]

#: Below this share of the largest eigenvalue a Gram matrix in float64 tells little more than that
#: an eigenvalue is small: the singular values themselves are computed then.
DEFICIENT = 1e-10
#: Of weights that numpy reads where they lie; of others it is given a copy.
NUMPY_DTYPES = (torch.float16, torch.float32, torch.float64, torch.complex64, torch.complex128)
# Matrices are handed to the workers in groups of about this many multiplications ...
_GROUP_WORK = 20_000_000
# ... and a tall one in chunks of at least this many rows, so that no core is left idle.
_CHUNK_ROWS = 4096
# What is copied at a time out of interleaved matrices, to stay in a cache; so often in a call.
_CACHED_BYTES = 1 << 19
_CACHED_PER_CALL = 16
# Numbers up to which numpy's solvers keep Python's lock.
_UNLOCKED = 500
_TOO_LARGE = "the squares of its values exceed the range of float64"


class NotFinite(ValueError):
    """A matrix has NaN or infinite entries, or its squares exceed the range of floats."""


def eigenvalues(matrices: Tensor, *, dtype: torch.dtype = torch.float64) -> Tensor:
    """Eigenvalues of WᵀW (or WWᵀ, whichever is smaller), ascending, without any scaling.

    Exact to about 1e-13 of the largest one. A matrix with an eigenvalue below 1e-10 of its largest
    gets a singular value decomposition, so that ranks can be told: the square of a singular value
    of 0 is then below 1e-27 of it.

    Args:
        matrices: [..., rows, columns], real or complex, any floating dtype, on any device.
        dtype: `torch.float64`, or `torch.float32`, which takes half of the time, is exact to about
            1e-6 of the largest eigenvalue and tells no ranks.

    Returns:
        float64 [..., min(rows, columns)] on the CPU, none negative.

    Raises:
        ValueError: For fewer than 2 dimensions.
        NotFinite: A `ValueError`: for entries that are NaN or infinite, or whose squares are.

    Examples:
        >>> eigenvalues(torch.tensor([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]]))
        tensor([ 9., 16.], dtype=torch.float64)
    """
    if matrices.ndim < 2:
        raise ValueError(
            f"matrices must have 2 dimensions or more, got shape {tuple(matrices.shape)}"
        )
    if matrices.numel() == 0:
        return torch.zeros(*matrices.shape[:-2], min(matrices.shape[-2:]), dtype=torch.float64)
    stack = matrices.detach().flatten(0, -3) if matrices.ndim > 2 else matrices.detach()[None]
    if stack.device.type == "cuda":
        values = eigenvalues_on_device([stack], dtype)[0]
    else:
        with one_blas_thread():
            values = run_one(eigenvalues_on_cpu(array_of(stack), numpy_dtype(dtype)))
    return torch.from_numpy(values).reshape(*matrices.shape[:-2], -1)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """A context in which numpy's BLAS stays on the thread that calls it.

    The limit holds for numpy's own BLAS only: torch's thread count is part of a run's bits. It is
    one for the whole process: of several threads in this context, the first sets it and the last
    lifts it.
    """
    from threadpoolctl import threadpool_limits  # sets an environment variable when imported

    with _limit.lock:
        if _limit.users == 0:
            _limit.lift = threadpool_limits(limits=1, user_api="blas").restore_original_limits
        _limit.users += 1
    try:
        yield
    finally:
        with _limit.lock:
            _limit.users -= 1
            if _limit.users == 0:
                _limit.lift()


class _Limit:
    """Who needs the limit on numpy's BLAS at present, and how it is lifted."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.users = 0
        self.lift: Callable[[], None] = lambda: None


_limit = _Limit()


def numpy_dtype(dtype: torch.dtype) -> type[np.floating[Any]]:
    """The numpy type of one of the two precisions."""
    return np.float32 if dtype == torch.float32 else np.float64


def array_of(values: Tensor) -> Array:
    """A tensor as a numpy array, a view where numpy knows its dtype."""
    values = values.detach().cpu()
    if values.dtype not in NUMPY_DTYPES:  # bfloat16, float8
        values = values.float()
    array: Array = values.resolve_conj().resolve_neg().numpy()
    return array


def eigenvalues_on_cpu(
    stack: Sequence[Array] | Array, dtype: type[np.floating[Any]] = np.float64
) -> Work[FloatArray]:
    """The eigenvalues [count, M] of matrices of one shape, as work for several threads.

    Yields lists of independent calls and is sent their results. How the matrices are divided
    depends on their shape alone, and the values of each on nothing but itself.

    numpy's BLAS, each call on one thread: its `A.T @ A` is a symmetric rank-k update. torch's took
    half as long again, and its spinning threads wait for cores that another process has.

    Args:
        stack: [count, rows, columns], or a list of [rows, columns].
        dtype: The precision, see `eigenvalues`.
    """
    length, side = max(stack[0].shape), min(stack[0].shape)
    item = np.dtype(dtype).itemsize
    chunk = max(_CHUNK_ROWS, 2 * side)
    if length < 2 * chunk:
        stack = yield from _without_gaps(stack)
        group = max(shared_call(side), _GROUP_WORK // (length * side * side + 8 * side**3))
        results = yield [
            Call(
                partial(_of_group, stack[start : start + group], dtype),
                group * item * side * (length + side),
            )
            for start in range(0, len(stack), group)
        ]
        return np.concatenate(results)
    values: list[FloatArray] = []
    for matrix in stack:
        upright = matrix if matrix.shape[0] == length else matrix.T
        grams = yield [
            Call(
                partial(_gram_of_rows, upright[start : start + chunk], dtype),
                item * side * (chunk + side),
            )
            for start in range(0, length, chunk)
        ]
        values += yield [Call(partial(_of_grams, grams, matrix), 2 * item * side * side)]
    return np.stack(values)


def _without_gaps(stack: Sequence[Array] | Array) -> Work[Sequence[Array] | Array]:
    """The matrices one after the other: kernel positions lie interleaved in a convolution.

    Rows of all matrices are copied together, as many as a cache holds, so that each line of the
    weight is fetched from memory once, not once for each position.
    """
    if not isinstance(stack, np.ndarray) or stack.itemsize in stack.strides[1:]:
        return stack
    result = np.empty(stack.shape, stack.dtype)
    rows = max(1, _CACHED_BYTES * stack.shape[1] // max(stack.nbytes, 1))
    yield [
        Call(partial(_copy_rows, stack, result, start, start + _CACHED_PER_CALL * rows, rows))
        for start in range(0, stack.shape[1], _CACHED_PER_CALL * rows)
    ]
    return result


def _copy_rows(stack: Array, into: Array, start: int, stop: int, step: int) -> None:
    for row in range(start, min(stop, stack.shape[1]), step):
        block = slice(row, min(row + step, stop))
        into[:, block] = stack[:, block]


def shared_call(side: int) -> int:
    """How many matrices one call must have at least for other threads to run beside it.

    numpy's solvers let go of Python's lock only where they return more than 500 numbers.
    """
    return _UNLOCKED // side + 1


def _of_group(group: Sequence[Array] | Array, dtype: type[np.floating[Any]]) -> FloatArray:
    precise = np.empty((len(group), *_rows_first(group[0]).shape), _precision(group, dtype))
    with np.errstate(all="ignore"):  # a float64 that exceeds the range of float32, a signaling NaN
        for index, matrix in enumerate(group):
            precise[index] = matrix if matrix.shape == precise.shape[1:] else matrix.T
    grams = _gram(precise, wide=precise.shape[1] < precise.shape[2])
    del precise
    values, unsure = _of_gram(grams)
    del grams
    return _completed(values, unsure, group)


def _rows_first(matrix: Array) -> Array:
    """The matrix or its transpose, whichever has its rows in one piece."""
    return matrix if matrix.strides[1] <= matrix.strides[0] else matrix.T


def _gram_of_rows(rows: Array, dtype: type[np.floating[Any]]) -> Array:
    return _gram(_in_precision(rows, dtype), wide=False)


def _of_grams(grams: list[Array], matrix: Array) -> FloatArray:
    total = grams[0]
    with np.errstate(all="ignore"):
        for gram in grams[1:]:  # in their order: the sum does not depend on the threads
            total += gram
    completed: FloatArray = _completed(*_of_gram(total[None]), [matrix])[0]
    return completed


def _precision(matrices: Sequence[Array] | Array, dtype: type[np.floating[Any]]) -> Any:
    is_complex = any(np.iscomplexobj(matrix) for matrix in matrices)
    return np.result_type(dtype, np.complex64) if is_complex else np.dtype(dtype)


def _in_precision(values: Array, dtype: type[np.floating[Any]]) -> Array:
    with np.errstate(all="ignore"):  # a float64 that exceeds the range of float32, a signaling NaN
        return np.ascontiguousarray(values, dtype=_precision([values], dtype))


def _gram(matrices: Array, *, wide: bool) -> Array:
    """The Gram matrix AᵀA of each, or AAᵀ, which is the smaller one where they are wide."""
    others = matrices.swapaxes(-2, -1)
    if np.iscomplexobj(matrices):
        others = others.conj()
    with np.errstate(all="ignore"):  # what is not finite shows in the trace
        product: Array = matrices @ others if wide else others @ matrices
    return product


def _of_gram(grams: Array) -> tuple[FloatArray, NDArray[np.bool_]]:
    """The eigenvalues of Gram matrices, and of which ones they tell too little.

    That is of rank-deficient ones, and of those whose squares left the range of floats: NaN then.
    """
    traces = np.einsum("nii->n", grams).real
    if not np.isfinite(traces).all():
        return np.full(grams.shape[:2], np.nan), np.ones(len(grams), dtype=bool)
    values: FloatArray = np.linalg.eigvalsh(grams).astype(np.float64, copy=False)
    np.maximum(values, 0, out=values)
    if grams.dtype in (np.float64, np.complex128):
        return values, values[:, 0] < DEFICIENT * values[:, -1]
    limits = np.finfo(np.float32)
    return values, traces < limits.tiny / limits.eps


def _completed(
    values: FloatArray, unsure: NDArray[np.bool_], matrices: Sequence[Array] | Array
) -> FloatArray:
    """With the squared singular values of the matrices that their Gram matrix told too little of.

    Raises:
        NotFinite: If these have NaN or infinite entries, or their squares leave float64 too.
    """
    if np.isnan(values).any():
        bad = sum(matrix.size - int(np.isfinite(matrix).sum()) for matrix in matrices)
        if bad:
            size = sum(matrix.size for matrix in matrices)
            raise NotFinite(f"{bad} of {size} values are NaN or infinite")
    for index in np.flatnonzero(unsure).tolist():
        values[index] = _by_singular_values(matrices[index])
    return values


def _by_singular_values(matrix: Array) -> FloatArray:
    singular = np.linalg.svd(_in_precision(matrix, np.float64), compute_uv=False)
    with np.errstate(all="ignore"):
        squares: FloatArray = singular[::-1] ** 2
    if not np.isfinite(squares).all():
        raise NotFinite(_TOO_LARGE)
    return squares


def eigenvalues_on_device(
    stacks: Sequence[Tensor], dtype: torch.dtype = torch.float64
) -> list[FloatArray]:
    """The same for stacks whose matrices have one shape, in one batch, where the stacks are.

    Args:
        stacks: Each [count, rows, columns].
        dtype: The precision, see `eigenvalues`.

    Returns:
        For each stack its eigenvalues [count, M].
    """
    with torch.autocast(stacks[0].device.type, enabled=False):
        grams = torch.cat([_gram_on_device(stack, dtype) for stack in stacks])
        if not bool(torch.isfinite(grams).all()):
            raise NotFinite("some values are NaN or infinite, or their squares are")
        found: FloatArray = torch.linalg.eigvalsh(grams).clamp(min=0).double().cpu().numpy()
    if dtype == torch.float64:
        matrices = [matrix for stack in stacks for matrix in stack]
        for index in np.flatnonzero(found[:, 0] < DEFICIENT * found[:, -1]):
            singular = torch.linalg.svdvals(_precise(matrices[index], dtype))
            found[index] = singular.square().flip(0).cpu().numpy()
    return np.split(found, np.cumsum([len(stack) for stack in stacks])[:-1])


def _gram_on_device(stack: Tensor, dtype: torch.dtype) -> Tensor:
    matrices = _precise(stack, dtype)
    if matrices.shape[-2] < matrices.shape[-1]:
        matrices = matrices.mT
    return matrices.mH @ matrices


def _precise(values: Tensor, dtype: torch.dtype) -> Tensor:
    return values.to(torch.complex128 if values.is_complex() else dtype)
