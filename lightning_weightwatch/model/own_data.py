"""The collections that modules keep beside their tensors.

An evaluation that ends half-way leaves them half-filled: with outputs for the end of an epoch that
did not come. Numbers are left alone: they count what has happened.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

# Collections within collections, and how many times so, that are put back.
_DEPTH = 3


@contextmanager
def own_data_kept(model: nn.Module) -> Iterator[None]:
    """Where the block raises, collections hold what they held before it, and are the same objects.

    Tensors in a collection are kept as they are, not copied.
    """
    before = [(vars(module), _data_of(module)) for module in model.modules()]
    try:
        yield
    except BaseException:
        for attributes, data in before:
            attributes.update(
                {name: _refilled(value, kept) for name, (value, kept) in data.items()}
            )
        raise


def _data_of(module: nn.Module) -> dict[str, tuple[Any, Any]]:
    """The collections of a module, each with what is in it."""
    if isinstance(module, torch.jit.ScriptModule):
        return {}
    machinery = vars(nn.Module()).keys()
    return {
        name: (value, _content(value))
        for name, value in vars(module).items()
        if name not in machinery and isinstance(value, list | dict | set | deque)
    }


def _content(value: Any, depth: int = _DEPTH) -> Any:
    """What is in a collection, in those within it too; None for anything else.

    Only so deep: collections may hold each other.
    """
    if depth == 0:
        return None
    if isinstance(value, dict):
        return [(key, item, _content(item, depth - 1)) for key, item in value.items()]
    if isinstance(value, list | set | deque):
        return [(item, _content(item, depth - 1)) for item in value]
    return None


def _refilled(value: Any, content: Any) -> Any:
    """The same object, with the same in it."""
    if content is None:
        return value
    if isinstance(value, dict):
        items = {key: _refilled(item, within) for key, item, within in content}
        value.clear()
        value.update(items)
    else:
        entries = [_refilled(item, within) for item, within in content]
        value.clear()
        (value.update if isinstance(value, set) else value.extend)(entries)
    return value
