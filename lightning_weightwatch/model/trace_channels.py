"""Which output of one step each input of another is, while a forward pass is followed."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_weightwatch.model.channel_rules import cat_axis, concatenated, passed_on
from lightning_weightwatch.model.channels import (
    UNKNOWN,
    Channels,
    along,
    expanded_to,
    grouped_along,
    ids_along,
    of_values,
    varying,
)
from lightning_weightwatch.model.operations import keeps_channels
from lightning_weightwatch.model.trace_steps import Step, Wiring
from lightning_weightwatch.model.trace_tensors import tensors_in

_SPATIAL = {"conv1d": 1, "conv2d": 2, "conv3d": 3}
# A tensor, the step that it comes from, and its channels.
Known = tuple[Tensor, int | None, Tensor | None]


class ChannelTrace:
    """Follows the channels of all tensors, and wires the steps.

    Args:
        steps: Those of the pass, as they come.
    """

    def __init__(self, steps: list[Step]) -> None:
        self._steps = steps
        self._channels = Channels()
        self._inputs: dict[int, Tensor] = {}

    def known(self, tensor: Tensor, step: int | None) -> Known:
        """What is known of a tensor."""
        return tensor, step, self._channels.of(tensor, step)

    def mark_input(self, tensor: Tensor, step: int) -> None:
        """Every value of a sample is followed, as it is not known which ones are its features."""
        self._channels.put(tensor, step, of_values(tensor.shape))

    def layer(
        self, at: int, module: nn.Module, given: Sequence[Known], made: Sequence[Tensor]
    ) -> None:
        """Wire a layer that was called, and say what it gives.

        Args:
            at: Its step.
            module: The layer.
            given: All tensors that it was given.
            made: All that it gave.
        """
        step = self._steps[at]
        spatial = _spatial(step.kind, module)
        if spatial is None:
            return
        attends = step.kind == "attention"
        read = given[:3] if attends else given[:1]
        if step.kind not in ("embedding", "bilinear") and (
            not attends or len({source for _, source, _ in read}) < 2
        ):
            for tensor, source, numbers in read:
                self._wire(at, source, numbers, tensor.dim() - 1 - spatial)
        for tensor in made[:1]:
            self._gives(at, tensor, tensor.dim() - 1 - spatial)
        if isinstance(module, nn.RNNBase) and not module.proj_size:
            for tensor in made[-2 if isinstance(module, nn.LSTM) else -1 :]:
                self._channels.put(tensor, at, _last_states(module, tensor.shape))

    def product(self, at: int, label: str, given: Known, made: Tensor) -> None:
        """Wire a function of a parameter, as `F.linear`."""
        spatial = {"conv1d": 1, "conv2d": 2, "conv3d": 3, "linear": 0, "matmul": 0}
        if label in spatial:
            tensor, source, numbers = given
            self._wire(at, source, numbers, tensor.dim() - 1 - spatial[label])
            self._gives(at, made, made.dim() - 1 - spatial[label])

    def function(
        self,
        at: int | None,
        label: str,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        given: Sequence[Known],
        made: Sequence[Tensor],
    ) -> None:
        """Say what the results of a function are, and wire the junction that it may be.

        Args:
            at: The step that the results come from.
            label: Of the function.
            func: The function.
            args: What it was given.
            kwargs: What it was given by name.
            given: The tensors among these, as they were before.
            made: Its results, and what was written in place.
        """
        if at is None:
            return
        # Masks and indices come from elsewhere and are no source.
        sources = {at, *(self._steps[at].sources if self._is_junction(at) else ())}
        sourced = [each for each in given if each[1] in sources]
        known = {step for _, step, _ in sourced}
        if not sourced or (at not in known and not self._is_junction(at)):
            return
        single = known == {at}
        found: list[Tensor | None] = [None] * len(made)
        if label == "cat" and made:
            found[0] = self._joined(at, cat_axis(func, args, kwargs, made[0].dim()), given, made[0])
        elif single:
            own = [(tensor, numbers) for tensor, _, numbers in sourced]
            found = passed_on(label, func, args, kwargs, own, made)
        elif keeps_channels(label) and made:
            found = [self._met(at, sourced, tensor) for tensor in made]
        for tensor, numbers in zip(made, found, strict=True):
            self._channels.put(tensor, at, numbers)

    def features(self, at: int) -> int | None:
        """How many features an input has, as it was first read."""
        return len(self._inputs[at]) if at in self._inputs else None

    def _met(self, at: int, given: Sequence[Known], made: Tensor) -> Tensor | None:
        """The channels of a sum or product, channel by channel."""
        operands = [(step, expanded_to(numbers, made.shape)) for _, step, numbers in given]
        axis = _axis_of(
            numbers for step, numbers in operands if step is not None and not self._is_input(step)
        )
        if axis is None:
            return None
        return self._wired_junction(
            at,
            axis,
            made,
            {s: self._ids(s, numbers, axis) for s, numbers in operands if s is not None},
        )

    def _joined(
        self, at: int, dim: int | None, given: Sequence[Known], made: Tensor
    ) -> Tensor | None:
        """The channels of what `cat` joined."""
        if dim is None:
            return None
        axis = _axis_of(n for _, s, n in given if s is not None and not self._is_input(s))
        axis = dim if axis is None else axis
        parts = [
            (step, None if step is None else self._ids(step, numbers, axis), tensor.shape[axis])
            for tensor, step, numbers in given
            if tensor.dim() == made.dim()
        ]
        found = concatenated(parts, apart=dim == axis)
        if set(found) == {at}:
            return None if found[at] is None else along(axis, made.shape, found[at])
        return self._wired_junction(at, axis, made, found)

    def _wired_junction(
        self, at: int, axis: int, made: Tensor, found: dict[int, Tensor | None]
    ) -> Tensor | None:
        count, step = made.shape[axis], self._steps[at]
        own = found.pop(at, None) if at in found else along(0, [count])
        if own is None or not torch.equal(own, torch.arange(count, device="cpu")):
            return None
        if not step.wirings or step.outputs is None:  # just made
            step.outputs = count
        same = step.outputs == count
        for source, ids in found.items():
            step.wire(source, None if ids is None or len(ids) != count else _wiring(ids))
        return along(axis, made.shape) if same else None

    def _gives(self, at: int, tensor: Tensor, axis: int) -> None:
        fits = 0 <= axis < tensor.dim() and tensor.shape[axis] == self._steps[at].outputs
        self._channels.put(tensor, at, along(axis, tensor.shape) if fits else None)

    def _wire(self, at: int, source: int | None, numbers: Tensor | None, axis: int) -> None:
        if source is None:
            return
        ids = self._ids(source, numbers, axis) if axis >= 0 else None
        fits = ids is not None and len(ids) == self._steps[at].inputs
        self._steps[at].wire(source, _wiring(ids) if fits and ids is not None else None)

    def _ids(self, step: int, numbers: Tensor | None, axis: int) -> Tensor | None:
        """The channels of a step along an axis; those of an input are what first read it so."""
        if numbers is None or not self._is_input(step):
            return ids_along(numbers, axis)
        if not -numbers.dim() <= axis < numbers.dim():
            return None
        groups = grouped_along(numbers, axis)
        first = self._inputs.setdefault(step, groups)
        same = first.shape == groups.shape and torch.equal(first, groups)
        return along(0, [len(groups)]) if same else None

    def _is_junction(self, step: int) -> bool:
        return self._steps[step].kind == "junction"

    def _is_input(self, step: int) -> bool:
        return self._steps[step].kind == "input"


def tensors_read(kind: str, args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors that a layer was given: query, key and value of attention first."""
    names = ("query", "key", "value") if kind == "attention" else ("input",)
    named = [kwargs[name] for name in names if isinstance(kwargs.get(name), Tensor)]
    return list(tensors_in((args, named)))


def _spatial(kind: str, module: nn.Module) -> int | None:
    """How many axes come after that of the channels; None where that is not known."""
    if kind == "conv_transpose":
        return module.get_parameter("weight").dim() - 2 if hasattr(module, "weight") else None
    if kind in _SPATIAL:
        return _SPATIAL[kind]
    return 0 if kind in ("linear", "embedding", "attention", "rnn", "bilinear") else None


def _axis_of(known: Iterable[Tensor | None]) -> int | None:
    """The one axis along which channels are, the same for all that have any."""
    axes = [tuple(varying(numbers)) for numbers in known if numbers is not None]
    found = {each for each in axes if each}
    if len(found) != 1:
        return None
    (only,) = found
    return only[0] if len(only) == 1 else None


def _last_states(module: nn.RNNBase, shape: Sequence[int]) -> Tensor | None:
    """Of the states [layers · directions, ...] those of the last layer are what it gives."""
    directions = 2 if module.bidirectional else 1
    if len(shape) not in (2, 3) or shape[0] != module.num_layers * directions:
        return None
    numbers = torch.full((shape[0], shape[-1]), UNKNOWN, device="cpu")
    last = torch.arange(directions * shape[-1], device="cpu")
    numbers[-directions:] = last.view(directions, shape[-1])
    return numbers.view(shape[0], *([1] * (len(shape) - 2)), shape[-1]).expand(*shape)


def _same(first: Tensor | None, second: Tensor | None) -> bool:
    return first is not None and second is not None and torch.equal(first, second)


def _wiring(ids: Tensor) -> Wiring:
    return ids.long().numpy()
