"""The weights of the best epoch: in a file, and back in the model after training, on request."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, StochasticWeightAveraging
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor, nn

from lightning_weightwatch import OverfittingMonitor
from lightning_weightwatch.callbacks.best.weights import check_trainer
from tests.callbacks.fits import Perceptron, train_loader, trainer, val_loader

VALUES = [1.0, 0.5, 0.9, 0.8]
BEST = 1


class Scripted(Perceptron):
    """Validation losses as given; remembers the weights of each validation."""

    def __init__(self) -> None:
        super().__init__()
        self.of_epoch: list[dict[str, Tensor]] = []

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", VALUES[self.current_epoch])

    def on_validation_end(self) -> None:
        if not self.trainer.sanity_checking:
            self.of_epoch.append({k: v.clone() for k, v in self.state_dict().items()})


def fitted(monitor: OverfittingMonitor, folder: Path, *others: Any) -> Scripted:
    model = Scripted()
    fit = trainer([monitor, *others], folder, max_epochs=len(VALUES))
    fit.fit(model, train_loader(), val_loader())
    return model


def equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_the_best_weights_are_back_in_the_model_and_the_last_ones_in_the_checkpoint(
    tmp_path: Path,
) -> None:
    last = ModelCheckpoint(dirpath=tmp_path, filename="last-{epoch}")
    model = fitted(OverfittingMonitor(restore_best=True), tmp_path, last)
    assert not equal(model.of_epoch[BEST], model.of_epoch[-1])
    assert equal(model.state_dict(), model.of_epoch[BEST])
    saved = torch.load(last.best_model_path, weights_only=True)["state_dict"]
    assert equal(saved, model.of_epoch[-1])


def test_without_being_asked_it_leaves_the_last_weights_and_writes_no_file(tmp_path: Path) -> None:
    model = fitted(OverfittingMonitor(), tmp_path)
    assert equal(model.state_dict(), model.of_epoch[-1])
    assert not list(tmp_path.rglob("best.pt"))


def test_best_pt_holds_the_weights_alone(tmp_path: Path) -> None:
    model = fitted(OverfittingMonitor(save_best=True), tmp_path)
    (file,) = tmp_path.rglob("best.pt")
    assert file.parent.name == "weightwatch"
    saved = torch.load(file, weights_only=True)
    assert equal(saved, model.of_epoch[BEST])
    Scripted().load_state_dict(saved)
    assert equal(model.state_dict(), model.of_epoch[-1])


def test_averaged_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"restore_best=True.* beside StochasticWeightAveraging"):
        fitted(
            OverfittingMonitor(restore_best=True), tmp_path, StochasticWeightAveraging(swa_lrs=0.01)
        )


def test_weights_that_a_strategy_keeps_elsewhere_are_refused() -> None:
    sharding = SimpleNamespace(strategy=FSDPStrategy(), callbacks=[])
    with pytest.raises(ValueError, match="with FSDPStrategy: it keeps the weights"):
        check_trainer(cast("Trainer", sharding), "save_best")


def test_another_model_in_a_finished_trainer_keeps_its_weights(tmp_path: Path) -> None:
    fit = trainer([OverfittingMonitor(restore_best=True)], tmp_path, max_epochs=len(VALUES))
    fit.fit(Scripted(), train_loader(), val_loader())
    other = Perceptron()
    before = {name: value.clone() for name, value in other.state_dict().items()}
    fit.fit(other, train_loader(), val_loader())
    assert equal(other.state_dict(), before)


def test_a_best_epoch_before_a_resume_is_said_to_be_lost(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(dirpath=tmp_path, save_last=True)
    first = trainer([OverfittingMonitor(), checkpoint], tmp_path, max_epochs=3)
    first.fit(Scripted(), train_loader(), val_loader())
    model, monitor = Scripted(), OverfittingMonitor(restore_best=True)
    with pytest.warns(UserWarning, match="not those of its best epoch, 2: .* resume"):
        trainer([monitor, checkpoint], tmp_path, max_epochs=4).fit(
            model, train_loader(), val_loader(), ckpt_path=str(tmp_path / "last.ckpt")
        )
    assert equal(model.state_dict(), model.of_epoch[-1])


class Cached(Scripted):
    """A mask whose entries share their memory, a cache that grows, a layer that is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.net.append(nn.BatchNorm1d(4))
        self.register_buffer("mask", torch.ones(1, 5).expand(3, 5))
        self.register_buffer("cache", torch.ones(2), persistent=False)
        self.spare = nn.LazyLinear(3)

    def on_train_epoch_start(self) -> None:
        self.register_buffer("cache", torch.ones(3 + self.current_epoch), persistent=False)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.net.parameters(), lr=0.05)


def test_caches_masks_and_unused_layers_do_not_stand_in_the_way(tmp_path: Path) -> None:
    monitor = OverfittingMonitor(save_best=True, restore_best=True)
    model = Cached()
    of_epoch: list[dict[str, Tensor]] = []
    model.on_validation_end = lambda: of_epoch.append(  # type: ignore[method-assign]
        {name: value.clone() for name, value in model.net.state_dict().items()}
    )
    fit = trainer([monitor], tmp_path, max_epochs=len(VALUES), num_sanity_val_steps=0)
    fit.fit(model, train_loader(), val_loader())
    assert equal(model.net.state_dict(), of_epoch[BEST])
    (file,) = tmp_path.rglob("best.pt")
    saved = torch.load(file, weights_only=True)
    assert equal({k[4:]: v for k, v in saved.items() if k.startswith("net.")}, of_epoch[BEST])


class WithState(nn.Module):
    """Has something besides its weights in its state dict."""

    def get_extra_state(self) -> Any:
        return {"scale": 2.0, "names": ["a"]}

    def set_extra_state(self, state: Any) -> None:
        assert state == {"scale": 2.0, "names": ["a"]}

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_best_pt_has_the_extra_state_that_load_state_dict_asks_for(tmp_path: Path) -> None:
    def model() -> Perceptron:
        made = Perceptron()
        made.net.append(WithState())
        return made

    fit = trainer([OverfittingMonitor(save_best=True)], tmp_path, max_epochs=1)
    fit.fit(model(), train_loader(), val_loader())
    (file,) = tmp_path.rglob("best.pt")
    model().load_state_dict(torch.load(file, weights_only=True))


def test_two_callbacks_that_would_put_their_best_back_are_refused(tmp_path: Path) -> None:
    both = [
        OverfittingMonitor(restore_best=True),
        OverfittingMonitor(monitor="val_acc", prefix="accuracy", restore_best=True),
    ]
    with pytest.raises(ValueError, match="2 callbacks have restore_best=True"):
        trainer([*both], tmp_path).fit(Scripted(), train_loader(), val_loader())
