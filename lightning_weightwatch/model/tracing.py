"""What feeds what in a forward pass: tensors are followed from layer to layer while it runs."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from lightning_weightwatch.model.operations import (
    is_loss,
    label_of,
    multiplies,
    outputs_of_junction,
    outputs_of_product,
    takes_masks,
)
from lightning_weightwatch.model.origins import Origin, Origins, steps_of, without_masks
from lightning_weightwatch.model.trace_channels import ChannelTrace, Known, tensors_read
from lightning_weightwatch.model.trace_layers import LAYER_KINDS, class_of, is_whole, sizes_of
from lightning_weightwatch.model.trace_steps import (
    Step,
    inputs_first,
    numbered,
    with_attention,
    with_long_sums,
)
from lightning_weightwatch.model.trace_tensors import (
    is_real,
    storage_of,
    tensors_in,
    version_of,
)
from lightning_weightwatch.model.weights import Kind, clean_name, kind_of, layer_of

# A layer that is called more often stands in the graph so many times: a loop over a sequence.
_CALLS = 4


class Tracer(TorchFunctionMode):
    """Follows everything that torch computes within the block.

    What a storage holds comes from one step: views share it, functions of one tensor pass it on,
    and a function of tensors from several steps is a step of its own, a junction. Within a layer
    nothing is followed. All hooks are gone after the block.

    Args:
        model: What runs within the block.
        batch: What it will be given: its tensors are the input.
    """

    def __init__(self, model: nn.Module, batch: Any) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self._model = model
        self._origins = Origins(model)
        self._wires = ChannelTrace(self.steps)
        self._within = 0
        self._calls: Counter[str] = Counter()
        self._attended: dict[int, int] = {}
        self._hooks = ExitStack()
        self._taken = {clean_name(path) for path, _ in model.named_modules()}
        self._mark_input(batch)

    def __enter__(self) -> "Tracer":
        with ExitStack() as hooks:
            for handle in self._hooked():
                hooks.callback(handle.remove)
            self._hooks = hooks.pop_all()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, fault, trace)  # type: ignore[no-untyped-call]
        self._hooks.close()

    def finish(self, output: Any) -> list[Step]:
        """All steps, the output as the last, after the pass has given it."""
        origins = self._origins.of_all(tensors_in(output))
        last = Step("output", "output", "output", sources=steps_of(origins))
        known = [self.steps[at].outputs for at in last.sources]
        last.inputs = known[0] if known else None
        for at, step in enumerate(self.steps):
            if step.kind == "input":
                fed = [reader for reader in self.steps if at in reader.sources]
                taken = (reader.inputs for reader in fed if reader.kind != "embedding")
                step.outputs = self._wires.features(at) or next(filter(None, taken), None)
        steps = with_long_sums(with_attention([*self.steps, last], self._attended))
        return numbered(inputs_first(steps), self._taken)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if self._within:
            return func(*args, **kwargs)
        given = list(tensors_in((args, kwargs)))
        versions = [version_of(tensor) for tensor in given]
        known = self._known(given)
        result = func(*args, **kwargs)
        if result is None or isinstance(result, Tensor | list | tuple):
            at, written = self._follow(func, given, versions, result)
            made = [*tensors_in(result), *written]
            self._wires.function(at, label_of(func), func, args, kwargs, known, made)
        return result

    def _known(self, given: Iterable[Tensor]) -> list[Known]:
        return [self._wires.known(tensor, self._origins.of(tensor).step) for tensor in given]

    def _follow(
        self, func: Callable[..., Any], given: list[Tensor], versions: list[int], result: Any
    ) -> tuple[int | None, list[Tensor]]:
        """Note where the result, and what was written in place, come from.

        Returns:
            The step, and what was written in place.
        """
        made = list(tensors_in(result))
        written = [
            tensor
            for tensor, before in zip(given, versions, strict=True)
            if version_of(tensor) != before
        ]
        keys = {storage_of(tensor) for tensor in given}
        new = [tensor for tensor in made if storage_of(tensor) not in keys]
        if not new and not written:
            return (self._origins.of(made[0]).step if made else None), written
        label = label_of(func)
        shown = next(iter(new or written))
        origin = self._joined(label, given, shown)
        for tensor in (*new, *written):
            faint = origin.faint or not is_real(tensor)
            self._origins.put(tensor, dataclasses.replace(origin, faint=faint))
        return origin.step, written

    def _joined(self, label: str, given: list[Tensor], result: Tensor) -> Origin:
        """Where the result of a function comes from; a junction is made where it must be."""
        origins = self._origins.of_all(given)
        if is_loss(label) and len(steps_of(origins)) > 1:
            origins = [origin for origin in origins if not self._is_input(origin)]
        if takes_masks(label):
            origins = list(without_masks(origins))
        sources = steps_of(origins)
        weights = [origin for origin in origins if origin.step is None and origin.layer is not None]
        if not sources:
            return weights[0] if weights else Origin()
        if weights and multiplies(label) and self._origins.has_matrix(given, weights[0]):
            return self._by_weight(weights[0], label, sources, given, result)
        faint = all(origin.faint for origin in origins if origin.step is not None)
        if len(sources) == 1:
            attended = label == "softmax" or any(origin.softmax for origin in origins)
            return Origin(sources[0], faint, softmax=attended)
        position = self._junction(label, sources, given, result)
        for origin in origins:
            if origin.softmax and origin.step is not None and label == "matmul":
                self._attended[origin.step] = position
        return Origin(position, faint)

    def _junction(self, label: str, sources: list[int], given: list[Tensor], result: Tensor) -> int:
        """The position of a junction, of one that is there already if it joins the same."""
        for position in (*sources, *reversed(range(len(self.steps)))):
            step = self.steps[position]
            if step.kind == "junction" and step.operation == label:
                if set(step.sources) | {position} >= set(sources) and position in sources:
                    return position
                if set(step.sources) == set(sources):
                    return position
        known = [self.steps[position].outputs for position in sources]
        outputs = outputs_of_junction(label, known, tuple(result.shape))
        self.steps.append(Step("", "junction", label, outputs, sources=list(sources)))
        return len(self.steps) - 1

    def _by_weight(
        self,
        weight: Origin,
        label: str,
        sources: list[int],
        given: list[Tensor],
        result: Tensor,
    ) -> Origin:
        """A function of a parameter is a layer, as `F.linear` or `x @ weight`."""
        assert weight.layer is not None
        kind = kind_of(weight.layer)
        named = kind if kind in LAYER_KINDS else "other"
        data = next(tensor for tensor in given if self._origins.of(tensor).step is not None)
        inputs, outputs = outputs_of_product(label, tuple(data.shape), tuple(result.shape))
        at = self._layer(weight.weight, named, label, sources, inputs, outputs)
        self._wires.product(at, label, self._known([data])[0], result)
        return Origin(at)

    def _hooked(self) -> Iterator[RemovableHandle]:
        layers: set[int] = set()
        for path, module in self._model.named_modules():
            if is_whole(module, is_model=module is self._model):
                layers.add(id(module))
                name = layer_of(path, module)
                yield module.register_forward_pre_hook(self._enter_layer, prepend=True)
                yield module.register_forward_hook(
                    partial(self._leave_layer, name), with_kwargs=True, always_call=True
                )
            elif not isinstance(module, torch.jit.ScriptModule):
                yield module.register_forward_hook(self._leave_module, with_kwargs=True)
        if id(self._model) not in layers:
            yield self._model.register_forward_pre_hook(self._enter_model, with_kwargs=True)

    def _enter_layer(self, *_: Any) -> None:
        self._within += 1

    def _leave_layer(
        self, name: str, module: nn.Module, args: Any, kwargs: Any, output: Any
    ) -> None:
        self._within -= 1
        if self._within or output is None:
            return
        origins = self._origins.of_all(tensors_in((args, kwargs)))
        sources = steps_of(without_masks(origins))
        made = list(tensors_in(output))
        inputs, outputs = sizes_of(module, made)
        kind = kind_of(module)
        at = self._layer(name, kind, class_of(module), sources, inputs, outputs)
        self._within += 1
        self._wires.layer(at, module, self._known(tensors_read(kind, args, kwargs)), made)
        for tensor in made:
            self._origins.put(tensor, Origin(at))
        self._within -= 1

    def _layer(
        self,
        name: str,
        kind: Kind,
        operation: str,
        sources: list[int],
        inputs: int | None,
        outputs: int | None,
    ) -> int:
        """The position of a layer that was called."""
        self._calls[name] += 1
        calls = self._calls[name]
        if calls > _CALLS:
            again = f"{name} ({_CALLS})"
            return next(at for at, step in enumerate(self.steps) if step.name == again)
        named = name if calls == 1 else f"{name} ({calls})"
        self.steps.append(Step(named, kind, operation, outputs, inputs, sources))
        return len(self.steps) - 1

    def _enter_model(self, _: nn.Module, args: Any, kwargs: Any) -> None:
        self._mark_input((args, kwargs))

    def _leave_module(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """What torch did not tell of, as functions in C++, passes on what the module was given."""
        if self._within:
            return
        unknown = [tensor for tensor in tensors_in(output) if tensor not in self._origins]
        if unknown:
            label = type(module).__name__
            origin = self._joined(label, list(tensors_in((args, kwargs))), unknown[0])
            for tensor in unknown:
                self._origins.put(tensor, origin)

    def _mark_input(self, batch: Any) -> None:
        """Each tensor of a batch is an input; there is one at least."""
        self._within += 1
        for tensor in tensors_in(batch):
            if tensor not in self._origins:
                self.steps.append(Step("input", "input", "input"))
                self._origins.put(tensor, Origin(len(self.steps) - 1, faint=not is_real(tensor)))
                self._wires.mark_input(tensor, len(self.steps) - 1)
        self._within -= 1
        if not self.steps:
            self.steps.append(Step("input", "input", "input"))

    def _is_input(self, origin: Origin) -> bool:
        return origin.step is not None and self.steps[origin.step].kind == "input"
