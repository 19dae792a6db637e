"""Compiled parts are known, and run as they are written when asked to."""

from typing import cast

import torch
from torch import Tensor, nn

from lightning_weightwatch.model.compiled import as_written, compiled_modules


def sequence() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.ReLU(), nn.Linear(3, 2)))


def test_a_plain_model_has_no_compiled_part() -> None:
    assert compiled_modules(sequence()) == []


def test_a_module_that_compiles_its_calls_is_compiled_with_all_within() -> None:
    model = sequence()
    model[1].compile(backend="eager")
    assert compiled_modules(model) == list(model[1].modules())


def test_what_torch_compile_wraps_is_compiled() -> None:
    model = sequence()
    inner = model[1]
    model[1] = cast(nn.Module, torch.compile(inner, backend="eager"))
    assert compiled_modules(model)[1:] == list(inner.modules())


def test_as_written_hooks_are_called() -> None:
    calls: list[Tensor] = []
    model = cast(nn.Module, torch.compile(sequence(), backend="eager"))
    model(torch.zeros(1, 2))
    handle = model.get_submodule("_orig_mod.0").register_forward_hook(
        lambda *given: calls.append(given[2])
    )
    with as_written():
        model(torch.zeros(1, 2))
    assert len(calls) == 1
    handle.remove()
