"""A model that ran itself, and is as it was afterwards."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from lightning_weightwatch.model.own_data import own_data_kept

_TABLES = ("_parameters", "_buffers", "_modules")


class _Over(Exception):
    """Ends the block, for what is put back only where one fails."""


@contextmanager
def put_back(model: nn.Module) -> Iterator[None]:
    """Within it a model may change itself: attributes, collections, and the values of its tensors.

    All of them are put back, however the block ends. What else it holds, such as objects of other
    kinds, stays as the model leaves it.
    """
    modules = [each for each in model.modules() if not isinstance(each, torch.jit.ScriptModule)]
    attributes = [(vars(module), dict(vars(module))) for module in modules]
    tables = [(own[name], dict(own[name])) for own, _ in attributes for name in _TABLES]
    tensors = _values(tensor for own, _ in attributes for tensor in own.values())
    tensors |= _values(tensor for table, _ in tables for tensor in table.values())
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    tensors |= _values(gradient for _, gradient in gradients)
    with suppress(_Over), ExitStack() as after:
        after.callback(_write, tensors)
        after.callback(_replace, [*attributes, *tables])
        after.callback(_gradients, gradients)
        after.enter_context(own_data_kept(model))
        yield
        raise _Over


def _values(found: Iterable[Any]) -> dict[int, tuple[Tensor, Tensor]]:
    """Each tensor, beside a copy of its values."""
    return {
        id(tensor): (tensor, tensor.detach().clone())
        for tensor in found
        if isinstance(tensor, Tensor) and tensor.layout == torch.strided and not tensor.is_meta
    }


def _write(tensors: dict[int, tuple[Tensor, Tensor]]) -> None:
    with torch.no_grad():
        for tensor, before in tensors.values():
            if tensor.shape != before.shape:
                tensor.data = before
            elif not torch.equal(tensor, before):
                tensor.copy_(before)


def _replace(tables: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    for table, before in tables:
        table.clear()
        table.update(before)


def _gradients(parameters: list[tuple[nn.Parameter, Tensor | None]]) -> None:
    for parameter, before in parameters:
        parameter.grad = before
