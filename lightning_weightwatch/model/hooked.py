"""What has its hooks on modules within a block, and at no other time."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, TypeVar

import torch

# Private, and there since torch 1; without it nothing is known of torch.jit.trace.
_tracing: Callable[[], object] = getattr(torch._C, "_get_tracing_state", lambda: None)

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


class Hook:
    """A hook that stays behind where its module is copied or pickled: that has one of no effect.

    What a hook holds, such as references to memory, is not to be copied in the midst of a pass.

    Args:
        call: What is called.
    """

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the hook returns."""
        return self._call(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        return nothing

    def __reduce__(self) -> tuple[Callable[[], Callable[..., None]], tuple[()]]:
        return _of_no_effect, ()


def nothing(*_: Any, **__: Any) -> None:
    """A hook of no effect."""


def _of_no_effect() -> Callable[..., None]:
    return nothing


def is_traced() -> bool:
    """Whether torch writes down what runs, and would write down what a hook does."""
    return torch.compiler.is_compiling() or _tracing() is not None
