"""What a batch costs in a model: counted on a copy without values, or on the batch itself."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_weightwatch.model.batch_size import batch_size
from lightning_weightwatch.model.meta import why_not_copied
from lightning_weightwatch.model.running import (
    GIVE_RUN,
    CannotRun,
    Run,
    device_of,
    has_forward,
    run_step,
    step_of,
)
from lightning_weightwatch.model.weights import layer_of
from lightning_weightwatch.report import Skipped
from lightning_weightwatch.usage.flops.counter import FlopCounter, Tally
from lightning_weightwatch.usage.flops.report import FlopReport, ModuleCost, Uncounted
from lightning_weightwatch.usage.flops.runs import (
    Given,
    Part,
    count_on_meta,
    count_really,
    given_to,
    in_words,
    parts_of,
    times_of,
    unwrapped,
)

_UNUSED = "its forward was never called; a module that uses its weights has the cost"
_UNSEEN = "TorchScript runs it unseen: the module above has the cost"
_KEPT_UNSEEN = "what it keeps for the backward pass: torch.func does not let it be seen"


def count_flops(
    model: nn.Module, batch: Any, *, run: Run | None = None, profile: bool = False
) -> FlopReport:
    """What one batch costs, for each module: FLOPs, parameters and memory.

    Everything is counted on a copy on the meta device, which takes hardly any time and no memory.
    Where a model asks for values there, the batch really runs, and `fallback` says why: through a
    copy with values, or, where that will not do, through the model, whose modes, attributes,
    collections and tensors are put back. The batch is copied too. In a copy no hooks run but those
    with which `torch.nn.utils` computes weights.

    **FLOPs.** A multiplication with its addition is 2 FLOPs, a complex one 8, and 6 in complex
    convolutions, of which torch makes three real ones. Matrix products, convolutions, attention,
    recurrent and bilinear layers count, wherever they are called from, and belong to the innermost
    module whose forward is running. Biases, elementwise operations, normalisation, pooling and
    softmax do not count, as is the custom; `uncounted` names them, and apart from them the
    operations whose cost is not known. A causal mask saves nothing.

    **Backward.** A product has two as large in its backward pass, one for the gradient of each
    factor: backward = 2 · forward, a training step = 3 · forward. So for the first layer too, whose
    inputs need no gradient. Less for what is frozen: a product with a frozen weight (or a buffer)
    costs 1 · forward, if anything before it is trained, else nothing. A model that is frozen
    altogether has no backward pass. What activation checkpointing computes a second time, and what
    fused attention does, is not in it.

    **Memory.** `activation_bytes` are the tensors that autograd keeps for the backward pass,
    inputs among them, parameters and buffers not; for recurrent layers an estimate. `own_bytes` are
    what counted operations read and write if each is read and written once: forward FLOPs by byte
    are the arithmetic intensity. Both are those of the dtypes that model and batch have: autocast
    does nothing on meta.

    `forward` runs in evaluation mode: what only training does, such as keeping the masks of
    dropout, is not in it. A `training_step` runs in the modes that the modules have.

    Args:
        model: Any module. One without a `forward` of its own is counted through its
            `training_step`, or else another step.
        batch: As it comes from a loader.
        run: Runs the model on a batch, where `forward` cannot be called with what is in it.
        profile: Also take the time of a few real forward passes, for each module, with hooks in
            place: fused layers of torch then run in parts.

    Returns:
        The costs, by module.

    Raises:
        CannotRun: If the model can be run neither on meta nor where it is, with both reasons. As
            FlexAttention on a CPU, which has no backward pass there.
        ValueError: If it is no module.

    Sources: torch.utils.flop_counter; Kaplan et al., arXiv:2001.08361, for 1 : 2 : 3.

    Example::

        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(2, 10), nn.ReLU(), nn.Linear(10, 1))
        >>> report = count_flops(model, torch.zeros(1000, 2))
        >>> report.forward, report.inference(1), report.training(steps=5)
        (60000, 60.0, 900000)
    """
    model = _checked(model)
    given = given_to(model, batch, run)
    device, fallback = "meta", ""
    with torch.inference_mode(False):
        try:
            counter = count_on_meta(model, given)
        except Exception as fault:
            device, fallback = str(device_of(model)), in_words(fault)
            counter = count_really(model, given, fallback)
        seconds = times_of(model, given) if profile else None
    return _reported(model, given, counter, device, fallback, seconds)


def count_without_values(model: nn.Module, batch: Any) -> FlopReport:
    """The same on the meta device alone: of `forward`, or else of the `training_step`.

    Within a fit it touches neither the model nor the batch, and takes no memory. A step may do
    anything to what is outside of the model, such as write a file, and is run only where `forward`
    is not there or does not run. One that multiplies nothing with this batch is no measure.

    Args:
        model: Any module.
        batch: As it comes from a loader.

    Raises:
        CannotRun: If neither runs there, with the reasons.
        ValueError: If the model is no module.
    """
    model = _checked(model)
    reasons = []
    for given in _without_values(model, batch):
        try:
            with torch.inference_mode(False):
                report = _reported(model, given, count_on_meta(model, given), "meta", "", None)
        except Exception as fault:
            reasons.append(f"{given.method}: {_within_a_fit(fault)}")
            continue
        if report.forward or not given.is_step:
            return report
        reasons.append(f"{given.method}: it multiplied nothing with this batch")
    what = f"{type(model).__name__} has neither a training_step nor a forward"
    if reasons:
        what = (
            f"{type(model).__name__} cannot be counted on meta by its {'; by its '.join(reasons)}"
        )
    raise CannotRun(what)


def _without_values(model: nn.Module, batch: Any) -> Iterator[Given]:
    """What there is to run, `forward` first."""
    step = "training_step"
    if has_forward(model):
        yield Given(batch, None, "forward")
    if step_of(model, (step,)) is not None:
        yield Given(batch, lambda copy, on_meta: run_step(copy, on_meta, step), step)


def _within_a_fit(fault: Exception) -> str:
    """Why it does not run, where nobody can give a function to run it."""
    told = in_words(fault).removesuffix(f"; {GIVE_RUN}")
    return f"{told}: the copy that runs has no Trainer" if "Trainer" in told else told


def _checked(model: object) -> nn.Module:
    """The model that is to be counted, without what is around it."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"model must be an nn.Module, got {type(model).__name__}")
    model = unwrapped(model)
    reason = why_not_copied(model)
    if reason is not None:
        raise CannotRun(f"the FLOPs of {type(model).__name__} cannot be counted: {reason}")
    return model


def _reported(
    model: nn.Module,
    given: Given,
    counter: FlopCounter,
    device: str,
    fallback: str,
    seconds: Sequence[float | None] | None,
) -> FlopReport:
    parts = list(parts_of(model))
    costs = _costs(parts, counter.tallies, seconds)
    unseen = () if counter.sees_kept else (Skipped(costs[0].name, _KEPT_UNSEEN),)
    return FlopReport(
        modules=costs,
        uncounted=_uncounted(counter),
        batch_size=batch_size(given.batch),
        device=device,
        fallback=fallback,
        ran=given.method,
        skipped=(*unseen, *_never_called(parts, costs)),
    )


def _costs(
    parts: Sequence[Part], tallies: Sequence[Tally], seconds: Sequence[float | None] | None
) -> tuple[ModuleCost, ...]:
    own = _own_parameters(parts)
    forward = _summed(parts, [tally.forward for tally in tallies])
    backward = _summed(parts, [tally.backward for tally in tallies])
    counts = _summed(parts, [sum(tensor.numel() for tensor in tensors) for tensors in own])
    sizes = _summed(parts, [sum(tensor.nbytes for tensor in tensors) for tensors in own])
    kept = [dict(tally.kept) for tally in tallies]
    for place in range(len(parts) - 1, 0, -1):
        kept[parts[place].above] |= kept[place]
    return tuple(
        ModuleCost(
            name=layer_of(part.name, part.module),
            type=layer_of("", part.module),
            depth=part.name.count(".") + 1 if part.name else 0,
            own_forward=tally.forward,
            own_backward=tally.backward,
            forward=forward[place],
            backward=backward[place],
            own_parameters=sum(tensor.numel() for tensor in own[place]),
            parameters=counts[place],
            parameter_bytes=sizes[place],
            activation_bytes=sum(kept[place].values()),
            own_bytes=tally.bytes,
            calls=tally.calls,
            output_shape=tally.output_shape,
            seconds=None if seconds is None else seconds[place],
        )
        for place, (part, tally) in enumerate(zip(parts, tallies, strict=True))
    )


def _summed(parts: Sequence[Part], values: list[int]) -> list[int]:
    """With all below."""
    totals = list(values)
    for place in range(len(parts) - 1, 0, -1):
        totals[parts[place].above] += totals[place]
    return totals


def _own_parameters(parts: Sequence[Part]) -> list[list[Tensor]]:
    """Of each module, without those that stood in one before."""
    seen: set[int] = set()
    found: list[list[Tensor]] = []
    for part in parts:
        fresh = [p for p in part.module.parameters(recurse=False) if id(p) not in seen]
        seen.update(map(id, fresh))
        found.append([*fresh])
    return found


def _uncounted(counter: FlopCounter) -> tuple[Uncounted, ...]:
    found = [Uncounted(name, *values) for name, values in counter.uncounted.items()]
    return tuple(sorted(found, key=lambda one: (one.elementwise, -one.values, one.operation)))


def _never_called(parts: Sequence[Part], costs: Sequence[ModuleCost]) -> tuple[Skipped, ...]:
    """Modules with a forward that did not run. A list of modules, whose members run, has none."""
    reached = _summed(parts, [cost.calls for cost in costs])
    return tuple(
        Skipped(cost.name, _UNSEEN if isinstance(part.module, torch.jit.ScriptModule) else _UNUSED)
        for part, cost, calls in zip(parts, costs, reached, strict=True)
        if not calls and has_forward(part.module)
    )
