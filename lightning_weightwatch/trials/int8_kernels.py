"""The same model on torchao's int8 weights and kernels, where torchao has them: linear layers."""

import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.parameter import is_lazy

from lightning_weightwatch.model.weights import Weight, walk
from lightning_weightwatch.report import Skipped
from lightning_weightwatch.trials.compression import CompressedLayer

_INSTALL = "pip install 'lightning-weightwatch[torchao]'"

# What torchao's import logs where there is no CUDA: kernels that cannot be loaded, and a
# deprecation in torch that is torchao's own business.
_TALKATIVE = ("torchao", "torchao.kernel.intmm", "torch.utils._pytree")

# By how much of Σ|w| the kernel may differ from its own values: twice what 8 bits of activation
# and a bfloat16 result explain.
_TOLERANCE = 0.02

_BLOCK = 2**20


def available() -> str | None:
    """Why torchao cannot be used, with what to do about it; None where it can."""
    try:
        _torchao()
    except ImportError as fault:
        return str(fault)
    return None


def tied_weights(model: nn.Module) -> frozenset[str]:
    """The names of the weights that a model uses in several places, by their first name."""
    places = Counter(
        _place(parameter)
        for module in model.modules()
        for _, parameter in module.named_parameters(recurse=False, remove_duplicate=False)
    )
    weights = [found for found in walk(model) if isinstance(found, Weight)]
    return frozenset(w.name for w in weights if places[_place(w.parameter)] > 1)


@dataclass(frozen=True)
class Int8Kernels:
    """Linear layers on torchao's int8 kernels; the other weights stay as they are.

    Where quantization is simulated elsewhere, here integers are stored, one float32 scale per
    output channel, s = 2 max|w| / 255 with codes from −128 to 127. A layer counts as done only when
    torchao holds int8 values that are within a step of the weight, and its kernel computes with
    them; else `left_out` says why.

    `apply` exchanges the parameter objects of the layers; whoever calls it puts them back.

    Attributes:
        activations: `"int8"`: they are quantized too, row by row as they come, and the matrices are
            multiplied in integers. `"float"`: the weight alone is stored in int8.
        tied: Names of weights that are left out because other modules use them too: what
            `tied_weights` finds in the model, which the weights alone do not tell.

    Raises:
        ValueError: For other activations.
    """

    activations: Literal["float", "int8"] = "float"
    tied: frozenset[str] = field(default=frozenset(), compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.activations not in ("float", "int8"):
            raise ValueError(f"activations must be 'float' or 'int8', got {self.activations!r}")

    @property
    def name(self) -> str:
        """`int8_torchao`, or `int8_dynamic_torchao` where activations are quantized too."""
        return "int8_torchao" if self.activations == "float" else "int8_dynamic_torchao"

    @property
    def settings(self) -> Mapping[str, bool | int | float | str]:
        """The settings by their names."""
        return {
            "bits": 8,
            "granularity": "channel",
            "kernels": "torchao",
            "activations": self.activations,
        }

    def apply(self, weights: Sequence[Weight]) -> Iterator[CompressedLayer]:
        """Give every linear layer that allows it a weight of torchao, and say which those are.

        Raises:
            ImportError: Without torchao.
            RuntimeError: When not one of the weights could be converted: what is then evaluated
                would be the model as it is.
        """
        quantization, done, why = _torchao(), False, ""
        for weight in weights:
            converted = self._converted(weight, quantization)
            if isinstance(converted, str):
                why = why or f": {weight.name}: {converted}"
                continue
            weight.module._parameters["weight"] = converted.parameter
            done = True
            yield self._record(weight, converted)
        if not done:
            raise RuntimeError(f"none of {len(weights)} weights has an int8 kernel{why}")

    def left_out(self, weights: Sequence[Weight]) -> list[Skipped]:
        """The weights that `apply` leaves as they are, with the reasons; changes nothing.

        Linear layers are converted for it, one at a time.

        Raises:
            ImportError: Without torchao.
        """
        quantization = _torchao()
        outcomes = ((weight, self._converted(weight, quantization)) for weight in weights)
        return [Skipped(w.name, why, w.kind) for w, why in outcomes if isinstance(why, str)]

    @torch.no_grad()
    def _converted(self, weight: Weight, quantization: ModuleType) -> "_Converted | str":
        """The weight of torchao in place of this one, or why there is none."""
        unfit = _unfit(weight)
        if unfit is not None:
            return unfit
        if weight.name in self.tied:
            return "tied: another module uses it too, and would keep the float weight"
        # A layer of its own, since quantize_ writes into it; on meta it draws no random numbers.
        carrier = nn.Linear(1, 1, bias=False, device="meta")
        carrier.weight = nn.Parameter(weight.parameter.detach(), requires_grad=False)
        try:
            with _quietly():
                quantization.quantize_(carrier, self._config(quantization))
            parts = list(_parts(carrier.weight))
            if not any(part.dtype == torch.int8 for part in parts):
                return "torchao changed nothing"
            stored = sum(part.numel() * part.element_size() for part in parts)
            converted = _Converted(carrier.weight, carrier.weight.dequantize(), stored)
            return _wrong(weight.parameter.detach(), converted) or converted
        except Exception as fault:
            return f"torchao: {_first_line(fault)}"

    def _config(self, quantization: ModuleType) -> Any:
        """Settings of torchao, which by default would change those of torch.compile for good."""
        if self.activations == "int8":
            dynamic = quantization.Int8DynamicActivationInt8WeightConfig
            return dynamic(set_inductor_config=False, version=2)
        return quantization.Int8WeightOnlyConfig(set_inductor_config=False, version=2)

    def _record(self, weight: Weight, converted: "_Converted") -> CompressedLayer:
        original = weight.parameter.detach()
        signal = noise = 0.0
        for before, after in _blocks(original, converted.values):
            signal += float(before.double().square().sum())
            noise += float((before.double() - after.double()).square().sum())
        return CompressedLayer(
            name=weight.name,
            kind=weight.kind,
            shape=tuple(original.shape),
            bytes=original.numel() * original.element_size(),
            packed_bytes=converted.stored_bytes,
            signal=signal,
            noise=noise,
            live=int(torch.count_nonzero(converted.values)),
            note=f"torchao int8 weight{' and activations' * (self.activations == 'int8')}",
        )


@dataclass(frozen=True)
class _Converted:
    """A weight of torchao, its values as floats, and the bytes that it stores."""

    parameter: nn.Parameter
    values: Tensor
    stored_bytes: int


def _unfit(weight: Weight) -> str | None:
    """Why torchao is not even asked."""
    made = type(weight.module)
    if not isinstance(weight.module, nn.Linear):
        return f"torchao has no int8 kernel for {made.__name__}"
    if weight.attribute != "weight":
        return f"torchao has no int8 kernel for the {weight.attribute} of {made.__name__}"
    if made is NonDynamicallyQuantizableLinear:
        return "MultiheadAttention uses it without its forward pass, which torchao does not follow"
    if made.forward is not nn.Linear.forward:
        return f"{made.__name__} has a forward pass of its own, which torchao may not follow"
    return None


def _wrong(weight: Tensor, converted: _Converted) -> str | None:
    """What is amiss with a conversion that went through, or None."""
    for before, after in _blocks(weight, converted.values):
        step = (before.float().abs().amax(1) / 127).clamp_min(torch.finfo(torch.float32).eps)
        if not bool(((before.float() - after.float()).abs().amax(1) <= step).all()):
            return "torchao's values are more than a step away from the weight"
    rows = torch.ones(2, weight.shape[1], dtype=weight.dtype, device=weight.device)
    found = F.linear(rows, converted.parameter).float()
    values = converted.values.float()
    allowed = _TOLERANCE * values.abs().sum(1)
    if not bool(((found - F.linear(rows.float(), values)).abs() <= allowed).all()):
        return "torchao's kernel does not compute with the values that it holds"
    return None


def _blocks(*matrices: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same rows of each, on the CPU, a million values at a time."""
    rows = max(1, _BLOCK // max(matrices[0].shape[1], 1))
    for start in range(0, matrices[0].shape[0], rows):
        yield tuple(matrix[start : start + rows].cpu() for matrix in matrices)


def _parts(tensor: Tensor) -> Iterator[Tensor]:
    """The plain tensors that a tensor subclass consists of; a plain tensor itself."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield tensor
        return
    names, _ = tensor.__tensor_flatten__()
    for name in names:
        yield from _parts(getattr(tensor, name))


def _place(parameter: Tensor) -> tuple[torch.device, int]:
    """Where the values are; two parameters at one place are tied."""
    placed = not is_lazy(parameter) and parameter.layout == torch.strided and parameter.data_ptr()
    return parameter.device, placed or id(parameter)


def _torchao() -> ModuleType:
    """`torchao.quantization`.

    Raises:
        ImportError: Without torchao, or with one that does not fit this torch; with what to do.
    """
    try:
        with _quietly():
            import_module("torchao")
            return import_module("torchao.quantization")
    except Exception as fault:  # where it was built for another torch, anything may come of it
        if isinstance(fault, ModuleNotFoundError) and fault.name == "torchao":
            raise ImportError(f"torchao is not installed: {_INSTALL}") from fault
        raise ImportError(
            f"torchao cannot be imported ({_first_line(fault)}): {_INSTALL} --upgrade"
        ) from fault


@contextmanager
def _quietly() -> Iterator[None]:
    """Within the block torchao warns of nothing; errors are logged."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    for logger in loggers:
        logger.addFilter(_is_error)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger in loggers:
            logger.removeFilter(_is_error)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def _first_line(fault: Exception) -> str:
    """What an exception says, in one line."""
    said = " ".join(str(fault).split("\n")[0].split())
    return f"{type(fault).__name__}: {said}" if said else type(fault).__name__
