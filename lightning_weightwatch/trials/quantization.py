"""Symmetric weight quantization with one scale per output channel."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_weightwatch.model.weights import Weight

#: Bytes of a float32 scale.
SCALE_BYTES = 4


def fake_quantize(weight: Tensor, bits: int, axis: int = 0, groups: int = 1) -> Tensor:
    """The values that a weight takes when it is stored in `bits` bits.

    Per channel c: s = max|w_c| / (2^(bits−1) − 1), q = round(w/s) to the nearest even, ŵ = s·q
    (Nagel et al., arXiv:2106.08295, the restricted symmetric range). A channel of zeros stays.

    Args:
        weight: Real and finite, two dimensions or more.
        bits: 2 to 8.
        axis: The axis of the channels.
        groups: Of a transposed convolution, whose axis 1 counts the channels of one group.

    Returns:
        The dequantized weight, of the same shape and dtype.
    """
    top = 2 ** (bits - 1) - 1
    values = weight.double() if weight.dtype == torch.float64 else weight.float()
    if groups > 1:
        values = torch.unflatten(values, 0, (groups, -1))
    channels = axis % weight.ndim
    kept = {channels + 1, 0} if groups > 1 else {channels}
    others = [dim for dim in range(values.ndim) if dim not in kept]
    scale = values.abs().amax(others, keepdim=True) / top
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    rounded = torch.round(values / scale).clamp_(-top, top) * scale
    return rounded.reshape(weight.shape).to(weight.dtype)


def packed_bytes(shape: Sequence[int], bits: int, axis: int = 0, groups: int = 1) -> int:
    """Bytes of a quantized tensor: its codes packed end to end, and a float32 scale a channel."""
    return math.ceil(math.prod(shape) * bits / 8) + shape[axis] * groups * SCALE_BYTES


@dataclass(frozen=True)
class Quantization:
    """Every weight matrix quantized to the same number of bits.

    Attributes:
        bits: 2 to 8.
    """

    bits: int

    @property
    def name(self) -> str:
        """`int8` and so on."""
        return f"int{self.bits}"

    def compress(self, weights: Iterable[Weight]) -> Iterator[tuple[Weight, Tensor, int]]:
        """Each weight with its new values and its packed bytes."""
        for weight in weights:
            values = weight.parameter.detach()
            axis = weight.output_axis
            groups = int(getattr(weight.module, "groups", 1)) if axis == 1 else 1
            size = packed_bytes(values.shape, self.bits, axis, groups)
            yield weight, fake_quantize(values, self.bits, axis, groups), size
