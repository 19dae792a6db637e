"""What layers give: moments, range, zeros and a histogram of their outputs, per channel too."""

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_weightwatch.model.hooked import Hooked
from lightning_weightwatch.model.weights import parametrizations_of
from lightning_weightwatch.report import Skipped
from lightning_weightwatch.usage.channel_sums import (
    ChannelSums,
    Scratch,
    channel_sums,
    merged,
    nothing,
)
from lightning_weightwatch.usage.outputs import (
    first_tensor,
    observed_modules,
    own_axis,
    passed_axis,
    unreadable,
)
from lightning_weightwatch.usage.value_cells import (
    CELLS,
    histogram_of,
    sampled_cells,
    size_quantile,
)
from lightning_weightwatch.values.statistics import Histogram

__all__ = ["Activations", "LayerActivations", "observed_modules"]

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class LayerActivations:
    """The outputs of a layer over all calls.

    Moments, range, zeros and channels are exact, of the finite values. `p999` and the histogram
    come from counts in cells, which of large outputs are those of a sample.

    Attributes:
        name: Dotted path of the layer.
        type: Its class.
        channels: How many it has; 1 where their number changed from call to call.
        count: Finite values.
        nonfinite: NaN and infinite values.
        mean: Of all values.
        std: Population standard deviation.
        min: The smallest value.
        max: The largest value.
        p999: The 99.9 % quantile of |x|, off by 1/64 of it at most (and, of more than 2^17 values
            in a call, by what a sample of that size leaves open).
        zero_share: Share of the values that are 0.
        channel_mean: float64 [channels]; NaN where a channel had no finite value, as in what
            follows.
        channel_std: float64 [channels].
        channel_min: float64 [channels].
        channel_max: float64 [channels].
        channel_zero_share: float64 [channels].
        dead: Channels whose output was 0 in every sample and position, of two values at least.
        constant: Channels that gave always the same, and not 0.
        histogram: Of all values in 64 equal bins from `min` to `max`. Its counts add up to `count`;
            which bin a value is in is known up to 1/64 of the value.
    """

    name: str
    type: str
    channels: int
    count: int
    nonfinite: int
    mean: float
    std: float
    min: float
    max: float
    p999: float
    zero_share: float
    channel_mean: Tensor
    channel_std: Tensor
    channel_min: Tensor
    channel_max: Tensor
    channel_zero_share: Tensor
    dead: tuple[int, ...]
    constant: tuple[int, ...]
    histogram: Histogram


class Activations(Hooked):
    """Statistics of the outputs of layers, over every forward pass within the block.

    Each output is read as it comes, in blocks, and never kept; a layer that is called several times
    adds up. Hooks change no value and keep no graph, and are gone after the block. A fault in a
    statistic is the reason why its layer is skipped, not an exception. While there are hooks,
    `nn.TransformerEncoderLayer` does not take its fused path in evaluation, whose results may
    differ in the last bits.

    | layer                                                 | axis of its channels              |
    |-------------------------------------------------------|-----------------------------------|
    | convolutions, BatchNorm, GroupNorm, pooling, Upsample | after the batch, 0 if there is no |
    |                                                       | batch                             |
    | Linear, Embedding, attention, recurrent layers        | the last                          |
    | LayerNorm, RMSNorm                                    | the first that they normalise     |
    | any other, such as ReLU                               | that of the last of those above   |
    |                                                       | with as many dimensions           |

    Of a tuple its first tensor counts, which is all steps of an LSTM and the output of attention.

    Args:
        modules: Names and layers, such as `observed_modules` finds.

    Attributes:
        paused: While it is True nothing is looked at.

    Example::

        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        >>> _ = model[0].weight.data.copy_(torch.eye(2)), model[0].bias.data.zero_()
        >>> with Activations(observed_modules(model)) as activations:
        ...     _ = model(torch.tensor([[3.0, -1.0], [1.0, -2.0]]))
        >>> relu = activations.of_layers()[1]
        >>> relu.mean, relu.max, relu.zero_share, relu.dead
        (1.0, 3.0, 0.5, (1,))
    """

    def __init__(self, modules: Sequence[tuple[str, nn.Module]]) -> None:
        self.paused = False
        self._modules = list(modules)
        self._sums: dict[str, ChannelSums] = {}
        self._cells: dict[str, Tensor] = {}
        self._faults: dict[str, str] = {}
        self._axes: dict[int, int] = {}
        self._scratch = Scratch()

    def put_on(self, on: ExitStack) -> None:
        """Hooks after layers."""
        on.callback(self._forget_scratch)
        for name, module in self._modules:
            try:
                handle = module.register_forward_hook(partial(self._see, name))
            except RuntimeError as fault:  # a ScriptModule may refuse
                self._faults[name] = f"takes no hook: {fault}"
            else:
                on.callback(handle.remove)

    def _forget_scratch(self) -> None:
        self._scratch = Scratch()

    def _see(self, name: str, module: nn.Module, _: tuple[Any, ...], output: Any) -> None:
        if self.paused or name in self._faults or _is_traced():
            return
        try:
            with torch.inference_mode():
                self._add(name, module, output)
        except Exception as fault:
            said = str(fault).partition("\n")[0]
            self._skip(name, f"{type(fault).__name__}: {said}")

    def _add(self, name: str, module: nn.Module, output: Any) -> None:
        values = first_tensor(output)
        reason = unreadable(values)
        if values is None or reason:
            self._skip(name, reason)
            return
        parts = values.detach().unbind() if values.is_nested else [values.detach()]
        for part in parts:
            axis = own_axis(module, part)
            if axis is None:
                axis = passed_axis(part, self._axes)
            else:
                self._axes[part.dim()] = axis
            if part.numel():
                self._add_part(name, part, axis)

    def _add_part(self, name: str, values: Tensor, axis: int) -> None:
        sums, cells = channel_sums(values, axis, self._scratch), sampled_cells(values)
        known = self._sums.get(name)
        self._sums[name] = sums if known is None else known + sums
        counted = self._cells.get(name)
        self._cells[name] = cells if counted is None else counted + cells

    def _skip(self, name: str, reason: str) -> None:
        self._faults[name] = reason
        self._sums.pop(name, None)
        self._cells.pop(name, None)

    @torch.no_grad()
    def merge(self, reduce: Callable[[Tensor, str], Tensor]) -> None:
        """Put together what several processes have seen.

        A layer whose number of channels differs between them has one channel from then on.

        Args:
            reduce: `"sum"`, `"min"` or `"max"` of a tensor over all processes, on its device.
                Called six times at most, with as many values everywhere, whatever a process has
                seen.
        """
        parameters = (parameter for _, module in self._modules for parameter in module.parameters())
        device = next((parameter.device for parameter in parameters), _CPU)
        names = [name for name, _ in self._modules]
        channels = [len(self._sums[name]) if name in self._sums else 0 for name in names]
        least = [-own if own else -math.inf for own in channels]
        faults = [name in self._faults for name in names]
        told = torch.tensor([channels, least, faults], dtype=torch.float64, device=device)
        agreed = reduce(told, "max").T.tolist()
        shared: dict[str, ChannelSums] = {}
        for name, (most, negative_least, fault) in zip(names, agreed, strict=True):
            if fault:
                self._skip(name, self._faults.get(name, "it failed on another process"))
            elif most:
                one = most != -negative_least
                own = self._sums.get(name, nothing(1 if one else int(most), device))
                shared[name] = (own.in_one() if one else own).to(device)
        if not shared:
            return
        self._sums = dict(zip(shared, merged(list(shared.values()), reduce), strict=True))
        none = torch.zeros(CELLS, dtype=torch.int64)
        cells = torch.stack([self._cells.get(name, none).to(device) for name in shared])
        self._cells = dict(zip(shared, reduce(cells, "sum"), strict=True))

    def of_layers(self) -> tuple[LayerActivations, ...]:
        """What was seen, in the order of the modules."""
        return tuple(
            _of_layer(name, module, self._sums[name], self._cells[name])
            for name, module in self._modules
            if not self._missing(name)
        )

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """The layers of which nothing is known, and why."""
        reasons = ((name, self._missing(name)) for name, _ in self._modules)
        return tuple(Skipped(name, reason) for name, reason in reasons if reason)

    def _missing(self, name: str) -> str:
        if name in self._faults:
            return self._faults[name]
        if name not in self._sums:
            return "it was not called"
        return "" if self._sums[name].counts.any() else "none of its outputs is finite"


def _of_layer(name: str, module: nn.Module, found: ChannelSums, cells: Tensor) -> LayerActivations:
    sums = found.to(_CPU).settled()
    whole = sums.in_one().settled()
    count, low, high = int(whole.counts), whole.lows.item(), whole.highs.item()
    empty = sums.counts == 0
    spread = (sums.deviations / sums.counts).sqrt()
    same = (sums.lows == sums.highs) & (sums.counts == sums.seen) & (sums.seen > 1)
    counted = cells.cpu().numpy()
    return LayerActivations(
        name=name,
        type=_class_of(module).__name__,
        channels=len(sums),
        count=count,
        nonfinite=whole.seen - count,
        mean=whole.means.item(),
        std=math.sqrt(whole.deviations.item() / count),
        min=low,
        max=high,
        p999=size_quantile(counted, 0.999, low, high),
        zero_share=whole.zeros.item() / whole.seen,
        channel_mean=sums.means.masked_fill(empty, math.nan),
        channel_std=spread,
        channel_min=sums.lows.masked_fill(empty, math.nan),
        channel_max=sums.highs.masked_fill(empty, math.nan),
        channel_zero_share=sums.zeros / sums.seen,
        dead=_numbers(same & (sums.lows == 0)),
        constant=_numbers(same & (sums.lows != 0)),
        histogram=histogram_of(counted, count, low, high),
    )


def _numbers(flags: Tensor) -> tuple[int, ...]:
    return tuple(int(number) for number in flags.nonzero().flatten().tolist())


def _class_of(module: nn.Module) -> type[nn.Module]:
    return type(module).__bases__[0] if parametrizations_of(module) else type(module)


def _is_traced() -> bool:
    return torch._C._get_tracing_state() is not None or torch.compiler.is_compiling()
