"""Which operations count how much, forward and backward, and which are named instead."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode, flop_registry, register_flop_formula

from lightning_weightwatch.usage.flops.count import count_flops
from lightning_weightwatch.usage.flops.report import FlopReport, ModuleCost


def of_module(report: FlopReport, name: str) -> ModuleCost:
    (found,) = (module for module in report.modules if module.name == name)
    return found


class Products(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        """All products of a [3, 4, 4] with itself, or of a part of it."""
        made = torch.einsum("bij,bkj->bik", x, x) + torch.baddbmm(x, x, x)
        made = made + torch.addbmm(x[0], x, x)
        row, square = x[0, 0], x[0]
        vector = torch.addmv(row, square, row) + square @ row + torch.dot(row, row)
        return made + vector + row.clone().addmv_(square, row)


def test_all_sorts_of_products_count() -> None:
    report = count_flops(Products(), torch.ones(3, 4, 4))
    assert report.macs == 3 * (3 * 64) + 3 * 16 + 4
    assert not report.unknown


def test_bilinear_layers_are_two_products() -> None:
    x, y = torch.ones(7, 3), torch.ones(7, 4)
    report = count_flops(nn.Bilinear(3, 4, 5), (x, y))
    assert report.macs == 7 * 5 * 3 * 4 + 7 * 5 * 4
    weight = torch.ones(5, 3, 4, device="meta")
    with FlopCounterMode(display=False) as counter:
        torch.einsum("boj,bj->bo", torch.einsum("bi,oij->boj", x.to("meta"), weight), y.to("meta"))
    assert report.forward == counter.get_total_flops()


def test_a_complex_multiplication_is_four_real_ones() -> None:
    batch = torch.ones(2, 3, dtype=torch.complex64)
    assert count_flops(nn.Linear(3, 5, dtype=torch.complex64), batch).macs == 4 * 2 * 3 * 5


def test_a_complex_convolution_is_three_real_ones() -> None:
    """So torch takes it apart."""
    layer = nn.Conv1d(3, 5, 2, dtype=torch.complex64)
    assert count_flops(layer, torch.ones(2, 3, 8, dtype=torch.complex64)).macs == 3 * 2 * 7 * 5 * 6


@pytest.mark.skipif(not hasattr(torch, "_grouped_mm"), reason="older than torch 2.8")
def test_products_of_groups_are_those_of_their_rows() -> None:
    """Experts of [16, 32]: every row meets one of them; and as a batch, each meets its own."""

    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(4, 16, 32, dtype=torch.bfloat16))

        def forward(self, x: Tensor) -> Tensor:
            ends = torch.tensor([2, 2, 6, 8], dtype=torch.int32, device=x.device)
            made: Tensor = torch._grouped_mm(x, self.weight, offs=ends if x.dim() == 2 else None)
            return made

    rows = count_flops(Experts(), torch.ones(8, 16, dtype=torch.bfloat16))
    assert (rows.macs, rows.backward) == (8 * 16 * 32, 2 * rows.forward)
    assert not rows.unknown
    batch = count_flops(Experts(), torch.ones(4, 8, 16, dtype=torch.bfloat16))
    assert batch.macs == 4 * 8 * 16 * 32


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),  # type: ignore[no-untyped-call]
        pytest.param(nn.utils.weight_norm, marks=pytest.mark.filterwarnings("ignore")),
        nn.utils.spectral_norm,
    ],
    ids=["pruned", "weight norm", "spectral norm"],
)
def test_weights_that_hooks_of_torch_compute_are_frozen_with_what_they_are_made_of(
    change: Any,
) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    change(model[1])
    model[1].requires_grad_(False)
    model(torch.zeros(4, 8))
    report = count_flops(model, torch.ones(4, 8))
    once = 2 * 4 * 8 * 8
    assert of_module(report, "0").backward == 2 * once
    assert of_module(report, "1").backward == once
    assert count_flops(model.requires_grad_(False), torch.ones(4, 8)).backward == 0


def test_of_frozen_layers_only_the_gradients_that_pass_through_count() -> None:
    """Frozen, trained, frozen, trained."""
    layers = [nn.Linear(4, 4, bias=False) for _ in range(4)]
    model = nn.Sequential(*(part for layer in layers for part in (layer, nn.Tanh())))
    for layer in layers[::2]:
        layer.requires_grad_(False)
    report = count_flops(model, torch.ones(3, 4))
    once = 2 * 3 * 4 * 4
    backward = [of_module(report, name).backward for name in ("0", "2", "4", "6")]
    assert backward == [0, 2 * once, once, 2 * once]
    assert count_flops(model.requires_grad_(False), torch.ones(3, 4)).backward == 0


def test_adapters_beside_a_frozen_weight_are_trained_alone() -> None:
    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.frozen = nn.Linear(8, 8), nn.Linear(8, 8).requires_grad_(False)
            self.down, self.up = nn.Linear(8, 2), nn.Linear(2, 8)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            adapted: Tensor = self.frozen(x) + self.up(self.down(x))
            return adapted

    report = count_flops(Adapted(), torch.ones(1, 8))
    found = {m.name: m.backward / m.forward for m in report.modules[1:]}
    assert found == {"first": 2, "frozen": 1, "down": 2, "up": 2}


class Blocks(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.stem, self.how = nn.Linear(4, 4), how
        self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        if self.how == "as it is":
            return self.body(x)
        return checkpoint(self.body, x, use_reentrant=self.how == "reentrant")


@pytest.mark.parametrize("how", ["reentrant", "not reentrant"])
def test_checkpoints_leave_the_backward_pass_as_it_is_and_keep_less(how: str) -> None:
    batch = torch.ones(16, 4)
    usual, report = (count_flops(Blocks(each), batch) for each in ("as it is", how))
    assert report.forward == usual.forward == 2 * 16 * (16 + 32 + 32)
    assert report.backward == usual.backward == 2 * report.forward
    assert report.activation_bytes < usual.activation_bytes


def test_gradients_taken_within_forward_are_operations_of_it() -> None:
    class Penalty(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv1d(4, 4, 3, groups=2)

        def forward(self, x: Tensor) -> Tensor:
            x = x.requires_grad_(True)
            (slope,) = torch.autograd.grad(self.layer(x).sum(), x, create_graph=True)
            return slope

    macs = 5 * 7 * 4 * 2 * 3
    report = count_flops(Penalty(), torch.ones(5, 4, 9))
    assert of_module(report, "layer").forward == 2 * macs
    assert report.macs == 2 * macs


def test_the_transforms_of_torch_func_count_but_hide_what_is_kept() -> None:
    class Jacobian(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = torch.func.vmap(torch.func.jacrev(self.layer))(x)
            return made

    report = count_flops(Jacobian(), torch.ones(5, 3))
    assert report.macs == 5 * 3 * 2 + 5 * 2 * 2 * 3  # the layer, and a product for each output
    assert report.activation_bytes == 0
    assert "torch.func" in report.skipped[0].reason


def test_what_has_no_formula_is_named_with_the_unknown_first() -> None:
    class Spectral(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = torch.fft.fft(F.relu(x)).abs().sort(-1)[0].softmax(-1).sum()
            return made

    report = count_flops(Spectral(), torch.ones(3, 8))
    assert report.forward == 0
    assert {found.operation for found in report.unknown} == {"aten._fft_r2c", "aten.sort"}
    known = [found for found in report.uncounted if found.elementwise]
    assert {found.operation for found in known} == {
        "aten.relu", "aten.abs", "aten._softmax", "aten.sum",
    }  # fmt: skip
    assert report.uncounted == (*report.unknown, *known)
    by_name = {found.operation: found for found in known}
    assert (by_name["aten.relu"].calls, by_name["aten.relu"].values) == (1, 24)


def test_products_with_sparse_matrices_are_unknown() -> None:
    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)
            self.register_buffer("edges", torch.eye(5).to_sparse())

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = torch.sparse.mm(self.get_buffer("edges"), self.layer(x))
            return made

    report = count_flops(Graph(), torch.ones(5, 4))
    assert report.macs == 5 * 4 * 4
    (unknown,) = report.unknown
    assert "addmm" in unknown.operation


def test_operations_of_users_count_by_the_formula_that_they_registered() -> None:
    library = torch.library.Library("weightwatch_tests", "DEF")  # type: ignore[no-untyped-call]
    library.define("squares(Tensor x, Tensor y) -> Tensor")  # type: ignore[no-untyped-call]

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return x * y

    library.impl("squares", kernel, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    operation = torch.ops.weightwatch_tests.squares

    class Squares(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = operation(x, x)
            return made

    before = count_flops(Squares(), torch.ones(3))
    assert [found.operation for found in before.unknown] == ["weightwatch_tests.squares"]
    register_flop_formula(operation)(lambda *_, **__: 1234)
    try:
        assert count_flops(Squares(), torch.ones(3)).forward == 1234
    finally:
        flop_registry.pop(operation)
