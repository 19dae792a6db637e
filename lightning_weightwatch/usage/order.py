"""In which order layers run: which inputs are data, and whose outputs a layer reads."""

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any

from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.parameter import is_lazy

from lightning_weightwatch.model.hooked import Hook, is_traced
from lightning_weightwatch.model.weights import Weight, kind_of
from lightning_weightwatch.usage.met import Convolution, TransposedConvolution
from lightning_weightwatch.usage.oriented import shape_of
from lightning_weightwatch.usage.outputs import first_tensor, observed_modules, own_axis

_WITHOUT_WEIGHTS = ("norm", "bias", "other")


class Order:
    """Which layers with weights have run in a pass, without a graph.

    What arrives at a layer before any other has finished can only be data, whatever was done to it
    on the way; and so is what shares memory with that, or with what the model was given. A second
    input that is computed with before its first layer (`x2 / 255`) is taken for what a layer gave.

    Args:
        model: The model that will be run.
        passing_over: The ids of modules that get no hooks.
    """

    def __init__(self, model: nn.Module, passing_over: Collection[int] = ()) -> None:
        self._model = None if id(model) in passing_over else model
        self._layers = [
            module
            for _, module in observed_modules(model)
            if id(module) not in passing_over and _has_weights(module)
        ]
        self._batch: set[Any] = set()
        self._start()

    def put_on_starts(self, on: ExitStack) -> None:
        """What must be called before all other hooks."""
        on.callback(self._forget)
        if self._model is not None:
            _try(on, self._model.register_forward_pre_hook, Hook(self._begin))

    def put_on_ends(self, on: ExitStack) -> None:
        """What must be called after all other hooks."""
        for module in self._layers:
            _try(on, module.register_forward_hook, Hook(self._end))

    def given(self, tensors: Iterable[Tensor]) -> None:
        """The next pass begins, with these tensors from outside."""
        self._batch = set(map(_memory, tensors)) - {None}
        self._start()

    def arrive(self, arguments: Sequence[Tensor]) -> None:
        """A layer is about to run, or did with nothing in between."""
        if not self._any_ended:
            self._data.update(map(_memory, arguments))

    def is_data(self, tensor: object, arguments: Sequence[Tensor]) -> bool:
        """Whether what a layer was given is data."""
        if not isinstance(tensor, Tensor):
            return False
        if not self._any_ended and any(tensor is argument for argument in arguments):
            return True
        memory = _memory(tensor)
        return memory is not None and (memory in self._batch or memory in self._data)

    def read(self, weight: Weight, part: int, tensor: object, arguments: Sequence[Tensor]) -> int:
        """How many channels of the layer that ran before it a weight reads: all, or 0.

        They are its inputs one by one, or flattened: as many positions of each. Then the number is
        negative where the channels are the last axis, which then repeat; each is a run otherwise.
        0 stands for any other number of inputs, such as of what is joined (`cat`) or split.
        """
        if part or weight.attribute.startswith(("weight_hh", "k_proj", "v_proj")):
            return 0
        groups, _, inputs, _ = shape_of(weight)
        inputs *= 1 if weight.attribute == "in_proj_weight" else groups
        if not any(tensor is argument for argument in arguments):
            return inputs  # the heads of attention, the layer below of a recurrent one
        channels, last_axis = self._channels, self._last_axis
        if channels == inputs or not channels:
            return channels
        convolution = isinstance(weight.module, Convolution | TransposedConvolution)
        if convolution or inputs != self._size:  # pooled, or joined with others
            return 0
        return -channels if last_axis else channels

    def _begin(self, *_: Any) -> None:
        if not is_traced():
            self._start()

    def _start(self) -> None:
        self._data: set[Any] = set()
        self._any_ended = False
        self._channels, self._last_axis, self._size = 0, False, 0

    def _forget(self) -> None:
        self._batch = set()
        self._start()

    def _end(self, module: nn.Module, _: Any, output: Any) -> None:
        if is_traced():
            return
        self._any_ended, self._channels = True, 0
        with suppress(Exception):  # of what else a layer may give, nothing is known
            tensor = first_tensor(output)
            axis = None if tensor is None or not tensor.dim() else own_axis(module, tensor)
            if tensor is not None and axis is not None:
                self._channels = int(tensor.size(axis))
                self._last_axis = axis == tensor.dim() - 1
                self._size = tensor.numel() // max(tensor.shape[0], 1)


def tensors_in(given: Any) -> Iterator[Tensor]:
    """The tensors of a batch or of arguments: in tuples, mappings, dataclasses within others."""
    if isinstance(given, Tensor):
        yield given
    elif isinstance(given, Mapping | list | tuple):
        for part in given.values() if isinstance(given, Mapping) else given:
            yield from tensors_in(part)
    elif dataclasses.is_dataclass(given) and not isinstance(given, type):
        for part in list(vars(given).values()):
            yield from tensors_in(part)


def _has_weights(module: nn.Module) -> bool:
    kind = kind_of(module)
    if kind not in _WITHOUT_WEIGHTS:
        return True
    own = module.parameters()
    return kind == "other" and any(not is_lazy(each) and each.dim() > 1 for each in own)


def _memory(tensor: Tensor) -> Any:
    """What equals that of a tensor in the same memory, and of no other in memory used again."""
    weakly: Any = StorageWeakRef
    try:
        return weakly(tensor.untyped_storage())
    except (RuntimeError, NotImplementedError, TypeError):  # nested, sparse, spread over processes
        return None


def _try(on: ExitStack, register: Any, hook: Any) -> None:
    try:
        on.callback(register(hook).remove)
    except RuntimeError:  # a ScriptModule may refuse
        return
