"""A model that may be changed for a while and comes back bit for bit."""

import copy
import hashlib
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

# What a module holds beside its parameters and buffers that hooks are kept in.
_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called",
)
# Parameters that no trial writes to are kept too where that costs little beside those it does.
_CHEAP = 0.1


class NotRestored(RuntimeError):
    """The model could not be brought back to the bits that it had."""


@contextmanager
def restored(model: nn.Module, changing: Sequence[nn.Parameter]) -> Iterator["Snapshot"]:
    """Within the block `changing` may be overwritten; after it the model is what it was.

    Modules, parameters and buffers, which objects they are and in which order, `requires_grad`,
    gradients, hooks, training flags and the states of torchmetrics are put back, whatever is raised
    within, and a digest over every byte is compared. Within the block no parameter has a gradient.

    Args:
        model: Left as it was found.
        changing: The parameters that will be written to; they are kept in memory meanwhile.

    Raises:
        NotRestored: When the digests differ after all: where the block changed a large parameter
            that it did not name.
    """
    before = digest(model)
    snapshot = Snapshot(model, changing)
    try:
        yield snapshot
    finally:
        snapshot.put_back()
        snapshot.give_back_gradients()
        after = digest(model)
    if after != before:
        raise NotRestored(
            "after a trial the model does not have the bits it had before; do not trust its "
            "weights, load the last checkpoint"
        )


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """After the block the random numbers of Python, NumPy and torch go on as if it had not been."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


class Snapshot:
    """What has to be put back.

    Args:
        model: The model.
        changing: The parameters whose values are kept.
    """

    def __init__(self, model: nn.Module, changing: Sequence[nn.Parameter]) -> None:
        self._model = model
        modules = list(model.modules())
        self._places = [
            (table, dict(table))
            for module in modules
            if not isinstance(module, torch.jit.ScriptModule)  # its tables cannot be exchanged
            for table in _tables_of(module)
        ]
        named = {id(parameter) for parameter in changing}
        others = [p for p in model.parameters() if id(p) not in named and _has_values(p)]
        budget = _CHEAP * sum(map(_bytes_of, changing))
        small = others if sum(map(_bytes_of, others)) <= max(budget, 2**20) else []
        self._changing = {id(parameter): _Kept(parameter) for parameter in changing}
        self._others = [_Kept(tensor) for tensor in small]
        self._buffers = [_Kept(buffer) for buffer in model.buffers() if _has_values(buffer)]
        self._grads = [(p, p.requires_grad, _grad_of(p)) for p in model.parameters()]
        self._metrics = [
            (module, _metric_state(module)) for module in modules if _is_metric(module)
        ]
        self._training = [(module, module.training) for module in modules]
        self._take_gradients()

    def changed_by_others(self) -> list[str]:
        """The parameters whose values are not those kept, though nothing should have changed them.

        To be asked after an evaluation of the model as it is.
        """
        names = {id(parameter): name for name, parameter in self._model.named_parameters()}
        kept = [*self._changing.values(), *self._others]
        return [names.get(id(each.tensor), "?") for each in kept if not each.is_equal()]

    @torch.no_grad()
    def put_back(self, changed: Sequence[nn.Parameter] | None = None) -> None:
        """Write everything as it was.

        Args:
            changed: Those of the parameters that were written to since the last time; None: all.
        """
        for table, entries in self._places:  # a forward pass may have put other tensors there
            if [*table, *map(id, table.values())] != [*entries, *map(id, entries.values())]:
                table.clear()
                table.update(entries)
        touched = self._changing if changed is None else {id(p): None for p in changed}
        for kept in (*(self._changing[key] for key in touched), *self._others, *self._buffers):
            kept.put_back()
        for parameter, requires_grad, _ in self._grads:
            if parameter.requires_grad is not requires_grad:
                parameter.requires_grad_(requires_grad)
        self._take_gradients()
        for module, training in self._training:
            module.training = training
        for metric, state in self._metrics:
            metric.__dict__.update(copy.deepcopy(state))

    def give_back_gradients(self) -> None:
        """As the last thing."""
        for parameter, _, grad in self._grads:
            if _grad_of(parameter) is not grad:
                parameter.grad = grad

    def _take_gradients(self) -> None:
        """An evaluation that calls `backward` would add to those of the training."""
        for parameter, _, _ in self._grads:
            if _grad_of(parameter) is not None:
                parameter.grad = None


class _Kept:
    """A tensor, the memory it stands in, and a copy of its values."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self._data = tensor.detach()
        self._values = self._data.clone()

    def put_back(self) -> None:
        dense = self._data.layout == torch.strided
        if dense and self.tensor.data_ptr() != self._data.data_ptr():  # `parameter.data = ...`
            self.tensor.data = self._data
        self.tensor.copy_(self._values)

    def is_equal(self) -> bool:
        now = self.tensor.detach()
        return (
            now.shape == self._values.shape
            and now.dtype == self._values.dtype
            and torch.equal(_bytes(now), _bytes(self._values))
        )


def digest(model: nn.Module) -> str:
    """A hash over names, dtypes, shapes and every byte of parameters and buffers.

    Bytes, because `torch.equal` holds −0 equal to 0 and NaN unequal to itself.
    """
    summed = hashlib.blake2b()
    for name, tensor in [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]:
        summed.update(f"{name} {tensor.dtype}".encode())
        if _has_values(tensor):
            summed.update(str(tuple(tensor.shape)).encode())
            summed.update(_bytes(tensor.cpu()).numpy().data)
    return summed.hexdigest()


def _bytes(tensor: Tensor) -> Tensor:
    plain = tensor.detach().resolve_conj().resolve_neg()
    dense = plain if plain.layout == torch.strided else plain.to_dense()
    return dense.contiguous().reshape(-1).view(torch.uint8)


def _bytes_of(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _grad_of(parameter: Tensor) -> Tensor | None:
    return parameter.grad if parameter.is_leaf else None


def _tables_of(module: nn.Module) -> list[dict[Any, Any]]:
    hooks = [vars(module)[name] for name in _HOOKS if isinstance(vars(module).get(name), dict)]
    return [module._parameters, module._buffers, module._modules, *hooks]


def _has_values(tensor: Tensor) -> bool:
    return not (is_lazy(tensor) or tensor.is_meta or tensor.is_quantized)


def _is_metric(module: nn.Module) -> bool:
    """Whether a module is a torchmetrics Metric, told without the seconds its import takes."""
    return hasattr(module, "_defaults") and hasattr(module, "_update_count")


def _metric_state(metric: nn.Module) -> dict[str, Any]:
    """Everything that a metric has accumulated: tensors, numbers, and collections of them."""
    machinery = vars(nn.Module())
    return {
        name: copy.deepcopy(value)
        for name, value in vars(metric).items()
        if name not in machinery and _is_data(value)
    }


def _is_data(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_data, value))
    if isinstance(value, dict):
        return all(map(_is_data, value.values()))
    return value is None or isinstance(value, Tensor | bool | int | float | str)
