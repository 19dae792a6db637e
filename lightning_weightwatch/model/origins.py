"""Which step of a forward pass the values of each tensor come from."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lightning_weightwatch.model.trace_tensors import has_storage, storage_of
from lightning_weightwatch.model.weights import clean_name, layer_of


@dataclass(frozen=True)
class Origin:
    """Where the values in a storage come from.

    Attributes:
        step: Position of the step, None for what does not depend on the input.
        faint: Whether integers or truth values are all that came of it: a mask, an index.
        weight: Name of the parameter that the values are, or are made of.
        layer: The module that owns it.
        softmax: Whether they are the weights of an attention.
    """

    step: int | None = None
    faint: bool = False
    weight: str = ""
    layer: nn.Module | None = None
    softmax: bool = False


class Origins:
    """The origin of each storage: a tensor and its views have one.

    Args:
        model: Its parameters and buffers come from no step.
    """

    def __init__(self, model: nn.Module) -> None:
        self._known: dict[int, Origin] = {}
        self._alive: list[Any] = []
        for path, module in model.named_modules():
            for buffer in module._buffers.values():
                if buffer is not None:
                    self.put(buffer, Origin())
            for name, parameter in module.named_parameters(recurse=False):
                layer = layer_of(path, module)
                named = layer if name == "weight" else clean_name(f"{path}.{name}".lstrip("."))
                self.put(parameter, Origin(weight=named, layer=module))

    def __contains__(self, tensor: Tensor) -> bool:
        return storage_of(tensor) in self._known

    def put(self, tensor: Tensor, origin: Origin) -> None:
        """Note where a tensor comes from."""
        self._known[storage_of(tensor)] = origin
        # What lives keeps its address to itself; on other devices than meta that takes memory.
        if tensor.is_meta or not has_storage(tensor):
            self._alive.append(tensor)

    def of(self, tensor: Tensor) -> Origin:
        """Where a tensor comes from; from no step if that is not known."""
        return self._known.get(storage_of(tensor), Origin())

    def of_all(self, tensors: Iterable[Tensor]) -> list[Origin]:
        """Where each of some tensors comes from."""
        return [self.of(tensor) for tensor in tensors]

    def has_matrix(self, tensors: Iterable[Tensor], weight: Origin) -> bool:
        """Whether one of some tensors is a parameter, and no vector."""
        return any(
            self.of(tensor).weight == weight.weight and sum(size > 1 for size in tensor.shape) > 1
            for tensor in tensors
        )


def steps_of(origins: Iterable[Origin]) -> list[int]:
    """The steps that something comes from, each once."""
    return list(dict.fromkeys(origin.step for origin in origins if origin.step is not None))


def without_masks(origins: Sequence[Origin]) -> Sequence[Origin]:
    """Without integers and truth values, where there is something else."""
    strong = any(origin.step is not None and not origin.faint for origin in origins)
    return [origin for origin in origins if not origin.faint] if strong else origins
