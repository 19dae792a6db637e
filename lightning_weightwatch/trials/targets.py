"""Which weights a trial compresses, and how many bytes a model takes."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_weightwatch.model.weights import Weight, non_finite, unreadable, walk
from lightning_weightwatch.report import Skipped
from lightning_weightwatch.values.blocks import on_one_core

_COMPRESSED_KINDS = (
    "linear", "embedding", "conv1d", "conv2d", "conv3d", "conv_transpose", "attention", "rnn",
)  # fmt: skip


@dataclass(frozen=True)
class Targets:
    """The weights that a trial changes.

    Attributes:
        weights: Matrices and kernels, each once; biases and norms stay as they are.
        skipped: Matrices that are left as they are, with the reason.
        model_bytes: All parameters and buffers of the `state_dict`, tied storage once.
    """

    weights: tuple[Weight, ...]
    skipped: tuple[Skipped, ...]
    model_bytes: int

    @property
    def other_bytes(self) -> int:
        """Bytes of everything that is not a target."""
        return self.model_bytes - sum(size_in_bytes(weight.parameter) for weight in self.weights)


def find_targets(model: nn.Module, *, frozen: bool = False) -> Targets:
    """The weights of `model` that can be quantized or pruned.

    Args:
        model: Read, not changed.
        frozen: Whether weights that are not trained count; they do where none is trained.
    """
    with on_one_core():  # many small steps, each of which would wait for threads
        return _found(model, frozen)


def _found(model: nn.Module, frozen: bool) -> Targets:
    trained = any(parameter.requires_grad for parameter in model.parameters())
    weights: list[Weight] = []
    skipped: list[Skipped] = []
    first_at: dict[tuple[torch.device, int], str] = {}
    for found in walk(model):
        if isinstance(found, Skipped):
            skipped.append(found)
        elif (reason := _unfit(found)) is None:
            place = (found.parameter.device, found.parameter.data_ptr())
            if trained and not frozen and not found.parameter.requires_grad:
                skipped.append(Skipped(found.name, "frozen, while others are trained", found.kind))
            elif place in first_at:
                skipped.append(Skipped(found.name, f"shares its memory with {first_at[place]}"))
            else:
                first_at[place] = found.name
                weights.append(found)
        elif reason:
            skipped.append(Skipped(found.name, reason, found.kind))
    return Targets(tuple(weights), tuple(skipped), sum(map(size_in_bytes, _stored(model))))


def size_in_bytes(tensor: Tensor) -> int:
    """Bytes of the elements of a tensor in its own dtype, as if it were dense."""
    return tensor.numel() * tensor.element_size()


def _unfit(weight: Weight) -> str | None:
    """Why a weight stays as it is; an empty string where nobody would expect otherwise."""
    unread = unreadable(weight.parameter)
    if unread is not None:
        return unread
    if weight.kind not in _COMPRESSED_KINDS or weight.parameter.ndim < 2:
        return "" if weight.parameter.ndim < 2 else f"{type(weight.module).__name__} is not tried"
    several = weight.kind in ("rnn", "attention")
    if weight.attribute != "weight" and not (several and "weight" in weight.attribute):
        if "weight" in weight.attribute:
            return "pruned or parametrized: its effective weight is computed at each forward pass"
        return f"not the weight of {type(weight.module).__name__}, but an addition to it"
    if weight.parameter.is_complex():
        return "complex"
    return non_finite(weight.parameter.detach())


def _stored(model: nn.Module) -> Iterator[Tensor]:
    """The parameters and buffers that a state_dict holds, each storage once.

    Not taken from `state_dict()` itself, whose hooks may do anything.
    """
    seen: set[tuple[torch.device, int]] = set()
    for module in model.modules():
        transient = module._non_persistent_buffers_set
        buffers = {k: v for k, v in module._buffers.items() if k not in transient}
        for tensor in [*module._parameters.values(), *buffers.values()]:
            if tensor is None or is_lazy(tensor):
                continue
            placeless = tensor.is_meta or tensor.layout != torch.strided
            place = (tensor.device, id(tensor) if placeless else tensor.data_ptr())
            if place not in seen:
                seen.add(place)
                yield tensor
