"""The outputs of layers: which layers have any, and which of their axes are the channels."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.loss import _Loss

from lightning_weightwatch.model.weights import kind_of, layer_of, parametrizations_of

# What they give is what they got, a number, or nothing at all.
_LEFT_OUT = (
    _DropoutNd, _Loss, nn.Identity, nn.Flatten, nn.Unflatten,
    nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict,
)  # fmt: skip
_LAST = ("linear", "embedding", "attention", "rnn", "bilinear")
_SECOND = (
    _BatchNorm, nn.GroupNorm, nn.LocalResponseNorm, nn.Upsample, nn.PixelShuffle,
    nn.PixelUnshuffle, nn.ChannelShuffle, nn.Unfold, nn.Fold,
)  # fmt: skip
# Conv2d, InstanceNorm1d, AdaptiveAvgPool3d: the axes that come after the channels.
_SPATIAL = re.compile(r"([123])d$")
# From here on a tensor of which nothing is known is taken for images.
_IMAGES = 4


def observed_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The layers of a model whose outputs are looked at, with their paths, in order.

    That is every module without modules of its own, with weights or without, and
    `nn.MultiheadAttention` as one. Left out are dropout, `Identity` and `Flatten`, which give what
    they got, and losses and metrics, which give a number. A shared module comes once.
    """
    return [(layer_of(path, module), module) for path, module in _leaves("", model, set())]


def _leaves(path: str, module: nn.Module, met: set[int]) -> Iterator[tuple[str, nn.Module]]:
    if id(module) in met or _is_metric(module):
        return
    met.add(id(module))
    computed = parametrizations_of(module)
    below = [
        (name, child)
        for name, child in module._modules.items()
        if child is not None and not (computed and name == "parametrizations")
    ]
    if not below or isinstance(module, nn.MultiheadAttention):
        if not isinstance(module, _LEFT_OUT):
            yield path, module
        return
    for name, child in below:
        yield from _leaves(f"{path}.{name}" if path else name, child, met)


def _is_metric(module: nn.Module) -> bool:
    """Whether a module is a torchmetrics Metric, told without the seconds its import takes."""
    return hasattr(module, "_defaults") and hasattr(module, "_update_count")


def first_tensor(output: Any) -> Tensor | None:
    """The first tensor of what a layer gives: of tuples, of mappings, of both within each other."""
    if isinstance(output, Tensor):
        return output
    parts: Iterator[Any] = iter(())
    if isinstance(output, Mapping):
        parts = iter(output.values())
    elif isinstance(output, list | tuple):
        parts = iter(output)
    return next((found for found in map(first_tensor, parts) if found is not None), None)


def unreadable(values: Tensor | None) -> str:
    """Why there are no statistics of an output; an empty string where there are."""
    if values is None:
        return "its output is no tensor"
    if not values.is_floating_point():
        return f"its outputs are not real numbers ({values.dtype})"
    if values.is_meta:
        return "its outputs are on the meta device: they have no values"
    if torch._C._functorch.is_functorch_wrapped_tensor(values):
        return "its outputs are within a transform such as vmap"
    if hasattr(values, "full_tensor"):
        return "its outputs are spread over processes"
    if values.is_nested and values.layout != torch.strided:
        return f"its outputs are a nested tensor of the layout {values.layout}"
    if values.layout != torch.strided:
        return f"its outputs are sparse ({values.layout})"
    return "its output is a single number" if values.dim() == 0 else ""


def own_axis(module: nn.Module, output: Tensor) -> int | None:
    """The axis of the channels that a layer of a known kind gives; None where its kind is not."""
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        normalized = tuple(module.normalized_shape)
        fits = tuple(output.shape[-len(normalized) :]) == normalized
        return output.dim() - len(normalized) if fits else None
    if kind_of(module) in _LAST:
        return output.dim() - 1
    if isinstance(module, _SECOND):
        return min(1, output.dim() - 1)
    spatial = next(
        filter(None, (_SPATIAL.search(base.__name__) for base in _of_torch(module))), None
    )
    if spatial is None:
        return 1 if isinstance(module, _NormBase) else None
    return max(output.dim() - 1 - int(spatial[1]), 0)


def _of_torch(module: nn.Module) -> list[type]:
    return [base for base in type(module).__mro__ if base.__module__.startswith("torch.nn.modules")]


def passed_axis(output: Tensor, known: Mapping[int, int]) -> int:
    """The axis of the channels of what a layer of an unknown kind gives, such as ReLU.

    That of the layer of a known kind that ran last, among those whose outputs have as many
    dimensions. If there was none: the second axis from four dimensions on, else the last one.
    """
    dimensions = output.dim()
    return known.get(dimensions, 1 if dimensions >= _IMAGES else dimensions - 1)
