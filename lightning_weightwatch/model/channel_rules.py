"""What torch's functions do to channels: where each value of their results comes from."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_weightwatch.model.channels import (
    MOST,
    NONE,
    UNKNOWN,
    expanded,
    expanded_to,
    narrowed,
    still,
    varying,
)

_RESHAPES = {"view", "reshape", "flatten", "unflatten", "ravel", "view_as", "reshape_as"}
_MOVES = {
    "permute", "transpose", "t", "swapaxes", "swapdims", "movedim", "moveaxis", "squeeze",
    "unsqueeze", "chunk", "split", "tensor_split", "split_with_sizes", "unbind", "narrow", "select",
    "get", "expand", "expand_as", "broadcast_to", "repeat", "tile", "flip", "roll", "index_select",
    "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "stack", "hsplit", "vsplit",
    "dsplit", "adjoint",
}  # fmt: skip
_ONE_BY_ONE = {
    "add", "sub", "mul", "div", "pow", "square", "sqrt", "rsqrt", "abs", "neg", "exp", "log",
    "log1p", "expm1", "erf", "sin", "cos", "sign", "round", "floor", "ceil", "reciprocal",
    "positive", "nan_to_num", "clamp", "clip", "clamp_min", "clamp_max", "maximum", "minimum",
    "where", "lerp", "addcmul", "addcdiv", "masked_fill", "gt", "lt", "ge", "le", "eq", "ne",
    "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "tanh",
    "sigmoid", "hardtanh", "hardsigmoid", "hardswish", "softplus", "softsign", "softshrink",
    "hardshrink", "tanhshrink", "threshold", "rrelu", "prelu", "logsigmoid", "softmax",
    "log_softmax", "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout",
    "feature_dropout", "feature_alpha_dropout", "batch_norm", "layer_norm", "group_norm",
    "instance_norm", "rms_norm", "local_response_norm", "normalize", "float", "half", "bfloat16",
    "double", "to", "type", "type_as", "contiguous", "clone", "detach", "cpu", "cuda",
    "requires_grad",
}  # fmt: skip
_REDUCES = {
    "mean", "sum", "amax", "amin", "std", "var", "logsumexp", "nanmean", "nansum", "norm",
}  # fmt: skip


def passed_on(
    label: str,
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    known: Sequence[tuple[Tensor, Tensor | None]],
    made: Sequence[Tensor],
) -> list[Tensor | None]:
    """The channels that the results of a function of one step's outputs are.

    Args:
        label: Of the function.
        func: The function.
        args: What it was given.
        kwargs: What it was given by name.
        known: The tensors among these that come from the step, with their channels.
        made: Its results.
    """
    nothing: list[Tensor | None] = [None] * len(made)
    if not known or not made:
        return nothing
    first, numbers = known[0]
    try:
        if label in _ONE_BY_ONE:
            return [_broadcast([each for _, each in known], tensor.shape) for tensor in made]
        if label == "attention" and len(args) >= 3:
            numbers = next((each for tensor, each in known if tensor is args[2]), None)
            return [_held(numbers, [-2], tensor.shape) for tensor in made[:1]] + nothing[1:]
        if numbers is None:
            return nothing
        if label in _RESHAPES:
            return [_reshaped(numbers, made[0].shape)]
        if label in _MOVES and sum(tensor.numel() for tensor in made) <= MOST * _few(label):
            moved = known if label == "stack" else known[:1]
            results = func(
                *(_replaced(each, moved) for each in args),
                **{name: _replaced(each, moved) for name, each in kwargs.items()},
            )
            found = [results] if isinstance(results, Tensor) else list(results)
            return [expanded(each) for each in found] if len(found) == len(made) else nothing
        if label in _REDUCES and len(made) == 1:
            at = 2 if label == "norm" else 1
            dims = kwargs.get("dim", args[at] if len(args) > at else None)
            dims = list(range(first.dim())) if dims is None else dims
            dims = [dims] if isinstance(dims, int) else list(dims)
            if {axis % first.dim() for axis in dims} & set(varying(numbers)):
                return [torch.tensor(UNKNOWN, device="cpu").expand(made[0].shape)]
            return [_held(numbers, dims, made[0].shape)]
        pooled = _pooled(label, args, kwargs, first.dim())
        if pooled:
            held = _held(numbers, list(range(-pooled, 0)), made[0].shape)
            return [held, *nothing[1:]]
    except Exception:  # indices that have no values, shapes that do not fit
        return nothing
    return nothing


def concatenated(
    parts: Sequence[tuple[int | None, Tensor | None, int]], apart: bool
) -> dict[int, Tensor | None]:
    """Of each step the channels along the axis of what `cat` joins.

    Args:
        parts: Of each tensor its step, its channels along that axis, and how many those are.
        apart: Whether it is joined along that axis.
    """
    found: dict[int, Tensor | None] = {}
    for step in {step for step, _, _ in parts if step is not None}:
        own = [ids for other, ids, _ in parts if other == step]
        if any(ids is None for ids in own):
            found[step] = None
        elif apart:
            found[step] = torch.cat([
                ids if other == step and ids is not None else torch.full((size,), NONE)
                for other, ids, size in parts
            ])  # fmt: skip
        else:
            first, *more = [ids for ids in own if ids is not None]
            found[step] = first if all(torch.equal(first, each) for each in more) else None
    return found


def cat_axis(func: Callable[..., Any], args: Any, kwargs: dict[str, Any], dims: int) -> int | None:
    """The axis along which a function joins; None where it does more than that."""
    name = getattr(func, "__name__", "")
    if name == "hstack":
        return min(1, dims - 1)
    if name not in ("cat", "concat", "concatenate"):
        return None
    given = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else 0))
    return int(given) % dims if isinstance(given, int) and dims else None


def _few(label: str) -> float:
    """How much more there may be, where nothing is copied."""
    copying = ("get", "stack", "repeat", "tile", "flip", "roll", "index_select")
    return 1 if label in copying or label.startswith(("pixel", "channel")) else math.inf


def _reshaped(numbers: Tensor, shape: Sequence[int]) -> Tensor | None:
    batch = bool(shape) and numbers.dim() > 0 and numbers.shape[0] == shape[0]
    if batch and not numbers.stride(0) and shape[0]:  # what is the same in all samples
        return expanded_to(_reshaped_once(numbers[:1], [1, *shape[1:]]), shape)
    return _reshaped_once(numbers, shape)


def _reshaped_once(numbers: Tensor, shape: Sequence[int]) -> Tensor | None:
    try:
        return numbers.view(*shape)
    except RuntimeError:
        return expanded(numbers.reshape(*shape)) if numbers.numel() <= MOST else None


def _broadcast(known: Sequence[Tensor | None], shape: Sequence[int]) -> Tensor | None:
    """What all operands are, spread to a shape; None where they are not the same.

    One number for all channels, as the norm of a token, leaves each what it is.
    """
    found: list[Tensor] = []
    for each in known:
        if each is None or (spread := expanded_to(each, shape)) is None:
            return None
        if not _is_mixed(each):
            found.append(spread)
    if not found:
        return torch.tensor(UNKNOWN, device="cpu").expand(*shape)
    first, axes = found[0], set(varying(found[0]))
    for each in known:
        if each is not None and _is_mixed(each):
            sizes = [1] * (len(shape) - each.dim()) + list(each.shape)
            if any(sizes[axis] > 1 for axis in axes):
                return None
    for each in found[1:]:
        if still(first) != still(each):
            return None
        if not torch.equal(narrowed(first, still(first)), narrowed(each, still(each))):
            return None
    return first


def _is_mixed(numbers: Tensor) -> bool:
    """Whether all channels were made one number."""
    if varying(numbers) or not numbers.numel():
        return False
    return int(narrowed(numbers, range(numbers.dim())).flatten()[0]) == UNKNOWN


def _held(numbers: Tensor | None, axes: Sequence[int], shape: Sequence[int]) -> Tensor | None:
    """Numbers after something was done along axes along which they are the same."""
    if numbers is None:
        return None
    dims = numbers.dim()
    axes = sorted({axis % dims for axis in axes}, reverse=True)
    if set(axes) & set(varying(numbers)):
        return None
    numbers = narrowed(numbers, axes)
    if len(shape) < dims:
        for axis in axes:
            numbers = numbers.squeeze(axis)
    return expanded_to(numbers, shape)


def _pooled(label: str, args: tuple[Any, ...], kwargs: dict[str, Any], dims: int) -> int:
    """Over how many of the last axes a function goes, each channel on its own; 0 if it does not."""
    if "pool" in label and label[-2:] in ("1d", "2d", "3d"):
        return int(label[-2])
    if label in ("interpolate", "upsample"):
        return dims - 2
    if label == "pad":
        pad = kwargs.get("pad", args[1] if len(args) > 1 else None)
        return len(pad) // 2 if pad is not None else 0
    return 0


def _replaced(value: Any, known: Sequence[tuple[Tensor, Tensor | None]]) -> Any:
    if isinstance(value, Tensor):
        return next((numbers for tensor, numbers in known if tensor is value), value)
    if type(value) in (list, tuple):
        return type(value)(_replaced(each, known) for each in value)
    return value
