"""The tensors in what a model is given and gives, and which of them hold the same values."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

# Collections within collections, in which tensors are looked for.
_DEPTH = 6


def tensors_in(value: Any, depth: int = _DEPTH) -> Iterator[Tensor]:
    """All tensors in collections, dataclasses and objects, in order."""
    if isinstance(value, Tensor):
        yield value
    elif depth == 0 or isinstance(value, str | bytes | int | float | type | nn.Module):
        return
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item, depth - 1)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from tensors_in(item, depth - 1)
    elif type(value).__module__ not in ("builtins", "torch", "numpy") and hasattr(
        value, "__dict__"
    ):
        for item in vars(value).values():
            yield from tensors_in(item, depth - 1)


def is_real(tensor: Tensor) -> bool:
    """Whether a tensor holds no integers or truth values."""
    return tensor.is_floating_point() or tensor.is_complex()


def version_of(tensor: Tensor) -> int:
    """Another number after each time that a tensor was written to in place."""
    return -1 if tensor.is_inference() else tensor._version


def storage_of(tensor: Tensor) -> int:
    """The same for a tensor and its views."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse and nested tensors have none
        return id(tensor)


def has_storage(tensor: Tensor) -> bool:
    """Whether a tensor may share its values with others."""
    return storage_of(tensor) != id(tensor)
