"""The effective weights of a model: what the forward passes of its layers multiply with.

For most layers that is a parameter as it stands. Where it is computed anew at each forward pass
(`torch.nn.utils.parametrize`, the older weight_norm and spectral_norm, `torch.nn.utils.prune`) or
kept packed (quantized layers), it is computed here, without changing the model.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

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
        parameter: The parameter, where the weight is one as it stands; None where it is computed.
    """

    layer: str
    layer_id: int
    name: str
    kind: Kind
    shape: tuple[int, ...]
    parts: tuple[str, ...]
    read: Callable[[], Tensor]
    parameter: Tensor | None = None


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
    parts = {id(module): _factors(module) for module in model.modules()}
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
        yield Skipped(weight.layer if main else weight.name, reason)
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
            yield Skipped(layer, f"{type(module).__name__} has weight=None")
    if _is_of_torch_ao(module) and callable(getattr(type(module), "get_weight", None)):
        yield Skipped(layer, f"{type(module).__name__} keeps its quantized weights packed")
    try:
        recipes = _recipes(module)
    except AttributeError as error:  # a hook whose factors were taken away
        yield Skipped(layer, f"its effective weight cannot be computed: {error}")
        return
    for attribute, (factors, read, shape_of) in recipes.items():
        name = clean_name(f"{path}.{attribute}" if path else attribute)
        kind = kind_of(module, attribute)
        reason = next(filter(None, map(unreadable, factors)), None)
        shape: tuple[int, ...] = ()
        if reason is None:
            try:
                shape = shape_of()
            except Exception as error:  # what a parametrization may raise is not known
                reason = f"its effective weight cannot be computed: {error}"
        if kind == "bias" and not _is_matrix(shape):
            continue
        main = _is_main(kind, attribute)
        if reason is not None:
            yield Skipped(layer if main else name, reason)
            continue
        kind = kind if main else "other"
        if not factors:
            bases = [base.__name__ for base in type(module).__mro__]
            kind = next((_KINDS_OF_PACKED[b] for b in bases if b in _KINDS_OF_PACKED), "other")
        yield EffectiveWeight(layer, layer_id, name, kind, shape, _parts(module, attribute), read)


_Recipe = tuple[list[Tensor], Callable[[], Tensor], Callable[[], tuple[int, ...]]]


def _recipes(module: nn.Module) -> dict[str, _Recipe]:
    """How each computed weight of a module comes about: from what, how, and of which shape."""
    recipes: dict[str, _Recipe] = {}
    buffers = dict(module._buffers.items())
    for attribute, original in module._parameters.items():
        base = attribute.removesuffix("_orig")
        mask = buffers.get(f"{base}_mask")
        if base != attribute and original is not None and mask is not None:
            recipes[base] = [original], partial(_pruned, original, mask), partial(_shape, original)
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            (g,), read_g, _ = _factor(module, f"{hook.name}_g", recipes)
            (v,), read_v, shape = _factor(module, f"{hook.name}_v", recipes)
            compute: Callable[[], Tensor] = partial(_weight_normed, read_g, read_v, hook.dim)
            recipes[hook.name] = [g, v], compute, shape
        elif isinstance(hook, SpectralNorm):
            factors, read, shape = _factor(module, f"{hook.name}_orig", recipes)
            compute = partial(_spectral_normed, hook, module, read)
            recipes[hook.name] = factors, compute, shape
    for attribute, computing in parametrizations_of(module).items():
        if any(name.startswith("original") for name in computing._parameters):  # no buffer
            recipes[attribute] = (
                list(computing.parameters()),
                partial(_parametrized, computing),
                partial(_shape_of_parametrized, computing),
            )
    if _is_of_torch_ao(module) and callable(getattr(type(module), "weight", None)):
        unpack = partial(_unpacked, module)
        recipes["weight"] = [], unpack, lambda: tuple(unpack().shape)
    return recipes


def _is_of_torch_ao(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.ao.nn")


def _factor(module: nn.Module, attribute: str, recipes: dict[str, _Recipe]) -> _Recipe:
    """A factor of a weight, which may be pruned itself, and is then no weight of its own."""
    if attribute in recipes:
        return recipes.pop(attribute)
    value: Tensor = getattr(module, attribute)
    return [value], partial(whole, value), partial(_shape, value)


def _factors(module: nn.Module) -> set[str]:
    """The parameters of a module that a weight is computed from."""
    names = {
        f"{hook.name}_{factor}"
        for hook in module._forward_pre_hooks.values()
        if isinstance(hook, WeightNorm | SpectralNorm)
        for factor in ("g", "v", "orig")
    }
    buffers = module._buffers.keys()  # by name: the tables of scripted modules cannot be iterated
    return names | {f"{name[:-5]}_orig" for name in buffers if name.endswith("_mask")}


def _shape(weight: Tensor) -> tuple[int, ...]:
    return tuple(weight.shape)


@torch.no_grad()
def _weight_normed(g: Callable[[], Tensor], v: Callable[[], Tensor], dim: int) -> Tensor:
    normed: Tensor = torch._weight_norm(v(), g(), dim)
    return normed


@torch.no_grad()
def _spectral_normed(
    hook: SpectralNorm, module: nn.Module, original: Callable[[], Tensor]
) -> Tensor:
    weight = original()
    u, v = (whole(getattr(module, f"{hook.name}_{vector}")) for vector in "uv")
    return weight / torch.dot(u, hook.reshape_weight_to_matrix(weight) @ v)


@torch.no_grad()
def _pruned(original: Tensor, mask: Tensor) -> Tensor:
    return whole(original) * whole(mask)


def _unpacked(module: nn.Module) -> Tensor:
    return module.weight().dequantize().detach()  # type: ignore[operator,no-any-return]


def _parametrized(factors: nn.Module) -> Tensor:
    """The weight that a `ParametrizationList` gives in eval mode."""
    return _of_a_copy(factors, whole)


def _shape_of_parametrized(factors: nn.Module) -> tuple[int, ...]:
    """Its shape, by a pass of a copy without values; with values where that is not possible."""
    try:
        return tuple(_of_a_copy(factors, partial(torch.empty_like, device="meta")).shape)
    except Exception:  # what a parametrization may raise is not known
        return tuple(_parametrized(factors).shape)


@torch.no_grad()
def _of_a_copy(factors: nn.Module, value_of: Callable[[Tensor], Tensor]) -> Tensor:
    """The weight that a copy of a `ParametrizationList` computes, with other values as parameters.

    A copy, for a forward pass may change buffers, as the power iteration of spectral_norm does.
    The copy has its own buffers, but shares the memory of the parameters.
    """
    values: dict[int, Tensor] = {
        id(parameter): nn.Parameter(value_of(parameter), requires_grad=False)
        for parameter in factors.parameters()
    }
    kept = [held for module in factors.modules() for held in vars(module).values()]
    results = {id(held): held.detach() for held in kept if isinstance(held, Tensor)}
    devices = {p.device for p in factors.parameters() if p.device.type == "cuda"}
    copied = copy.deepcopy(factors, results | values).eval()
    if any(value.is_meta for value in values.values()):
        copied.to("meta")
    with torch.random.fork_rng(devices=list(devices)):
        weight: Tensor = copied()
    return weight
