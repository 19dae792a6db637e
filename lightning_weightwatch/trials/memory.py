"""Memory for the intermediate results of blocks, written over by the next block."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


class Memory:
    """Memory by the names of what is kept there, as large as the largest that was.

    Fresh memory for every block would cost page faults, and the heap would grow by the block: glibc
    before 2.38 cannot reuse an aligned piece once something small lies behind it. Here blocks come
    in many shapes, one after another; those of `values.scratch` are flat and nearly all of one
    size, for which it keeps the views.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def empty(
        self, name: str, shape: Sequence[int], dtype: torch.dtype, device: torch.device
    ) -> Tensor:
        """A tensor with anything in it, which is that of the last call for this name."""
        size = math.prod(shape) * dtype.itemsize
        kept = self._kept.get(name)
        if kept is None or kept.device != device or kept.numel() < size:
            kept = self._kept[name] = torch.empty(size, dtype=torch.uint8, device=device)
        return kept[:size].view(dtype).view(tuple(shape))

    def like(self, name: str, other: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """The same, of the shape and the device of another tensor."""
        return self.empty(name, other.shape, dtype or other.dtype, other.device)
