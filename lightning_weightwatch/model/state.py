"""The effective weights of a state dict or a file, told by the names and shapes of its tensors."""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from lightning_weightwatch.model.effective import EffectiveWeight, dequantized
from lightning_weightwatch.model.weights import Kind, clean_name, unreadable, whole
from lightning_weightwatch.report import Skipped

_RECURRENT = re.compile(r"weight_(ih|hh|hr)(_l\d+)?(_reverse)?")
_ATTENTION = re.compile(r"(in|q|k|v)_proj_weight")
_EMBEDDING = re.compile(r"embed|emb$|^(wte|wpe)$")
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
_KIND_BY_DIMENSIONS: dict[int, Kind] = {1: "norm", 3: "conv1d", 4: "conv2d", 5: "conv3d"}
# Rows of weight_hh for each of its columns: the gates that PyTorch stacks.
_GATES = {4: ("i", "f", "g", "o"), 3: ("r", "z", "n")}
# The factors that a factor of a weight stands beside.
_SIBLINGS = {
    "g": ("v",),
    "v": ("g", "orig"),
    "orig": ("mask", "u"),
    "mask": ("orig",),
    "u": ("orig",),
}
_QUANTIZED = (torch.qint8, torch.quint8, torch.qint32)


class Info(Protocol):
    """What is known of a tensor before it is read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""
        ...

    @property
    def dtype(self) -> torch.dtype | None:
        """Its type; None where torch has none like it."""
        ...

    @property
    def unreadable(self) -> str | None:
        """Why it cannot be read; None when it can."""
        ...


class NamedTensors(Protocol):
    """Tensors by name, read one at a time: an open file, or a state dict."""

    def names(self) -> Iterable[str]:
        """All names, in their order."""
        ...

    def info(self, name: str) -> Info:
        """What is known of one of them."""
        ...

    def read(self, name: str) -> Tensor:
        """The values of one of them."""
        ...

    def same_as(self, name: str) -> str | None:
        """The first name of the same tensor, where it is tied to an earlier one."""
        ...


def effective_weights_of_state(tensors: NamedTensors) -> Iterator[EffectiveWeight | Skipped]:
    """Every weight that the layers behind a state dict use, in its order; no bias, no buffer.

    There are no modules to ask. A 2-D `weight` counts as an embedding where its layer is called
    like one, else as linear; 3, 4 and 5 axes are those of a convolution. Factors of weight_norm and
    spectral_norm, and the masks of pruning, are multiplied as the layer would.
    """
    layers: dict[str, dict[str, dict[str, str]]] = {}
    names = dict.fromkeys(tensors.names()).keys()
    for name in names:
        layer, weight, role = _place_of(name, names)
        if role in layers.get(layer, {}).get(weight, {}):  # two odd names that mean the same place
            layer, weight, role = "", name, ""
        layers.setdefault(layer, {}).setdefault(weight, {})[role] = name
    for layer_id, (layer, weights) in enumerate(layers.items(), start=1):
        told = _told(tensors, weights)
        gates = _gates(tensors, told)
        for weight, factors in told.items():
            found = _effective(tensors, clean_name(layer), layer_id, weight, factors, gates)
            if found is not None:
                yield found


def _place_of(name: str, names: Set[str]) -> tuple[str, str, str]:
    """The layer of a tensor, the weight it is, or is a factor of, and which factor (`""`: all)."""
    layer, parametrized, factor = f".{name}".partition(".parametrizations.")
    if parametrized:
        weight, _, role = factor.partition(".")
        return layer[1:], weight, role
    layer, _, attribute = name.rpartition(".")
    if not layer:
        attribute = name
    weight, _, role = attribute.rpartition("_")
    stem = name.removesuffix(role)
    if weight and any(stem + sibling in names for sibling in _SIBLINGS.get(role, ())):
        return layer, weight, role
    return layer, attribute, ""


def _told(
    tensors: NamedTensors, weights: Mapping[str, Mapping[str, str]]
) -> dict[str, Mapping[str, str]]:
    """The weights with their factors; names that only look like those of factors are weights."""
    told: dict[str, Mapping[str, str]] = {}
    for weight, factors in weights.items():
        shapes = {role: tensors.info(name).shape for role, name in factors.items()}
        lookalikes = (
            ("g" in shapes and not _are_norms(shapes["g"], shapes["v"]))
            or ("mask" in shapes and shapes["mask"] != shapes["orig"])
            or ("u" in shapes and len(shapes["u"]) != 1)
        )
        if lookalikes:
            told |= {f"{weight}_{role}": {"": name} for role, name in factors.items()}
        else:
            told[weight] = factors
    return told


def _are_norms(g: tuple[int, ...], v: tuple[int, ...]) -> bool:
    """Whether g has one value for each slice of v along one of its axes, or one for all of it."""
    if math.prod(g) == 1:
        return True
    differ = [axis for axis, size in enumerate(g) if size != 1]
    return len(g) == len(v) and len(differ) == 1 and g[differ[0]] == v[differ[0]]


def _effective(
    tensors: NamedTensors,
    layer: str,
    layer_id: int,
    weight: str,
    factors: Mapping[str, str],
    gates: tuple[str, ...],
) -> EffectiveWeight | Skipped | None:
    """One weight, why it cannot be read, or None for a bias or a buffer."""
    infos = {role: tensors.info(name) for role, name in factors.items()}
    shape = max((info.shape for info in infos.values()), key=math.prod)
    kind = _kind(layer, weight, shape)
    path = f"{layer}.{weight}" if layer else weight
    if weight in _BUFFERS or (kind == "bias" and sum(size > 1 for size in shape) < 2):
        return None
    ties = [tensors.same_as(name) for name in factors.values()]
    if ties[0] is not None and None not in ties:
        return Skipped(path, f"tied to {clean_name(ties[0])}")
    shown = layer if weight == "weight" and layer else path
    reason = next((reason for info in infos.values() if (reason := _unreadable(info))), None)
    if reason is not None:
        odd = any(info.unreadable is not None for info in infos.values())
        named = odd or len(shape) > 1  # no counters, no flags
        return Skipped(shown, reason, kind) if named else None
    compute = _RECIPES.get(frozenset(factors))
    pair = [infos[role].shape for role in ("original0", "original1") if role in infos]
    if compute is None or (len(pair) == 2 and not _are_norms(*pair)):
        return Skipped(shown, "parametrized in a way that its tensors alone do not tell", kind)
    parts: tuple[str, ...] = ()
    if weight == "in_proj_weight":
        parts = ("q", "k", "v")
    elif kind == "rnn" and not weight.startswith("weight_hr"):
        parts = gates
    read = partial(_read, tensors, dict(factors), compute)
    kind = "other" if kind == "bias" else kind
    dtype = next(iter(infos.values())).dtype or torch.float32
    stored = compute is _itself and dtype not in _QUANTIZED
    return EffectiveWeight(
        layer or path, layer_id, path, kind, shape, parts, read, dtype=dtype, is_copy=not stored
    )


def _kind(layer: str, weight: str, shape: tuple[int, ...]) -> Kind:
    if "bias" in weight:
        return "bias"
    if _RECURRENT.fullmatch(weight):
        return "rnn"
    if _ATTENTION.fullmatch(weight):
        return "attention"
    if weight != "weight":
        return "other"
    last = layer.rpartition(".")[2].lower()
    if len(shape) == 2:
        return "embedding" if _EMBEDDING.search(last) else "linear"
    if len(shape) == 3 and "bilinear" in last:
        return "bilinear"
    return _KIND_BY_DIMENSIONS.get(len(shape), "other")


def _gates(tensors: NamedTensors, weights: Mapping[str, Mapping[str, str]]) -> tuple[str, ...]:
    """The gates of a recurrent layer, by the sides of its hidden-to-hidden weight.

    With a projection that weight is [gates · hidden, projected], and the hidden size stands in
    the weight of the projection.
    """
    shapes = {
        weight.partition("_l")[0]: max(
            (tensors.info(name).shape for name in factors.values()), key=math.prod
        )
        for weight, factors in weights.items()
        if _RECURRENT.fullmatch(weight)
    }
    hidden, projection = shapes.get("weight_hh", ()), shapes.get("weight_hr", ())
    if len(hidden) != 2 or 0 in hidden:
        return ()
    columns = projection[1] if len(projection) == 2 and projection[1] else hidden[1]
    return _GATES.get(hidden[0] // columns, ()) if hidden[0] % columns == 0 else ()


def _unreadable(info: Info) -> str | None:
    if info.unreadable is not None:
        return info.unreadable
    if 0 in info.shape:
        return f"empty: shape {info.shape}"
    dtype = info.dtype
    if dtype is None or not (dtype.is_floating_point or dtype.is_complex or dtype in _QUANTIZED):
        return f"quantized or integer ({dtype})"
    return None


def _read(
    tensors: NamedTensors, factors: Mapping[str, str], compute: Callable[..., Tensor]
) -> Tensor:
    values = [_plain(tensors.read(factors[role])) for role in sorted(factors)]
    with torch.no_grad():
        return compute(*values)


def _plain(values: Tensor) -> Tensor:
    """The values as floats, whole.

    Raises:
        ValueError: For a sparse tensor, or one without values.
    """
    values = dequantized(whole(values))
    reason = unreadable(values)
    if reason is not None:
        raise ValueError(reason)
    return values


def _weight_normed(g: Tensor, v: Tensor) -> Tensor:
    """The directions v scaled to the norms g, over every axis along which g has one value."""
    axis = next((axis for axis, size in enumerate(g.shape) if size > 1), 0)
    normed: Tensor = torch._weight_norm(v, g, axis if g.numel() > 1 or v.shape[0] == 1 else -1)
    return normed


def _spectral_normed(original: Tensor, u: Tensor, v: Tensor | None = None) -> Tensor:
    """W / (uᵀ W v), W as a matrix whose rows are on the axis that is as long as u.

    Where several are, it is the one in which u and v are singular vectors. The first, which is the
    rule, needs no more than half of the largest norm: power iterations may not have begun.
    """
    axes = [axis for axis, size in enumerate(original.shape) if size == u.numel()] or [0]
    norms = []
    for axis in axes:
        matrix = original.movedim(axis, 0).flatten(1)
        right = torch.nn.functional.normalize(matrix.mH @ u, dim=0) if v is None else v
        norms.append(torch.vdot(u, matrix @ right))
    largest = max(norms, key=abs)
    return original / (largest if abs(largest) > 2 * abs(norms[0]) else norms[0])


def _itself(values: Tensor) -> Tensor:
    return values


# How the factors of a weight make it; they come in the alphabetical order of their names.
_RECIPES: dict[frozenset[str], Callable[..., Tensor]] = {
    frozenset({""}): _itself,
    frozenset({"g", "v"}): _weight_normed,
    frozenset({"original0", "original1"}): _weight_normed,
    frozenset({"orig", "mask"}): torch.mul,
    frozenset({"orig", "u"}): _spectral_normed,
    frozenset({"orig", "u", "v"}): _spectral_normed,
    frozenset({"original", "0._u", "0._v"}): lambda u, v, original: _spectral_normed(
        original, u, v
    ),
}
