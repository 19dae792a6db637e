"""Pruning: the smallest weights become zero, of all, of each layer, of each row, of each few."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from lightning_weightwatch.model.weights import Weight
from lightning_weightwatch.report import Skipped
from lightning_weightwatch.trials.compression import CompressedLayer
from lightning_weightwatch.trials.selection import (
    Smallest,
    blocks,
    smallest_of_each,
    widened,
    widest,
)
from lightning_weightwatch.usage.inputs import InputNorms
from lightning_weightwatch.values.blocks import values_at_once

Method = Literal["magnitude", "wanda"]
Scope = Literal["global", "layer"]

#: The longest run m of an n:m pattern.
LONGEST_RUN = 32


@dataclass(frozen=True)
class Pruning:
    """Weights that matter least set to zero, in place and without retraining.

    By magnitude they are those of least |W_ij|, of all weights together or of each layer: exactly
    round(amount · n). Wanda (Sun et al., arXiv:2306.11695) compares |W_ij| · ‖X_j‖₂ within each
    output row: int(amount · C_in). A pattern n:m keeps n of every m consecutive values of an output
    row, [O, I·k·k]; of a short tail, ceil(n · tail / m). Among equals those that stand first go.

    Attributes:
        amount: The share that goes, between 0 and 1, or a pattern such as `"2:4"`.
        method: By which weights are compared.
        scope: Of a share by magnitude: all weights together, or each layer by itself. For all else
            it makes no difference.
        norms: Of the inputs, for Wanda. What they do not cover stays as it is: see `left_out`.

    Raises:
        ValueError: For an argument out of its range.
    """

    amount: float | str
    method: Method = "magnitude"
    scope: Scope = "global"
    norms: InputNorms | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.amount, str):
            _pattern(self.amount)
        elif isinstance(self.amount, bool) or not isinstance(self.amount, int | float):
            raise ValueError(
                "amount must be a number between 0 and 1 or a pattern such as '2:4', got "
                f"{self.amount!r}"
            )
        elif not 0 < self.amount < 1:
            raise ValueError(
                f"amount must be a share between 0 and 1, both excluded, got {self.amount}; 0.5 "
                "removes half of the weights. In YAML write patterns in quotes: '2:4'"
            )
        for argument, given, known in (
            ("method", self.method, get_args(Method)),
            ("scope", self.scope, get_args(Scope)),
        ):
            if given not in known:
                raise ValueError(f"{argument} must be one of {', '.join(known)}, got {given!r}")
        if self._by_rows:
            object.__setattr__(self, "scope", "global")  # two of the same effect are equal

    @property
    def _by_rows(self) -> bool:
        """Whether values are compared within rows or parts of them, of whatever scope."""
        return self.method == "wanda" or isinstance(self.amount, str)

    @property
    def name(self) -> str:
        """`pruned50`, `pruned50_layer`, `pruned50_wanda`, `pruned2of4`, `pruned2of4_wanda`."""
        if isinstance(self.amount, str):
            amount = "{}of{}".format(*_pattern(self.amount))
        else:
            percent = float(f"{100 * self.amount:.10g}")  # 7, not 7.000000000000001
            amount = np.format_float_positional(percent, trim="-")
        ending = "_wanda" if self.method == "wanda" else "_layer" if self.scope == "layer" else ""
        return f"pruned{amount}{ending}"

    @property
    def settings(self) -> Mapping[str, bool | int | float | str]:
        """The share that goes, the pattern or the scope, and the method."""
        if isinstance(self.amount, str):
            kept, run = _pattern(self.amount)
            return {"amount": 1 - kept / run, "pattern": self.amount, "method": self.method}
        scope = "row" if self.method == "wanda" else self.scope
        return {"amount": self.amount, "method": self.method, "scope": scope}

    def left_out(self, weights: Sequence[Weight]) -> list[Skipped]:
        """Those of the weights that Wanda knows no inputs of, with the reason."""
        if self.method == "magnitude":
            return []
        reasons = [(weight, self._known_norms().missing(weight)) for weight in weights]
        return [Skipped(of.name, f"not by Wanda: {why}", of.kind) for of, why in reasons if why]

    def apply(self, weights: Sequence[Weight]) -> Iterator[CompressedLayer]:
        """Overwrite the weights in place, one after another, and say what became of each.

        Raises:
            ValueError: When Wanda is asked for without norms.
        """
        parameters = [weight.parameter for weight in weights]
        left = {skipped.name for skipped in self.left_out(weights)}
        together = None
        if not self._by_rows and self.scope == "global":
            together = self._share_of(parameters)
        for weight in weights:
            if weight.name in left:
                continue
            if self._by_rows:
                going = self._of_rows(weight)
            else:
                going = _of_all(weight, together or self._share_of([weight.parameter]))
            yield _overwritten(weight, going, self.amount)

    def _share_of(self, parameters: Sequence[Tensor]) -> Smallest:
        return Smallest(parameters, round(float(self.amount) * sum(map(Tensor.numel, parameters))))

    def _of_rows(self, weight: Weight) -> Iterator[tuple[Tensor, Tensor]]:
        """Blocks of output rows, and which of their values go."""
        parameter = weight.parameter
        norms = self._known_norms().of(weight) if self.method == "wanda" else None
        outputs = parameter.shape[weight.output_axis] * _groups_along_inputs(weight)
        for first, block in _row_blocks(weight):
            scores = widened(block, widest([parameter])).abs().view(len(block), -1)
            if norms is not None:
                rows = torch.arange(first, first + len(block), device=norms.device)
                scores = scores * norms[rows * len(norms) // outputs].to(scores.device)
            if isinstance(self.amount, str):
                mask = _beyond_pattern(scores, *_pattern(self.amount))
            else:
                mask = smallest_of_each(scores, int(self.amount * scores.shape[1]))
            yield block, mask.flatten()

    def _known_norms(self) -> InputNorms:
        if self.norms is None:
            raise ValueError(
                f"{self.name} needs the norms of the inputs, got none: run some batches within "
                "InputNorms(weights) and give it as norms"
            )
        return self.norms


def packed_bytes(size: int, live: int, element_size: int) -> int:
    """Bytes of live values and a bitmap, or of all values where that is less."""
    return min(live * element_size + math.ceil(size / 8), size * element_size)


def pattern_bytes(size: int, kept: int, element_size: int, run: int) -> int:
    """Bytes of the kept values and their places within runs, or of all values if that is less.

    A place of m takes ceil(log2 m) bits, end to end: 2 for 2:4, as sparse tensor cores read it.
    """
    places = math.ceil(kept * (run - 1).bit_length() / 8)
    return min(kept * element_size + places, size * element_size)


def _pattern(text: str) -> tuple[int, int]:
    """Values that stay, and the length of a run."""
    found = re.fullmatch("([1-9][0-9]?):([1-9][0-9]?)", text)
    kept, run = map(int, found.groups()) if found else (0, 0)
    if not 0 < kept < run <= LONGEST_RUN:
        raise ValueError(
            f"a pattern must be n:m with 0 < n < m <= {LONGEST_RUN}, got {text!r}; '2:4' keeps 2 "
            "of every 4 weights in a row"
        )
    return kept, run


def _of_all(weight: Weight, smallest: Smallest) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks in the order of the elements, and which of their values go."""
    for block in blocks(weight.parameter):
        yield block, smallest.among(block)


def _beyond_pattern(scores: Tensor, kept: int, run: int) -> Tensor:
    """True for what an n:m pattern does not keep of the scores [rows, n]."""
    count, inputs = scores.shape
    tail = inputs % run
    runs = scores[:, : inputs - tail].reshape(-1, run)
    mask = smallest_of_each(runs, run - kept).view(count, -1)
    if tail:
        gone = tail - math.ceil(kept * tail / run)
        mask = torch.cat([mask, smallest_of_each(scores[:, inputs - tail :], gone)], dim=1)
    return mask


def _groups_along_inputs(weight: Weight) -> int:
    """A transposed convolution, [in, out / groups, ...], keeps its groups along the inputs."""
    return int(getattr(weight.module, "groups", 1)) if weight.kind == "conv_transpose" else 1


def _row_blocks(weight: Weight) -> Iterator[tuple[int, Tensor]]:
    """Views [r, I, ...] of output rows, at least one, each with the number of its first row."""
    values = weight.parameter.detach()
    first = 0
    for group in values.chunk(_groups_along_inputs(weight)):
        rows = group.transpose(0, weight.output_axis)
        inputs = math.prod(rows.shape[1:])
        for block in torch.split(rows, max(values_at_once(values.device) // inputs, 1)):
            yield first, block
            first += len(block)


def _overwritten(
    weight: Weight, going: Iterable[tuple[Tensor, Tensor]], amount: float | str
) -> CompressedLayer:
    """Set what goes to zero, block by block."""
    parameter = weight.parameter
    signal = noise = 0.0
    live = gone = 0
    for block, mask in going:
        values = widened(block, widest([parameter]))
        exact = values.to(torch.float64, copy=True)
        # Filling and counting by a mask would take most of the time: no branch foresees it.
        stays = values.mul(~mask).add_(0.0)  # and no −0
        block.copy_(stays.view(block.shape))
        signal += float(exact.square().sum())
        noise += float(exact.sub_(stays).square_().sum())
        live += int(stays.ne_(0).sum(dtype=torch.float64))
        gone += int(mask.count_nonzero())
    size, width = parameter.numel(), parameter.element_size()
    if isinstance(amount, str):
        packed = pattern_bytes(size, size - gone, width, _pattern(amount)[1])
    else:
        packed = packed_bytes(size, live, width)
    return CompressedLayer(
        name=weight.name,
        kind=weight.kind,
        shape=tuple(parameter.shape),
        bytes=size * width,
        packed_bytes=packed,
        signal=signal,
        noise=noise,
        live=live,
    )
