"""Hooks that leave `nn.TransformerEncoderLayer` on its fused path, and its results bit for bit."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

from lightning_weightwatch.model.compiled import compiled_modules

Entered = TypeVar("Entered")

# Of a module the dictionaries of its hooks, by which that layer decides.
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
_Hooks = list[tuple[dict[int, Any], dict[int, Any]]]


@contextmanager
def beside_fused_layers(
    model: nn.Module, hooks: AbstractContextManager[Entered]
) -> Iterator[Entered]:
    """Enter `hooks` so that they see all, and change no bit of what `model` computes.

    In evaluation `nn.TransformerEncoderLayer` runs as one operation, unless it or a module in it
    has a hook; its results then differ in their last bits. Within this block such a layer is run as
    it would be without hooks, and in evaluation once more with them, which takes its time twice.
    One that has hooks of others is not fused, and is left as it is. Of one whose class has a
    forward of its own, which may do anything, hooks see nothing.

    Blocks may lie within each other and end in any order.

    Args:
        model: Whatever will be run.
        hooks: Puts forward hooks on its modules when it is entered.

    Yields:
        What `hooks` yields.
    """
    compiled = set(map(id, compiled_modules(model)))
    layers = [
        module
        for module in model.modules()
        if isinstance(module, nn.TransformerEncoderLayer)
        and id(module) not in compiled
        and not any(_hooks_of(module))
    ]
    with hooks as entered, ExitStack() as after:
        for layer in layers:
            after.enter_context(_beside(layer))
        yield entered


def _hooks_of(layer: nn.Module) -> list[dict[int, Any]]:
    return [getattr(module, kind) for module in layer.modules() for kind in _HOOKS]


@contextmanager
def _beside(layer: nn.TransformerEncoderLayer) -> Iterator[None]:
    taken = [(hooks, dict(hooks)) for hooks in _hooks_of(layer) if hooks]
    for hooks, _ in taken:
        hooks.clear()
    if type(layer).forward is not nn.TransformerEncoderLayer.forward:
        yield
        return
    twice = vars(layer).get("forward")
    if not isinstance(twice, _Twice):
        twice = vars(layer)["forward"] = _Twice(layer)
    twice.taken.append(taken)
    try:
        yield
    finally:
        twice.taken.remove(taken)
        if not twice.taken:
            vars(layer).pop("forward", None)


class _Twice:
    """The forward of a layer while others look at what is within it.

    Attributes:
        taken: The hooks of each of them, taken off.
    """

    def __init__(self, layer: nn.TransformerEncoderLayer) -> None:
        self._layer = layer
        self.taken: list[_Hooks] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        layer, forward = self._layer, nn.TransformerEncoderLayer.forward
        if layer.training or _tracks(layer):  # never fused
            with _put_on(self.taken):
                return forward(layer, *args, **kwargs)
        output = forward(layer, *args, **kwargs)
        devices = {each.device for each in layer.parameters() if each.device.type == "cuda"}
        # A layer in evaluation draws no numbers, but for parts that were set to training again.
        with _put_on(self.taken), torch.no_grad(), torch.random.fork_rng(devices=list(devices)):
            forward(layer, *args, **kwargs)
        return output

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copy of the layer has no hooks to put on."""
        made = memo.get(id(self._layer))
        return nn.TransformerEncoderLayer.forward.__get__(made) if made is not None else self


def _tracks(layer: nn.Module) -> bool:
    return torch.is_grad_enabled() and any(each.requires_grad for each in layer.parameters())


@contextmanager
def _put_on(taken: list[_Hooks]) -> Iterator[None]:
    for hooks_of_one in taken:
        for hooks, own in hooks_of_one:
            hooks.update(own)
    try:
        yield
    finally:
        for hooks_of_one in taken:
            for hooks, own in hooks_of_one:
                for key in own:
                    hooks.pop(key, None)
