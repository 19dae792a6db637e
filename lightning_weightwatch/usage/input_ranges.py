"""Between which ends the inputs of layers lie, over some batches, and where 99.9 % of them end."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils.rnn import PackedSequence

from lightning_weightwatch.model.hooked import Hook, Hooked
from lightning_weightwatch.model.weights import Weight
from lightning_weightwatch.usage.value_cells import CELLS, sampled_cells, size_quantile
from lightning_weightwatch.values.blocks import has_doubles

#: Whether a range reaches the ends, or no further than 99.9 % of the absolute values.
RangeClip = Literal["percentile", "minmax"]
RANGE_CLIPS: tuple[RangeClip, ...] = get_args(RangeClip)
_SHARE = 0.999
# Values of a call that are counted: a range rests on few calls.
_SAMPLE = 1 << 17

_OF_ATTENTION = ("query", "key", "value")


class InputRanges(Hooked):
    """The range of the inputs of each layer, over every forward pass within the block.

    Forward pre-hooks look at the first argument of a layer, and at query, key and value together of
    `MultiheadAttention`. They change no value and are gone after the block; a fault in them is the
    reason why a layer has no range. The ends are exact; the quantile is off by 1/64 of it at most
    (1/8 below 2^-31 and above 2^33), and of more than 2^17 values in a call it is that of a sample.

    Args:
        weights: Of the layers.
    """

    def __init__(self, weights: Sequence[Weight]) -> None:
        self._modules = {weight.layer: weight.module for weight in weights}
        self._faults: dict[str, str] = {}
        self._ends: dict[str, Tensor] = {}
        self._cells: dict[str, Tensor] = {}
        for weight in weights:
            device = weight.parameter.device
            wide = torch.float64 if has_doubles(device) else torch.float32
            # The smallest value, and the largest one times −1, so that the least of both counts.
            self._ends[weight.layer] = torch.full((2,), math.inf, dtype=wide, device=device)
            self._cells[weight.layer] = torch.zeros(CELLS, dtype=torch.int64, device=device)

    def put_on(self, on: ExitStack) -> None:
        """Hooks before layers."""
        for name, module in self._modules.items():
            hook = Hook(partial(self._see, name))
            handle = module.register_forward_pre_hook(hook, with_kwargs=True)
            on.callback(handle.remove)

    @torch.no_grad()
    def _see(
        self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        try:
            with_inputs(module, args, kwargs, partial(self._add, name))
        except Exception as fault:
            self._faults[name] = f"{type(fault).__name__}: {fault}"
            self._ends[name].fill_(math.nan)  # which other processes see too

    def _add(self, name: str, values: Tensor) -> Tensor:
        if values.numel():
            low, high = torch.aminmax(values.detach())
            ends = torch.stack([low, -high]).to(self._ends[name])
            self._ends[name].copy_(torch.minimum(self._ends[name], ends))
            cells = sampled_cells(values.detach(), _SAMPLE)
            self._cells[name] += cells.to(self._cells[name].device)
        return values

    def merge(self, total: Callable[[Tensor], Tensor], least: Callable[[Tensor], Tensor]) -> None:
        """Put together what several processes have seen.

        Args:
            total: The sum of a tensor over all processes.
            least: The least of each of its values over them. Each is called once a layer, in the
                same order everywhere, whatever a process has seen.
        """
        for name in self._modules:
            self._ends[name] = least(self._ends[name].nan_to_num(-math.inf, math.inf, -math.inf))
            self._cells[name] = total(self._cells[name])

    def of(self, weight: Weight, clip: RangeClip) -> tuple[float, float] | None:
        """The least and the greatest value of the inputs of a weight, else None."""
        if self.missing(weight):
            return None
        low, negative_high = self._ends[weight.layer].tolist()
        high = -negative_high
        if clip == "percentile":
            cells = self._cells[weight.layer].cpu().numpy()
            reach = size_quantile(cells, _SHARE, low, high)
            low, high = max(low, -reach), min(high, reach)
        return low, high

    def missing(self, weight: Weight) -> str:
        """Why there is no range for the inputs of a weight; an empty string where there is one."""
        if isinstance(weight.module, NonDynamicallyQuantizableLinear):
            return "they are within MultiheadAttention, where hooks do not see them"
        if weight.layer in self._faults:
            return self._faults[weight.layer]
        ends = self._ends[weight.layer].tolist()
        if ends == [math.inf, math.inf]:
            return "none of them was seen that is no integer"
        return "" if all(map(math.isfinite, ends)) else "they are not finite"


def with_inputs(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    change: Callable[[Tensor], Tensor],
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a layer with its inputs changed, where they are floating-point numbers.

    Arguments that are one tensor stay one tensor, which `MultiheadAttention` asks for.
    """
    names = _OF_ATTENTION if isinstance(module, nn.MultiheadAttention) else tuple(kwargs)[:1]
    count = len(_OF_ATTENTION) if isinstance(module, nn.MultiheadAttention) else 1
    changed: dict[int, Any] = {}

    def new(value: Any) -> Any:
        if id(value) not in changed:
            changed[id(value)] = _changed(value, change)
        return changed[id(value)]

    named = {key for key in names[len(args) :] if key in kwargs} if len(args) < count else set()
    positional = (*map(new, args[:count]), *args[count:])
    return positional, {key: new(v) if key in named else v for key, v in kwargs.items()}


def _changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, PackedSequence):
        return value._replace(data=change(value.data))
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    if value.is_nested or value.layout != torch.strided:
        raise TypeError("they are nested or sparse")
    return change(value)
