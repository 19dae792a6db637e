"""Eigenvalues are the squared singular values that numpy's SVD finds, kernels pooled and halved."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_info
from torch import Tensor, nn

from lightning_weightwatch.spectral.eigenvalues import eigenvalues


def exact(weight: Tensor) -> NDArray[np.float64]:
    """The squares of the singular values, by LAPACK's SVD in float64 and nothing else."""
    array = weight.detach().double().numpy()
    if array.ndim == 2:
        squares = np.linalg.svd(array, compute_uv=False) ** 2
    else:
        _, _, height, width = array.shape
        positions = [array[:, :, i, j] for i in range(height) for j in range(width)]
        squares = np.concatenate(
            [np.linalg.svd(slice_, compute_uv=False) ** 2 / 2 for slice_ in positions]
        )
    return np.sort(squares)


def assert_equal_spectra(found: Tensor, expected: NDArray[np.float64]) -> None:
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-12 * expected.max())


@pytest.mark.parametrize(
    "shape",
    [
        (40, 40),
        (300, 20),
        (20, 300),
        (1, 9),
        (9, 1),
        (64, 32, 3, 3),
        (32, 64, 3, 3),
        (32, 64, 2, 2),
        (16, 3, 7, 7),
        (24, 12, 1, 1),
        (12, 1, 3, 3),
        (6, 5, 1, 4),
    ],
    ids=str,
)
def test_eigenvalues_are_squared_singular_values(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    assert_equal_spectra(eigenvalues(weight), exact(weight))


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2]
)
def test_every_floating_dtype_is_read_as_it_stands(dtype: torch.dtype) -> None:
    weight = torch.randn(30, 20, generator=torch.Generator().manual_seed(2)).to(dtype)
    assert_equal_spectra(eigenvalues(weight), exact(weight))


@pytest.mark.parametrize(
    "view",
    [
        lambda w: w.T,
        lambda w: w[::2, 1::3],
        lambda w: w[:1].expand(24, -1),
        lambda w: w.view(4, 6, 4, 9).permute(3, 1, 0, 2),
    ],
    ids=["transposed", "strided", "expanded", "permuted kernel"],
)
def test_the_layout_in_memory_does_not_matter(view: Callable[[Tensor], Tensor]) -> None:
    weight = view(torch.randn(24, 36, generator=torch.Generator().manual_seed(3)))
    assert_equal_spectra(eigenvalues(weight), exact(weight))


def test_a_known_spectrum_is_returned_exactly() -> None:
    weight = torch.zeros(5, 3, dtype=torch.float64)
    weight[0, 2], weight[4, 0], weight[2, 1] = 3.0, -0.5, 1e-3
    expected = torch.tensor([1e-6, 0.25, 9.0], dtype=torch.float64)
    assert torch.allclose(eigenvalues(weight), expected, rtol=1e-14, atol=0)


def test_one_by_one_kernels_are_half_of_the_matrix() -> None:
    matrix = torch.randn(12, 20, generator=torch.Generator().manual_seed(4))
    assert torch.equal(eigenvalues(matrix[:, :, None, None]), eigenvalues(matrix) / 2)


def test_every_kernel_position_counts_by_itself() -> None:
    kernel = torch.zeros(3, 3, 1, 2)
    kernel[:, :, 0, 0] = torch.diag(torch.tensor([1.0, 2.0, 3.0]))
    kernel[:, :, 0, 1] = torch.diag(torch.tensor([4.0, 5.0, 6.0]))
    assert eigenvalues(kernel).tolist() == [0.5, 2.0, 4.5, 8.0, 12.5, 18.0]


def test_a_rank_deficient_matrix_has_no_negative_eigenvalue() -> None:
    thin = torch.randn(60, 3, generator=torch.Generator().manual_seed(5))
    found = eigenvalues(thin @ thin.T)
    assert (found >= 0).all()
    assert int((found > 1e-9 * found.max()).sum()) == 3


def test_they_are_sorted_float64_on_the_cpu_without_a_graph() -> None:
    found = eigenvalues(nn.Parameter(torch.randn(10, 6, 2, 2)))
    assert (found.dtype, found.device.type, found.requires_grad) == (torch.float64, "cpu", False)
    assert torch.equal(found, found.sort().values)


@pytest.mark.parametrize("shape", [(), (4,), (4, 4, 4), (2, 2, 2, 2, 2)], ids=str)
def test_other_shapes_are_refused_with_the_way_out(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"2 or 4 dimensions, got shape \(.*reshape it to"):
        eigenvalues(torch.zeros(shape))


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
