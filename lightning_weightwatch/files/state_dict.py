"""Where the weights are in what a pickle held: the state dict among epochs and optimizers."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_weightwatch.files.bad_file import BadFile
from lightning_weightwatch.files.printable import quoted
from lightning_weightwatch.files.weight_file import TensorInfo, WeightFile
from lightning_weightwatch.report import Skipped

# The keys under which programs save weights beside other things, the surest first. Averaged copies
# (EMA) come last: where a file has both, the weights that were trained are meant.
KEYS = (
    "state_dict", "model_state_dict", "model_state", "model", "module", "network", "net", "weights",
    "params", "ema_state_dict", "model_ema", "params_ema", "ema",
)  # fmt: skip
_CERTAIN = "state_dict"
_DEPTH = 3
_SHOWN_KEYS = 8


@dataclass(frozen=True)
class FoundWeights:
    """Weights, and the dotted keys that lead to them (empty when they are the whole)."""

    where: str
    tensors: dict[str, Tensor]
    ignored: tuple[Skipped, ...]


def find_weights(content: object) -> FoundWeights | None:
    """The weights within what a checkpoint holds, or None when there are none.

    A module gives its `state_dict()`. In a mapping the first of `KEYS` that leads to weights wins;
    without one, the mapping is itself the state dict if it holds tensors. The state of an optimizer
    is never taken for weights.

    >>> find_weights({"epoch": 3, "state_dict": {"w": torch.ones(2)}}).where
    'state_dict'
    >>> find_weights({"state": {0: torch.ones(2)}, "param_groups": []}) is None
    True
    """
    return _find(content, ())


def _find(content: object, path: tuple[str, ...]) -> FoundWeights | None:
    if isinstance(content, nn.Module):
        content = content.state_dict()
    if not isinstance(content, Mapping) or {"state", "param_groups"} <= content.keys():
        return None
    own = [name for name, value in content.items() if isinstance(value, Tensor) and value.dim() > 1]
    for key in KEYS if len(path) < _DEPTH else ():
        # Among tensors, `ema` or `model` is an entry like others; `state_dict` never is.
        if key in content and (not own or key.endswith(_CERTAIN)):
            found = _find(content[key], (*path, key))
            if found is not None:
                beside = [Skipped(str(name), f"it stands beside {key!r}") for name in own]
                return replace(found, ignored=(*found.ignored, *beside))
    return _split(content, ".".join(path))


def _split(content: Mapping[Any, Any], where: str) -> FoundWeights | None:
    """The tensors of a mapping by name, and the rest of it."""
    tensors: dict[str, Tensor] = {}
    ignored: list[Skipped] = []
    for key, value in content.items():
        # A list saved as a mapping has numbers for names; str() of any other key could be pages.
        named = isinstance(key, str) or type(key) is int
        name = str(key) if named else f"<{type(key).__name__}>"
        if not named:
            ignored.append(Skipped(name, "its key is neither a string nor a number"))
        elif not isinstance(value, Tensor):
            ignored.append(Skipped(name, f"{type(value).__name__}, not a tensor"))
        elif name in tensors:
            ignored.append(Skipped(name, "a second tensor of that name"))
        else:
            tensors[name] = value
    # A loss or an accuracy is a tensor too: numbers among other entries make no state dict.
    only_numbers = all(tensor.dim() == 0 for tensor in tensors.values())
    if not tensors or (only_numbers and ignored):
        return None
    return FoundWeights(where, tensors, tuple(ignored))


def info_of(tensor: Tensor) -> TensorInfo:
    """Shape and dtype of any tensor: sparse, quantized, nested, on meta, of a subclass."""
    try:
        return TensorInfo(tuple(int(size) for size in tensor.shape), tensor.dtype)
    except Exception:  # what a nested tensor raises has changed from torch to torch
        return TensorInfo((), tensor.dtype, "a nested tensor: it has no one shape")


def ties_among(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """For every tensor that came before under another name: that first name.

    >>> weight = torch.ones(3, 2)
    >>> ties_among({"embedding": weight, "head": weight, "view": weight.t(), "own": weight + 1})
    {'head': 'embedding'}
    """
    first: dict[Hashable, str] = {}
    ties = {}
    for name, tensor in tensors.items():
        origin = first.setdefault(_identity(tensor), name)
        if origin != name:
            ties[name] = origin
    return ties


def _identity(tensor: Tensor) -> Hashable:
    """Equal for two tensors that read the same memory in the same way, whatever it holds."""
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided
    if not plain or tensor.is_nested or tensor.is_meta or tensor.is_quantized:
        return id(tensor)
    if tensor.numel() == 0:  # all of them start at address 0
        return id(tensor)
    view = (tensor.dtype, tensor.shape, tensor.stride(), tensor.is_conj(), tensor.is_neg())
    return (tensor.data_ptr(), *view)


def in_memory(content: Mapping[Any, Any]) -> WeightFile:
    """A state dict, or a checkpoint that is loaded, as if it were an open file.

    Raises:
        BadFile: If it holds no weights.
    """
    found = find_weights(content)
    if found is None:
        raise BadFile(
            f"the mapping holds no weights, only {contents(content)}. "
            "Give a state_dict(), or a checkpoint that has one under the key 'state_dict'."
        )
    return held(Path("state dict"), found)


def held(path: Path, found: FoundWeights) -> WeightFile:
    """Weights that are in memory, or mapped, as an open file; closing it lets go of them."""
    tensors = found.tensors
    return WeightFile(
        path,
        {name: info_of(tensor) for name, tensor in tensors.items()},
        lambda name: tensors[name].detach(),
        tensors.clear,
        ties=ties_among(tensors),
        where=found.where,
        ignored=found.ignored,
    )


def contents(content: object) -> str:
    """What something holds instead of weights."""
    if not isinstance(content, Mapping):
        return f"an object of type {type(content).__name__}"
    if not content:
        return "an empty mapping"
    keys = [key if isinstance(key, str) else type(key).__name__ for key in content]
    more = f" and {len(keys) - _SHOWN_KEYS} more" if len(keys) > _SHOWN_KEYS else ""
    return f"the keys {', '.join(quoted(key, 40) for key in keys[:_SHOWN_KEYS])}{more}"
