"""The two conventions for a spectrum: that of WeightWatcher 0.7.7, and the plain one."""

from dataclasses import dataclass
from typing import Literal

from lightning_weightwatch.model.matrices import CONVOLUTIONS
from lightning_weightwatch.model.weights import Kind
from lightning_weightwatch.spectral.power_law import FLOOR

ConventionName = Literal["weightwatcher", "plain"]


@dataclass(frozen=True)
class Convention:
    """What is a matter of choice between a weight and its metrics.

    Attributes:
        halves_kernels: Whether eigenvalues of convolutions are multiplied by 1/2, or, where each
            kernel position is a row of its own, by half of the number of positions.
        relative: Whether `floor` and `weak` are shares of the largest eigenvalue.
        floor: Eigenvalues at or below it are no data for the power law.
        weak: Eigenvalues below it count in `weak_rank_loss`.
        entropy_offset: What is added to every probability in `entropy`, and to the rank.
        least_sv_min: Whether `sv_min` of several matrices is the least, not the largest, of
            their smallest singular values.
    """

    halves_kernels: bool
    relative: bool
    floor: float
    weak: float
    entropy_offset: float
    least_sv_min: bool

    def scale(self, kind: Kind, positions: int, *, pooled: bool) -> float:
        """What the eigenvalues of a layer are multiplied with."""
        if not self.halves_kernels or kind not in CONVOLUTIONS:
            return 1.0
        return 0.5 if pooled else positions / 2

    def unit(self, largest: float) -> float:
        """What `floor` and `weak` are counted in."""
        return largest if self.relative else 1.0


#: Below 1e-10 of the largest eigenvalue a Gram matrix in float64 tells less than three digits of
#: one: that is the plain floor.
CONVENTIONS: dict[ConventionName, Convention] = {
    "weightwatcher": Convention(
        halves_kernels=True,
        relative=False,
        floor=FLOOR,
        weak=1e-6,
        entropy_offset=1e-10,
        least_sv_min=False,
    ),
    "plain": Convention(
        halves_kernels=False,
        relative=True,
        floor=1e-10,
        weak=1e-6,
        entropy_offset=0.0,
        least_sv_min=True,
    ),
}
