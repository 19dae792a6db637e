"""The validation loaders give the same batches each time, and go on as if they had not been asked.

What is random in them draws from the global generators, which Lightning's `isolate_rng` puts back,
or from their own: those are put back here.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch

_GENERATORS = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)
# How deep to look for them; longer collections hold samples.
_DEPTH, _MANY = 8, 1000


@contextmanager
def same_batches(combined_loader: Any) -> Iterator[None]:
    """Put the generators of some loaders back after the block.

    Persistent workers keep random numbers where nobody can put them back: within the block their
    loaders have new ones.

    Args:
        combined_loader: Lightning's `CombinedLoader`.
    """
    loaders = list(combined_loader.flattened)
    states = [_state(found) for found in _generators(loaders)]
    workers = [
        (loader, loader._iterator)
        for loader in loaders
        if getattr(loader, "_iterator", None) is not None
    ]
    for loader, _ in workers:
        loader._iterator = None
    try:
        yield
    finally:
        for loader, iterator in workers:
            loader._iterator = iterator
        for put_back, state in states:
            put_back(state)


def _generators(loaders: list[Any]) -> list[Any]:
    """What loaders, their samplers and their datasets keep to draw from, each once."""
    found: dict[int, Any] = {}
    seen: set[int] = set()
    for loader in loaders:
        _look_into(loader, _DEPTH, found, seen)
    return list(found.values())


def _look_into(thing: Any, depth: int, found: dict[int, Any], seen: set[int]) -> None:
    """Attributes of attributes: subsets of datasets, transforms in lists, samplers of samplers."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, _GENERATORS):
        found[id(thing)] = thing
    elif depth > 0 and not isinstance(thing, torch.Tensor | torch.nn.Module | type | ModuleType):
        if isinstance(thing, dict):
            within = list(thing.values())
        elif isinstance(thing, list | tuple):
            within = list(thing)
        else:
            within = list(getattr(thing, "__dict__", {}).values())
        for part in within if len(within) <= _MANY else ():
            _look_into(part, depth - 1, found, seen)


def _state(generator: Any) -> tuple[Any, Any]:
    """How to put it back, and what."""
    if isinstance(generator, torch.Generator):
        return generator.set_state, generator.get_state()
    if isinstance(generator, random.Random):
        return generator.setstate, generator.getstate()
    if isinstance(generator, np.random.RandomState):
        return generator.set_state, generator.get_state()
    bits = generator.bit_generator
    return lambda state: setattr(bits, "state", state), bits.state
