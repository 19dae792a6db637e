"""What was measured before, for weights that have not changed since: frozen layers."""

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_weightwatch.model.effective import EffectiveWeight
from lightning_weightwatch.report import Skipped
from lightning_weightwatch.spectral.layer import LayerSpectrum

Rows = tuple[LayerSpectrum | Skipped, ...]


@dataclass(frozen=True)
class _Measured:
    asked: Any
    version: int | None
    digest: bytes | None
    rows: Rows


class KnownSpectra:
    """The rows of each weight as last measured, found again by a digest of all its bytes.

    A parameter that trains pays nothing: PyTorch counts the writes to it, and one that was written
    to since is measured anew without a digest. Only where no write was counted (`.data` can
    be written to without one) do the bytes decide; the first digest is made where no gradient is
    asked for, or where nothing was written since the last time.
    """

    def __init__(self) -> None:
        self._known: dict[str, _Measured] = {}

    def find(self, weight: EffectiveWeight, values: Tensor, asked: Any) -> Rows | None:
        """The rows of a weight, if these are the values that they were measured on.

        Args:
            weight: Found again by its name.
            values: All of its values.
            asked: What the rows follow from besides; they are found again where it is equal.
        """
        known = self._known.get(weight.name)
        if known is None or known.digest is None or known.asked != asked:
            return None
        if known.version != _version(weight) or known.digest != digest(values):
            return None
        return known.rows

    def keep(self, weight: EffectiveWeight, values: Tensor, asked: Any, rows: Rows) -> None:
        """Remember what was measured; for the arguments see `find`."""
        known, version = self._known.get(weight.name), _version(weight)
        frozen = weight.parameter is None or not weight.parameter.requires_grad
        at_rest = frozen or (known is not None and known.version == version)
        digest_now = digest(values) if at_rest else None
        self._known[weight.name] = _Measured(asked, version, digest_now, rows)


def _version(weight: EffectiveWeight) -> int | None:
    """How often PyTorch saw a write to a parameter; None for a weight that is computed."""
    parameter = weight.parameter
    return None if parameter is None or parameter.is_inference() else parameter._version


def digest(values: Tensor) -> bytes:
    """A digest of the shape, the dtype and every byte."""
    shown = f"{values.dtype} {tuple(values.shape)}".encode()
    flat = values.detach().resolve_conj().resolve_neg().cpu().contiguous().flatten()
    return hashlib.blake2b(flat.view(torch.uint8).numpy().data, key=shown[:64]).digest()
