"""Weights rounded to a few bits: a compression with its settings."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, get_args

import torch
from torch import Tensor

from lightning_weightwatch.model.weights import Weight
from lightning_weightwatch.report import Skipped
from lightning_weightwatch.trials.compression import CompressedLayer
from lightning_weightwatch.trials.memory import Memory
from lightning_weightwatch.trials.quantizer import (
    CodeRange,
    Codes,
    Scales,
    Scheme,
    codes_of,
    in_steps,
    packed_bytes,
    rounded,
    values_of,
)
from lightning_weightwatch.trials.scale_groups import (
    Granularity,
    Rows,
    as_block,
    scale_groups,
    scales_of,
)
from lightning_weightwatch.trials.scales import Blocks, Clip, find_scales
from lightning_weightwatch.trials.targets import size_in_bytes
from lightning_weightwatch.values.blocks import on_one_core

__all__ = ["Clip", "CodeRange", "Granularity", "Quantization", "Scheme"]

# A value is clipped where it is further from its code than half a step and what rounding adds.
_CLIPPED = 0.501


@dataclass(frozen=True)
class Quantization:
    """All weights quantized to the same number of bits, weights only, simulated.

    Attributes:
        bits: Of a code, 2 to 8.
        granularity: What has a scale: each output `"channel"`, each `"group"` of values along the
            inputs of a channel, each `"tensor"`, or the whole `"model"`.
        clip: Where codes end: at the largest magnitude (`"absmax"`), at a `"percentile"` of the
            magnitudes, or where the mean squared error is least (`"mse"`).
        scheme: `"symmetric"`, or `"asymmetric"` with a zero point for each scale.
        range: Of symmetric codes: `"restricted"` to ±(2^(b−1) − 1), or `"full"`, which has
            −2^(b−1) too, as torchao. Asymmetric ones are always all 2^b.
        group_size: Values of a group.
        percentile: In percent.

    Raises:
        ValueError: For a setting out of its range.

    Example:
        >>> Quantization(4, granularity="group", clip="absmax").name
        'int4_group32_absmax'
    """

    bits: int
    granularity: Granularity = "channel"
    clip: Clip = "mse"
    scheme: Scheme = "symmetric"
    range: CodeRange = "restricted"
    group_size: int = 32
    percentile: float = 99.9

    def __post_init__(self) -> None:
        """Check the settings."""
        if not (_is_whole(self.bits) and 2 <= self.bits <= 8):
            raise ValueError(
                f"bits must be a whole number between 2 and 8, got {self.bits!r}. To remove "
                "weights altogether, use PruningTrial"
            )
        _check_choice("granularity", self.granularity, Granularity)
        _check_choice("clip", self.clip, Clip)
        _check_choice("scheme", self.scheme, Scheme)
        _check_choice("range", self.range, CodeRange)
        if not (_is_whole(self.group_size) and self.group_size >= 1):
            raise ValueError(
                f"group_size must be a whole number of at least 1, got {self.group_size!r}; 32, 64 "
                "and 128 are usual"
            )
        is_number = isinstance(self.percentile, int | float)
        if not (is_number and not isinstance(self.percentile, bool) and 0 < self.percentile <= 100):
            raise ValueError(
                f"percentile must be above 0 and at most 100, got {self.percentile!r}; 99.9 clips "
                "one value in a thousand"
            )

    @property
    def name(self) -> str:
        """`int8`, and what differs from the defaults: `int4_group32_absmax_asymmetric`."""
        parts = [f"int{self.bits}"]
        if self.granularity == "group":
            parts.append(f"group{self.group_size}")
        elif self.granularity != "channel":
            parts.append(self.granularity)
        if self.clip == "percentile" and self.percentile != 99.9:
            parts.append(f"percentile{self.percentile:.10g}")
        elif self.clip != "mse":
            parts.append(self.clip)
        if self.scheme == "asymmetric":
            parts.append("asymmetric")
        elif self.range == "full":
            parts.append("full")
        return "_".join(parts)

    @property
    def settings(self) -> Mapping[str, bool | int | float | str]:
        """Those that matter, by their names."""
        settings: dict[str, bool | int | float | str] = {
            "bits": self.bits,
            "granularity": self.granularity,
            "clip": self.clip,
            "scheme": self.scheme,
        }
        if self.scheme == "symmetric":
            settings["range"] = self.range
        if self.granularity == "group":
            settings["group_size"] = self.group_size
        if self.clip == "percentile":
            settings["percentile"] = self.percentile
        return settings

    def apply(self, weights: Sequence[Weight]) -> Iterator[CompressedLayer]:
        """Overwrite the weights in place, block by block, and say what became of each.

        Not a bit depends on how many threads torch uses.
        """
        shared, memory = None, Memory()
        if self.granularity == "model" and weights:
            with on_one_core():
                shared = self._scales_of_all(weights, memory)
        for weight in weights:
            count = scales_of(weight, self.granularity, self.group_size)
            if self.granularity == "model" and weight is not weights[0]:
                count = 0  # the only one is counted with the first
            with on_one_core():
                layer = self._compressed(weight, count, shared, memory)
            yield layer

    def left_out(self, weights: Sequence[Weight]) -> Sequence[Skipped]:
        """None: whatever is real and finite can be quantized."""
        return ()

    @property
    def _codes(self) -> Codes:
        return codes_of(self.bits, self.scheme, self.range)

    def _scales_of_all(self, weights: Sequence[Weight], memory: Memory) -> Scales:
        parts = [
            part
            for weight in weights
            for rows in scale_groups(weight, self.granularity, self.group_size)
            for part in rows.parts
        ]
        return self._found(Rows(tuple(parts), 1), memory)

    def _found(self, rows: Rows, memory: Memory) -> Scales:
        exact = any(part.dtype == torch.float64 for part in rows.parts)
        dtype = torch.float64 if exact else torch.float32
        blocks: Blocks = partial(rows.blocks, memory=memory)
        if len(rows.parts) == 1:
            # Where it has to be copied to be read, once is enough.
            blocks = cache(lambda dtype: list(rows.blocks(dtype, memory)))
        return find_scales(blocks, dtype, self._codes, self.clip, self.percentile, memory)

    def _compressed(
        self, weight: Weight, count: int, shared: Scales | None, memory: Memory
    ) -> CompressedLayer:
        values = weight.parameter
        totals = [0.0, 0.0, 0.0, 0.0]
        for rows in scale_groups(weight, self.granularity, self.group_size):
            found = self._found(rows, memory) if shared is None else shared
            for part in rows.parts:
                sums = _overwrite(part, rows.count, found, memory)
                totals = [total + more for total, more in zip(totals, sums, strict=True)]
        signal, noise, live, clipped = totals
        return CompressedLayer(
            weight.name,
            weight.kind,
            tuple(values.shape),
            size_in_bytes(values),
            packed_bytes(values.numel(), count, self.bits, zero_points=self.scheme == "asymmetric"),
            signal,
            noise,
            round(live),
            round(clipped),
        )


def _overwrite(part: Tensor, rows: int, scales: Scales, memory: Memory) -> list[float]:
    """Put the rounded values in place; Σ w², Σ (w − ŵ)², and how many are live and clipped."""
    block = as_block(part, rows, scales.scale.dtype, scales.scale.device, memory)
    steps = in_steps(block, scales, memory.like("steps", block))
    codes = rounded(steps, scales, memory.like("codes", block))
    # Counting ones takes the same time wherever they are; count_nonzero, up to nine times as long.
    clipped = steps.sub_(codes).abs_().gt_(_CLIPPED).sum(dtype=torch.float64)
    values = values_of(codes, scales)
    largest = torch.finfo(part.dtype).max
    if scales.reach > largest:
        values.clamp_(-largest, largest)
    stored = values.to(part.dtype)
    read_back = stored.to(block.dtype)
    exact = memory.like("exact", block, torch.float64).copy_(block)
    squares = memory.like("squares", block, torch.float64)
    signal = torch.mul(exact, exact, out=squares).sum()
    noise = exact.sub_(read_back).square_().sum()
    part.copy_(stored.view(part.shape))
    live = read_back.ne_(0).sum(dtype=torch.float64)
    return torch.stack([signal, noise, live, clipped]).tolist()


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_choice(argument: str, given: object, allowed: Any) -> None:
    choices = get_args(allowed)
    if given not in choices:
        raise ValueError(
            f"{argument} must be one of {', '.join(map(repr, choices))}, got {given!r}"
        )
