"""Eigenvalues are the squared singular values that numpy's SVD finds, whatever holds the matrix."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_info
from torch import Tensor, nn

from lightning_weightwatch.spectral.eigenvalues import (
    NotFinite,
    array_of,
    eigenvalues,
    eigenvalues_on_cpu,
    eigenvalues_on_device,
    one_blas_thread,
)
from lightning_weightwatch.spectral.workers import run_all

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
FLOAT8 = [torch.float8_e4m3fn, torch.float8_e5m2]
COMPLEX = [torch.complex64, torch.complex128]
PRECISIONS = [torch.float64, torch.float32]


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def exact(matrices: Tensor) -> NDArray[np.float64]:
    """The squares of the singular values, by LAPACK's SVD in double precision and nothing else."""
    wide = torch.complex128 if matrices.is_complex() else torch.float64
    singular = np.linalg.svd(matrices.detach().to(wide).numpy(), compute_uv=False)
    return np.asarray(singular[..., ::-1] ** 2)


def assert_equal_spectra(found: Tensor, expected: NDArray[np.float64], within: float) -> None:
    assert tuple(found.shape) == expected.shape
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=within * expected.max())


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize(
    "shape",
    [
        *[(40, 40), (300, 20), (20, 300), (1, 9), (9, 1), (1, 1)],
        *[(9, 64, 32), (2, 3, 5, 4), (3, 1, 8), (2, 8500, 5)],
        *[(8191, 6), (8192, 6), (6, 9000), (12_289, 3)],  # tall ones are read in chunks
    ],
    ids=str,
)
def test_eigenvalues_are_squared_singular_values(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    matrices = drawn(*shape)
    found = eigenvalues(matrices, dtype=dtype)
    assert_equal_spectra(found, exact(matrices), 1e-12 if dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize("dtype", [*FLOATS, *FLOAT8, *COMPLEX])
@pytest.mark.parametrize("shape", [(30, 20), (20, 30), (3, 12, 12), (8200, 4)], ids=str)
def test_every_floating_dtype_is_read_as_it_stands(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    weight = drawn(*shape) + (1j * drawn(*shape, seed=2) if dtype.is_complex else 0)
    weight = weight.to(dtype)
    assert_equal_spectra(eigenvalues(weight), exact(weight), 1e-12)


@pytest.mark.parametrize(
    "view",
    [
        lambda w: w.T,
        lambda w: w[::2, 1::3],
        lambda w: w[:1].expand(24, -1),
        lambda w: w.view(4, 6, 4, 9).permute(3, 1, 0, 2),
        lambda w: torch.complex(w, w + 1).conj(),
        lambda w: torch.complex(w, w.flip(0)).conj().imag,
    ],
    ids=["transposed", "strided", "expanded", "permuted kernel", "conjugated", "negated"],
)
def test_the_layout_in_memory_does_not_matter(view: Callable[[Tensor], Tensor]) -> None:
    weight = view(drawn(24, 36))
    assert_equal_spectra(eigenvalues(weight), exact(weight), 1e-12)


def test_a_known_spectrum_is_returned_exactly() -> None:
    weight = torch.zeros(5, 3, dtype=torch.float64)
    weight[0, 2], weight[4, 0], weight[2, 1] = 3.0, -0.5, 1e-3
    expected = torch.tensor([1e-6, 0.25, 9.0], dtype=torch.float64)
    assert torch.allclose(eigenvalues(weight), expected, rtol=1e-14, atol=0)


def test_every_matrix_of_a_stack_counts_by_itself() -> None:
    stack = torch.stack([torch.diag(torch.tensor([1.0, 2.0, 3.0])), torch.zeros(3, 3)])
    assert eigenvalues(stack).tolist() == [[1.0, 4.0, 9.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize("shape", [(60, 60), (90, 60), (60, 90), (9000, 60)], ids=str)
def test_a_rank_deficient_matrix_has_zeros_that_are_told_from_small_values(
    shape: tuple[int, int],
) -> None:
    rows, columns = shape
    thin = drawn(rows, 3).double() @ drawn(3, columns, seed=2).double()
    found = eigenvalues(thin)
    assert (found >= 0).all()
    roots = found.sqrt()
    assert int((roots > roots.max() * max(shape) * torch.finfo(torch.float64).eps).sum()) == 3


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 3, 5), (2, 0, 4)], ids=str)
def test_nothing_has_no_eigenvalues(shape: tuple[int, ...]) -> None:
    assert eigenvalues(torch.zeros(shape)).shape == torch.linalg.svdvals(torch.zeros(shape)).shape


def test_they_are_sorted_float64_on_the_cpu_without_a_graph() -> None:
    found = eigenvalues(nn.Parameter(torch.randn(2, 2, 10, 6)))
    assert (found.dtype, found.device.type, found.requires_grad) == (torch.float64, "cpu", False)
    assert torch.equal(found, found.sort().values)


@pytest.mark.parametrize("shape", [(), (4,)], ids=str)
def test_fewer_than_two_dimensions_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"2 dimensions or more, got shape \("):
        eigenvalues(torch.zeros(shape))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("dtype", [*FLOATS, *FLOAT8, *COMPLEX])
@pytest.mark.parametrize("shape", [(30, 20), (9000, 3)], ids=str)
def test_what_is_not_finite_is_counted(
    shape: tuple[int, int], dtype: torch.dtype, precision: torch.dtype
) -> None:
    weight = drawn(*shape)
    weight[3, 2], weight[-1, 0] = math.nan, math.nan
    total = math.prod(shape)
    with pytest.raises(NotFinite, match=rf"^2 of {total} values are NaN or infinite$"):
        eigenvalues(weight.to(dtype), dtype=precision)
    if dtype == torch.float8_e4m3fn:  # has no infinity
        return
    weight[3, 2], weight[-1, 0], weight[-1, 1] = math.inf, -math.inf, math.inf
    with pytest.raises(NotFinite, match=rf"^3 of {total} values are NaN or infinite$"):
        eigenvalues(weight.to(dtype), dtype=precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", [(12, 8), (8200, 3)], ids=str)
@pytest.mark.parametrize("scale", [1e-100, 1e-30, 1e-20, 1e20, 1e30, 1e100])
def test_no_scale_of_float64_weights_is_lost(
    scale: float, shape: tuple[int, int], precision: torch.dtype
) -> None:
    weight = scale * drawn(*shape).double()
    within = 1e-12 if precision == torch.float64 else 1e-5
    assert_equal_spectra(eigenvalues(weight, dtype=precision), exact(weight), within)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_squares_beyond_the_range_of_floats_are_named(precision: torch.dtype) -> None:
    weight = 1e200 * drawn(12, 8).double()
    with pytest.raises(NotFinite, match="squares of its values exceed the range of float64"):
        eigenvalues(weight, dtype=precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "shape", [(2, 30, 20), (20, 30, 30), (1, 20_000, 7), (300, 5, 60)], ids=str
)
def test_neither_threads_nor_memory_change_a_bit(
    shape: tuple[int, int, int], precision: torch.dtype
) -> None:
    stacks = [array_of(drawn(*shape, seed=seed)) for seed in range(3)]
    dtype = np.float32 if precision == torch.float32 else np.float64

    def found(threads: int, memory: int | None) -> list[NDArray[np.float64]]:
        with one_blas_thread():
            works = (eigenvalues_on_cpu(stack, dtype) for stack in stacks)
            return run_all(works, threads=threads, memory=memory)

    alone = found(1, None)
    for threads in (1, 2, 3):
        for memory in (None, 0, 100_000):
            np.testing.assert_array_equal(found(threads, memory), alone)
    for stack, values in zip(stacks, alone, strict=True):
        assert torch.equal(
            eigenvalues(torch.from_numpy(stack), dtype=precision), torch.from_numpy(values)
        )


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float8_e5m2, torch.complex64]
)
def test_on_a_device_they_are_the_same_in_one_batch(dtype: torch.dtype) -> None:
    deficient = torch.cat([drawn(1, 12, 7), torch.zeros(1, 12, 7)])
    stacks = [drawn(3, 12, 7).to(dtype), drawn(2, 7, 12, seed=2).to(dtype), deficient.to(dtype)]
    stacks[2][0, :, 3] = stacks[2][0, :, 5]  # one column twice: singular
    found = eigenvalues_on_device(stacks)
    assert [values.shape for values in found] == [(3, 7), (2, 7), (2, 7)]
    for values, stack in zip(found, stacks, strict=True):
        assert_equal_spectra(torch.from_numpy(values), exact(stack), 1e-12)
    assert found[2][0, 0] < 1e-27 * found[2][0, -1]


def test_on_a_device_float32_is_close() -> None:
    stack = drawn(3, 40, 30)
    (found,) = eigenvalues_on_device([stack], torch.float32)
    assert_equal_spectra(torch.from_numpy(found), exact(stack), 1e-5)


def test_on_a_device_one_matrix_that_is_not_finite_is_told() -> None:
    bad = torch.full((1, 4, 4), math.inf)
    with pytest.raises(NotFinite):
        eigenvalues_on_device([drawn(1, 4, 4), bad])


def test_neither_the_weight_nor_the_generator_nor_the_threads_are_touched() -> None:
    weight = torch.randn(50, 50, dtype=torch.float64)
    before = weight.clone()
    random_state = torch.get_rng_state()
    threads = torch.get_num_threads(), [pool["num_threads"] for pool in threadpool_info()]
    eigenvalues(weight)
    assert torch.equal(weight, before)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert (
        torch.get_num_threads(),
        [pool["num_threads"] for pool in threadpool_info()],
    ) == threads


def blas_threads() -> list[int]:
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


def test_of_two_that_limit_the_blas_at_once_the_last_one_lifts_the_limit() -> None:
    before = blas_threads()
    first, second = one_blas_thread(), one_blas_thread()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert set(blas_threads()) == {1}
    second.__exit__(None, None, None)
    assert blas_threads() == before
    with one_blas_thread():
        assert set(blas_threads()) == {1}
    assert blas_threads() == before
