"""Memory for the intermediate results of a block, and the arithmetic that is done in it."""

import threading

import torch
from torch import Tensor

from lightning_weightwatch.values.blocks import BLOCK
from lightning_weightwatch.values.cells import CELLS, Grid

_OF_THREAD = threading.local()


class Scratch:
    """Memory for the intermediate results of a block, written over by the next one.

    Args:
        size: Of the largest block.
        device: Where the blocks are.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self._doubles = torch.empty((3, size), dtype=torch.float64, device=device)
        # bincount takes twice as long over int64
        self._integers = torch.empty(size, dtype=torch.int32, device=device)
        self._flags = torch.empty(size, dtype=torch.bool, device=device)
        self._fit(size)

    def _fit(self, size: int) -> None:
        """Take as much as a block needs; nearly always it is as much as the last one needed."""
        self._size = size
        self._exact, self._one, self._other = self._doubles[:, :size].unbind()
        self._cells, self._chosen = self._integers[:size], self._flags[:size]

    def exact(self, block: Tensor) -> Tensor:
        """The block in float64; the weights themselves where they are: not to be written to."""
        if block.numel() != self._size:
            self._fit(block.numel())
        return block if block.dtype == torch.float64 else self._exact.copy_(block)

    def cells_of(self, in_units: Tensor, grid: Grid) -> Tensor:
        """The cell of each value."""
        places = torch.sub(in_units, grid.base, out=self._one).mul_(grid.scale)
        if grid.clamped:
            places.clamp_(0, CELLS + 1)
        return self._cells.copy_(places)

    def chosen(self, marked: Tensor) -> Tensor:
        """Whether the cell of each value, as `cells_of` found it, is marked."""
        return torch.index_select(marked, 0, self._cells, out=self._chosen)

    def sums_of(self, values: Tensor) -> list[Tensor]:
        """Σx, Σ(x − mean)², ... ³, ... ⁴, still where the block is."""
        total = values.sum()
        centred = torch.sub(values, total / values.numel(), out=self._one)
        square = torch.mul(centred, centred, out=self._other)
        # not torch.dot: how BLAS adds up may depend on its threads
        return [total, square.sum(), centred.mul_(square).sum(), square.mul_(square).sum()]


def scratch_of(size: int, device: torch.device) -> Scratch:
    """Memory for blocks of up to `size` values, of this thread alone.

    On the CPU it is kept: fresh memory costs a page fault for every 4 kB, as much time as all that
    is done in it.
    """
    if device.type != "cpu":
        return Scratch(size, device)
    kept: Scratch | None = getattr(_OF_THREAD, "kept", None)
    if kept is None:
        with torch.inference_mode(False):  # else it could be written to in that mode alone
            kept = _OF_THREAD.kept = Scratch(BLOCK, device)
    return kept
