"""Copies of a model and of a batch that stand for them where the originals are not to be touched.

On the meta device tensors have shapes and no values: a model of any size takes no memory there, and
running it takes hardly any time.
"""

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.rnn import PackedSequence
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.overrides import TorchFunctionMode

from lightning_weightwatch.model.running import CannotRun
from lightning_weightwatch.model.weights import clean_name

_META = torch.device("meta")
_COMPILED = "_orig_mod"  # where torch.compile keeps the module that it was given
_COMPUTING = (BasePruningMethod, SpectralNorm, WeightNorm)
_HOOKS = [
    name
    for name in vars(nn.Module())
    if name.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called"))
]


def on_meta(model: nn.Module) -> nn.Module:
    """A copy of a model on the meta device: parameters, buffers and all other tensors it keeps.

    No value is copied, and nothing is changed in the model. Tied parameters stay tied. The copy has
    no Trainer, and no hooks but those with which `torch.nn.utils` computes weights: pruning, weight
    and spectral norm. What `torch.compile` made is again what it was made from.

    Raises:
        CannotRun: If the model cannot be copied, is sharded, or has parameters without a shape.
    """
    return _copy(model, _without_values)


def copied(model: nn.Module) -> nn.Module:
    """The same copy with all values, on the devices where they are.

    Raises:
        CannotRun: As above.
    """
    return _copy(model, _with_values)


def why_not_copied(model: nn.Module) -> str | None:
    """Why there can be no whole copy of a model, or None where nothing is known against it."""
    for path, module in model.named_modules():
        if type(module).__name__ == "FullyShardedDataParallel":
            return _sharded(clean_name(path) or type(module).__name__, "FSDP")
    parameters: Iterable[tuple[str, Tensor]] = model.named_parameters()
    for name, parameter in parameters:
        if is_lazy(parameter):
            return (
                f"{clean_name(name)} is lazy: it has no shape before the first forward pass. Run "
                "the model on a batch first"
            )
        if hasattr(parameter, "full_tensor"):  # DTensor, without importing torch.distributed
            return _sharded(clean_name(name), "DTensor")
    return None


def batch_on_meta(batch: Any) -> Any:
    """A batch with its tensors and arrays on the meta device; all else in it stays as it is.

    Looked into are mappings, lists, tuples, dataclasses, and what has a method `to`. A tensor that
    stands in it twice is one tensor again.
    """

    def others(given: Any) -> Any:
        if callable(getattr(given, "to", None)) and not isinstance(given, type | nn.Module):
            return copy.copy(given).to(_META)  # some are changed by it
        return given

    return _rebuilt(batch, {}, _tensor_on_meta, _array_on_meta, others)


def batch_copied(batch: Any) -> Any:
    """The same batch in tensors and arrays of its own, which a model may change.

    What else is in it is copied where it can be.
    """

    def others(given: Any) -> Any:
        with suppress(Exception):
            return copy.deepcopy(given)
        return given

    def tensor(given: Tensor) -> Tensor:
        return _with_values(given).requires_grad_(given.requires_grad)

    return _rebuilt(batch, {}, tensor, np.array, others)


def _rebuilt(
    batch: Any,
    memo: dict[int, Any],
    tensor: Callable[[Tensor], Tensor],
    array: Callable[[Any], Any],
    others: Callable[[Any], Any],
) -> Any:
    """A batch of the same form, each tensor, array and other object replaced once."""

    def again(part: Any) -> Any:
        return _rebuilt(part, memo, tensor, array, others)

    if isinstance(batch, PackedSequence):
        return PackedSequence(again(batch.data), *batch[1:])
    if isinstance(batch, Mapping):
        return _filled(batch, {key: again(value) for key, value in batch.items()})
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*map(again, batch))
    if isinstance(batch, list | tuple):
        return type(batch)(map(again, batch))
    if is_dataclass(batch) and not isinstance(batch, type):
        made = copy.copy(batch)
        for field in fields(batch):
            if hasattr(batch, field.name):
                object.__setattr__(made, field.name, again(getattr(batch, field.name)))
        return made
    if id(batch) not in memo:
        replace = others
        if isinstance(batch, Tensor | np.ndarray):
            replace = tensor if isinstance(batch, Tensor) else array
        memo[id(batch)] = batch, replace(batch)  # both, so that no other gets its id
    return memo[id(batch)][1]


def _array_on_meta(array: Any) -> Any:
    if array.dtype.kind not in "fiubc":
        return array
    dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
    kept = torch.get_default_dtype() if dtype.is_floating_point else dtype
    return torch.empty(array.shape, dtype=kept, device=_META)


def _hooks_of_torch(hooks: Mapping[int, Any]) -> "OrderedDict[int, Any]":
    """Those that compute a weight before each forward pass."""
    return OrderedDict((key, hook) for key, hook in hooks.items() if isinstance(hook, _COMPUTING))


def _same(generator: torch.Generator) -> torch.Generator:
    made = torch.Generator(generator.device)
    made.set_state(generator.get_state())
    return made


def _sharded(name: str, how: str) -> str:
    return f"{name} is sharded ({how}): give a model that is not, such as one made anew"


def _filled(batch: Mapping[Any, Any], entries: dict[Any, Any]) -> Any:
    """The entries in a mapping of the same type, else in a dictionary."""
    if type(batch) is not dict and isinstance(batch, MutableMapping):
        with suppress(Exception):
            made = copy.copy(batch)
            made.update(entries)
            return made
    return entries


def _copy(model: nn.Module, of_tensor: Callable[[Tensor], Tensor]) -> nn.Module:
    reason = why_not_copied(model)
    if reason is not None:
        raise CannotRun(f"{type(model).__name__} cannot be copied: {reason}")
    memo: dict[int, Any] = {}
    for module in model.modules():
        own = vars(module)
        # A Trainer, and hooks, which may belong to anything, would be copied with all they hold.
        memo |= {id(own[name]): None for name in ("_trainer", "_fabric") if name in own}
        memo |= {id(own[name]): _hooks_of_torch(own[name]) for name in _HOOKS if name in own}
        memo |= {id(of): _same(of) for of in own.values() if isinstance(of, torch.Generator)}
    memo.pop(id(None), None)
    try:
        with _TensorsAs(of_tensor):
            for module in reversed(list(model.modules())):
                made_from = dict(module.named_children()).get(_COMPILED)
                if made_from is not None:
                    memo[id(module)] = copy.deepcopy(made_from, memo)
            made: nn.Module = copy.deepcopy(model, memo)
    except Exception as fault:
        raise CannotRun(
            f"{type(model).__name__} cannot be copied: {type(fault).__name__}: {fault}"
        ) from fault
    for module in made.modules():
        own = vars(module)
        own["_compiled_call_impl"] = None
        # LightningModule.log looks metrics up by the ids they had in the model that was copied.
        if own.get("_metric_attributes") is not None:
            own["_metric_attributes"] = None
        if of_tensor is _without_values:
            # LightningModule.device, which was set as the model was moved.
            if isinstance(own.get("_device"), torch.device):
                own["_device"] = _META
            # Which tokens are padding is a question for values.
            if isinstance(module, nn.TransformerEncoder):
                own["use_nested_tensor"] = False
    return made


class _TensorsAs(TorchFunctionMode):
    """Within it, deep copies of tensors are what a function makes of them."""

    def __init__(self, made: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._made = made

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if function is Tensor.__deepcopy__:
            tensor, memo = args
            if id(tensor) not in memo:
                memo[id(tensor)] = self._made(tensor).requires_grad_(tensor.requires_grad)
            return memo[id(tensor)]
        if function is Tensor.clone:  # how a Parameter is copied
            return self._made(args[0])
        return function(*args, **(kwargs or {}))


def _with_values(tensor: Tensor) -> Tensor:
    return tensor.detach().clone(memory_format=torch.preserve_format)


def _without_values(tensor: Tensor) -> Tensor:
    return _tensor_on_meta(tensor.detach())


def _tensor_on_meta(tensor: Tensor) -> Tensor:
    if tensor.layout == torch.strided and type(tensor) in (Tensor, nn.Parameter):
        made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=_META)
        return made.requires_grad_(tensor.requires_grad)
    return tensor.to(_META)
