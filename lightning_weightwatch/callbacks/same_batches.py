"""The validation loaders give the same batches each time, and go on as if they had not been asked.

What is random in them draws from the global generators, which Lightning's `isolate_rng` puts back,
or from their own: those are put back here.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


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
    owners: list[Any] = []
    for loader in loaders:
        batches = getattr(loader, "batch_sampler", None)
        samplers = [getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None)]
        owners += [loader, *samplers, getattr(loader, "dataset", None)]
    found = {
        id(value): value
        for owner in owners
        for value in getattr(owner, "__dict__", {}).values()
        if isinstance(
            value, torch.Generator | random.Random | np.random.Generator | np.random.RandomState
        )
    }
    return list(found.values())


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
