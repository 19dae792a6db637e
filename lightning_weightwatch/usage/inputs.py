"""How large the inputs of layers are: the norm of each input feature over some batches."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from lightning_weightwatch.model.weights import Weight
from lightning_weightwatch.values.blocks import has_doubles, values_at_once

# From the arguments of a forward pass, Σ x² [g, n] over everything but the columns of the weight.
_Reader = Callable[[tuple[Any, ...], Mapping[str, Any]], Tensor | None]

_Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
_TransposedConvolution = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d

_OUT_OF_SIGHT = {
    "embedding": "an embedding is a table to look up in: it has no inputs to weigh by",
    "rnn": "the hidden states of recurrent layers are not seen by hooks",
}


class InputNorms:
    """‖X_j‖₂ of each input feature j of some weights, over every forward pass within the block.

    Forward pre-hooks add up the squares in float64 (float32 on MPS). They change no value and are
    gone after the block. While there are hooks, `nn.TransformerEncoderLayer` does not take its
    fused path in evaluation, whose results may differ in the last bits.

    | layer                            | input feature                                       |
    |----------------------------------|-----------------------------------------------------|
    | linear                           | a column, over all leading dimensions               |
    | convolution                      | a channel at an offset of the kernel, over all      |
    |                                  | windows: exact, with padding, stride and dilation   |
    | transposed convolution           | a channel, the same for all offsets                 |
    | `MultiheadAttention`'s q, k, v   | a column of query, key and value                    |

    A weight that several modules share is seen at the first of them.

    Args:
        weights: Of the model that will be run.

    Example::

        >>> import torch
        >>> from torch import nn
        >>> from lightning_weightwatch.model.weights import walk
        >>> model = nn.Linear(2, 3, bias=False)
        >>> weights = list(walk(model))
        >>> with InputNorms(weights) as norms:
        ...     _ = model(torch.tensor([[3.0, 0.0], [4.0, 1.0]]))
        >>> norms.of(weights[0]).tolist()
        [[5.0, 1.0]]
    """

    def __init__(self, weights: Sequence[Weight]) -> None:
        self._readers: list[tuple[Weight, _Reader]] = []
        self._unseen: dict[str, str] = {}
        self._squares: dict[str, Tensor] = {}
        self._passes: dict[str, int] = {}
        self._hooks = ExitStack()
        for weight in weights:
            reader = _reader(weight)
            if isinstance(reader, str):
                self._unseen[weight.name] = reader
                continue
            self._readers.append((weight, reader))
            self._squares[weight.name] = _zeros(weight)
            self._passes[weight.name] = 0

    def __enter__(self) -> "InputNorms":
        with ExitStack() as hooks:
            for weight, reader in self._readers:
                hook = partial(self._add, weight.name, reader)
                handle = weight.module.register_forward_pre_hook(hook, with_kwargs=True)
                hooks.callback(handle.remove)
            self._hooks = hooks.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._hooks.close()

    @torch.no_grad()
    def _add(
        self,
        name: str,
        reader: _Reader,
        _: nn.Module,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> None:
        seen = reader(args, kwargs)
        if seen is not None and seen.shape == self._squares[name].shape:
            self._squares[name] += seen.to(self._squares[name])
            self._passes[name] += 1

    def merge(self, reduce: Callable[[Tensor], Tensor]) -> None:
        """Put together what several processes have seen.

        Args:
            reduce: The sum of a tensor over all processes. Called once a weight, in the same order
                everywhere, whatever a process has seen.
        """
        for name, squares in self._squares.items():
            passes = squares.new_tensor([self._passes[name]])
            summed = reduce(torch.cat([squares.flatten(), passes]))
            self._squares[name] = summed[:-1].view_as(squares)
            self._passes[name] = int(summed[-1])

    def of(self, weight: Weight) -> Tensor | None:
        """The norms [g, n] of the n inputs of each output row of a weight, else None.

        The rows come in g equal parts of different inputs: the groups of a convolution; queries,
        keys and values; for all else g is 1.
        """
        return None if self.missing(weight) else self._squares[weight.name].sqrt()

    def missing(self, weight: Weight) -> str:
        """Why there are no norms for a weight; an empty string where there are."""
        if not self._passes.get(weight.name):
            return self._unseen.get(weight.name, "no input was seen")
        finite = bool(self._squares[weight.name].isfinite().all())
        return "" if finite else "its inputs are not finite"


def _zeros(weight: Weight) -> Tensor:
    """[g, n] sums, as a tensor of its own even where the forward passes are inference."""
    groups = 3 if weight.attribute == "in_proj_weight" else 1
    if isinstance(weight.module, _Convolution | _TransposedConvolution):
        groups = weight.module.groups
    outputs = weight.parameter.shape[weight.output_axis]
    if weight.kind == "conv_transpose":
        outputs *= groups
    inputs, device = weight.parameter.numel() // outputs, weight.parameter.device
    return torch.zeros(groups, inputs, dtype=_wide(device), device=device)


def _wide(device: torch.device) -> torch.dtype:
    return torch.float64 if has_doubles(device) else torch.float32


def _reader(weight: Weight) -> _Reader | str:
    """How to read the inputs of a weight, or why they cannot be read."""
    module = weight.module
    if isinstance(module, NonDynamicallyQuantizableLinear):
        return "the input of this layer is within MultiheadAttention, where hooks do not see it"
    if weight.kind == "linear":
        return _of_linear
    if weight.kind == "attention":
        every = ("query", "key", "value")
        one = {"q_proj_weight": "query", "k_proj_weight": "key", "v_proj_weight": "value"}
        named = every if weight.attribute == "in_proj_weight" else (one[weight.attribute],)
        return partial(_of_attention, named)
    if isinstance(module, _TransposedConvolution):
        return partial(_of_transposed_convolution, module)
    if isinstance(module, _Convolution):
        return partial(_of_convolution, module)
    return _OUT_OF_SIGHT.get(weight.kind, f"the inputs of {type(module).__name__} are not known")


def _of_linear(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    return _over_columns(_tensor(args[0] if args else next(iter(kwargs.values()), None)))


def _of_attention(
    named: tuple[str, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Tensor | None:
    given = dict(zip(("query", "key", "value"), args, strict=False)) | dict(kwargs)
    inputs = [_tensor(given.get(name)) for name in named]
    same = all(values is inputs[0] for values in inputs)
    seen = [_over_columns(values) for values in (inputs[:1] if same else inputs)]
    found = [part for part in seen if part is not None]
    if len(found) < len(seen):
        return None
    return torch.cat(found).expand(len(named), -1)


def _of_transposed_convolution(
    module: _TransposedConvolution, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Tensor | None:
    squares = _over_samples(module, args, kwargs)
    if squares is None:
        return None
    channels = squares.flatten(1).sum(1)
    return channels.repeat_interleave(math.prod(module.kernel_size)).view(module.groups, -1)


def _of_convolution(
    module: _Convolution, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Tensor | None:
    """Σ x² of each channel and offset over all windows.

    Summing over samples commutes with padding, and a window is a product of intervals: axis after
    axis, what the offset o of the kernel meets is every stride-th value from o · dilation on.
    """
    squares = _over_samples(module, args, kwargs)
    if squares is None:
        return None
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    squares = F.pad(squares.unsqueeze(0), _padding(module), mode).squeeze(0)
    for size, step, apart in zip(module.kernel_size, module.stride, module.dilation, strict=True):
        windows = squares.unfold(1, apart * (size - 1) + 1, step)[..., ::apart]
        squares = windows.sum(1)
    return squares.reshape(module.groups, -1)


def _padding(module: _Convolution) -> list[int]:
    """Before and after each axis, the last axis first, as `F.pad` wants them."""
    sides: list[int] = []
    for axis, (size, apart) in enumerate(zip(module.kernel_size, module.dilation, strict=True)):
        padding: str | tuple[int, ...] = module.padding
        if isinstance(padding, str):
            reach = apart * (size - 1) if padding == "same" else 0
            sides = [reach // 2, reach - reach // 2, *sides]
        else:
            sides = [padding[axis], padding[axis], *sides]
    return sides


def _over_samples(
    module: _Convolution | _TransposedConvolution,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Tensor | None:
    """[C, *size], summed over the batch."""
    x = _tensor(args[0] if args else next(iter(kwargs.values()), None))
    axes = len(module.kernel_size)
    if x is not None and x.dim() == axes + 1:
        x = x.unsqueeze(0)
    if x is None or x.dim() != axes + 2 or x.shape[1] != module.in_channels:
        return None
    return _over_first_axis(x)


def _over_columns(x: Tensor | None) -> Tensor | None:
    """[1, n], summed over all leading dimensions."""
    if x is None or x.dim() == 0:
        return None
    if x.is_nested:  # nn.TransformerEncoder leaves the padding out so
        return torch.stack([_over_first_axis(part) for part in x.unbind()]).sum(0, keepdim=True)
    return _over_first_axis(x.reshape(-1, x.shape[-1])).unsqueeze(0)


def _over_first_axis(x: Tensor) -> Tensor:
    rows = max(values_at_once(x.device) // max(math.prod(x.shape[1:]), 1), 1)
    summed = torch.zeros(x.shape[1:], dtype=_wide(x.device), device=x.device)
    for part in torch.split(x, rows):
        summed += part.to(summed.dtype).square().sum(0)
    return summed


def _tensor(given: object) -> Tensor | None:
    """What can be multiplied with a weight, else None."""
    if not isinstance(given, Tensor) or not given.is_floating_point() or given.is_meta:
        return None
    return given.detach() if given.layout == torch.strided or given.is_nested else None
