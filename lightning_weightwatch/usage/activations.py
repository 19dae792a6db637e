"""What layers give: moments, range, zeros and a histogram of their outputs, per channel too."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_weightwatch.model.hooked import Hook, Hooked, is_traced
from lightning_weightwatch.report import Skipped
from lightning_weightwatch.usage.channel_reading import Scratch
from lightning_weightwatch.usage.channel_sums import ChannelSums, merged, nothing
from lightning_weightwatch.usage.layer_activations import LayerActivations, of_layer
from lightning_weightwatch.usage.outputs import (
    first_tensor,
    observed_modules,
    own_axis,
    passed_axis,
    unreadable,
)
from lightning_weightwatch.usage.running_outputs import RunningOutputs
from lightning_weightwatch.usage.value_cells import CELLS

__all__ = ["Activations", "LayerActivations", "observed_modules"]

_CPU = torch.device("cpu")


class Activations(Hooked):
    """Statistics of the outputs of layers, over every forward pass within the block.

    Each output is read as it comes, in blocks, and not kept, but for copies of small ones, which
    are read together, 2^15 values at a time. A layer that is called several times adds up. Hooks
    change no value and keep no graph, and are gone after the block. A fault in a statistic is the
    reason why its layer is skipped, not an exception. While there are hooks,
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
        self._running: dict[str, RunningOutputs] = {}
        self._faults: dict[str, str] = {}
        self._empty: set[str] = set()
        self._axes: dict[int, int] = {}
        self._own_axes: dict[tuple[str, torch.Size], int | None] = {}
        self._scratch = Scratch()

    def put_on(self, on: ExitStack) -> None:
        """Hooks after layers."""
        on.callback(self._scratch.forget)
        for name, module in self._modules:
            try:
                handle = module.register_forward_hook(Hook(partial(self._see, name)))
            except RuntimeError as fault:  # a ScriptModule may refuse
                self._faults[name] = f"takes no hook: {fault}"
            else:
                on.callback(handle.remove)

    def _see(self, name: str, module: nn.Module, _: tuple[Any, ...], output: Any) -> None:
        if self.paused or name in self._faults or is_traced():
            return
        try:
            with torch.inference_mode():
                self._add(name, module, output)
        except Exception as fault:
            self._skip_for(name, fault)

    def _add(self, name: str, module: nn.Module, output: Any) -> None:
        values = first_tensor(output)
        reason = unreadable(values)
        if values is None or reason:
            self._skip(name, reason)
            return
        parts = values.detach().unbind() if values.is_nested else [values.detach()]
        for part in parts:
            axis = self._axis(name, module, part)
            if not part.numel():
                self._empty.add(name)
                continue
            if name not in self._running:
                self._running[name] = RunningOutputs(self._scratch)
            self._running[name].add(part, axis)

    def _axis(self, name: str, module: nn.Module, values: Tensor) -> int:
        key = name, values.shape
        if key not in self._own_axes:
            self._own_axes[key] = own_axis(module, values)
        axis = self._own_axes[key]
        if axis is None:
            return passed_axis(values, self._axes)
        self._axes[values.dim()] = axis
        return axis

    def _skip(self, name: str, reason: str) -> None:
        self._faults[name] = reason
        self._running.pop(name, None)

    def _settled(self) -> dict[str, tuple[ChannelSums, Tensor]]:
        """What is known of each layer."""
        found = {}
        for name, running in list(self._running.items()):
            try:
                with torch.inference_mode():  # as the memory for blocks was made
                    found[name] = running.settle()
            except Exception as fault:  # of what waited to be read
                self._skip_for(name, fault)
        return found

    def _skip_for(self, name: str, fault: Exception) -> None:
        said = str(fault).partition("\n")[0]
        self._skip(name, f"{type(fault).__name__}: {said}")

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
        known = self._settled()
        channels = [len(known[name][0]) if name in known else 0 for name in names]
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
                own = known[name][0] if name in known else nothing(1 if one else int(most), device)
                shared[name] = (own.in_one() if one else own).to(device)
        if not shared:
            return
        none = torch.zeros(CELLS, dtype=torch.int64)
        sums = merged(list(shared.values()), reduce)
        own_cells = [known[name][1] if name in known else none for name in shared]
        cells = reduce(torch.stack([each.to(device) for each in own_cells]), "sum")
        together = zip(shared, sums, cells, strict=True)
        self._running = {name: RunningOutputs(self._scratch, *known) for name, *known in together}

    def of_layers(self) -> tuple[LayerActivations, ...]:
        """What was seen, in the order of the modules."""
        known = self._settled()
        return tuple(
            of_layer(name, module, *known[name])
            for name, module in self._modules
            if not self._missing(name, known)
        )

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """The layers of which nothing is known, and why."""
        known = self._settled()
        reasons = ((name, self._missing(name, known)) for name, _ in self._modules)
        return tuple(Skipped(name, reason) for name, reason in reasons if reason)

    def _missing(self, name: str, known: Mapping[str, tuple[ChannelSums, Tensor]]) -> str:
        if name in self._faults:
            return self._faults[name]
        if name not in known:
            return "its outputs are empty" if name in self._empty else "it was not called"
        sums = known[name][0].in_one()
        if not sums.counts.any():
            return "none of its outputs is finite"
        squared = sums.lows == sums.highs or 0 < sums.deviations < math.inf
        return "" if squared else "its outputs are too large or too small to be squared"
