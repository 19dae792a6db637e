"""Hooks that leave `nn.TransformerEncoderLayer` on its fused path, and its results bit for bit."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

Entered = TypeVar("Entered")

# Of a module the dictionaries of its hooks, by which that layer decides.
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")


@contextmanager
def beside_fused_layers(
    model: nn.Module, hooks: AbstractContextManager[Entered]
) -> Iterator[Entered]:
    """Enter `hooks` so that they see all, and change no bit of what `model` computes.

    In evaluation `nn.TransformerEncoderLayer` runs as one operation, unless it or a module in it
    has a hook; its results then differ in their last bits. Within this block such a layer is run as
    it would be without hooks, and in evaluation once more with them, which takes its time twice.
    One that has hooks of others is not fused, and is left as it is.

    Args:
        model: Whatever will be run.
        hooks: Puts forward hooks on its modules when it is entered.

    Yields:
        What `hooks` yields.
    """
    layers = [
        module
        for module in model.modules()
        if isinstance(module, nn.TransformerEncoderLayer) and not any(_hooks_of(module))
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
    usual = vars(layer).get("forward")
    forward = layer.forward

    def twice(*args: Any, **kwargs: Any) -> Any:
        if layer.training:  # never fused
            with _put_on(taken):
                return forward(*args, **kwargs)
        output = forward(*args, **kwargs)
        with _put_on(taken), torch.no_grad():
            forward(*args, **kwargs)
        return output

    vars(layer)["forward"] = twice
    try:
        yield
    finally:
        if usual is None:
            del vars(layer)["forward"]
        else:
            vars(layer)["forward"] = usual


@contextmanager
def _put_on(taken: list[tuple[dict[int, Any], dict[int, Any]]]) -> Iterator[None]:
    for hooks, new in taken:
        hooks.update(new)
    try:
        yield
    finally:
        for hooks, _ in taken:
            hooks.clear()
