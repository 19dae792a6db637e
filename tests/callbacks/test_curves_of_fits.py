"""The curves that OverfittingMonitor draws: of several loaders, metrics, half-epochs and fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR, ReduceLROnPlateau
from torch.utils.data import DataLoader

from lightning_weightwatch import OverfittingMonitor
from tests.callbacks.fits import ManualPerceptron, train_loader, trainer, val_loader
from tests.callbacks.scripted import Scripted

LOSSES = [1.0, 0.5, 0.9, 0.8]
OTHERS = [1.0, 0.9, 0.4, 0.7]
# Medians of three: 1.0, 0.9, 0.8, 0.8, 0.82, 0.83, 0.86: 7.5 % above their best, four ago.
OVERFITS, RISEN, LOWEST = [1.0, 0.8, 0.78, 0.82, 0.83, 0.86, 0.9, 0.9], 6, 2


class OfTwoLoaders(Scripted):
    """Each loader has its own values: under one name, or with `names` under a name for each."""

    names: tuple[str, str] | None = None

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        value = (LOSSES, OTHERS)[dataloader_idx][len(self.weights)]
        if self.names is None:
            self.log("val_loss", value, batch_size=1)
        else:
            name = self.names[dataloader_idx]
            self.log(name, value, batch_size=1, add_dataloader_idx=False)


def two_loaders() -> list[DataLoader[Any]]:
    return [val_loader(), val_loader()]


def page_of(events: EventAccumulator, prefix: str = "weightwatch") -> str:
    """The text on the learning curves, without the escapes of Markdown."""
    (event,) = events.Tensors(f"{prefix}/diagnosis/text_summary")
    text: str = event.tensor_proto.string_val[0].decode()
    return text.replace("\\", "")


def events_of(folder: str) -> EventAccumulator:
    events = EventAccumulator(folder)
    events.Reload()
    return events


def test_each_of_two_monitors_follows_its_own_validation_loader(tmp_path: Path) -> None:
    first = OverfittingMonitor(monitor="val_loss/dataloader_idx_0")
    second = OverfittingMonitor(monitor="val_loss/dataloader_idx_1", prefix="second")
    logger = TensorBoardLogger(tmp_path)
    fit = trainer([first, second], tmp_path, max_epochs=4, logger=logger)
    fit.fit(OfTwoLoaders(), train_loader(), two_loaders())
    events = events_of(logger.log_dir)
    for index, (monitor, values, best) in enumerate([(first, LOSSES, 1), (second, OTHERS, 2)]):
        name, prefix = f"val_loss/dataloader_idx_{index}", monitor.prefix
        assert monitor.report is not None
        assert monitor.report.val_values == pytest.approx(values)
        assert monitor.report.best_epoch == best
        assert [entry["val_metric"] for entry in monitor.history] == pytest.approx(values)
        last = float(fit.callback_metrics[f"{prefix}/val_loss_rise"])
        assert last == pytest.approx(values[-1] / min(values) - 1)
        assert f"{prefix}/loss_curve" in events.Tags()["images"]
        charted = [event.value for event in events.Scalars(f"{prefix}/val_metric")]
        assert charted == pytest.approx(values)
        assert f"Validation best in epoch {best + 1} ({name} " in page_of(events, prefix)
        assert monitor.diagnosis[0].startswith(f"{name} was best in epoch {best + 1} ")


def test_the_loader_that_model_checkpoint_goes_by_is_followed(tmp_path: Path) -> None:
    monitor = OverfittingMonitor()
    checkpoint = ModelCheckpoint(
        dirpath=tmp_path, monitor="val_loss/dataloader_idx_1", filename="{epoch}"
    )
    fit = trainer([monitor, checkpoint], tmp_path, max_epochs=4)
    fit.fit(OfTwoLoaders(), train_loader(), two_loaders())
    assert monitor.report is not None
    assert monitor.report.val_values == pytest.approx(OTHERS)
    assert monitor.best_checkpoint == str(tmp_path / "epoch=2.ckpt")


def test_loaders_may_log_under_names_of_their_own(tmp_path: Path) -> None:
    monitor, model = OverfittingMonitor(monitor="far"), OfTwoLoaders()
    model.names = ("near", "far")
    trainer([monitor], tmp_path, max_epochs=4).fit(model, train_loader(), two_loaders())
    assert monitor.report is not None
    assert monitor.report.val_values == pytest.approx(OTHERS)


def test_two_metrics_have_a_best_file_each_and_one_training_loss(tmp_path: Path) -> None:
    by_loss = OverfittingMonitor(monitor="val_loss", save_best=True)
    by_accuracy = OverfittingMonitor(
        monitor="val_acc", mode="max", save_best=True, prefix="accuracy"
    )
    model = Scripted(val_loss=LOSSES, val_acc=[0.2, 0.5, 0.8, 0.6])
    fit = trainer([by_loss, by_accuracy], tmp_path, max_epochs=4)
    fit.fit(model, train_loader(), val_loader())
    assert by_loss.report is not None
    assert by_accuracy.report is not None
    assert (by_loss.report.best_epoch, by_accuracy.report.best_epoch) == (1, 2)
    assert by_accuracy.report.rise == pytest.approx((0.8 - 0.6) / 0.8)
    files = sorted(tmp_path.rglob("*.pt"))
    assert files == [tmp_path / "accuracy" / "best.pt", tmp_path / "weightwatch" / "best.pt"]
    assert model.holds(2, torch.load(files[0], weights_only=True))
    assert model.holds(1, torch.load(files[1], weights_only=True))
    assert by_loss.report.train_losses == by_accuracy.report.train_losses
    assert by_loss.report.train_losses == pytest.approx(model.means, rel=1e-6)


def test_a_fit_that_is_validated_twice_an_epoch_stops_in_the_middle_of_one(tmp_path: Path) -> None:
    monitor = OverfittingMonitor(save_best=True)
    stopper = EarlyStopping(
        monitor="weightwatch/overfit_alarm", mode="max", stopping_threshold=0.5, patience=10**6
    )
    saves = ModelCheckpoint(
        dirpath=tmp_path / "saved", save_top_k=-1, every_n_train_steps=3, filename="{step}"
    )
    model = Scripted(val_loss=OVERFITS)
    fit = trainer([stopper, monitor, saves], tmp_path, max_epochs=4, val_check_interval=0.5)
    fit.fit(model, train_loader(), val_loader())
    report = monitor.report
    assert report is not None
    assert len(report.val_values) == RISEN + 1, "EarlyStopping hears the alarm at once"
    assert report.epochs == tuple(model.places) == (0, 0, 1, 1, 2, 2, 3)
    assert report.positions == (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5)
    assert report.train_losses == pytest.approx(model.means, rel=1e-6)
    assert (report.best_index, report.best_epoch) == (LOWEST, 1)
    own = torch.load(tmp_path / "weightwatch" / "best.pt", weights_only=True)
    assert model.holds(LOWEST, own)
    # Written right before the validation at the same step.
    written = tmp_path / "saved" / f"step={3 * (LOWEST + 1)}.ckpt"
    assert monitor.best_checkpoint == str(written)
    assert model.holds(LOWEST, torch.load(written, weights_only=True)["state_dict"])


def test_validations_that_do_not_keep_to_epochs_have_the_mean_of_their_own_so_far(
    tmp_path: Path,
) -> None:
    monitor = OverfittingMonitor(save_best=True)
    model = Scripted(val_loss=[1.0, 0.9, 0.8, 0.5, 0.6, 0.7])
    every = {"val_check_interval": 4, "check_val_every_n_epoch": None}  # of six batches an epoch
    fit = trainer([monitor], tmp_path, max_epochs=4, **every)
    fit.fit(model, train_loader(), val_loader())
    report = monitor.report
    assert report is not None
    assert report.epochs == tuple(model.places) == (0, 1, 1, 2, 3, 3)
    assert report.train_losses == pytest.approx(model.means, rel=1e-6)
    assert report.positions == pytest.approx([4 / 6, 8 / 6, 2, 16 / 6, 20 / 6, 4])
    saved = torch.load(tmp_path / "weightwatch" / "best.pt", weights_only=True)
    assert report.best_index == 3
    assert model.holds(3, saved)


class Scheduled(Scripted):
    """Six epochs that get worse from the second on, with a scheduler."""

    def __init__(self, kind: str) -> None:
        super().__init__(val_loss=[1.0, 0.5, 0.6, 0.7, 0.8, 0.9])
        self.kind = kind

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        made: dict[str, LRScheduler | dict[str, Any]] = {
            "steps": MultiStepLR(optimizer, [2]),
            "batches": {"scheduler": MultiStepLR(optimizer, [15]), "interval": "step"},
            "cosine": CosineAnnealingLR(optimizer, 6),
            "plateau": {
                "scheduler": ReduceLROnPlateau(optimizer, patience=1),
                "monitor": "val_loss",
            },
        }
        return {"optimizer": optimizer, "lr_scheduler": made[self.kind]}


@pytest.mark.parametrize(
    ("kind", "first_with_less"), [("steps", 2), ("batches", 2), ("cosine", None), ("plateau", 4)]
)
def test_a_drop_of_the_learning_rate_is_named_at_the_first_epoch_trained_with_it(
    kind: str, first_with_less: int | None, tmp_path: Path
) -> None:
    monitor, model = OverfittingMonitor(), Scheduled(kind)
    watch = LearningRateMonitor("epoch" if kind != "batches" else "step")
    logger = TensorBoardLogger(tmp_path)
    fit = trainer([watch, monitor], tmp_path, max_epochs=6, logger=logger, log_every_n_steps=1)
    fit.fit(model, train_loader(), val_loader())
    assert monitor.report is not None
    assert set(monitor.report.learning_rates) == set(watch.lrs) == {"lr-SGD"}
    assert monitor.report.learning_rates["lr-SGD"] == pytest.approx(model.rates)
    if kind != "batches":
        assert model.rates == pytest.approx(watch.lrs["lr-SGD"])
    drops = monitor.report.lr_drops
    page = page_of(events_of(logger.log_dir))
    assert "## Key observations" in page
    if first_with_less is None:
        assert drops == ()
        assert "drops from" not in page
    else:
        assert [drop.name for drop in drops] == ["lr-SGD"]
        assert monitor.report.epochs[drops[0].index] == first_with_less
        assert (drops[0].before, drops[0].after) == pytest.approx((0.1, 0.01))
        said = f"The learning rate lr-SGD drops from 0.1 to 0.01 by epoch {first_with_less + 1}."
        assert said in page


def test_two_optimizers_are_named_as_learning_rate_monitor_names_them(tmp_path: Path) -> None:
    watch, monitor = LearningRateMonitor(), OverfittingMonitor()
    fit = trainer([watch, monitor], tmp_path, max_epochs=1, logger=CSVLogger(tmp_path))
    fit.fit(ManualPerceptron(), train_loader(), val_loader())
    assert monitor.report is not None
    assert set(monitor.report.learning_rates) == set(watch.lrs) == {"lr-SGD", "lr-SGD-1"}
    assert monitor.report.learning_rates["lr-SGD-1"] == (0.05,)


def test_a_second_fit_begins_anew(tmp_path: Path) -> None:
    monitor = OverfittingMonitor(save_best=True, restore_best=True)
    first = Scripted(val_loss=[1.0, 0.1, 0.5])
    trainer([monitor], tmp_path).fit(first, train_loader(), val_loader())
    assert first.holds(1, first.state_dict())
    second = Scripted(val_loss=[1.0, 0.9, 0.6, 0.7])
    trainer([monitor], tmp_path, max_epochs=4).fit(second, train_loader(), val_loader())
    assert monitor.report is not None
    assert monitor.report.val_values == pytest.approx([1.0, 0.9, 0.6, 0.7])
    assert [entry["epoch"] for entry in monitor.history] == [0, 1, 2, 3]
    assert second.holds(2, second.state_dict())
    assert second.holds(2, torch.load(tmp_path / "weightwatch" / "best.pt", weights_only=True))


def test_a_second_fit_without_validation_gets_no_weights_of_the_first(tmp_path: Path) -> None:
    monitor = OverfittingMonitor(restore_best=True)
    first, second = Scripted(val_loss=LOSSES), Scripted()
    trainer([monitor], tmp_path, max_epochs=4).fit(first, train_loader(), val_loader())
    assert monitor.diagnosis
    trainer([monitor], tmp_path, limit_val_batches=0).fit(second, train_loader(), val_loader())
    assert not any(map(torch.equal, second.state_dict().values(), first.state_dict().values()))
    assert monitor.diagnosis == ()
    assert [set(entry) for entry in monitor.history] == [{"epoch", "step", "train_loss"}] * 3
