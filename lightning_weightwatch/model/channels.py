"""Which channel of a step each value of a tensor is, as numbers that take next to no memory."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from lightning_weightwatch.model.trace_tensors import version_of

#: Of values that are of no channel; of values of which that is not known.
NONE, UNKNOWN = -1, -2
#: Numbers that are written down to follow one tensor.
MOST = 1 << 23


class Channels:
    """Of each tensor the channels that its values are, as a tensor of numbers of the same shape.

    Most of these are expanded: they have next to no memory. They are right as long as nothing is
    written to the tensor.
    """

    def __init__(self) -> None:
        self._known = WeakTensorKeyDictionary()

    def put(self, tensor: Tensor, step: int, numbers: Tensor | None) -> None:
        """Note which channels of a step the values of a tensor are."""
        if numbers is not None and numbers.shape == tensor.shape:
            self._known[tensor] = (step, version_of(tensor), numbers)
        elif tensor in self._known:
            del self._known[tensor]

    def of(self, tensor: Tensor, step: int | None) -> Tensor | None:
        """The channels of a step that the values of a tensor are; None where that is not known."""
        found = self._known.get(tensor)  # type: ignore[no-untyped-call]
        if found is None or found[:2] != (step, version_of(tensor)):
            return None
        numbers: Tensor = found[2]
        return numbers


def along(axis: int, shape: Sequence[int], numbers: Tensor | None = None) -> Tensor | None:
    """Numbers of channels along one axis, from 0 on if not said otherwise."""
    if not -len(shape) <= axis < len(shape):
        return None
    numbers = _from_0(shape[axis]) if numbers is None else numbers
    ones = [1] * len(shape)
    ones[axis] = shape[axis]
    return numbers.view(ones).expand(*shape)


def of_values(shape: Sequence[int]) -> Tensor | None:
    """A number for each value of a sample: what a batch has behind its first axis."""
    own = shape if len(shape) == 1 else shape[1:]
    if not shape or math.prod(own) > MOST:
        return None
    return _from_0(math.prod(own)).view(*own).expand(*shape)


def varying(numbers: Tensor) -> list[int]:
    """The axes along which numbers are not all the same."""
    return [
        axis for axis in range(numbers.dim()) if numbers.stride(axis) and numbers.shape[axis] > 1
    ]


def ids_along(numbers: Tensor | None, axis: int) -> Tensor | None:
    """The numbers along an axis, if they are the same wherever else one looks."""
    if numbers is None or not -numbers.dim() <= axis < numbers.dim():
        return None
    axis %= numbers.dim()
    if any(other != axis for other in varying(numbers)) or not numbers.numel():
        return None
    ids = narrowed(numbers, [other for other in range(numbers.dim()) if other != axis]).flatten()
    return None if bool((ids == UNKNOWN).any()) else ids


def grouped_along(numbers: Tensor, axis: int) -> Tensor:
    """Which numbers are at each place of an axis, [places, ...]."""
    axis %= numbers.dim()
    same = [other for other in still(numbers) if other != axis]
    return narrowed(numbers, same).movedim(axis, 0).flatten(1)


def expanded_to(numbers: Tensor | None, shape: Sequence[int]) -> Tensor | None:
    """Numbers as they are spread to a shape; None where they cannot be."""
    if numbers is None:
        return None
    try:
        return numbers.expand(*shape)
    except RuntimeError:
        return None


def narrowed(numbers: Tensor, axes: Sequence[int]) -> Tensor:
    """The first of the numbers along some axes."""
    for axis in axes:
        numbers = numbers.narrow(axis, 0, min(1, numbers.shape[axis]))
    return numbers


def expanded(numbers: Tensor) -> Tensor:
    """The same, without memory for axes along which nothing changes."""
    shape = numbers.shape
    for axis in varying(numbers) if numbers.numel() else ():
        first = numbers.narrow(axis, 0, 1)
        if bool((narrowed(numbers, still(numbers)) == narrowed(first, still(numbers))).all()):
            numbers = first.expand(*shape)
    return numbers


def still(numbers: Tensor) -> list[int]:
    """The axes along which numbers are all the same."""
    return [axis for axis, size in enumerate(numbers.shape) if size < 2 or not numbers.stride(axis)]


def _from_0(count: int) -> Tensor:
    return torch.arange(count, device="cpu")
