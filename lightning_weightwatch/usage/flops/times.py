"""How long the modules of a model take in real forward passes."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import nn

_WARM_UP = 1
_RUNS = 5


def seconds_of(
    modules: Sequence[nn.Module], run: Callable[[], Any], device: torch.device
) -> list[float | None]:
    """The median time of each module in a few runs, in seconds; None for one that did not run.

    Where a module runs several times in a run, these add up; the time of those within it is in its
    own. On an accelerator each module is waited for, so that together they take longer than alone.

    Args:
        modules: The model, then those within it.
        run: Runs the model once.
        device: Where.
    """
    for _ in range(_WARM_UP):
        run()
    runs = [_time(modules, run, device) for _ in range(_RUNS)]
    return [
        median(taken[place] for taken in runs) if all(place in taken for taken in runs) else None
        for place in range(len(modules))
    ]


def _time(
    modules: Sequence[nn.Module], run: Callable[[], Any], device: torch.device
) -> dict[int, float]:
    taken: dict[int, float] = {}
    begun: list[tuple[int, float]] = []

    def start(place: int, *_: Any) -> None:
        begun.append((place, _now(device)))

    def stop(place: int, *_: Any) -> None:
        ended = _now(device)
        while begun:
            running, since = begun.pop()
            if running == place:
                taken[place] = taken.get(place, 0.0) + ended - since
                return

    with ExitStack() as hooks:
        for place, module in enumerate(modules):
            if isinstance(module, torch.jit.ScriptModule):
                continue
            before = module.register_forward_pre_hook(partial(start, place), prepend=True)
            hooks.callback(before.remove)
            after = module.register_forward_hook(partial(stop, place), always_call=True)
            hooks.callback(after.remove)
        since = _now(device)
        run()
        taken[0] = _now(device) - since
    return taken


def _now(device: torch.device) -> float:
    """The time when all that was asked of a device is done."""
    wait = getattr(getattr(torch, device.type, None), "synchronize", None)
    if device.type != "cpu" and wait is not None:
        wait()
    return time.perf_counter()
