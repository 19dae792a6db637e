"""What a trial does to weights, and what became of each of them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lightning_weightwatch.model.weights import Kind, Weight
from lightning_weightwatch.report import Skipped


class Compression(Protocol):
    """A way to compress the weights of a model.

    Its attributes are its settings, so that two of the same settings are equal.
    """

    @property
    def name(self) -> str:
        """Its name in tables, keys and file names: letters, digits, `_` and `.` alone."""
        ...

    @property
    def settings(self) -> Mapping[str, bool | int | float | str]:
        """The settings by their names: columns of tables and of HParams."""
        ...

    def apply(self, weights: Sequence[Weight]) -> Iterator["CompressedLayer"]:
        """Overwrite the weights in place, one after another, and say what became of each.

        What it needs besides is a few blocks of memory, never a copy of all weights.
        """
        ...

    def left_out(self, weights: Sequence[Weight]) -> Sequence[Skipped]:
        """Those of the weights that `apply` leaves as they are, each with its reason."""
        ...


@dataclass(frozen=True)
class CompressedLayer:
    """A weight that was compressed.

    Attributes:
        name: Dotted path of the parameter.
        kind: Of its module.
        shape: Of the parameter.
        bytes: That its values take now, in their own dtype.
        packed_bytes: That they would take, packed: codes, scales and zero points, or live values
            and their places. No file of today has this size.
        signal: Σ w², in float64.
        noise: Σ (w − ŵ)².
        live: Values that are not zero after it.
        clipped: Values that the codes do not reach, by more than half a step.
        note: What a reader has to know about it, else an empty string.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    bytes: int
    packed_bytes: int
    signal: float
    noise: float
    live: int
    clipped: int = 0
    note: str = ""

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def sqnr(self) -> float:
        """Signal-to-quantization-noise ratio in dB; see `sqnr_of`."""
        return sqnr_of([self])

    @property
    def mse(self) -> float:
        """Mean squared error of a value."""
        return self.noise / max(self.size, 1)

    @property
    def clipped_share(self) -> float:
        """Share of the values that are clipped, from 0 to 1."""
        return self.clipped / max(self.size, 1)

    @property
    def sparsity(self) -> float:
        """Share of zeros, from 0 to 1."""
        return 1 - self.live / max(self.size, 1)

    def record(self) -> dict[str, Any]:
        """A row of plain values; `sqnr` is None where it is infinite or unknown."""
        return {
            "name": self.name,
            "kind": self.kind,
            "shape": "x".join(map(str, self.shape)),
            "bytes": self.bytes,
            "packed_bytes": self.packed_bytes,
            "sqnr": self.sqnr if math.isfinite(self.sqnr) else None,
            "mse": self.mse,
            "clipped_share": self.clipped_share,
            "live": self.live,
            "sparsity": self.sparsity,
            "note": self.note,
        }


def sqnr_of(layers: Sequence[CompressedLayer]) -> float:
    """Signal-to-quantization-noise ratio in dB of some weights, 10 log10(Σ w² / Σ (w − ŵ)²).

    Infinite where nothing changed, NaN where all values are zero or there are none.
    """
    signal = sum(layer.signal for layer in layers)
    noise = sum(layer.noise for layer in layers)
    if not signal > 0:
        return math.nan
    return 10 * math.log10(signal / noise) if noise else math.inf
