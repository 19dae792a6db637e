"""The checkpoint that holds the best epoch is found, whatever wrote it; and read if need be."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import AsyncCheckpointIO, TorchCheckpointIO

from lightning_weightwatch import OverfittingMonitor
from tests.callbacks.fits import NEWER_LIGHTNING, train_loader, trainer, val_loader
from tests.callbacks.test_best_weights import BEST, VALUES, Scripted, equal, fitted

BATCHES = 6


def holding_the_best(model: Scripted, folder: Path) -> set[str]:
    """The checkpoints in a folder whose weights are those of the best validation, by comparison."""
    return {
        str(file)
        for file in folder.rglob("*.ckpt")
        if equal(torch.load(file, weights_only=True)["state_dict"], model.of_epoch[BEST])
    }


@pytest.mark.parametrize(
    ("options", "there"),
    [
        ({"monitor": "val_loss"}, True),
        ({"monitor": "val_loss", "save_top_k": 3, "save_last": True}, True),
        ({"monitor": "val_loss", "save_last": "link"}, True),
        ({"monitor": "val_loss", "filename": "same", "save_last": True}, True),
        ({"monitor": "train_loss", "save_top_k": -1}, True),
        ({"save_top_k": -1}, True),
        ({"save_top_k": -1, "every_n_train_steps": BATCHES}, True),
        ({"save_top_k": -1, "save_on_train_epoch_end": True}, True),
        ({"save_top_k": -1, "every_n_train_steps": 4}, True),  # at step 12, that of the best
        ({"save_top_k": -1, "every_n_train_steps": BATCHES, "save_last": True}, True),
        ({"save_top_k": -1, "every_n_train_steps": 5}, False),
        ({}, False),
        ({"save_last": True}, False),
        ({"filename": "same", "enable_version_counter": False}, False),
        ({"monitor": "val_loss", "mode": "max"}, False),
        ({"monitor": "weightwatch/val_metric"}, True),
    ],
)
def test_the_checkpoint_of_the_best_epoch_is_found(
    options: dict[str, Any], there: bool, tmp_path: Path
) -> None:
    monitor = OverfittingMonitor(monitor="val_loss", mode="min", verbose=False)
    model = fitted(monitor, tmp_path, ModelCheckpoint(dirpath=tmp_path, **options))
    holding = holding_the_best(model, tmp_path)
    assert bool(holding) == there
    if there:
        assert monitor.best_checkpoint in holding
        assert f"kept in {Path(monitor.best_checkpoint).name}." in monitor.diagnosis[0]
    else:
        assert monitor.best_checkpoint is None
        assert "kept in" not in monitor.diagnosis[0]


def test_of_several_checkpoints_a_lasting_one_is_named(tmp_path: Path) -> None:
    """Where the last epoch is the best, `last.ckpt` holds it too; the next fit overwrites that."""
    last = ModelCheckpoint(dirpath=tmp_path / "a", save_last=True, save_top_k=0)
    best = ModelCheckpoint(dirpath=tmp_path / "b", monitor="val_loss")
    monitor = OverfittingMonitor(verbose=False)
    fit = trainer([monitor, last, best], tmp_path, max_epochs=BEST + 1)
    fit.fit(Scripted(), train_loader(), val_loader())
    assert monitor.best_checkpoint == best.best_model_path


def test_a_file_that_was_removed_is_not_named(tmp_path: Path) -> None:
    class Tidy(Scripted):
        def on_train_epoch_start(self) -> None:
            if self.current_epoch == BEST + 2:
                for file in tmp_path.glob("*.ckpt"):
                    file.unlink()

    monitor = OverfittingMonitor(verbose=False)
    keeps = ModelCheckpoint(dirpath=tmp_path, monitor="val_loss")
    trainer([monitor, keeps], tmp_path, max_epochs=len(VALUES)).fit(
        Tidy(), train_loader(), val_loader()
    )
    assert monitor.best_checkpoint is None


def test_without_a_checkpoint_best_pt_is_named(tmp_path: Path) -> None:
    monitor = OverfittingMonitor(save_best=True, verbose=False)
    fitted(monitor, tmp_path)
    assert monitor.best_checkpoint is None
    assert "kept in best.pt." in monitor.diagnosis[0]


def fit_in_part(monitor: OverfittingMonitor, folder: Path, epochs: int, **options: Any) -> Scripted:
    """Every epoch has a checkpoint, unless said otherwise."""
    model = Scripted()
    keeps = ModelCheckpoint(dirpath=folder, filename="{epoch}", **{"save_top_k": -1, **options})
    trainer([monitor, keeps], folder, max_epochs=epochs).fit(model, train_loader(), val_loader())
    return model


def resumed(monitor: OverfittingMonitor, folder: Path, epochs: int, **options: Any) -> Scripted:
    """The rest of that fit."""
    model = Scripted()
    keeps = ModelCheckpoint(dirpath=folder, filename="{epoch}", **{"save_top_k": -1, **options})
    fit = trainer([monitor, keeps], folder, max_epochs=len(VALUES))
    fit.fit(model, train_loader(), val_loader(), ckpt_path=str(folder / f"epoch={epochs - 1}.ckpt"))
    return model


@pytest.mark.parametrize("epochs", [BEST + 1, BEST + 2])
@pytest.mark.parametrize("kept_by", ["best.pt", "ModelCheckpoint"])
def test_after_a_resume_the_best_weights_come_from_a_file(
    kept_by: str, epochs: int, tmp_path: Path
) -> None:
    """Also from the very checkpoint that the run is resumed from."""
    own = kept_by == "best.pt"
    options = {"save_top_k": 1 if own else -1}
    first = fit_in_part(OverfittingMonitor(save_best=own), tmp_path, epochs, **options)
    monitor = OverfittingMonitor(save_best=own, restore_best=True)
    model = resumed(monitor, tmp_path, epochs, **options)
    assert equal(model.state_dict(), first.of_epoch[BEST])
    assert not equal(model.of_epoch[-1], first.of_epoch[BEST])
    if not own:
        assert monitor.best_checkpoint == str(tmp_path / f"epoch={BEST}.ckpt")


@pytest.mark.parametrize("damage", ["other weights", "no file of weights", "another model"])
def test_a_file_that_is_not_what_it_was_is_not_put_back(damage: str, tmp_path: Path) -> None:
    fit_in_part(OverfittingMonitor(), tmp_path, BEST + 2)
    best = tmp_path / f"epoch={BEST}.ckpt"
    if damage == "other weights":
        best.write_bytes((tmp_path / "epoch=0.ckpt").read_bytes())
    elif damage == "no file of weights":
        best.write_text("no weights")
    else:
        torch.save({"state_dict": {"net.0.weight": torch.zeros(1)}}, best)
    monitor = OverfittingMonitor(restore_best=True)
    with pytest.warns(UserWarning, match="keeps the last weights, not those of its best epoch, 2"):
        model = resumed(monitor, tmp_path, BEST + 2)
    assert equal(model.state_dict(), model.of_epoch[-1])
    assert monitor.best_checkpoint is None


def test_a_damaged_file_leaves_the_model_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in the midst of loading takes back what was loaded by then."""
    fit_in_part(OverfittingMonitor(), tmp_path, BEST + 2)

    def fails_half_way(model: torch.nn.Module, path: str, since: float) -> None:
        assert path == str(tmp_path / f"epoch={BEST}.ckpt")
        next(model.parameters()).data.zero_()
        raise OSError("the disk is gone")

    monkeypatch.setattr("lightning_weightwatch.callbacks.best.weights.load_weights", fails_half_way)
    monitor = OverfittingMonitor(restore_best=True)
    with pytest.warns(UserWarning, match="the disk is gone"):
        model = resumed(monitor, tmp_path, BEST + 2)
    assert equal(model.state_dict(), model.of_epoch[-1])


@pytest.mark.parametrize("save_last", [True, "link"])
def test_a_run_resumed_from_last_ckpt_knows_the_file_that_stays(
    save_last: Any, tmp_path: Path
) -> None:
    """It overwrites `last.ckpt` itself, at its end if it has nothing better to write before."""
    options = {"monitor": "val_loss", "save_last": save_last}

    def fit(monitor: OverfittingMonitor, epochs: int, source: str | None) -> Scripted:
        model = Scripted()
        keeps = ModelCheckpoint(dirpath=tmp_path, filename="{epoch}", **options)
        fit = trainer([monitor, keeps], tmp_path, max_epochs=epochs)
        fit.fit(model, train_loader(), val_loader(), ckpt_path=source)
        return model

    first = fit(OverfittingMonitor(), BEST + 1, None)
    monitor = OverfittingMonitor(restore_best=True)
    model = fit(monitor, len(VALUES), str(tmp_path / "last.ckpt"))
    assert monitor.best_checkpoint == str(tmp_path / f"epoch={BEST}.ckpt")
    assert equal(model.state_dict(), first.of_epoch[BEST])


class Normalised(Scripted):
    """Its buffers change with every batch, not only where an optimizer steps."""

    def __init__(self) -> None:
        super().__init__()
        self.net.insert(0, torch.nn.BatchNorm1d(12))


def test_a_checkpoint_from_before_the_last_batch_is_not_that_of_the_validation(
    tmp_path: Path,
) -> None:
    """With gradients accumulated over two batches, of which one was trained on since."""
    monitor = OverfittingMonitor(verbose=False)
    keeps = ModelCheckpoint(dirpath=tmp_path, save_top_k=-1, every_n_train_steps=1)
    options = {"accumulate_grad_batches": 2, "val_check_interval": 3, "limit_train_batches": 3}
    model = Normalised()
    trainer([monitor, keeps], tmp_path, max_epochs=len(VALUES), **options).fit(
        model, train_loader(), val_loader()
    )
    holding = holding_the_best(model, tmp_path)
    named = monitor.best_checkpoint
    assert (named in holding) if holding else (named is None)


class Slow(TorchCheckpointIO):
    """Takes its time."""

    def save_checkpoint(self, *args: Any, **options: Any) -> None:
        time.sleep(0.3)
        super().save_checkpoint(*args, **options)


@NEWER_LIGHTNING
def test_a_file_that_was_written_in_the_background_is_not_that_of_a_later_epoch(
    tmp_path: Path,
) -> None:
    class Waits(Scripted):
        """Trains until the file of the epoch before is nearly there."""

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            time.sleep(0.05)

    keeps = ModelCheckpoint(dirpath=tmp_path, save_top_k=-1, every_n_epochs=BEST + 2)
    early = ModelCheckpoint(dirpath=tmp_path, filename="e{epoch}", save_top_k=-1)
    monitor, model = OverfittingMonitor(verbose=False), Waits()
    fit = trainer(
        [monitor, keeps, early],
        tmp_path,
        max_epochs=len(VALUES),
        plugins=[AsyncCheckpointIO(Slow())],
    )
    fit.fit(model, train_loader(), val_loader())
    holding = holding_the_best(model, tmp_path)
    assert holding
    assert monitor.best_checkpoint in {None, *holding}
