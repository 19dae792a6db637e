"""The affine quantizer: codes, their steps, and the values that codes stand for."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lightning_weightwatch.trials.memory import Memory

Scheme = Literal["symmetric", "asymmetric"]
CodeRange = Literal["restricted", "full"]


@dataclass(frozen=True)
class Codes:
    """The integers that values are stored as, `low` to `high`.

    Attributes:
        low: The least code.
        high: The greatest one.
        symmetric: Whether code 0 is value 0; else a zero point is.
    """

    low: int
    high: int
    symmetric: bool

    @property
    def steps(self) -> int:
        """From the least code to the greatest one."""
        return self.high - self.low


def codes_of(bits: int, scheme: Scheme = "symmetric", range: CodeRange = "restricted") -> Codes:
    """The codes of `bits` bits: all 2^b of them, or without −2^(b−1) in the restricted range."""
    half = 2 ** (bits - 1)
    restricted = scheme == "symmetric" and range == "restricted"
    return Codes(1 - half if restricted else -half, half - 1, scheme == "symmetric")


@dataclass(frozen=True)
class Scales:
    """The values that codes stand for, ŵ = s (q − z), row by row.

    Attributes:
        codes: The codes q.
        scale: The step s of each row, of any shape, in the dtype that is computed in.
        zero_point: z of each row, whole numbers of the same dtype; None where all are 0.
    """

    codes: Codes
    scale: Tensor
    zero_point: Tensor | None = None

    def __getitem__(self, index: int) -> "Scales":
        """Those at an index of the first axis."""
        zero_point = None if self.zero_point is None else self.zero_point[index]
        return Scales(self.codes, self.scale[index], zero_point)

    @property
    def reach(self) -> float:
        """No value of any row is larger in magnitude."""
        codes = self.codes.steps if self.zero_point is not None else -self.codes.low
        return codes * float(self.scale.amax())


def scales_between(low: Tensor, high: Tensor, codes: Codes, dtype: torch.dtype) -> Scales:
    """The scales of codes that cover `low` to `high`.

    Symmetric: s = high / hi for the restricted range, 2 high / (2^b − 1) for the full one, as
    torchao has it. Asymmetric: s = (high − low) / (2^b − 1), z = clamp(lo − round(low / s), lo, hi)
    (Jacob et al., arXiv:1712.05877; Nagel et al., arXiv:2106.08295).

    Args:
        low: At most 0, float64, of any shape; −high where the codes are symmetric.
        high: At least 0, of the same shape.
        codes: The codes.
        dtype: That is computed in.
    """
    # The ends are divided first: their difference may be beyond float64.
    exact = high / codes.steps - low / codes.steps
    if not codes.symmetric:  # rounded as torch's observers round, where it is not beyond the dtype
        least, most = low.to(dtype), high.to(dtype)
        rounded_scale = (most - least) / codes.steps
        exact = torch.where(rounded_scale.isfinite(), rounded_scale.to(exact.dtype), exact)
    # A step of 0, of zeros only, becomes one whose inverse is finite: zeros stay zeros.
    scale = exact.to(dtype).clamp_(min=torch.finfo(dtype).tiny)
    if codes.symmetric:
        return Scales(codes, scale)
    zero_point = codes.low - torch.round(least / scale)
    return Scales(codes, scale, zero_point.clamp_(codes.low, codes.high))


def in_steps(rows: Tensor, scales: Scales, out: Tensor) -> Tensor:
    """Values in units of the step, w / s, of each row.

    As in torch's operators it is w · (1/s), which decides where ties go.
    """
    return torch.mul(rows, scales.scale.reciprocal().unsqueeze(-1), out=out)


def rounded(steps: Tensor, scales: Scales, out: Tensor) -> Tensor:
    """Values in steps rounded, half to even, and clamped to the codes: q − z."""
    torch.round(steps, out=out)
    if scales.zero_point is None:
        return out.clamp_(scales.codes.low, scales.codes.high)
    zero_point = scales.zero_point.unsqueeze(-1)
    return torch.clamp(out, scales.codes.low - zero_point, scales.codes.high - zero_point, out=out)


def values_of(codes: Tensor, scales: Scales) -> Tensor:
    """The values s (q − z), written over `codes`, which are q − z."""
    # Integers have no −0, and neither have the values that torch's operators return.
    return codes.add_(0.0).mul_(scales.scale.unsqueeze(-1))


def squared_errors(rows: Tensor, scales: Scales, memory: Memory) -> Tensor:
    """Σ (w − ŵ)² of each row, in float64, for one candidate of its scale after another.

    Args:
        rows: [rows, n].
        scales: [candidates, rows].
        memory: For what is in between.

    Returns:
        [candidates, rows].
    """
    steps, codes = memory.like("steps", rows), memory.like("codes", rows)
    errors = rows.new_empty(scales.scale.shape)
    for at, error in enumerate(errors):
        candidate = scales[at]
        rounded(in_steps(rows, candidate, steps), candidate, codes)
        torch.sum(codes.sub_(steps).square_(), -1, out=error)
    # In steps a square of float32 cannot underflow.
    return errors.double() * scales.scale.double().square()


def packed_bytes(size: int, scales: int, bits: int, *, zero_points: bool = False) -> int:
    """Bytes of a quantized tensor: codes packed end to end, float32 scales, packed zero points.

    Args:
        size: Values of the tensor.
        scales: How many it has.
        bits: Of a code, and of a zero point.
        zero_points: Whether every scale has one.
    """
    packed_zeros = math.ceil(scales * bits / 8) if zero_points else 0
    return math.ceil(size * bits / 8) + 4 * scales + packed_zeros
