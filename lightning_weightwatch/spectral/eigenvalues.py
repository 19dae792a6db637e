"""The empirical spectral density (ESD) of a weight: the eigenvalues of WᵀW."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def eigenvalues(weight: Tensor) -> Tensor:
    """Eigenvalues of WᵀW, ascending, with WeightWatcher's conventions.

    A matrix [out, in] gives min(out, in) of them, with no division by its size. A convolution
    [out, in, kh, kw] is taken as kh·kw matrices [out, in], one per kernel position, whose
    eigenvalues are pooled and, as `conv2d_norm` of WeightWatcher 0.7.7 does, halved.

    The Gram matrix of the smaller side and a symmetric solver, in float64: exact to about 1e-12 of
    the largest eigenvalue, which no metric here can tell from the singular values squared.

    Args:
        weight: Real and finite, 2-D or 4-D, any floating dtype, on any device.

    Returns:
        float64 of length `min(out, in) · kh · kw` on the CPU, none negative.

    Raises:
        ValueError: For any other number of dimensions.

    Examples:
        >>> eigenvalues(torch.tensor([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]]))
        tensor([ 9., 16.], dtype=torch.float64)
    """
    if weight.ndim not in (2, 4):
        raise ValueError(
            f"weight must have 2 or 4 dimensions, got shape {tuple(weight.shape)}; "
            "reshape it to [out, in] first"
        )
    on_gpu = weight.device.type == "cuda"
    matrices = (weight if on_gpu else weight.cpu()).detach().double()
    if weight.ndim == 4:
        matrices = matrices.permute(2, 3, 0, 1).flatten(0, 1)
    if matrices.shape[-2] < matrices.shape[-1]:
        matrices = matrices.mT
    values = _on_gpu(matrices) if on_gpu else _on_cpu(matrices)
    if weight.ndim == 4:
        values = values / 2
    return values.flatten().clamp(min=0).sort().values


def _on_gpu(matrices: Tensor) -> Tensor:
    values: Tensor = torch.linalg.eigvalsh(matrices.mT @ matrices)
    return values.cpu()


def _on_cpu(matrices: Tensor) -> Tensor:
    """By numpy's BLAS on one thread.

    On two cores it is level with torch's; when another process wants the cores, the spinning
    threads of a parallel solver made a matrix of 512 x 512 take seconds in place of 13 ms. The
    limit holds for numpy's own BLAS only: torch's thread count is part of a run's bits.
    """
    from threadpoolctl import threadpool_limits  # sets an environment variable when imported

    array = matrices.numpy()
    with threadpool_limits(limits=1, user_api="blas"):
        values: NDArray[np.float64] = np.linalg.eigvalsh(array.swapaxes(-2, -1) @ array)
    on_cpu: Tensor = torch.from_numpy(values)
    return on_cpu
