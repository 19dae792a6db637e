"""The curves of a fit that is resumed, interrupted, or has nothing to draw."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.optim.lr_scheduler import MultiStepLR
from torch.utils.data import DataLoader, TensorDataset

from lightning_weightwatch import OverfittingMonitor
from lightning_weightwatch.callbacks.best import copies
from tests.callbacks.fits import BATCH, NEWER_LIGHTNING, loader, train_loader, trainer, val_loader
from tests.callbacks.scripted import Scripted

# Lightning's own: on a resume in the middle of an epoch, into another folder, and on a `self.log`.
pytestmark = [
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed from"),
    pytest.mark.filterwarnings("ignore:You are trying to .self.log"),
]

EPOCHS, BATCHES = 6, 6


class Overfits(Scripted):
    """Truly validated, on labels that nothing can be learnt of; its learning rate drops."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", self.loss([batch[0], batch[1].flip(0)]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.2, momentum=0.9)
        return [optimizer], [MultiStepLR(optimizer, [4])]


def same_batches() -> DataLoader[tuple[Tensor, ...]]:
    """Six that are alike: resumed in the middle of an epoch, Lightning begins with the first."""
    x, y = next(iter(loader(BATCH, seed=1)))
    return DataLoader(TensorDataset(x.repeat(BATCHES, 1), y.repeat(BATCHES)), batch_size=BATCH)


def fitted(
    folder: Path, max_epochs: int, source: Path | None = None, **options: Any
) -> OverfittingMonitor:
    monitor = OverfittingMonitor()
    every = {"every_n_train_steps": 4} if options.pop("within", False) else {}
    saves = ModelCheckpoint(dirpath=folder, save_top_k=-1, filename="{step}", **every)  # type: ignore[arg-type]
    fit = trainer([monitor, saves], folder, max_epochs=max_epochs, **options)
    fit.fit(Overfits(), same_batches(), val_loader(), ckpt_path=source)
    return monitor


@pytest.mark.parametrize(
    ("options", "first_epochs", "step"),
    [
        ({}, 3, 3 * BATCHES),
        pytest.param({"val_check_interval": 0.5}, 3, 3 * BATCHES, marks=NEWER_LIGHTNING),
        pytest.param({"within": True}, 2, 8, marks=NEWER_LIGHTNING),
        pytest.param({"within": True, "val_check_interval": 0.5}, 4, 20, marks=NEWER_LIGHTNING),
        pytest.param({"within": True, "accumulate_grad_batches": 2}, 2, 4, marks=NEWER_LIGHTNING),
    ],
    ids=str,
)
def test_a_resumed_fit_has_the_curves_of_one_that_was_never_cut(
    options: dict[str, Any], first_epochs: int, step: int, tmp_path: Path
) -> None:
    whole = fitted(tmp_path / "whole", EPOCHS, **options)
    fitted(tmp_path / "cut", first_epochs, **options)
    resumed = fitted(tmp_path / "cut", EPOCHS, tmp_path / "cut" / f"step={step}.ckpt", **options)
    one, other = whole.report, resumed.report
    assert one is not None
    assert other is not None
    assert len(one.records()) >= EPOCHS
    assert other.records() == one.records()
    assert other.learning_rates == one.learning_rates
    assert [drop.after for drop in one.lr_drops] == pytest.approx([0.02])
    assert repr(other.criteria) == repr(one.criteria)  # PQ may be NaN
    assert other.summary() == one.summary()
    assert (other.phases, other.positions, other.skipped) == (
        one.phases, one.positions, one.skipped,
    )  # fmt: skip
    assert one.overfitting
    assert resumed.history == whole.history
    assert resumed.diagnosis == whole.diagnosis
    names = [m.best_checkpoint and Path(m.best_checkpoint).name for m in (resumed, whole)]
    assert names[0] == names[1]
    assert names[0] is not None or "within" in options, "every epoch is saved, and so is the best"


def _set(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda state: state.update({name: value})


BROKEN: dict[str, Callable[[dict[str, Any]], Any]] = {
    "curves in words": _set("curves", "nonsense"),
    "no curves": lambda state: state.pop("curves"),
    "curves without points": _set("curves", {"mode": "min"}),
    "curves without a mode": _set("curves", {"points": []}),
    "points of three numbers": _set("curves", {"mode": "min", "points": [[0, 1.0, 1.0]]}),
    "points of words": _set("curves", {"mode": "min", "points": [["a", "b", "c", {}]]}),
    "rates without names": _set("curves", {"mode": "min", "points": [[0, 1.0, 1.0, 0.1]]}),
    "no training loss": lambda state: state.pop("training"),
    "half a training loss": _set("training", [0]),
    "no best": lambda state: state.pop("best"),
    "best in words": _set("best", "nonsense"),
    "history in words": _set("history", "nonsense"),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of two epochs."""
    folder = tmp_path_factory.mktemp("saved")
    fitted(folder, 2)
    return folder / f"step={2 * BATCHES}.ckpt"


@pytest.mark.parametrize("broken", BROKEN)
def test_a_state_that_is_none_of_ours_is_a_warning_and_a_new_beginning(
    broken: str, saved: Path, tmp_path: Path
) -> None:
    checkpoint = torch.load(saved, weights_only=True)
    BROKEN[broken](checkpoint["lightning_weightwatch"]["OverfittingMonitor[weightwatch]"])
    torch.save(checkpoint, tmp_path / "broken.ckpt")
    with pytest.warns(UserWarning, match="OverfittingMonitor starts anew, its state") as warned:
        monitor = fitted(tmp_path, 4, tmp_path / "broken.ckpt")
    assert len([w for w in warned if "OverfittingMonitor" in str(w.message)]) == 1
    assert monitor.report is not None
    assert monitor.report.epochs == (2, 3)
    assert [entry["epoch"] for entry in monitor.history] == [2, 3]
    assert monitor.diagnosis
    assert monitor.best_checkpoint is not None


@pytest.fixture
def _sigint() -> Iterator[None]:
    """Lightning ignores Ctrl+C from the first one on."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def files_in(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.mark.usefixtures("_sigint")
def test_an_interrupted_fit_leaves_the_best_file_so_far(tmp_path: Path) -> None:
    class Interrupted(Scripted):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            if self.current_epoch == 3:
                raise KeyboardInterrupt

    monitor = OverfittingMonitor(save_best=True, restore_best=True)
    model = Interrupted(val_loss=[1.0, 0.5, 0.9, 0.1])
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        trainer([monitor], tmp_path, max_epochs=4).fit(model, train_loader(), val_loader())
    assert files_in(tmp_path) == ["weightwatch/best.pt"]
    assert model.holds(1, torch.load(tmp_path / "weightwatch" / "best.pt", weights_only=True))
    assert monitor.report is not None
    assert monitor.report.epochs == (0, 1, 2)
    assert model.holds(2, model.state_dict()), "they may be looked at, so they are left alone"


@pytest.mark.usefixtures("_sigint")
def test_an_interrupt_while_the_best_file_is_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = torch.save

    def interrupted(weights: Any, file: Any, *args: Any, **options: Any) -> None:
        if Path(tmp_path, "weightwatch", "best.pt").exists():
            Path(file).write_bytes(b"half of it")
            raise KeyboardInterrupt
        save(weights, file, *args, **options)

    monkeypatch.setattr(copies.torch, "save", interrupted)  # type: ignore[attr-defined]
    model = Scripted(val_loss=[1.0, 0.5])
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        trainer([OverfittingMonitor(save_best=True)], tmp_path, max_epochs=2).fit(
            model, train_loader(), val_loader()
        )
    assert files_in(tmp_path) == ["weightwatch/best.pt"]
    assert model.holds(0, torch.load(tmp_path / "weightwatch" / "best.pt", weights_only=True))


@pytest.mark.parametrize(
    "options",
    [
        {"fast_dev_run": True, "logger": True},
        {"fast_dev_run": 2},  # without a logger: the log folder is then the root folder
        {"max_epochs": 0},
        {"limit_val_batches": 0},
        {"limit_train_batches": 0},
        {"max_steps": 2},
        {"barebones": True},
    ],
    ids=str,
)
def test_a_fit_with_nothing_to_keep_writes_nothing_and_has_its_own_weights(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    class Remembers(Scripted):
        trained: dict[str, Tensor] | None = None

        def on_train_end(self) -> None:
            self.trained = {name: value.clone() for name, value in self.state_dict().items()}

    monitor = OverfittingMonitor(save_best=True, restore_best=True)
    model = Remembers(val_loss=[1.0, 0.5, 0.6])
    trainer([monitor], tmp_path, **options).fit(model, train_loader(), val_loader())
    assert files_in(tmp_path) == []
    assert monitor.best_checkpoint is None
    assert (model.trained is None) == bool({"max_epochs", "limit_train_batches"} & set(options))
    for name, value in (model.trained or {}).items():
        assert torch.equal(value, model.state_dict()[name])
    drawn = len(monitor.report.val_values) if monitor.report is not None else 0
    assert drawn == (1 if "fast_dev_run" in options else 0)
    assert bool(monitor.diagnosis) == bool(drawn)
