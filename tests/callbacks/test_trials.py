"""The trials evaluate what they say, on the user's own loop, and nobody else notices."""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torchmetrics
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import (
    EarlyStopping,
    ModelCheckpoint,
    RichProgressBar,
    TQDMProgressBar,
)
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import SingleDeviceStrategy
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn.utils import prune

from lightning_weightwatch import OverfittingMonitor, PruningTrial, QuantizationTrial
from lightning_weightwatch.callbacks.validation import NoValidation, evaluate_isolated
from tests.callbacks.fits import (
    ConvNet,
    Perceptron,
    train_loader,
    trainer,
    val_loader,
)


class Measured(ConvNet):
    """Logs a plain value, a torchmetrics object, and something at the end of the epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.accuracy = torchmetrics.classification.MulticlassAccuracy(4, average="micro")
        self.never_reset = torchmetrics.MeanMetric()

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        self.accuracy(self(batch[0]), batch[1])
        self.never_reset.update(batch[0].mean())
        self.log("val_acc", self.accuracy)

    def on_validation_epoch_end(self) -> None:
        self.log("val_norm", torch.stack([p.norm() for p in self.parameters()]).norm())
        self.logger.experiment.add_text("of the module", "written by itself")  # type: ignore[union-attr]


def validated(model: nn.Module) -> dict[str, float]:
    """The metrics of a model by a plain loop, without Lightning."""
    model = copy.deepcopy(model).eval()
    loss = correct = count = 0.0
    with torch.no_grad():
        for x, y in val_loader():
            logits = model(x)
            loss += float(nn.functional.cross_entropy(logits, y)) * len(y)
            correct += float((logits.argmax(1) == y).sum())
            count += len(y)
    return {"val_loss": loss / count, "val_acc": correct / count}


def quantized(net: nn.Module, bits: int) -> nn.Module:
    """By torch's own fake quantization, one scale per output channel."""
    net = copy.deepcopy(net)
    for part in net.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            top = 2 ** (bits - 1) - 1
            weight = part.weight.data
            scale = weight.flatten(1).abs().amax(1) / top
            zeros = torch.zeros(len(scale), dtype=torch.int32)
            part.weight.data = torch.fake_quantize_per_channel_affine(
                weight, scale, zeros, 0, -top, top
            )
    return net


def pruned(net: nn.Module, amount: float) -> nn.Module:
    """By torch's own global magnitude pruning."""
    net = copy.deepcopy(net)
    targets = [(p, "weight") for p in net.modules() if isinstance(p, nn.Linear | nn.Conv2d)]
    prune.global_unstructured(targets, prune.L1Unstructured, amount=amount)
    for part, name in targets:
        prune.remove(part, name)  # type: ignore[no-untyped-call]
    return net


def test_rows_are_those_of_an_independent_evaluation(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Measured()
    bits = QuantizationTrial(bits=(8, 3), clip="absmax", verbose=False)
    amounts = PruningTrial(amounts=(0.5, 0.9), verbose=False)
    fit = trainer([bits, amounts], tmp_path, logger=TensorBoardLogger(tmp_path))
    fit.fit(model, train_loader(), val_loader())

    assert bits.report is not None
    assert amounts.report is not None
    expected = [
        (bits.report.rows[0], validated(model.net)),
        (bits.report.rows[1], validated(quantized(model.net, 8))),
        (bits.report.rows[2], validated(quantized(model.net, 3))),
        (amounts.report.rows[1], validated(pruned(model.net, 0.5))),
        (amounts.report.rows[2], validated(pruned(model.net, 0.9))),
    ]
    for row, metrics in expected:
        assert row.error == ""
        for name, value in metrics.items():
            assert row.metrics[name] == pytest.approx(value, rel=1e-6), (row.name, name)
    assert bits.report.rows[2].metrics["val_norm"] != bits.report.rows[0].metrics["val_norm"]
    baseline = float(bits.report.rows[0].metrics["val_loss"])
    delta = float(fit.callback_metrics["weightwatch/quantization_int3_absmax_delta"])
    assert delta == pytest.approx(expected[2][1]["val_loss"] - baseline, rel=1e-4)


def test_packed_bytes_are_those_of_codes_scales_and_the_rest(tmp_path: Path) -> None:
    bits = QuantizationTrial(bits=(4,), verbose=False)
    amounts = PruningTrial(amounts=(0.75,), verbose=False)
    trainer([bits, amounts], tmp_path, max_epochs=1).fit(Perceptron(), train_loader(), val_loader())
    weights = 12 * 40 + 40 * 40 + 40 * 4
    biases = 40 + 40 + 4
    assert bits.report is not None
    assert amounts.report is not None
    assert bits.report.rows[0].packed_bytes == 4 * (weights + biases)
    assert bits.report.rows[1].packed_bytes == weights // 2 + 4 * (40 + 40 + 4) + 4 * biases
    # Half a byte too much at most a tensor: which entries die where depends on the training.
    live = weights // 4
    assert amounts.report.rows[1].packed_bytes == 4 * live + weights // 8 + 4 * biases


class Spy(Callback):
    """Counts every hook that is called after training has ended."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.ended = False

    def on_train_end(self, *_: Any) -> None:
        self.ended = True

    def on_validation_start(self, *_: Any) -> None:
        if self.ended:
            self.calls.append("on_validation_start")

    def on_validation_end(self, *_: Any) -> None:
        if self.ended:
            self.calls.append("on_validation_end")

    def on_fit_end(self, *_: Any) -> None:
        self.calls.append("on_fit_end")

    def teardown(self, *_: Any, **__: Any) -> None:
        self.calls.append("teardown")


def test_callbacks_loggers_metrics_and_state_are_as_without_a_trial(tmp_path: Path) -> None:
    def after(trials: list[Callback], root: Path) -> dict[str, Any]:
        torch.manual_seed(0)
        model, spy, logger = Measured(), Spy(), TensorBoardLogger(root)
        stopper = EarlyStopping(monitor="val_loss", patience=2)
        checkpoint = ModelCheckpoint(dirpath=root, monitor="val_loss", save_last=True)
        fit = trainer([spy, *trials, stopper, checkpoint], root, logger=logger)
        fit.fit(model, train_loader(), val_loader())
        metrics = {
            name: float(value)
            for name, value in fit.callback_metrics.items()
            if not name.startswith("weightwatch")
        }
        events = EventAccumulator(logger.log_dir)
        events.Reload()
        points = {
            tag: [(event.step, event.value) for event in events.Scalars(tag)]
            for tag in events.Tags()["scalars"]
            if not tag.startswith("weightwatch")
        }
        return {
            "calls": spy.calls,
            "metrics": metrics,
            "points": points,
            "texts": [e.step for e in events.Tensors("of the module/text_summary")],
            "logged": {k: float(v) for k, v in fit.logged_metrics.items() if "weight" not in k},
            "state": (fit.state.fn, fit.state.status, fit.state.stage),
            "wait": stopper.wait_count,
            "best": (Path(checkpoint.best_model_path).name, checkpoint.best_model_score),
            "never_reset": float(model.never_reset.compute()),
            "module": fit.lightning_module is model and model.trainer is fit,
            "progress": fit.fit_loop.epoch_loop.val_loop.batch_progress.state_dict(),
        }

    with_trials = after(
        [QuantizationTrial(verbose=False), PruningTrial(verbose=False)], tmp_path / "with"
    )
    without = after([], tmp_path / "without")
    for what, expected in without.items():
        assert with_trials[what] == expected, what


class Slow(Perceptron):
    """Long enough a validation for a bar to be drawn in it."""

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        time.sleep(0.02)
        super().validation_step(batch, batch_idx)


@pytest.mark.parametrize("bar", [RichProgressBar, TQDMProgressBar])
def test_the_users_progress_bar_shows_the_trials_and_lives_on(bar: Any, tmp_path: Path) -> None:
    """A fault in the thread that draws it is an error of this test by pytest's own rules."""
    trial = QuantizationTrial(bits=(8,), verbose=False)
    start = OverfittingMonitor(at_start=True)
    drawn: list[str] = []

    class Noting(bar):  # type: ignore[misc]
        def on_validation_batch_end(self, trainer: Any, *arguments: Any) -> None:
            drawn.append("val")
            super().on_validation_batch_end(trainer, *arguments)

    fit = trainer([start, trial, Noting()], tmp_path, max_epochs=1, enable_progress_bar=True)
    fit.fit(Slow(), train_loader(), val_loader())
    assert trial.report is not None
    assert [row.error for row in trial.report.rows] == ["", ""]
    assert len(drawn) == 1 + 4 * 4, "the sanity check, then four validations of four batches"


class Showing(Slow):
    """Its loss is in the bar."""

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        time.sleep(0.02)
        self.log("val_loss", self.loss(batch), prog_bar=True)


@pytest.mark.parametrize("bar", [RichProgressBar, TQDMProgressBar])
def test_the_line_of_the_training_keeps_the_numbers_of_the_trained_weights(
    bar: Any, tmp_path: Path
) -> None:
    trial, own = PruningTrial(amounts=(0.95,), verbose=False), bar()
    shown: list[dict[str, Any]] = []

    class After(Callback):
        def on_train_end(self, *_: Any) -> None:
            if bar is RichProgressBar:
                shown.append(dict(own._metric_component._metrics))
            else:
                shown.append({"postfix": own.train_progress_bar.postfix})

    model = Showing()
    fit = trainer([After(), trial, After(), own], tmp_path, max_epochs=1, enable_progress_bar=True)
    fit.fit(model, train_loader(), val_loader())
    assert trial.report is not None
    assert trial.report.delta(trial.report.rows[1]) != 0
    assert "val_loss" in str(shown[0])
    assert shown[0] == shown[1]


def test_files_that_a_validation_writes_into_the_log_folder_are_not_those_of_the_trials(
    tmp_path: Path,
) -> None:
    class Writing(Perceptron):
        folders: list[Path] = []  # noqa: RUF012

        def on_validation_epoch_end(self) -> None:
            for folder in (self.logger.log_dir, self.trainer.log_dir):  # type: ignore[union-attr]
                path = Path(str(folder))
                self.folders.append(path)
                path.mkdir(parents=True, exist_ok=True)
                (path / "predictions.txt").write_text(str(self.trainer.current_epoch))

    logger, trial = TensorBoardLogger(tmp_path), PruningTrial(verbose=False)
    fit = trainer([trial], tmp_path, logger=logger, max_epochs=1, num_sanity_val_steps=0)
    fit.fit(Writing(), train_loader(), val_loader())
    assert trial.report is not None
    assert [row.error for row in trial.report.rows] == [""] * 4
    own = Path(logger.log_dir)
    assert Writing.folders[:2] == [own, own]
    assert own not in Writing.folders[2:]
    assert not any(folder.exists() for folder in Writing.folders[2:])
    assert (own / "predictions.txt").read_text() == "0"


def test_the_table_is_printed_at_the_end_of_the_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = [QuantizationTrial(bits=(8,)), PruningTrial(amounts=(0.5,))]
    fit = trainer([*trials], tmp_path, max_epochs=1)
    fit.fit(Perceptron(), train_loader(), val_loader())
    printed = capsys.readouterr().out
    for word in ("QuantizationTrial: val_loss", "int8", "pruned50", "baseline", "packed"):
        assert word in printed


def test_a_metric_that_no_logger_gets_can_be_monitored(tmp_path: Path) -> None:
    class Silent(Perceptron):
        def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
            self.log("silent", self.loss(batch), logger=False)
            self.log("forked", self.loss(batch), on_step=True, on_epoch=True)

    for monitor in ("silent", "forked"):
        trial = PruningTrial(amounts=(0.9,), monitor=monitor, verbose=False)
        trainer([trial], tmp_path, max_epochs=1).fit(Silent(), train_loader(), val_loader())
        assert trial.report is not None
        assert trial.report.delta(trial.report.rows[1]) != 0
        assert set(trial.report.rows[0].metrics) == {"silent", "forked", "forked_epoch"}


def test_without_a_metric_to_compare_by_nothing_is_evaluated_but_the_baseline(
    tmp_path: Path,
) -> None:
    class Two(Perceptron):
        def validation_step(
            self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0
        ) -> None:
            super().validation_step(batch, batch_idx)

    trial = QuantizationTrial(verbose=False)
    fit = trainer([trial], tmp_path, max_epochs=1)
    with pytest.warns(UserWarning, match="the validation logs val_loss/dataloader_idx_0, val_loss"):
        fit.fit(Two(), train_loader(), [val_loader(), val_loader()])
    assert trial.report is not None
    assert [row.name for row in trial.report.rows] == ["baseline"]
    assert trial.report.stopped == "there is no metric to compare by"


def test_several_validation_loaders_are_in_one_row(tmp_path: Path) -> None:
    class Two(Perceptron):
        def validation_step(
            self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0
        ) -> None:
            super().validation_step(batch, batch_idx)

    trial = QuantizationTrial(monitor="val_loss/dataloader_idx_1", verbose=False)
    fit = trainer([trial], tmp_path, max_epochs=1)
    fit.fit(Two(), train_loader(), [val_loader(), val_loader()])
    assert trial.report is not None
    assert set(trial.report.rows[0].metrics) == {
        "val_loss/dataloader_idx_0",
        "val_loss/dataloader_idx_1",
    }
    assert trial.report.delta(trial.report.rows[1]) != 0


def test_the_metric_and_its_mode_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    trial = PruningTrial(verbose=False)
    checkpoint = ModelCheckpoint(dirpath=tmp_path, monitor="val_acc", mode="max")
    fit = trainer([trial, checkpoint], tmp_path, logger=TensorBoardLogger(tmp_path), max_epochs=1)
    fit.fit(Measured(), train_loader(), val_loader())
    assert trial.report is not None
    assert (trial.report.monitor, trial.report.mode) == ("val_acc", "max")


@pytest.mark.parametrize("strategy", ["FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy"])
def test_sharded_weights_are_refused_with_the_reason(strategy: str, tmp_path: Path) -> None:
    """By the name of the strategy: the real ones do not run on one CPU."""
    named = type(strategy, (SingleDeviceStrategy,), {})
    trial = PruningTrial(verbose=False)
    fit = trainer([trial], tmp_path, max_epochs=1, strategy=named(device="cpu"))
    with pytest.warns(UserWarning, match=f"{strategy} shards the weights"):
        fit.fit(Perceptron(), train_loader(), val_loader())
    assert trial.report is None


@pytest.mark.parametrize("options", [{"limit_val_batches": 0}, {}], ids=["limit 0", "no loader"])
@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but")  # Lightning's own
def test_without_a_validation_nothing_is_tried(options: dict[str, Any], tmp_path: Path) -> None:
    trial = PruningTrial(verbose=False)
    fit = trainer([trial], tmp_path, max_epochs=1, **options)
    fit.fit(Perceptron(), train_loader(), val_loader() if options else None)
    assert trial.report is None
    with pytest.raises(NoValidation, match="no validation"):
        evaluate_isolated(fit)


def test_loaders_that_own_a_generator_find_it_where_it_was(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    shuffled = torch.utils.data.DataLoader(
        val_loader().dataset, batch_size=8, sampler=None, generator=generator
    )

    class State(Callback):
        seen: list[bytes] = []  # noqa: RUF012

        def on_train_end(self, *_: Any) -> None:
            self.seen.append(generator.get_state().numpy().tobytes())

    trainer([State(), PruningTrial(verbose=False), State()], tmp_path, max_epochs=1).fit(
        Perceptron(), train_loader(), shuffled
    )
    assert State.seen[0] == State.seen[1]
