"""What has its hooks on modules within a block, and at no other time."""

from abc import ABC, abstractmethod
from contextlib import ExitStack
from types import TracebackType
from typing import TypeVar

import torch

Self = TypeVar("Self", bound="Hooked")


class Hooked(ABC):
    """A context manager; where putting hooks on fails half-way, none stays."""

    _on: ExitStack

    @abstractmethod
    def put_on(self, on: ExitStack) -> None:
        """Put hooks on modules.

        Args:
            on: Gets what takes them off.
        """

    def __enter__(self: Self) -> Self:
        with ExitStack() as on:
            self.put_on(on)
            self._on = on.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._on.close()


def is_traced() -> bool:
    """Whether torch writes down what runs, and would write down what a hook does."""
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
