"""Attention and recurrent layers on the meta device as one operation, as on other devices."""

from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

# Of a recurrent layer: cuDNN's number of its kind, and the values that it keeps for each unit and
# step: gates, states and outputs.
_LSTM = 2
_RECURRENT = {
    torch.rnn_relu: (0, 1),
    torch.rnn_tanh: (1, 1),
    torch.lstm: (_LSTM, 7),
    torch.gru: (3, 7),
}


class FusedKernels(TorchFunctionMode):
    """Within it, attention and recurrent layers on meta do and keep what fused kernels do and keep.

    By itself torch takes them apart there: as many FLOPs, but attention keeps length² scores for
    the backward pass, and recurrent layers take milliseconds for every step. Where the fused kernel
    of the CPU would not do, neither does this: with dropout or a mask that is trained.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is F.scaled_dot_product_attention:
            return _attention(*args, **kwargs)
        if function is F.multi_head_attention_forward:
            with self:  # for what it calls
                return _looking_in(function)(*args, **kwargs)
        if function in _RECURRENT and args[0].is_meta and not kwargs:
            return _recurrent(function, args)
        return function(*args, **kwargs)


def _looking_in(function: Any) -> FunctionType:
    """The same function, which does not ask whether it is to be replaced."""
    names = {**function.__globals__, "has_torch_function": lambda *_: False}
    made = FunctionType(function.__code__, names, function.__name__, function.__defaults__)
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **others: Any,
) -> Tensor:
    alike = _are_alike(query, key, value, shared=bool(others.get("enable_gqa")))
    plain_mask = attn_mask is None or not attn_mask.requires_grad
    if not (query.is_meta and alike and plain_mask and dropout_p == 0.0):
        given = attn_mask, dropout_p, is_causal
        return F.scaled_dot_product_attention(query, key, value, *given, scale=scale, **others)
    mask = None if attn_mask is None else torch.empty_like(attn_mask, dtype=query.dtype)
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    made: Tensor = fused(query, key, value, 0.0, is_causal, attn_mask=mask, scale=scale)[0]
    return made


def _are_alike(query: Tensor, key: Tensor, value: Tensor, *, shared: bool) -> bool:
    """Whether the fused kernel takes them: so many heads each, or queries that share the others."""
    if not query.dim() == key.dim() == value.dim() == 4 or not key.shape[1]:
        return False
    if not query.shape[0] == key.shape[0] == value.shape[0] or key.shape[1] != value.shape[1]:
        return False
    fewer = shared and query.shape[1] % key.shape[1] == 0
    same_width = query.shape[-1] == key.shape[-1] == value.shape[-1]
    return same_width and (fewer or query.shape[1] == key.shape[1])


def _recurrent(function: Any, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """All layers and directions of a batch, or of a packed one, which is called in another way."""
    packed = not isinstance(args[3], bool)
    x, *sizes, states, weights, _, layers, dropout, training, both = args[: 9 if packed else 8]
    kind, values = _RECURRENT[function]
    hidden, cell = states if kind == _LSTM else (states, None)
    width, projected = hidden.shape[-1], 0
    if cell is not None and cell.shape[-1] != width:
        width, projected = cell.shape[-1], width
    per_layer = len(weights) // len(hidden)  # of each layer and direction
    out, *last, _, _ = torch.ops.aten._cudnn_rnn(
        x, weights, per_layer, None, hidden, cell, kind, width, projected, layers,
        not packed and args[8], dropout, training, both, sizes[0].tolist() if packed else [], None,
    )  # fmt: skip
    kept = x.shape[:-1].numel() * len(hidden) * width * values - out.numel()
    if out.requires_grad and kept > 0:
        out = _Kept.apply(out, torch.empty(kept, dtype=x.dtype, device=x.device))  # type: ignore[no-untyped-call]
    return (out, *last) if kind == _LSTM else (out, last[0])


class _Kept(torch.autograd.Function):
    """Keeps something beside what it passes on, for a backward pass that never comes."""

    @staticmethod
    def forward(context: Any, out: Tensor, kept: Tensor) -> Tensor:
        context.save_for_backward(kept)
        return out.view_as(out)
