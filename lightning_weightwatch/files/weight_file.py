"""An open file of weights, whatever its format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from lightning_weightwatch.files.bad_file import BadFile
from lightning_weightwatch.files.printable import in_one_line, printable, quoted
from lightning_weightwatch.report import Skipped


@dataclass(frozen=True)
class TensorInfo:
    """What is known of a tensor before its values are read.

    Attributes:
        shape: Its sizes as the file states them; `()` for a nested tensor, which has no one shape.
        dtype: Its type, or None where the file's type has no like in this torch.
        unreadable: Why `WeightFile.read` will refuse it, in words that make sense after
            "left out: "; None when it can be read.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype | None
    unreadable: str | None = None


class WeightFile:
    """The tensors of an open file, one at a time. `open_weights` makes it.

    It is a context manager; `close` does the same by hand.

    Attributes:
        path: The file.
        where: The keys that lead to the weights within the file, dotted (`"state_dict"` in a
            Lightning checkpoint); empty when they are the whole of it.
        ignored: The entries beside the tensors that are no tensors, each with what it is.
    """

    def __init__(
        self,
        path: Path,
        tensors: Mapping[str, TensorInfo],
        read: Callable[[str], Tensor],
        close: Callable[[], object],
        *,
        ties: Mapping[str, str] | None = None,
        where: str = "",
        ignored: tuple[Skipped, ...] = (),
    ) -> None:
        self.path = path
        self.where = where
        self.ignored = ignored
        self._tensors = tensors
        self._ties = ties or {}
        self._read = read
        self._close = close
        self._closed = False

    def names(self) -> tuple[str, ...]:
        """The names of all tensors, in the order of the file, exactly as they stand there."""
        return tuple(self._tensors)

    def info(self, name: str) -> TensorInfo:
        """Shape and dtype of a tensor; no value is read.

        Raises:
            KeyError: If the file has no tensor of that name.
        """
        return self._tensors[name]

    def read(self, name: str) -> Tensor:
        """A tensor, detached, on the CPU (on `meta` when it was saved without values).

        It is a view of the mapped file wherever the format allows it, so that nothing is copied:
        do not write to it.

        Raises:
            KeyError: If the file has no tensor of that name.
            BadFile: If this tensor cannot be read; others can. `info(name).unreadable` tells it
                beforehand where the reason is the dtype.
            ValueError: If the file is closed.
        """
        info = self._tensors[name]
        if self._closed:
            raise ValueError(f"{printable(str(self.path))} is closed: read within its with block.")
        if info.unreadable is not None:
            raise self._no_tensor(name, info.unreadable)
        try:
            return self._read(name)
        except Exception as error:
            raise self._no_tensor(name, in_one_line(error)) from error

    def same_as(self, name: str) -> str | None:
        """The first name in the file with the identical tensor (tied weights), None without one.

        Identical is: the same memory, shape, strides and dtype. Safetensors files hold no ties.
        """
        return self._ties.get(name)

    def close(self) -> None:
        """Let go of the file and of all its tensors. Closing twice does nothing more."""
        if not self._closed:
            self._closed = True
            self._close()

    def __enter__(self) -> WeightFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _no_tensor(self, name: str, reason: str) -> BadFile:
        return BadFile(
            f"{self.path}: the tensor {quoted(name)} cannot be read: {reason}. "
            "Leave it out; the file's other tensors can be read."
        )
