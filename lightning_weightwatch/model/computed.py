"""Weights that a layer computes anew at each forward pass, or keeps packed.

Those of `torch.nn.utils.parametrize`, of the older weight_norm and spectral_norm, of
`torch.nn.utils.prune` and of torch.ao's quantized layers: what from, how, and of which shape.
Nothing here changes the module.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from lightning_weightwatch.model.weights import parametrizations_of, whole


@dataclass(frozen=True)
class Recipe:
    """How a weight comes about.

    Attributes:
        factors: The tensors that it is computed from; none where it is kept packed.
        compute: Computes it, whole. A collective where the factors are sharded.
        shape: Its shape, without computing it where that can be.
    """

    factors: list[Tensor]
    compute: Callable[[], Tensor]
    shape: Callable[[], tuple[int, ...]]


def recipes_of(module: nn.Module) -> dict[str, Recipe]:
    """The computed weights of a module, by their names.

    Raises:
        AttributeError: Where a factor of one was taken away.
    """
    recipes: dict[str, Recipe] = {}
    buffers = dict(module._buffers.items())
    for attribute, original in module._parameters.items():
        base = attribute.removesuffix("_orig")
        mask = buffers.get(f"{base}_mask")
        if base != attribute and original is not None and mask is not None:
            compute: Callable[[], Tensor] = partial(_pruned, original, mask)
            recipes[base] = Recipe([original], compute, partial(_shape, original))
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            g, v = (_factor(module, f"{hook.name}_{factor}", recipes) for factor in "gv")
            compute = partial(_weight_normed, g.compute, v.compute, hook.dim)
            recipes[hook.name] = Recipe([*g.factors, *v.factors], compute, v.shape)
        elif isinstance(hook, SpectralNorm):
            original_of = _factor(module, f"{hook.name}_orig", recipes)
            compute = partial(_spectral_normed, hook, module, original_of.compute)
            recipes[hook.name] = Recipe(original_of.factors, compute, original_of.shape)
    for attribute, computing in parametrizations_of(module).items():
        if any(name.startswith("original") for name in computing._parameters):  # no buffer
            recipes[attribute] = Recipe(
                list(computing.parameters()),
                partial(_parametrized, computing),
                partial(_shape_of_parametrized, computing),
            )
    if is_of_torch_ao(module) and callable(getattr(type(module), "weight", None)):
        unpack = partial(_unpacked, module)
        recipes["weight"] = Recipe([], unpack, lambda: tuple(unpack().shape))
    return recipes


def is_of_torch_ao(module: nn.Module) -> bool:
    """Whether it is a quantized layer of torch.ao."""
    return type(module).__module__.startswith("torch.ao.nn")


def _factor(module: nn.Module, attribute: str, recipes: dict[str, Recipe]) -> Recipe:
    """A factor of a weight, which may be pruned itself, and is then no weight of its own."""
    if attribute in recipes:
        return recipes.pop(attribute)
    value: Tensor = getattr(module, attribute)
    return Recipe([value], partial(whole, value), partial(_shape, value))


def factors_of(module: nn.Module) -> set[str]:
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
