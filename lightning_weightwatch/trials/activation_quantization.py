"""Weights and the inputs of their layers rounded to a few bits: a compression that needs hooks."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_weightwatch.model.weights import Weight
from lightning_weightwatch.report import Skipped
from lightning_weightwatch.trials.compression import CompressedLayer
from lightning_weightwatch.trials.quantization import Quantization
from lightning_weightwatch.trials.quantizer import (
    Scales,
    codes_of,
    in_steps,
    rounded,
    scales_between,
    values_of,
)
from lightning_weightwatch.usage.input_ranges import (
    RANGE_CLIPS,
    InputRanges,
    RangeClip,
    with_inputs,
)


@dataclass(frozen=True)
class ActivationQuantization:
    """A quantization of weights, with the inputs of the same layers quantized as well, simulated.

    Each layer has one scale and one zero point for its inputs, static: found in the evaluation of
    the baseline. Codes are affine over the range and 0. Biases, sums of layers, what attention
    computes within and hidden states of recurrent layers are as they were.

    Attributes:
        weights: What happens to the weights.
        bits: Of an activation, 2 to 8.
        clip: The range: up to the 99.9 % quantile of |x|, `"percentile"`, or to its ends,
            `"minmax"`.
        ranges: Of the inputs; None as long as only its name is asked for.

    Raises:
        ValueError: For a setting that is not allowed.
    """

    weights: Quantization
    bits: int
    clip: RangeClip = "percentile"
    ranges: InputRanges | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        whole = isinstance(self.bits, int) and not isinstance(self.bits, bool)
        if not (whole and 2 <= self.bits <= 8):
            raise ValueError(
                f"activation_bits must be a whole number from 2 to 8, got {self.bits!r}; None "
                "leaves activations as they are"
            )
        if self.clip not in RANGE_CLIPS:
            allowed = ", ".join(map(repr, RANGE_CLIPS))
            raise ValueError(f"activation_clip must be one of {allowed}, got {self.clip!r}")

    @property
    def name(self) -> str:
        """That of the weights and `a8`, and what differs from the default: `int8_a8_minmax`."""
        suffix = "" if self.clip == "percentile" else f"_{self.clip}"
        return f"{self.weights.name}_a{self.bits}{suffix}"

    @property
    def settings(self) -> Mapping[str, bool | int | float | str]:
        """Those of the weights, and the two of the activations."""
        of_inputs = {"activation_bits": self.bits, "activation_clip": self.clip}
        return {**self.weights.settings, **of_inputs}

    def apply(self, weights: Sequence[Weight]) -> Iterator[CompressedLayer]:
        """Overwrite the weights; the note of a layer says why its inputs stay, if they do."""
        owners = {weight.name: weight for weight in weights}
        for layer in self.weights.apply(weights):
            missing = self.ranges.missing(owners[layer.name]) if self.ranges else ""
            yield replace(layer, note=f"inputs not quantized: {missing}" if missing else "")

    def left_out(self, weights: Sequence[Weight]) -> Sequence[Skipped]:
        """None of the weights."""
        return self.weights.left_out(weights)

    @contextmanager
    def evaluating(self, weights: Sequence[Weight]) -> Iterator[None]:
        """Within the block the layers of these weights get quantized inputs.

        Raises:
            ValueError: If none of them has a range.
        """
        ranges = self.ranges
        known = {
            weight.layer: (weight.module, ends)
            for weight in weights
            if ranges is not None and (ends := ranges.of(weight, self.clip)) is not None
        }
        if not known:
            raise ValueError("no layer has inputs that can be quantized")
        with ExitStack() as hooks:
            for module, (low, high) in known.values():
                hook = partial(_quantize_inputs, partial(self._quantized, low, high))
                handle = module.register_forward_pre_hook(hook, with_kwargs=True)
                hooks.callback(handle.remove)
            yield

    def _quantized(self, low: float, high: float, values: Tensor) -> Tensor:
        with torch.no_grad():
            stored = quantized_values(values, low, high, self.bits)
        if values.requires_grad and torch.is_grad_enabled():
            return stored + (values - values.detach())  # gradients as if nothing had been rounded
        return stored


def quantized_values(values: Tensor, low: float, high: float, bits: int) -> Tensor:
    """What affine codes over a range and 0 leave of some values, in their own dtype.

    Args:
        values: Of any shape.
        low: The least value that has a code.
        high: The greatest one.
        bits: Of a code.
    """
    dtype = values.dtype if values.dtype == torch.float64 else torch.float32
    ends = torch.tensor([min(low, 0.0), max(high, 0.0)], dtype=torch.float64)
    found = scales_between(ends[0], ends[1], codes_of(bits, "asymmetric"), dtype)
    assert found.zero_point is not None
    device = values.device
    scales = Scales(found.codes, found.scale.to(device), found.zero_point.to(device))
    exact = values.detach().to(dtype)
    codes = in_steps(exact, scales, torch.empty_like(exact))
    return values_of(rounded(codes, scales, codes), scales).to(values.dtype)


def _quantize_inputs(
    change: partial[Tensor], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return with_inputs(module, args, kwargs, change)
