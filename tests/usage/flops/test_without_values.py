"""What a step of a fit costs, counted where nothing of the fit can be touched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_weightwatch.model.running import CannotRun
from lightning_weightwatch.usage.flops.count import count_flops, count_without_values

BATCH = torch.zeros(5, 4)
NET = 2 * 5 * 4 * 3


class Twice(LightningModule):
    """Its training step runs the network on two views of a batch; its forward on one."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 3)
        self.seen: list[Any] = []

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.net(x)
        return made

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor | None:
        self.seen.append(batch)
        loss: Tensor = (self(batch) - self(batch.add_(1))).square().sum()
        self.log("loss", loss)
        return loss


def test_forward_is_counted_where_there_is_one() -> None:
    model = Twice()
    report = count_without_values(model, BATCH)
    assert report.forward == count_flops(model, BATCH).forward == NET
    assert (report.ran, report.device) == ("forward", "meta")
    assert model.seen == []


def test_the_training_step_is_counted_where_forward_does_not_run() -> None:
    class Steps(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(4, 3)

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            loss: Tensor = (self.net(batch) - self.net(batch.add_(1))).square().sum()
            self.log("loss", loss)
            return loss

    report = count_without_values(Steps(), BATCH)
    assert (report.forward, report.ran, report.device) == (2 * NET, "training_step", "meta")
    assert report.batch_size == 5
    assert not BATCH.any()


class Reads(Twice):
    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        assert batch.is_meta
        loss: Tensor = self(batch) * batch.sum().item()
        return loss


class Manual(Twice):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


class Skips(Twice):
    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor | None:
        return None if batch_idx == 0 else super().training_step(batch, batch_idx)


class AsksTheTrainer(Twice):
    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self.trainer.max_epochs * self(batch).sum()
        return loss


@pytest.mark.parametrize(
    "make", [Reads, Manual, Skips, AsksTheTrainer, lambda: nn.Linear(4, 3)],
    ids=["reads values", "optimizes by itself", "returns None", "asks the Trainer", "no step"],
)  # fmt: skip
def test_no_step_is_needed_where_forward_runs(make: Callable[[], nn.Module]) -> None:
    report = count_without_values(make(), BATCH)
    assert (report.forward, report.ran, report.device) == (NET, "forward", "meta")


def test_nothing_but_meta_is_asked_and_every_reason_given() -> None:
    class Neither(Reads):
        def forward(self, x: Tensor) -> Tensor:
            assert x.is_meta
            raise RuntimeError("no shapes today")

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            raise RuntimeError("not now")

    with pytest.raises(CannotRun, match=r"no shapes today.*training_step: RuntimeError: not now"):
        count_without_values(Neither(), BATCH)


def test_a_step_that_multiplies_nothing_is_no_measure_of_a_model_without_forward() -> None:
    class Idle(LightningModule):
        def training_step(self, batch: Tensor, batch_idx: int) -> None:
            return None

    with pytest.raises(CannotRun, match="training_step: it multiplied nothing"):
        count_without_values(Idle(), BATCH)


def test_the_reasons_are_those_of_a_fit() -> None:
    """There is no function to give, and the Trainer is not in the copy."""
    for base, told in (
        (AsksTheTrainer, "the copy that runs has no Trainer"),
        (Manual, "optimizes"),
    ):

        class Without(base):  # type: ignore[misc, valid-type]
            def forward(self, x: Tensor) -> Tensor:
                raise RuntimeError("no")

        with pytest.raises(CannotRun, match=told) as refused:
            count_without_values(Without(), BATCH)
        assert "function run" not in str(refused.value)


def test_a_module_with_nothing_to_run_is_refused() -> None:
    with pytest.raises(CannotRun, match="ModuleList has neither a training_step nor a forward"):
        count_without_values(nn.ModuleList(), BATCH)
