"""Which module a cost belongs to, what is never called, and the rows of the report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from lightning_weightwatch.model.running import CannotRun
from lightning_weightwatch.usage.flops.count import count_flops
from lightning_weightwatch.usage.flops.report import FlopReport, ModuleCost, Uncounted
from tests.model.zoo import Conv1D


def costs_of(report: FlopReport) -> dict[str, ModuleCost]:
    return {module.name: module for module in report.modules}


class Tree(nn.Module):
    """Products in every place: in layers, beside them, in a shared one, in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
        self.shared = nn.Linear(8, 8)
        self.branches = nn.ModuleList([nn.Linear(8, 2), Conv1D(2, 8)])
        self.unused = nn.Linear(100, 100)
        self.again = self.shared

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(self.shared(self.again(x))) @ x.mT @ x
        made: Tensor = self.branches[0](x) + self.branches[1](x)
        return made


def test_each_product_belongs_to_the_module_whose_forward_runs() -> None:
    report = count_flops(Tree(), torch.ones(5, 4))
    costs = costs_of(report)
    branches = {"branches.0": 2 * 5 * 8 * 2, "branches.1": 2 * 5 * 8 * 2}
    own = {"Tree": 2 * 2 * 5 * 8 * 5, "stem.0": 2 * 5 * 4 * 8, "shared": 2 * 2 * 5 * 8 * 8}
    found = {name: cost.own_forward for name, cost in costs.items() if cost.own_forward}
    assert found == own | branches
    assert costs["stem"].forward == costs["stem.0"].forward
    assert costs["branches"].forward == sum(branches.values())
    assert costs["Tree"].forward == sum(own.values()) + sum(branches.values())
    assert report.forward == costs["Tree"].forward
    assert (
        report.backward == 2 * report.forward == sum(cost.own_backward for cost in report.modules)
    )


def test_modules_come_in_the_order_of_named_modules_with_their_depth_type_and_calls() -> None:
    model = Tree()
    report = count_flops(model, torch.ones(5, 4))
    assert [cost.name or "Tree" for cost in report.modules] == [
        name or "Tree" for name, _ in model.named_modules()
    ]
    assert [cost.type for cost in report.modules] == [
        type(module).__name__ for module in model.modules()
    ]
    costs = costs_of(report)
    assert {name: cost.depth for name, cost in costs.items()} == {
        "Tree": 0, "stem": 1, "stem.0": 2, "stem.1": 2, "shared": 1, "branches": 1,
        "branches.0": 2, "branches.1": 2, "unused": 1,
    }  # fmt: skip
    assert (costs["Tree"].calls, costs["shared"].calls, costs["unused"].calls) == (1, 2, 0)
    assert costs["stem"].output_shape == (5, 8)
    assert costs["unused"].output_shape is None


def test_what_was_never_called_is_skipped_and_a_list_of_modules_is_not() -> None:
    (skipped,) = count_flops(Tree(), torch.ones(5, 4)).skipped
    assert skipped.name == "unused"
    assert "never called" in skipped.reason


def test_parameters_add_up_the_tree_and_tied_ones_count_once() -> None:
    model = nn.ModuleDict({"first": nn.Embedding(7, 4), "last": nn.Linear(4, 7).half()})
    model["last"].weight = model["first"].weight
    report = count_flops(model, torch.arange(3), run=lambda m, x: m.get_submodule("first")(x))
    costs = costs_of(report)
    assert (costs["first"].own_parameters, costs["last"].own_parameters) == (28, 7)
    assert report.parameters == 35
    assert report.parameter_bytes == 4 * 28 + 2 * 7


def test_kept_activations_are_counted_once_where_they_are_kept() -> None:
    """A linear layer keeps its input, tanh its output, the next layer the same tensor."""
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    report = count_flops(model, torch.ones(5, 4))
    costs = costs_of(report)
    assert [costs[name].activation_bytes for name in "012"] == [5 * 4 * 4, 5 * 8 * 4, 5 * 8 * 4]
    assert report.activation_bytes == 5 * 4 * 4 + 5 * 8 * 4
    assert count_flops(model.requires_grad_(False), torch.ones(5, 4)).activation_bytes == 0


def test_bytes_are_those_of_inputs_weights_biases_and_outputs() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2, bias=False)).double()
    report = count_flops(model, torch.ones(5, 4, dtype=torch.float64))
    first, last = 8 * (5 * 4 + 4 * 8 + 8 + 5 * 8), 8 * (5 * 8 + 8 * 2 + 5 * 2)
    assert [cost.own_bytes for cost in report.modules] == [0, first, 0, last]
    assert report.intensity == pytest.approx((2 * 5 * 4 * 8 + 2 * 5 * 8 * 2) / (first + last))
    rows = report.records()
    assert rows[0]["intensity"] == pytest.approx(report.intensity)
    assert rows[1]["intensity"] == pytest.approx(2 * 5 * 4 * 8 / first)
    assert rows[2]["intensity"] is None


def test_training_and_inference_scale_with_steps_and_samples() -> None:
    """The network 2-10-1 of 60 FLOPs a sample."""
    model = nn.Sequential(nn.Linear(2, 10), nn.ReLU(), nn.Linear(10, 1))
    report = count_flops(model, torch.zeros(8, 2))
    assert report.batch_size == 8
    assert report.inference(1000) == 60_000
    assert report.inference(1) == 60
    assert report.training(steps=0) == 0
    assert report.training(steps=10) == 10 * 3 * 8 * 60
    with pytest.raises(ValueError, match="steps must be a whole number of 0 or more, got -1"):
        report.training(-1)
    with pytest.raises(ValueError, match="samples must be a whole number of 0 or more, got -2"):
        report.inference(-2)
    for wrong in (1.5, math.nan, math.inf, True):
        with pytest.raises(ValueError, match="whole number"):
            report.training(wrong)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="whole number"):
            report.inference(wrong)  # type: ignore[arg-type]
    assert report.training(steps=int(np.int64(2))) == report.training(np.int64(2))  # type: ignore[arg-type]


def test_rows_and_summary_are_plain_and_finite() -> None:
    report = count_flops(Tree(), torch.ones(5, 4))
    rows = report.records()
    assert [row["name"] for row in rows] == [cost.name for cost in report.modules]
    assert rows[0]["forward_share"] == rows[0]["parameters_share"] == 1.0
    assert sum(row["own_forward"] for row in rows) == report.forward
    plain = (str, int, float, list, type(None))
    assert all(type(value) in plain for row in rows for value in row.values())
    summary = report.summary()
    assert summary["training_step_flops"] == 3 * summary["forward_flops"] == 6 * summary["macs"]
    assert all(math.isfinite(value) for value in summary.values())
    nothing = count_flops(nn.Identity(), torch.ones(2)).summary()
    assert nothing["forward_flops"] == 0
    assert "intensity" not in nothing


def test_a_report_sorts_the_uncounted_by_what_is_not_known() -> None:
    report = count_flops(nn.Sequential(nn.ReLU(), nn.Softmax(-1)), torch.ones(2, 3))
    assert report.uncounted == (
        Uncounted("aten._softmax", 1, 6, True),
        Uncounted("aten.relu", 1, 6, True),
    )


class Entries(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, features: Tensor, mask: Tensor | None = None) -> dict[str, Any]:
        return {"none": None, "logits": (self.layer(features),)}


@pytest.mark.parametrize(
    "batch",
    [
        torch.ones(4, 3),
        np.ones((4, 3)),
        (torch.ones(4, 3), torch.ones(4)),
        {"features": torch.ones(4, 3), "label": torch.ones(4)},
        [{"features": np.ones((4, 3), np.float32)}, torch.ones(4)],
    ],
    ids=["tensor", "array", "pair", "dictionary", "pair with a dictionary"],
)
def test_batches_come_in_many_forms(batch: Any) -> None:
    report = count_flops(Entries(), batch)
    assert (report.macs, report.batch_size, report.ran) == (4 * 3 * 2, 4, "forward")
    assert report.device == "meta"
    assert report.modules[0].output_shape == (4, 2)


def test_a_model_that_no_batch_fits_is_run_as_told() -> None:
    def run(model: nn.Module, batch: Mapping[str, Tensor]) -> Any:
        return model.get_submodule("layer")(batch["x"])

    report = count_flops(Entries(), {"x": torch.ones(4, 3)}, run=run)
    assert (report.macs, report.ran, report.device) == (24, "run", "meta")
    assert report.modules[0].calls == 1
    assert report.modules[0].output_shape == (4, 2)


class Steps(LightningModule):
    """Without a forward; it logs, and makes a tensor on its device."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.drop = nn.Linear(3, 2), nn.Dropout(0.5)
        self.losses: list[Tensor] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        assert self.drop.training == self.training
        weight = torch.ones(2, device=self.device)
        loss = F.cross_entropy(self.drop(self.layer(x)), y, weight)
        self.log("loss", loss, prog_bar=True)
        self.losses.append(loss)
        return loss


class Reading(Steps):
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.log("mean", batch[0].mean().item())
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize(("kind", "device"), [(Steps, "meta"), (Reading, "cpu")])
def test_a_module_without_forward_is_counted_through_its_training_step(
    kind: type[Steps], device: str
) -> None:
    model, batch = kind(), (torch.ones(4, 3), torch.zeros(4, dtype=torch.int64))
    report = count_flops(model, batch)
    assert (report.macs, report.ran, report.device) == (4 * 3 * 2, "training_step", device)
    assert report.training_step == 3 * report.forward
    assert report.modules[0].calls == 1
    assert report.modules[0].output_shape == ()
    assert model.losses == []
    assert not report.unknown


def test_metrics_that_are_logged_do_not_hinder() -> None:
    class Measured(Steps):
        def __init__(self) -> None:
            super().__init__()
            self.accuracy = MulticlassAccuracy(2)

        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            self.accuracy(self.layer(batch[0]), batch[1])
            self.log("accuracy", self.accuracy)
            return super().training_step(batch, batch_idx)

    model = Measured()
    report = count_flops(model, (torch.ones(4, 3), torch.zeros(4, dtype=torch.int64)))
    assert report.macs == 2 * 4 * 3 * 2
    assert not model.accuracy.update_called


def test_without_a_trainer_to_optimize_the_way_out_is_told() -> None:
    class Manual(Steps):
        def training_step(self, batch: Tensor, batch_idx: int) -> None:  # type: ignore[override]
            self.optimizers()

    with pytest.raises(CannotRun) as refused:
        count_flops(Manual(), torch.ones(4, 3))
    message = str(refused.value)
    assert "not attached to a `Trainer`" in message
    assert "The copy that runs has no Trainer" in message
    assert message.count("function run(model, batch)") == 1
    assert ".." not in message


def test_a_lightning_module_with_a_forward_is_counted_by_that() -> None:
    class Both(Steps):
        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = self.layer(x) @ torch.ones(2, 2, device=x.device)
            return made

    report = count_flops(Both(), (torch.ones(4, 3), torch.zeros(4, dtype=torch.int64)))
    assert (report.macs, report.ran) == (4 * 3 * 2 + 4 * 2 * 2, "forward")
