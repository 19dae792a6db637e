"""Running a model to count it: a copy on the meta device, or the model itself."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import nn

from lightning_weightwatch.model.compiled import as_written
from lightning_weightwatch.model.meta import batch_copied, batch_on_meta, copied, on_meta
from lightning_weightwatch.model.running import (
    GIVE_RUN,
    CannotRun,
    Run,
    device_of,
    dtype_of,
    has_forward,
    run_on_batch,
    step_of,
    to_device,
    without_a_trace,
)
from lightning_weightwatch.model.weights import clean_name
from lightning_weightwatch.usage.flops.counter import FlopCounter, first_tensor
from lightning_weightwatch.usage.flops.kernels import FusedKernels
from lightning_weightwatch.usage.flops.put_back import put_back
from lightning_weightwatch.usage.flops.times import seconds_of

Result = TypeVar("Result")


@dataclass(frozen=True)
class Given:
    """What a model is run on.

    Attributes:
        batch: As it comes from a loader.
        run: Runs the model on it, if told how.
        method: What runs: `"run"`, `"forward"`, or a step of a LightningModule.
    """

    batch: Any
    run: Run | None
    method: str

    def on_meta(self) -> "Given":
        """The same with the batch on meta."""
        return replace(self, batch=batch_on_meta(self.batch))

    def on_device_of(self, model: nn.Module) -> "Given":
        """The same with a copy of the batch where the model is, that the model may change.

        Gradients may flow through it, also where the batch was made in inference mode.
        """
        batch = to_device(batch_copied(self.batch), device_of(model), dtype_of(model))
        return replace(self, batch=batch)

    def run_once(self, model: nn.Module) -> Any:
        """What the model returns."""
        return (self.run or run_on_batch)(model, self.batch)

    @property
    def is_step(self) -> bool:
        """Whether a step of a LightningModule runs, which may change anything."""
        return self.method not in ("forward", "run")

    @contextmanager
    def without_a_trace(self, model: nn.Module) -> Iterator[None]:
        """Within it, the model runs uncompiled, in evaluation but for a training step."""
        modes = [(module, module.training) for module in model.modules()]
        with ExitStack() as stack:
            stack.enter_context(without_a_trace(model))
            if self.method == "training_step":
                for module, mode in modes:
                    module.training = mode
            # Functions of users too may be compiled: one that torch cannot look into while it is
            # counted would never be compiled again.
            stack.enter_context(as_written())
            yield


def given_to(model: nn.Module, batch: Any, run: Run | None) -> Given:
    """What a model is run on, and by which of its methods."""
    if run is not None:
        return Given(batch, run, "run")
    step = None if has_forward(model) else step_of(model)
    return Given(batch, None, step or "forward")


def unwrapped(model: nn.Module) -> nn.Module:
    """The model that `torch.compile` or data-parallel training was given."""
    made_from = dict(model.named_children()).get("_orig_mod")
    if made_from is not None:
        return unwrapped(made_from)
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrapped(model.module)
    return model


def count_on_meta(model: nn.Module, given: Given) -> FlopCounter:
    """On a copy, where tensors that are made without a device are on meta too.

    A model that reads the values of such a tensor gets a second copy, without that.
    """
    try:
        with torch.device("meta"):
            return _counted(lambda: on_meta(model), given.on_meta(), FusedKernels)
    except Exception as first:
        try:
            return _counted(lambda: on_meta(model), given.on_meta(), FusedKernels)
        except Exception:
            raise first from None


def count_really(model: nn.Module, given: Given, not_on_meta: str) -> FlopCounter:
    """Where the model is.

    Raises:
        CannotRun: If it does not run there either.
    """

    def counted(running: nn.Module) -> FlopCounter:
        counter = _counted(lambda: running, given.on_device_of(running), nullcontext)
        if running is not model and given.run is not None and not counter.called:
            raise CannotRun("run does not call the model that it is given")
        return counter

    try:
        return _really(model, given, counted)
    except Exception as fault:
        here = f"{type(model).__name__} cannot be run on {device_of(model)}: {in_words(fault)}"
        there = f". It does not run on meta: {not_on_meta}" if not_on_meta not in here else ""
        raise CannotRun(f"{here}{there}{_advice(given, f'{here}{there}')}") from fault


def times_of(model: nn.Module, given: Given) -> list[float | None]:
    """Seconds of each module in a real forward pass.

    Raises:
        CannotRun: If the model is on meta, or fails.
    """
    device = device_of(model)
    if device.type == "meta":
        raise CannotRun(
            f"profile=True takes times of real forward passes, and {type(model).__name__} is on "
            "meta: give a model with values"
        )

    def taken(running: nn.Module, gradients: AbstractContextManager[Any]) -> list[float | None]:
        modules, here = [part.module for part in parts_of(running)], given.on_device_of(running)
        with here.without_a_trace(running), gradients:
            return seconds_of(modules, lambda: here.run_once(running), device)

    def timed(running: nn.Module) -> list[float | None]:
        try:
            return taken(running, torch.no_grad())
        except RuntimeError:
            return taken(running, torch.enable_grad())  # where forward differentiates

    try:
        return _really(model, given, timed)
    except Exception as fault:
        raise CannotRun(
            f"the times of {type(model).__name__} cannot be taken: {in_words(fault)}. Without "
            "profile=True it is counted"
        ) from fault


def _really(model: nn.Module, given: Given, of: Callable[[nn.Module], Result]) -> Result:
    """Of a copy with values; where there is none, or it does not run, of the model itself.

    A step of a LightningModule runs in a copy alone. So that hooks of users, or an object that
    cannot be copied, are no reason to fail, all else runs in the model too, which is put back.
    """
    try:
        return of(copied(model))
    except Exception:
        if given.is_step:
            raise
    with put_back(model):
        return of(model)


def _advice(given: Given, told: str) -> str:
    """What may be done, where that is not told yet."""
    if given.is_step and "Trainer" in told:
        return f". The copy that runs has no Trainer: {GIVE_RUN}"
    return "" if given.run is not None or GIVE_RUN in told else f"; {GIVE_RUN}"


def _counted(
    make: Callable[[], nn.Module],
    given: Given,
    kernels: Callable[[], AbstractContextManager[Any]],
) -> FlopCounter:
    """With a look at what is kept for the backward pass, where that is allowed."""
    try:
        return _count(make(), given, kernels())
    except RuntimeError as fault:
        if "saved tensor hooks" not in str(fault):
            raise
        return _count(make(), given, kernels(), sees_kept=False)


def _count(
    model: nn.Module,
    given: Given,
    kernels: AbstractContextManager[Any],
    sees_kept: bool = True,
) -> FlopCounter:
    counter = FlopCounter([part.module for part in parts_of(model)], sees_kept)
    with given.without_a_trace(model), torch.enable_grad(), kernels, counter.active():
        output = given.run_once(model)
    whole = counter.tallies[0]
    if not whole.calls:  # its step was
        made = first_tensor(output)
        whole.calls, whole.output_shape = 1, None if made is None else tuple(made.shape)
    return counter


@dataclass(frozen=True)
class Part:
    """A module of a model.

    Attributes:
        name: Dotted path without wrappers; empty for the model itself.
        above: The place of the module that it stands in; 0 for the model itself.
        module: The module.
    """

    name: str
    above: int
    module: nn.Module


def parts_of(model: nn.Module) -> Iterator[Part]:
    """All modules but wrappers, the model first."""
    places: dict[str, int] = {}
    for path, module in model.named_modules():
        if not any(clean_name(name) == "" for name, _ in module.named_children()):
            name = clean_name(path)
            above = places.get(name.rpartition(".")[0], 0)
            places[name] = len(places)
            yield Part(name, above, module)


def in_words(fault: Exception) -> str:
    """An exception in a line, without a stop at its end."""
    first = str(fault).strip().partition("\n")[0].rstrip(". ")
    if isinstance(fault, CannotRun):
        return first
    return f"{type(fault).__name__}: {first}" if first else type(fault).__name__
