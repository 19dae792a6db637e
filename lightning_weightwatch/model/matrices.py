"""The matrices of a weight: the 2-D views that its spectrum is taken of."""

import math
from dataclasses import dataclass

from torch import Tensor

from lightning_weightwatch.model.effective import EffectiveWeight
from lightning_weightwatch.model.weights import Kind

CONVOLUTIONS: tuple[Kind, ...] = ("conv1d", "conv2d", "conv3d", "conv_transpose")


@dataclass(frozen=True)
class Matrices:
    """A stack of matrices of one shape, within a weight.

    Attributes:
        name: Of the layer (`encoder.0`), where the weight is called `weight`; else of the weight
            (`encoder.weight_hh_l0`). For one of several stacked matrices with its name behind:
            `attention.in_proj_weight.q`.
        weight: What they are in.
        part: Which of the parts of the weight, and of how many.
        count: How many: the kernel positions of a convolution (its receptive field), else 1.
        rows: Of each.
        columns: Of each.
    """

    name: str
    weight: EffectiveWeight
    part: tuple[int, int]
    count: int
    rows: int
    columns: int

    @property
    def kind(self) -> Kind:
        """The kind of the layer."""
        return self.weight.kind

    @property
    def N(self) -> int:
        """The larger side of each matrix."""
        return max(self.rows, self.columns)

    @property
    def M(self) -> int:
        """The smaller side of each matrix: how many eigenvalues it has."""
        return min(self.rows, self.columns)

    @property
    def num_evals(self) -> int:
        """Eigenvalues of all of them, M · count."""
        return self.M * self.count

    @property
    def work(self) -> float:
        """About how many multiplications their eigenvalues take."""
        return float(self.count) * (self.N * self.M**2 + 8 * self.M**3)

    def of(self, whole: Tensor) -> Tensor:
        """The matrices as a view [count, rows, columns] of the whole weight."""
        index, parts = self.part
        if self.kind in CONVOLUTIONS and whole.ndim > 2:
            return whole.flatten(2).permute(2, 0, 1)
        if self.kind == "bilinear" and whole.ndim == 3:
            return whole
        return whole.reshape(parts, self.rows, self.columns)[index : index + 1]


def matrices(weight: EffectiveWeight) -> tuple[Matrices, ...] | str:
    """The matrices of a weight, by its kind and shape; or why it has none.

    A convolution [out, in, *kernel] has one matrix [out, in] for each kernel position, a bilinear
    layer [out, in1, in2] one for each output. Of other weights the axes of size 1 do not count.
    """
    attribute = weight.name.rpartition(".")[2]
    name = weight.layer if attribute == "weight" else weight.name
    shape = weight.shape
    if weight.kind in CONVOLUTIONS and len(shape) > 2:
        rows, columns, *kernel = shape
        return (Matrices(name, weight, (0, 1), math.prod(kernel), rows, columns),)
    if weight.kind == "bilinear" and len(shape) == 3:
        return (Matrices(name, weight, (0, 1), *shape),)
    sides = [size for size in shape if size > 1]
    if len(shape) < 2:
        return f"a {len(shape)}-D weight has no spectrum"
    if len(sides) > 2:
        return f"of the {len(sides)} axes of {shape} it is not known which two form a matrix"
    rows, columns = sides if len(sides) == 2 else (shape[0], math.prod(shape[1:]))
    parts = weight.parts if weight.parts and rows % len(weight.parts) == 0 else ("",)
    return tuple(
        Matrices(
            f"{name}.{part}" if part else name,
            weight,
            (index, len(parts)),
            1,
            rows // len(parts),
            columns,
        )
        for index, part in enumerate(parts)
    )
