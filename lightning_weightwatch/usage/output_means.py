"""How large the outputs of layers are on average, for importance as the original has it."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_weightwatch.model.hooked import Hook, Hooked, is_traced
from lightning_weightwatch.model.weights import Weight
from lightning_weightwatch.usage.met import Convolution, TransposedConvolution, home_of, wide
from lightning_weightwatch.usage.oriented import shape_of

_WITHIN = ("attention", "rnn", "bilinear", "norm", "other", "bias")


class OutputMeans(Hooked):
    """The mean output z of each neuron of some layers, over every forward pass within the block.

    Over samples and positions, before what follows the layer. What a layer gives is seen only if
    it is a module of its own, or the last step of attention.

    Args:
        weights: Of the model that will be run.
        holders: The attention that a weight is the `out_proj` of, by the ids of those.
    """

    def __init__(
        self, weights: Sequence[Weight], holders: Mapping[int, nn.MultiheadAttention]
    ) -> None:
        self.paused = False
        self._modules: dict[str, nn.Module] = {}
        self._axes: dict[str, int] = {}
        self._sums: dict[str, Tensor] = {}
        self._unseen: dict[str, str] = {}
        for weight in weights:
            if weight.kind in _WITHIN or weight.parameter.dim() < 2:
                what = type(weight.module).__name__
                self._unseen[weight.name] = f"no hook sees the outputs of this weight of {what}"
                continue
            groups, outputs, *_ = shape_of(weight)
            self._modules[weight.name] = holders.get(id(weight.module), weight.module)
            convolution = isinstance(weight.module, Convolution | TransposedConvolution)
            self._axes[weight.name] = weight.parameter.dim() - 1 if convolution else 1
            device = home_of(weight)
            # Behind the sums of the outputs, of how many.
            self._sums[weight.name] = torch.zeros(
                groups * outputs + 1, dtype=wide(device), device=device
            )

    def put_on(self, on: ExitStack) -> None:
        """Hooks after layers."""
        for name, module in self._modules.items():
            on.callback(module.register_forward_hook(Hook(partial(self._add, name))).remove)

    @torch.no_grad()
    def _add(self, name: str, module: nn.Module, _: Any, output: Any) -> None:
        if is_traced() or self.paused:
            return
        try:
            given = output[0] if isinstance(module, nn.MultiheadAttention) else output
            rows = given.detach()
            if rows.is_nested:
                rows = torch.cat(rows.unbind())
            # The channels of a convolution come before its axes, behind the batch.
            rows = rows.movedim(-self._axes[name], -1)
            rows = rows.reshape(-1, rows.shape[-1])
            sums = self._sums[name]
            if rows.shape[-1] == len(sums) - 1:
                sums[:-1] += rows.sum(0, dtype=sums.dtype).to(sums)
                sums[-1] += len(rows)
        except Exception as error:  # what a layer gives is not known; the pass goes on
            self._unseen[name] = f"what it gave cannot be read: {error}"

    def merge(self, reduce: Callable[[Tensor], Tensor]) -> None:
        """Put together what several processes have seen; see `InputSums.merge`."""
        for name, sums in self._sums.items():
            summed = reduce(torch.cat([sums, sums.new_tensor([name in self._unseen])]))
            self._sums[name] = summed[:-1]
            if summed[-1]:
                self._unseen.setdefault(name, "another process could not read what it gave")

    def of(self, name: str) -> Tensor:
        """|mean z| [outputs] of the weight of that name."""
        sums = self._sums[name]
        return (sums[:-1] / sums[-1]).abs()

    def missing(self, name: str) -> str:
        """Why there are no means for the weight of that name; an empty string where there are."""
        if name in self._unseen:
            return self._unseen[name]
        if not float(self._sums[name][-1]):
            return "no output was seen"
        finite = bool(self._sums[name].isfinite().all())
        return "" if finite else "its outputs are not finite"
