"""A copy of the weights of the best epoch, kept beside the training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_weightwatch.model.weights import whole


class BestCopy:
    """Weights as they were, in the memory of the CPU: parameters, and buffers of checkpoints.

    Of a sharded model each process keeps its own shards.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}
        self._whole = False

    def take(self, model: nn.Module) -> None:
        """Keep parameters and buffers, in place of those before."""
        self.forget()
        now = _tensors(model)
        self._kept = {name: kept for name, kept in self._kept.items() if name in now}
        for name, tensor in now.items():
            here = _local(tensor)
            kept = self._kept.get(name)
            if kept is None or kept.shape != here.shape or kept.dtype != here.dtype:
                self._kept[name] = here.to("cpu", copy=True)
            else:
                kept.copy_(here)
        self._whole = True

    def forget(self) -> None:
        """What is kept is of no use any more; its memory is, for the next."""
        self._whole = False

    def __bool__(self) -> bool:
        return self._whole

    @torch.no_grad()
    def put_back(self, model: nn.Module) -> None:
        """Overwrite the weights with those that are kept, where they differ.

        Raises:
            ValueError: If the model has other tensors now; it is then left as it is.
            RuntimeError: If one cannot be written to. Those before it are overwritten.
        """
        now = {name: _local(tensor) for name, tensor in _tensors(model).items()}
        shapes = {name: tensor.shape for name, tensor in now.items()}
        if shapes != {name: tensor.shape for name, tensor in self._kept.items()}:
            raise ValueError("the model has other parameters or buffers than in its best epoch")
        for name, tensor in now.items():
            kept = self._kept[name].to(tensor.device)
            if not torch.equal(tensor, kept):
                tensor.copy_(kept)


def write_weights(model: nn.Module, file: Path, *, here: bool) -> None:
    """Write the weights alone, for `load_state_dict`: whole ones, also of a sharded model.

    A collective. The file is whole or the one that was there before.

    Args:
        model: Whose state dict it is; of it what is no tensor, number, text, or list or dictionary
            of them is left out, for it would be code to a reader.
        file: Replaced.
        here: Whether this process is the one that writes.
    """
    weights: dict[str, Any] = {}
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor) and not is_lazy(value):
            value = whole(value).cpu()
        if here and _is_plain(value):
            weights[name] = value
    if not here:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.part")
    try:
        torch.save(weights, draft)
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Those that last: a forward pass may leave the units of FSDP2 with whole ones for a while."""
    for module in model.modules():
        if "FSDPModule" in {base.__name__ for base in type(module).__mro__}:
            module.reshard()  # type: ignore[operator]
    found: dict[str, Tensor] = dict(model.named_parameters())
    for prefix, module in model.named_modules():
        # Masks and caches that no checkpoint has follow from the rest, and come and go.
        for name in set(module._buffers) - module._non_persistent_buffers_set:
            if module._buffers[name] is not None:
                found[f"{prefix}.{name}" if prefix else name] = module._buffers[name]
    return {name: tensor for name, tensor in found.items() if not is_lazy(tensor)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_plain, [*value.keys(), *value.values()])) and type(value) is dict
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, Tensor):
        return not is_lazy(value)
    return value is None or isinstance(value, bool | int | float | str | bytes)


def _local(tensor: Tensor) -> Tensor:
    """The shard of this process of a DTensor; of any other tensor all of it."""
    shard = getattr(tensor.detach(), "to_local", None)
    return shard() if callable(shard) else tensor.detach()
