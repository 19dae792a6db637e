"""What is known of the outputs of a layer, call after call; what is small is read together."""

import math

import torch
from torch import Tensor

from lightning_weightwatch.usage.channel_reading import Reading, Scratch, read, together
from lightning_weightwatch.usage.channel_sums import ChannelSums
from lightning_weightwatch.usage.value_cells import SAMPLE, cells_of_codes, sampled_codes

# Of an output of fewer values it takes longer to start operations than to do them.
_SMALL = 1 << 14
# Readings that are put together at once, and the channels of all of them at most.
_READINGS, _CHANNELS = 16, 1 << 16


class RunningOutputs:
    """Sums and cells of the outputs of a layer.

    Copies of small outputs wait for others, 2^15 values at most, and so do codes of values, up to
    2^16.

    Args:
        scratch: Memory for blocks.
        sums: Those of earlier calls.
        cells: Those of earlier calls.
    """

    def __init__(
        self, scratch: Scratch, sums: ChannelSums | None = None, cells: Tensor | None = None
    ) -> None:
        self._scratch, self._sums, self._cells = scratch, sums, cells
        self._small: list[Tensor] = []
        self._count = 0  # values in them
        self._readings: list[Reading] = []
        self._shift: Tensor | None = None
        self._codes: list[Tensor] = []
        self._step = 0  # of every so many values they are

    def add(self, values: Tensor, axis: int) -> None:
        """Take an output, which may change afterwards.

        Args:
            values: Real floating-point numbers in any layout, one at least.
            axis: Of the channels.
        """
        if values.numel() > _SMALL:
            self._read(values, axis)
            return
        shape = values.shape
        copy = values.clone(memory_format=torch.contiguous_format)
        copy = copy.view(-1, shape[axis], math.prod(shape[axis + 1 :]))
        if self._small:
            other = self._small[0]
            fits = copy.shape[1:] == other.shape[1:] and self._count + copy.numel() <= SAMPLE
            if not (fits and copy.dtype == other.dtype and copy.device == other.device):
                self._read_small()
        self._small.append(copy)
        self._count += copy.numel()

    def settle(self) -> tuple[ChannelSums, Tensor]:
        """The sums and the cells of all calls; there was one at least."""
        self._read_small()
        self._put_together()
        self._count_codes()
        assert self._sums is not None
        assert self._cells is not None
        return self._sums, self._cells

    def _read_small(self) -> None:
        if self._small:
            small, self._small, self._count = self._small, [], 0
            self._read(small[0] if len(small) == 1 else torch.cat(small), 1)

    def _read(self, values: Tensor, axis: int) -> None:
        self._read_sums(values, axis)
        # Last: while it counts on one core, the others go to sleep.
        codes, step = sampled_codes(values)
        if step != self._step or (self._codes and codes.device != self._codes[0].device):
            self._count_codes()
        self._codes.append(codes)
        self._step = step
        if sum(map(len, self._codes)) > SAMPLE:
            self._count_codes()

    def _count_codes(self) -> None:
        if self._codes:
            codes, self._codes = self._codes, []
            cells = cells_of_codes(torch.cat(codes)) * self._step
            if self._cells is not None:
                cells = self._cells + cells.to(self._cells.device)
            self._cells, self._step = cells, 0

    def _read_sums(self, values: Tensor, axis: int) -> None:
        if self._shift is not None and len(self._shift) != values.shape[axis]:
            self._shift = None
        found = read(values, axis, self._scratch, self._shift)
        if isinstance(found, ChannelSums):
            self._take(found)
            return
        self._shift = found.shift
        if self._readings and len(self._readings[0].lows) != len(found.lows):
            self._put_together()
        self._readings.append(found)
        count = len(self._readings)
        if count == _READINGS or count * len(found.lows) > _CHANNELS:
            self._put_together()

    def _put_together(self) -> None:
        if self._readings:
            readings, self._readings = self._readings, []
            self._take(together(readings))

    def _take(self, sums: ChannelSums) -> None:
        if self._sums is None:
            self._sums = sums
        else:
            self._sums = self._sums + sums.to(self._sums.counts.device)
