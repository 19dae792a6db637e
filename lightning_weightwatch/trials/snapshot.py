"""A model that may be changed for a while and comes back bit for bit."""

import copy
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


class NotRestored(RuntimeError):
    """The model could not be brought back to the bits that it had."""


@contextmanager
def restored(model: nn.Module, changing: Sequence[nn.Parameter]) -> Iterator["Snapshot"]:
    """Within the block `changing` may be overwritten; after it the model is what it was.

    Parameters, buffers, the states of torchmetrics and the training flags are put back, whatever
    is raised within, and a digest over every byte is compared.

    Args:
        model: Left as it was found.
        changing: The parameters that will be written to; they are kept in memory meanwhile.

    Raises:
        NotRestored: When the digests differ after all, which no known model does.
    """
    before = digest(model)
    snapshot = Snapshot(model, changing)
    try:
        yield snapshot
    finally:
        snapshot.put_back()
        after = digest(model)
    if after != before:
        raise NotRestored(
            "after a trial the model does not have the bits it had before; do not trust its "
            "weights, load the last checkpoint"
        )


class Snapshot:
    """What has to be put back.

    Args:
        model: The model.
        changing: The parameters whose values are kept.
    """

    def __init__(self, model: nn.Module, changing: Sequence[nn.Parameter]) -> None:
        self._places = [
            (module, dict(module._buffers))
            for module in model.modules()
            if not isinstance(module, torch.jit.ScriptModule)  # its buffers cannot be exchanged
        ]
        buffers = [buffer for buffer in model.buffers() if _has_values(buffer)]
        self._tensors = [(tensor, tensor.detach().clone()) for tensor in [*changing, *buffers]]
        self._training = [(module, module.training) for module in model.modules()]
        self._metrics = [
            (module, _metric_state(module)) for module in model.modules() if _is_metric(module)
        ]

    @torch.no_grad()
    def put_back(self) -> None:
        """Write parameters, buffers, training flags and states of metrics as they were."""
        for module, buffers in self._places:  # a forward pass may have put other tensors there
            module._buffers.clear()
            module._buffers.update(buffers)
        for tensor, values in self._tensors:
            tensor.copy_(values)
        for module, training in self._training:
            module.training = training
        for metric, state in self._metrics:
            metric.__dict__.update(copy.deepcopy(state))


def digest(model: nn.Module) -> str:
    """A hash over names, dtypes, shapes and every byte of parameters and buffers.

    Bytes, because `torch.equal` holds −0 equal to 0 and NaN unequal to itself.
    """
    summed = hashlib.blake2b()
    for name, tensor in [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]:
        summed.update(f"{name} {tensor.dtype}".encode())
        if _has_values(tensor):
            summed.update(str(tuple(tensor.shape)).encode())
            on_cpu = tensor.detach().cpu().resolve_conj().resolve_neg()
            dense = on_cpu if on_cpu.layout == torch.strided else on_cpu.to_dense()
            summed.update(dense.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return summed.hexdigest()


def _has_values(tensor: Tensor) -> bool:
    return not (is_lazy(tensor) or tensor.is_meta or tensor.is_quantized)


def _is_metric(module: nn.Module) -> bool:
    """Whether a module is a torchmetrics Metric, told without the seconds its import takes."""
    return hasattr(module, "_defaults") and hasattr(module, "_update_count")


def _metric_state(metric: nn.Module) -> dict[str, Any]:
    """Everything that a metric has accumulated: tensors, numbers, and collections of them."""
    machinery = vars(nn.Module())
    return {
        name: copy.deepcopy(value)
        for name, value in vars(metric).items()
        if name not in machinery and _is_data(value)
    }


def _is_data(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_data, value))
    if isinstance(value, dict):
        return all(map(_is_data, value.values()))
    return value is None or isinstance(value, Tensor | bool | int | float | str)
