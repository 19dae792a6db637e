"""One walk over the weights of a model: every parameter once, with its name, kind and module."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from lightning_weightwatch.report import Skipped

Kind = Literal[
    "linear", "embedding", "conv1d", "conv2d", "conv3d", "conv_transpose", "bilinear",
    "attention", "rnn", "norm", "bias", "other",
]  # fmt: skip
KINDS: tuple[Kind, ...] = get_args(Kind)

_KINDS: tuple[tuple[tuple[type[nn.Module], ...], Kind], ...] = (
    ((nn.Linear,), "linear"),
    ((nn.Embedding, nn.EmbeddingBag), "embedding"),
    ((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), "conv_transpose"),
    ((nn.Conv1d,), "conv1d"),
    ((nn.Conv2d,), "conv2d"),
    ((nn.Conv3d,), "conv3d"),
    ((nn.Bilinear,), "bilinear"),
    ((nn.MultiheadAttention,), "attention"),
    ((nn.RNNBase, nn.RNNCellBase), "rnn"),
    ((nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase), "norm"),
)

# Values that are looked at together: a copy of them is nothing beside a weight.
_AT_ONCE = 2**20

# What torch.compile, FSDP1 and activation checkpointing put into the paths of named_modules().
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


@dataclass(frozen=True)
class Weight:
    """A parameter of a model, where it stands and what it is.

    Attributes:
        layer: Dotted path of the module that owns it; the class name when that is the model itself.
        name: Dotted path of the parameter (`encoder.0.weight`).
        kind: The kind of its module, or `"bias"`.
        module: The owner.
        parameter: The parameter itself, alive: read it through `whole`.
    """

    layer: str
    name: str
    kind: Kind
    module: nn.Module
    parameter: nn.Parameter

    @property
    def attribute(self) -> str:
        """The name of the parameter within its module."""
        return self.name.rpartition(".")[2]

    @property
    def output_axis(self) -> int:
        """The axis of the output channels: 1 where a weight is kept as [in, out, ...], else 0."""
        of_gpt2 = self.kind == "linear" and _is_conv1d_of_gpt2(self.module)
        return 1 if self.kind == "conv_transpose" or of_gpt2 else 0


def walk(
    model: nn.Module, passed_over: Callable[[nn.Module, str], bool] = lambda *_: False
) -> Iterator[Weight | Skipped]:
    """Every parameter of `model` in the order of `named_modules`, a tied one only once.

    At its second place a tied parameter, or a shared module, comes as `Skipped`.

    Args:
        model: The model.
        passed_over: Whether a parameter, or a whole module (`""`), is as if it were not there.
    """
    first_name: dict[int, str] = {}
    first_layer: dict[int, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if passed_over(module, ""):
            continue
        layer = layer_of(path, module)
        if first_layer.setdefault(id(module), layer) != layer:
            if len(module._parameters) > 0 or parametrizations_of(module):
                yield Skipped(layer, f"the same module as {first_layer[id(module)]}")
            continue
        for attribute, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if passed_over(module, attribute):
                continue
            name = clean_name(f"{path}.{attribute}" if path else attribute)
            if id(parameter) in first_name:
                yield Skipped(name, f"tied to {first_name[id(parameter)]}")
                continue
            first_name[id(parameter)] = name
            yield Weight(layer, name, kind_of(module, attribute), module, parameter)


def kind_of(module: nn.Module, attribute: str = "weight") -> Kind:
    """The kind of a parameter: that of its module, or `"bias"` for `bias`, `in_proj_bias`."""
    if "bias" in attribute:
        return "bias"
    if _is_conv1d_of_gpt2(module):
        return "linear"
    return next((kind for types, kind in _KINDS if isinstance(module, types)), "other")


def _is_conv1d_of_gpt2(module: nn.Module) -> bool:
    """Whether it is the Conv1D of transformers: a linear layer whose weight is [in, out].

    Pruning and parametrizations keep the factors of its weight under other names, in 2-D too.
    """
    if "Conv1D" not in {base.__name__ for base in type(module).__mro__}:
        return False
    dimensions = [parameter.dim() for parameter in module.parameters() if not is_lazy(parameter)]
    return max(dimensions, default=0) == 2


def layer_of(path: str, module: nn.Module) -> str:
    """The name of a layer: its path, or for the model itself its class."""
    made = type(module).__bases__[0] if parametrizations_of(module) else type(module)
    return clean_name(path) or made.__name__


def parametrizations_of(module: nn.Module) -> dict[str, nn.Module]:
    """The modules that compute parametrized weights, by the name of the weight.

    `parametrize.is_parametrized` asks `__getattr__`, which some modules write for themselves.
    """
    held = dict(module._modules.items()).get("parametrizations")
    lists = held.items() if isinstance(held, nn.ModuleDict) else ()
    return {
        name: found for name, found in lists if isinstance(found, parametrize.ParametrizationList)
    }


def clean_name(path: str) -> str:
    """A dotted path without the names of wrappers: `_orig_mod.net.0` becomes `net.0`."""
    return ".".join(part for part in path.split(".") if part not in _WRAPPERS)


def unreadable(parameter: Tensor) -> str | None:
    """Why the values of a parameter cannot be read as real numbers, or None when they can."""
    if is_lazy(parameter):
        return "lazy: it has no shape before the first forward pass"
    if parameter.is_meta:
        return "on the meta device: it has no values"
    if parameter.layout != torch.strided:
        return f"sparse ({parameter.layout})"
    if parameter.numel() == 0:
        return f"empty: shape {tuple(parameter.shape)}"
    if parameter.is_quantized or not (parameter.is_floating_point() or parameter.is_complex()):
        return f"quantized or integer ({parameter.dtype})"
    return None


def whole(parameter: Tensor) -> Tensor:
    """The full tensor, detached. A collective where the parameter is a sharded DTensor.

    Every rank must call it for the same parameters in the same order.
    """
    detached = parameter.detach()
    gather = getattr(detached, "full_tensor", None)  # DTensor, without importing torch.distributed
    return gather() if callable(gather) else detached


def non_finite(values: Tensor) -> str | None:
    """A sentence on the NaN and infinite entries of a tensor, or None when there are none."""
    rows = max(_AT_ONCE * len(values) // values.numel(), 1) if values.ndim and values.numel() else 1
    finite = torch.zeros((), dtype=torch.int64, device=values.device)
    for part in torch.split(values, rows) if values.ndim else (values,):
        # float8 has no isfinite
        finite += torch.isfinite(part.float() if part.element_size() == 1 else part).sum()
    bad = values.numel() - int(finite)
    return f"{bad} of {values.numel()} values are NaN or infinite" if bad else None


def matches(name: str, patterns: Sequence[str] | None) -> bool:
    """Whether a name equals, or fits as a shell pattern, one of `patterns` (None: any name)."""
    return patterns is None or any(
        name == pattern or fnmatchcase(name, pattern) for pattern in patterns
    )
