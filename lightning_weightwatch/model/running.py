"""Running a model on a batch as it comes from a loader, outside of a fit and without a trace."""

import inspect
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.rnn import PackedSequence

from lightning_weightwatch.model.own_data import own_data_kept
from lightning_weightwatch.model.weights import clean_name

#: Runs a model on a batch: for models whose arguments cannot be told from the batch.
Run = Callable[[nn.Module, Any], Any]

#: What to do where a model cannot be run on a batch as it is.
GIVE_RUN = "give a function run(model, batch)"

_WITHOUT_FORWARD = ("torch.nn.modules.module", "lightning.pytorch.core.module")
_STEPS = ("training_step", "validation_step", "test_step", "predict_step")


class CannotRun(RuntimeError):
    """A model that cannot be run on a batch, with the reason."""


def run_on_batch(model: nn.Module, batch: Any, steps: tuple[str, ...] = _STEPS) -> Any:
    """What a model returns for a batch.

    `forward` gets what its parameters ask for:

    | batch                  | `forward` gets                                                   |
    |------------------------|------------------------------------------------------------------|
    | a tensor or array      | that                                                             |
    | a mapping              | the entries that are named like its parameters                   |
    | a list or tuple        | as many of its members, from the first on, as it needs: of       |
    |                        | (x, y) just x, if it needs one                                   |
    | any of them            | the whole batch, if its only parameter is called `batch`         |

    A LightningModule without a `forward` of its own is run by the first of `steps` that it has,
    with what it logs dropped.

    Args:
        model: The model; the batch is moved to its device, and arrays become tensors.
        batch: As it comes from a loader.
        steps: Methods in place of a missing `forward`, in this order.

    Raises:
        CannotRun: If the model has nothing to run, or a batch does not fit.
    """
    batch = to_device(batch, device_of(model), dtype_of(model))
    if has_forward(model):
        args, kwargs = arguments_of(model, batch)
        return model(*args, **kwargs)
    step = step_of(model, steps)
    if step is None:
        raise CannotRun(
            f"{type(model).__name__} has no forward and none of {', '.join(steps)}; {GIVE_RUN}"
        )
    return run_step(model, batch, step)


def run_step(model: nn.Module, batch: Any, step: str) -> Any:
    """What a step of a LightningModule returns for a batch, with what it logs dropped.

    Raises:
        CannotRun: For a training step that steps optimizers itself: it would train.
    """
    if step == "training_step" and not getattr(model, "automatic_optimization", True):
        raise CannotRun(
            f"the training_step of {type(model).__name__} would train: it optimizes by itself; "
            f"{GIVE_RUN}"
        )
    method = getattr(model, step)
    with _logs_nothing(model):
        return method(*_step_arguments(method, batch))


def has_forward(model: nn.Module) -> bool:
    """Whether a model has a `forward` of its own."""
    if isinstance(model, torch.jit.ScriptModule) or "forward" in vars(model):
        return True
    home = getattr(type(model).forward, "__module__", None) or ""  # generated code has none
    return home.replace("pytorch_lightning", "lightning.pytorch") not in _WITHOUT_FORWARD


def step_of(model: nn.Module, steps: tuple[str, ...] = _STEPS) -> str | None:
    """Which of `steps` is run in place of a missing `forward`; None where it has none of them.

    A training step that steps optimizers itself is the last choice: it cannot be run.
    """
    there = [name for name in steps if _overridden(model, name)]
    if not getattr(model, "automatic_optimization", True):
        there.sort(key=lambda name: name == "training_step")
    return there[0] if there else None


def arguments_of(model: nn.Module, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What `forward` is to be called with for a batch.

    Raises:
        CannotRun: If the batch does not tell.
    """
    positional, names, needed, takes_any = _parameters(model)
    if positional[:1] == ["batch"] and needed <= 1:
        return (batch,), {}
    if isinstance(batch, Mapping):
        return (), _named(model, batch, names, takes_any)
    if isinstance(batch, list | tuple) and not hasattr(batch, "_fields"):
        if len(batch) and isinstance(batch[0], Mapping) and names & batch[0].keys():
            return (), _named(model, batch[0], names, takes_any)
        wanted = max(needed, 1)
        if len(batch) < wanted:
            raise CannotRun(
                f"forward of {type(model).__name__} needs {wanted} arguments, the batch has "
                f"{len(batch)}; {GIVE_RUN}"
            )
        return tuple(batch[:wanted]), {}
    return (batch,), {}


def _parameters(model: nn.Module) -> tuple[list[str], set[str], int, bool]:
    """Of `forward`: positional parameters, all names, how many it needs, if any name will do."""
    try:
        parameters = list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):  # of what is not written in Python
        return [], set(), 1, False
    kind, names = inspect.Parameter, [p.name for p in parameters if p.kind != p.POSITIONAL_ONLY]
    placed = [p for p in parameters if p.kind in (kind.POSITIONAL_ONLY, kind.POSITIONAL_OR_KEYWORD)]
    needed = sum(p.default is kind.empty for p in placed)
    takes_any = any(p.kind == kind.VAR_KEYWORD for p in parameters)
    return [p.name for p in placed], set(names), needed, takes_any


def _named(
    model: nn.Module, batch: Mapping[str, Any], names: set[str], takes_any: bool
) -> dict[str, Any]:
    fitting = {key: value for key, value in batch.items() if key in names}
    if fitting or takes_any:
        return fitting or dict(batch)
    raise CannotRun(
        f"no parameter of forward of {type(model).__name__} ({', '.join(sorted(names))}) is called "
        f"like an entry of the batch ({', '.join(map(str, batch))}); {GIVE_RUN}"
    )


def _overridden(model: nn.Module, name: str) -> bool:
    """Whether a step is the user's own: those of Lightning do nothing, or call `forward`."""
    home = next((base for base in type(model).__mro__ if name in vars(base)), None)
    lightnings = ("lightning.pytorch.", "pytorch_lightning.")
    return home is not None and not home.__module__.startswith(lightnings)


def _step_arguments(step: Callable[..., Any], batch: Any) -> tuple[Any, ...]:
    """The batch, and 0 for the index of the batch and that of the loader if they are asked for."""
    parameters = inspect.signature(step).parameters.values()
    more = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    wanted = sum(p.default is p.empty or p.name == "batch_idx" for p in more)
    return (batch, *([0] * (wanted - 1)))


@contextmanager
def _logs_nothing(model: nn.Module) -> Iterator[None]:
    """Silence `self.log`, which asks for a Trainer."""
    names = [name for name in ("log", "log_dict") if hasattr(model, name)]
    kept = {name: vars(model)[name] for name in names if name in vars(model)}
    for name in names:
        vars(model)[name] = lambda *_, **__: None
    try:
        yield
    finally:
        for name in names:
            vars(model).pop(name, None)
        vars(model).update(kept)


def device_of(model: nn.Module) -> torch.device:
    """That of the first parameter or buffer; the CPU for a model without any."""
    first = next((tensor for of in (model.parameters(), model.buffers()) for tensor in of), None)
    return torch.device("cpu") if first is None else first.device


def dtype_of(model: nn.Module) -> torch.dtype:
    """That of the first parameter of floats; torch's default for a model without any."""
    floats = (each.dtype for each in model.parameters() if each.is_floating_point())
    return next(floats, torch.get_default_dtype())


def to_device(batch: Any, device: torch.device, dtype: torch.dtype | None = None) -> Any:
    """A batch with its tensors on a device; arrays become tensors, those of floats of a dtype.

    Args:
        batch: Anything; mappings, lists and tuples are looked into.
        device: Where to; what has no values goes nowhere.
        dtype: Of arrays of floats; None for torch's default.
    """
    if isinstance(batch, np.ndarray):
        made = torch.from_numpy(batch)
        wanted = (dtype or torch.get_default_dtype()) if made.is_floating_point() else made.dtype
        return made.to(device, wanted)
    if isinstance(batch, Tensor):
        return batch if batch.is_meta else batch.to(device)
    if isinstance(batch, Mapping):
        return {key: to_device(value, device, dtype) for key, value in batch.items()}
    if isinstance(batch, PackedSequence):  # a tuple, part of which stays on the CPU
        return batch.to(device)  # type: ignore[arg-type]
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(part, device, dtype) for part in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(to_device(part, device, dtype) for part in batch)
    return batch.to(device) if callable(getattr(batch, "to", None)) else batch


@contextmanager
def without_a_trace(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients, after which all is as before, also after an exception.

    That is: the modes of all modules, their buffers, the embeddings that looking up rescales, the
    random numbers of Python, numpy and torch; and after an exception the collections that modules
    keep.

    Raises:
        CannotRun: For lazy parameters, to which a run would give their shapes.
    """
    lazy = next((name for name, each in model.named_parameters() if is_lazy(each)), None)
    if lazy is not None:
        raise CannotRun(f"{clean_name(lazy)} is lazy: run the model on a batch once before")
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, None if buffer.is_meta else buffer.detach().clone())
        for module, _ in modes
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    rescaled = [
        (module.weight, module.weight.detach().clone())
        for module, _ in modes
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.max_norm is not None
    ]
    with ExitStack() as after:
        after.callback(_restore_modes, modes)
        after.callback(_restore_weights, rescaled)
        after.callback(_restore_buffers, buffers)
        after.enter_context(_own_random_numbers(model))
        after.enter_context(own_data_kept(model))
        after.enter_context(torch.no_grad())
        for module, _ in modes:
            module.training = False
        yield


def _restore_modes(modes: Sequence[tuple[nn.Module, bool]]) -> None:
    for module, mode in modes:
        module.training = mode


def _restore_weights(weights: Sequence[tuple[Tensor, Tensor]]) -> None:
    with torch.no_grad():
        for weight, before in weights:
            if not weight.is_meta and not torch.equal(weight, before):
                weight.copy_(before)


def _restore_buffers(
    buffers: Sequence[tuple[nn.Module, str, Tensor, Tensor | None]],
) -> None:
    with torch.no_grad():
        for module, name, buffer, before in buffers:
            module._buffers[name] = buffer
            strided = buffer.layout == torch.strided  # others cannot be compared
            if before is not None and not (strided and torch.equal(buffer, before)):
                buffer.copy_(before)


@contextmanager
def _own_random_numbers(model: nn.Module) -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()  # that of users
    # Of all GPUs, when none is named: which takes long, and is warned of.
    devices = {tensor.device for tensor in model.parameters() if tensor.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
