"""The effective weights of a model: what the forward passes of its layers multiply with.

For most layers that is a parameter as it stands. Where it is computed anew at each forward pass
(`torch.nn.utils.parametrize`, the older weight_norm and spectral_norm, `torch.nn.utils.prune`) or
kept packed (quantized layers), it is computed as `computed` says, without changing the model.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from lightning_weightwatch.model.computed import factors_of, is_of_torch_ao, recipes_of
from lightning_weightwatch.model.weights import (
    Kind,
    Weight,
    clean_name,
    kind_of,
    layer_of,
    parametrizations_of,
    unreadable,
    walk,
    whole,
)
from lightning_weightwatch.report import Skipped

# The matrices that PyTorch stacks on the first axis of one parameter, in its order.
_GATES: tuple[tuple[tuple[type[nn.Module], ...], tuple[str, ...]], ...] = (
    ((nn.LSTM, nn.LSTMCell), ("i", "f", "g", "o")),
    ((nn.GRU, nn.GRUCell), ("r", "z", "n")),
)

# Layers quantized by torch.ao keep a packed weight, and are no subclasses of those in torch.nn.
_KINDS_OF_PACKED: dict[str, Kind] = {
    "Linear": "linear",
    "Embedding": "embedding",
    "EmbeddingBag": "embedding",
    "Conv1d": "conv1d",
    "Conv2d": "conv2d",
    "Conv3d": "conv3d",
    "ConvTranspose1d": "conv_transpose",
    "ConvTranspose2d": "conv_transpose",
    "ConvTranspose3d": "conv_transpose",
}


@dataclass(frozen=True)
class EffectiveWeight:
    """A weight as a layer uses it.

    Attributes:
        layer: Dotted path of the module that owns it; the class name when that is the model itself.
        layer_id: The place of the module in `named_modules()`, as WeightWatcher counts: the model
            itself is 0. In a file or a state dict, the number of the layer, from 1.
        name: Dotted path of the weight (`encoder.0.weight`).
        kind: The kind of its layer; `"other"` for a parameter beside the weight of a layer.
        shape: Of the weight.
        parts: Names of the matrices stacked on its first axis (q, k, v; the gates), or nothing.
        read: The whole weight, detached, in its own dtype and on its own device. A collective
            where it is sharded: every rank must read the same weights in the same order.
        parameter: The parameter, where the weight is one as it stands; None where it is computed,
            or comes out of a file.
        dtype: Of its values.
        is_copy: Whether reading it takes memory: where it is gathered, computed or dequantized.
    """

    layer: str
    layer_id: int
    name: str
    kind: Kind
    shape: tuple[int, ...]
    parts: tuple[str, ...]
    read: Callable[[], Tensor]
    parameter: Tensor | None = None
    dtype: torch.dtype = torch.float32
    is_copy: bool = True


def effective_weights(model: nn.Module) -> list[EffectiveWeight | Skipped]:
    """Every weight of a model as its layers use it, in the order of `named_modules`; no bias.

    Weights that cannot be read come as `Skipped` with the reason, and so do the second places of
    tied ones. Nothing is computed before `read` is called.
    """
    identity = {id(module): index for index, module in enumerate(model.modules())}
    found: list[tuple[int, EffectiveWeight | Skipped]] = []
    hidden: set[int] = set()  # the modules that compute a parametrized weight
    for path, module in model.named_modules():
        if id(module) in hidden:
            continue
        for factors in parametrizations_of(module).values():
            hidden.update(map(id, factors.modules()))
        layer_id = identity[id(module)]
        found.extend((layer_id, item) for item in _computed(path, layer_id, module))
    parts = {id(module): factors_of(module) for module in model.modules()}
    for weight in walk(
        model, lambda module, name: id(module) in hidden or name in parts[id(module)]
    ):
        if isinstance(weight, Skipped):
            found.append((len(identity), weight))
        else:
            layer_id = identity[id(weight.module)]
            found.extend((layer_id, item) for item in _as_it_stands(weight, layer_id))
    return [item for _, item in sorted(found, key=lambda pair: pair[0])]


def _as_it_stands(weight: Weight, layer_id: int) -> Iterator[EffectiveWeight | Skipped]:
    """A parameter that is a weight itself; nothing where it is a bias."""
    parameter, attribute = weight.parameter, weight.attribute
    main = _is_main(weight.kind, attribute)
    try:
        reason = unreadable(parameter)
        shape = () if reason else tuple(parameter.shape)
    except Exception as error:  # whatever a tensor subclass raises
        reason, shape = f"cannot be read: {error}", ()
    if weight.kind == "bias" and (reason or not _is_matrix(shape)):
        return
    if reason is not None:
        yield Skipped(weight.layer if main else weight.name, reason, weight.kind)
        return
    yield EffectiveWeight(
        layer=weight.layer,
        layer_id=layer_id,
        name=weight.name,
        kind=weight.kind if main else "other",
        shape=shape,
        parts=_parts(weight.module, attribute),
        read=partial(_read, parameter),
        parameter=parameter,
        dtype=parameter.dtype,
        is_copy=type(parameter) not in (Tensor, nn.Parameter) or parameter.is_quantized,
    )


def _is_main(kind: Kind, attribute: str) -> bool:
    """Whether it is the weight of a layer, not a parameter beside it."""
    return attribute == "weight" or kind in ("attention", "rnn")


def _is_matrix(shape: tuple[int, ...]) -> bool:
    """Whether something that is called a bias is one for each pair: a table, not a vector."""
    return sum(size > 1 for size in shape) > 1


def _read(parameter: Tensor) -> Tensor:
    return dequantized(whole(parameter))


def dequantized(values: Tensor) -> Tensor:
    """The values of a quantized tensor, or of a subclass with a way of its own (torchao's)."""
    own = type(values).dequantize is not Tensor.dequantize
    return values.dequantize() if own or values.is_quantized else values


def _parts(module: nn.Module, attribute: str) -> tuple[str, ...]:
    if isinstance(module, nn.MultiheadAttention) and attribute == "in_proj_weight":
        return ("q", "k", "v")
    if attribute.startswith(("weight_ih", "weight_hh")):
        return next((gates for types, gates in _GATES if isinstance(module, types)), ())
    return ()


def _computed(path: str, layer_id: int, module: nn.Module) -> Iterator[EffectiveWeight | Skipped]:
    """The weights of a module that are no parameter of it, and where one would look in vain."""
    layer = layer_of(path, module)
    for held in (module._parameters, module._buffers):
        if "weight" in held and held["weight"] is None:
            yield Skipped(layer, f"{type(module).__name__} has weight=None", kind_of(module))
    if is_of_torch_ao(module) and callable(getattr(type(module), "get_weight", None)):
        yield Skipped(layer, f"{type(module).__name__} keeps its quantized weights packed")
    try:
        recipes = recipes_of(module)
    except AttributeError as error:  # a hook whose factors were taken away
        yield Skipped(layer, f"its effective weight cannot be computed: {error}")
        return
    for attribute, recipe in recipes.items():
        name = clean_name(f"{path}.{attribute}" if path else attribute)
        kind = kind_of(module, attribute)
        reason = next(filter(None, map(unreadable, recipe.factors)), None)
        shape: tuple[int, ...] = ()
        if reason is None:
            try:
                shape = recipe.shape()
            except Exception as error:  # what a parametrization may raise is not known
                reason = f"its effective weight cannot be computed: {error}"
        if kind == "bias" and not _is_matrix(shape):
            continue
        main = _is_main(kind, attribute)
        if reason is not None:
            yield Skipped(layer if main else name, reason, kind)
            continue
        kind = kind if main else "other"
        if not recipe.factors:
            bases = [base.__name__ for base in type(module).__mro__]
            kind = next((_KINDS_OF_PACKED[b] for b in bases if b in _KINDS_OF_PACKED), "other")
        parts = _parts(module, attribute)
        dtype = recipe.factors[0].dtype if recipe.factors else torch.float32
        yield EffectiveWeight(
            layer, layer_id, name, kind, shape, parts, recipe.compute, dtype=dtype
        )
