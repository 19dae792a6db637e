"""What each module of a running model multiplies, reads and keeps."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, is_dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_weightwatch.usage.flops.conventions import sort_of
from lightning_weightwatch.usage.flops.formulas import (
    Product,
    operation_name,
    products,
    tensors_of,
)


@dataclass
class Tally:
    """What ran within the forward of a module, and not of one below it.

    Attributes:
        forward: FLOPs.
        backward: FLOPs of the gradients.
        bytes: Read and written by counted operations.
        kept: Bytes of each storage that is kept for the backward pass.
        calls: How often its forward ran.
        output_shape: Of the first tensor of its last output.
    """

    forward: int = 0
    backward: int = 0
    bytes: int = 0
    kept: dict[StorageWeakRef, int] = field(default_factory=dict)
    calls: int = 0
    output_shape: tuple[int, ...] | None = None


class FlopCounter:
    """Counts whatever runs in this thread while it is active.

    Args:
        modules: Of the model that will run, itself first. What runs in none of them is its own.
        sees_kept: Whether to look at what is kept for the backward pass, which the transforms of
            `torch.func` do not allow.

    Attributes:
        sees_kept: As given.
        called: Whether a module of the model has run.
        tallies: One for each module.
        uncounted: By the name of an operation without a formula: calls, values, and whether it is
            left out by convention.
    """

    def __init__(self, modules: Sequence[nn.Module], sees_kept: bool = True) -> None:
        self.sees_kept, self.called = sees_kept, False
        self.tallies = [Tally() for _ in modules]
        self.uncounted: dict[str, tuple[int, int, bool]] = {}
        self._modules = modules
        self._running = [0]
        self._weights = _storages(tensor for module in modules for tensor in _own_tensors(module))
        # Made from nothing but weights; and, where autograd does not look, from what is trained.
        self._from_weights = set(self._weights)
        self._trained: set[StorageWeakRef] = set()

    @contextmanager
    def active(self) -> Iterator["FlopCounter"]:
        """Within it everything is counted. Its hooks are gone afterwards."""
        with ExitStack() as stack:
            for place, module in enumerate(self._modules):
                if isinstance(module, torch.jit.ScriptModule):  # it takes no hooks of this sort
                    continue
                before = module.register_forward_pre_hook(partial(self._enter, place), prepend=True)
                stack.callback(before.remove)
                after = module.register_forward_hook(partial(self._leave, place), always_call=True)
                stack.callback(after.remove)
            grad_mode = stack.enter_context(_GradMode())
            if self.sees_kept:
                hooks = torch.autograd.graph.saved_tensors_hooks(self._keep, _as_it_is)
                stack.enter_context(hooks)
            stack.enter_context(_Operations(self, grad_mode))
            yield self

    def _enter(self, place: int, *_: Any) -> None:
        self.called = True
        self._running.append(place)
        self.tallies[place].calls += 1

    def _leave(self, place: int, _: nn.Module, __: Any, output: Any) -> None:
        while len(self._running) > 1 and self._running.pop() != place:
            pass
        first = first_tensor(output)
        self.tallies[place].output_shape = None if first is None else tuple(first.shape)

    def _keep(self, tensor: Tensor) -> Tensor:
        kept = self.tallies[self._running[-1]].kept
        for reference in _storages([tensor]) - self._weights:
            kept[reference] = tensor.untyped_storage().nbytes()
        return tensor

    def add(self, operation: Any, args: Any, kwargs: Any, out: Any, graph: "_Graph") -> None:
        """Count an operation that has run."""
        try:
            found = products(operation, args, kwargs, out)
        except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError):
            found = None  # called in a way that the formula does not know
        if found is None:
            self._leave_out(operation, args, kwargs, out)
        else:
            tally = self.tallies[self._running[-1]]
            tally.forward += sum(product.flops for product in found)
            tally.backward += sum(self._backward(product, graph) for product in found)
            made = first_tensor(out)
            moved = {id(tensor): tensor for tensor in tensors_of((args, kwargs, made))}
            tally.bytes += sum(map(_bytes, moved.values()))
        self._inherit(list(tensors_of((args, kwargs))), list(tensors_of(out)), graph)

    def _leave_out(self, operation: Any, args: Any, kwargs: Any, out: Any) -> None:
        sort = sort_of(operation, args, kwargs, out)
        if sort == "free":
            return
        name = operation_name(operation)
        calls, values, _ = self.uncounted.get(name, (0, 0, False))
        values += sum(map(_numbers, tensors_of(out)))
        self.uncounted[name] = calls + 1, values, sort == "elementwise"

    def _backward(self, product: Product, graph: "_Graph") -> int:
        """A product for each factor but frozen weights, if anything is trained up to here."""
        factors = product.left, product.right
        if not any(self._needs(factor, graph) for factor in factors):
            return 0
        frozen = sum(
            not self._needs(factor, graph) and _storages(factor) <= self._from_weights
            for factor in factors
        )
        return (len(factors) - frozen) * product.flops

    def _needs(self, tensors: Iterable[Tensor], graph: "_Graph") -> bool:
        """Whether a gradient flows through one of them."""
        if graph == "none":
            return False
        tensors = list(tensors)
        return any(tensor.requires_grad for tensor in tensors) or (
            graph == "unseen" and not _storages(tensors).isdisjoint(self._trained)
        )

    def _inherit(self, given: list[Tensor], made: list[Tensor], graph: "_Graph") -> None:
        before, after = _storages(given), _storages(made)
        if before and before <= self._from_weights:
            self._from_weights |= after
        else:
            self._from_weights -= after
        if graph == "unseen" and self._needs(given, graph):
            self._trained |= after


#: Whether autograd follows an operation, does not see it since it runs within an
#: `autograd.Function`, which brings its own backward pass, or was told not to look.
_Graph = Literal["followed", "unseen", "none"]


class _GradMode(TorchFunctionMode):
    """Tells `torch.no_grad` from an `autograd.Function`, which both run without a graph."""

    def __init__(self) -> None:
        super().__init__()
        self._wanted = True

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if function is torch._C._set_grad_enabled:
            # Within a function gradients are off already, and what is asked for says nothing.
            self._wanted = bool(args[0]) or (self._wanted and not torch.is_grad_enabled())
        return function(*args, **(kwargs or {}))

    def graph(self) -> _Graph:
        if torch.is_grad_enabled():
            self._wanted = True
            return "followed"
        return "unseen" if self._wanted and not torch.is_inference_mode_enabled() else "none"


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Hands every operation to a counter once it has run."""

    supports_higher_order_operators = True

    def __init__(self, counter: FlopCounter, grad_mode: _GradMode) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._counter, self._grad_mode = counter, grad_mode

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled() and hasattr(operation, "decompose"):
            with self:  # what autograd would have taken apart
                made = operation.decompose(*args, **kwargs)
            if made is not NotImplemented:
                return made
        graph = self._grad_mode.graph()
        out = operation(*args, **kwargs)
        self._counter.add(operation, args, kwargs, out, graph)
        return out


def first_tensor(values: Any) -> Tensor | None:
    """The first in what a module returned; None where there is none."""
    if is_dataclass(values) and not isinstance(values, Mapping | type):
        values = list(vars(values).values())
    return next(tensors_of(values), None)


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _own_tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)


def _storages(tensors: Iterable[Tensor]) -> set[StorageWeakRef]:
    return {StorageWeakRef(memory) for memory in _memory(tensors)}  # type: ignore[no-untyped-call]


def _memory(tensors: Iterable[Tensor]) -> Iterator[torch.UntypedStorage]:
    """Which memory tensors lie in; that of sparse, nested and other unusual ones is not known."""
    for tensor in tensors:
        if type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided:
            yield tensor.untyped_storage()


def _numbers(tensor: Tensor) -> int:
    return 0 if tensor.is_nested else tensor.numel()


def _bytes(tensor: Tensor) -> int:
    """What is read of a tensor; the values of one that was expanded lie in memory once."""
    size = _numbers(tensor) * tensor.element_size()
    return min([size, *(of.nbytes() for of in _memory([tensor]))])
