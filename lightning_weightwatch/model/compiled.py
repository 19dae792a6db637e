"""Parts of a model that torch.compile has compiled, and running them as they are written."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn


def compiled_modules(model: nn.Module) -> list[nn.Module]:
    """The modules that run as compiled code: in a compiled part, or the whole LightningModule.

    Hooks on them are not called there, or are compiled with the rest.
    """
    found: dict[int, nn.Module] = {}
    for module in model.modules():
        if is_compiled(module):
            found |= {id(part): part for part in module.modules()}
    return list(found.values())


def is_compiled(module: nn.Module) -> bool:
    """Whether it was compiled: by `torch.compile(module)`, `module.compile()`, or in a Trainer."""
    own = vars(module)
    by_trainer = own.get("_compiler_ctx") is not None
    wrapped = "_orig_mod" in own.get("_modules", {})
    return wrapped or by_trainer or own.get("_compiled_call_impl") is not None


def as_written() -> AbstractContextManager[Any]:
    """Within it, what is compiled runs as it is written; torch 2.6 is the first that can."""
    stance = getattr(torch.compiler, "set_stance", None)
    return nullcontext() if stance is None else stance("force_eager")
