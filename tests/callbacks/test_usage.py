"""The usage of a model is that of the batches it is validated on, in every fit, without a trace."""

from __future__ import annotations

import copy
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, Timer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from lightning_weightwatch import WeightUsageMonitor, measure_usage
from lightning_weightwatch.callbacks.run_cost import RunCost
from lightning_weightwatch.usage.report import UsageReport
from tests.callbacks.fits import (
    BATCH,
    CLASSES,
    FEATURES,
    TRAIN,
    VALIDATION,
    Perceptron,
    bits,
    loader,
    train_loader,
    trainer,
    val_loader,
)

#: Operations of a forward pass of the Perceptron, for a sample.
FORWARD = 2 * (FEATURES * 40 + 40 * 40 + 40 * CLASSES)
KEYS = (
    "effective_weights_share",
    "low_contribution_share",
    "top90_share",
    "dead_channels",
    "dead_channels_share",
    "zero_activations_share",
    "run_flops",
)


def fitted(
    monitor: WeightUsageMonitor,
    root: Path,
    model: LightningModule | None = None,
    callbacks: tuple[Callback, ...] = (),
    **options: Any,
) -> Trainer:
    fit = trainer([monitor, *callbacks], root, **options)
    fit.fit(model or Perceptron(), train_loader(), val_loader())
    return fit


def report_of(monitor: WeightUsageMonitor) -> UsageReport:
    assert monitor.report is not None
    return monitor.report


def assert_same(found: UsageReport, expected: UsageReport) -> None:
    assert found.batches == expected.batches
    assert found.samples == expected.samples
    assert [layer.name for layer in found.layers] == [layer.name for layer in expected.layers]
    for mine, other in zip(found.layers, expected.layers, strict=True):
        torch.testing.assert_close(mine.input_importance, other.input_importance)
        assert mine.entropy == pytest.approx(other.entropy)
        assert mine.dead_inputs == other.dead_inputs
    for given, wanted in zip(found.activations, expected.activations, strict=True):
        assert given.name == wanted.name
        assert given.std == pytest.approx(wanted.std)
        assert given.zero_share == wanted.zero_share


@pytest.mark.parametrize("num_batches", [1, 3, None])
def test_it_is_that_of_the_first_batches_of_the_validation(
    num_batches: int | None, tmp_path: Path
) -> None:
    monitor, model = WeightUsageMonitor(num_batches=num_batches), Perceptron()
    fitted(monitor, tmp_path, model)
    batches = list(val_loader())[:num_batches]
    assert_same(report_of(monitor), measure_usage(model, iter(batches)))


class Sees(Perceptron):
    """Keeps the batches it is trained on, and learns nothing."""

    def __init__(self) -> None:
        super().__init__(learning_rate=0.0)
        self.seen: list[Any] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor | None:
        self.seen.append(batch)
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize(
    "options",
    [
        {"limit_val_batches": 0},
        {"check_val_every_n_epoch": 7},
        {"max_steps": 4, "max_epochs": -1},
    ],
    ids=["no validation", "not this epoch", "ends before it"],
)
def test_without_a_validation_it_is_that_of_the_last_batches_of_training(
    options: dict[str, Any], tmp_path: Path
) -> None:
    monitor, model = WeightUsageMonitor(num_batches=2), Sees()
    fitted(monitor, tmp_path, model, **{"max_epochs": 1, **options})
    assert_same(report_of(monitor), measure_usage(model, iter(model.seen[-2:])))


class Witness(Callback):
    """Notes the keys when EarlyStopping could look."""

    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            metrics = trainer.callback_metrics.items()
            self.seen.append({k.partition("/")[2]: float(v) for k, v in metrics if "/" in k})


def test_every_key_is_there_in_the_same_epoch(tmp_path: Path) -> None:
    monitor, witness = WeightUsageMonitor(), Witness()
    fit = fitted(monitor, tmp_path, callbacks=(witness,))
    assert len(witness.seen) == 3
    for seen, entry in zip(witness.seen, monitor.history, strict=True):
        assert seen == {name: entry[name] for name in KEYS}
    assert set(monitor.logged_keys) <= set(fit.callback_metrics)


def test_it_can_stop_a_fit(tmp_path: Path) -> None:
    key, monitor = "weightwatch/effective_weights_share", WeightUsageMonitor()
    fitted(monitor, tmp_path, callbacks=(EarlyStopping(key, stopping_threshold=0.0, mode="max"),))
    assert len(monitor.history) == 1


def test_patience_on_dead_channels_is_refused(tmp_path: Path) -> None:
    stopper = EarlyStopping("weightwatch/dead_channels", patience=3)
    with pytest.raises(ValueError, match="would stop a healthy run"):
        fitted(WeightUsageMonitor(), tmp_path, callbacks=(stopper,))


def test_the_operations_are_those_of_training_and_validation(tmp_path: Path) -> None:
    monitor = WeightUsageMonitor()
    fitted(monitor, tmp_path)
    per_epoch = 3 * FORWARD * TRAIN + FORWARD * VALIDATION
    assert [entry["run_flops"] for entry in monitor.history] == [
        per_epoch,
        2 * per_epoch,
        3 * per_epoch,
    ]
    assert monitor.flop_report is not None
    assert monitor.flop_report.training_step == 3 * FORWARD * BATCH


def test_a_fit_that_stops_early_says_what_that_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    class Stops(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            trainer.should_stop = trainer.current_epoch == 1

    with caplog.at_level("INFO"):
        fitted(WeightUsageMonitor(), tmp_path, callbacks=(Stops(),), max_epochs=8)
    (said,) = [text for text in caplog.messages if text.startswith("WeightUsageMonitor: ")]
    assert "75 %" in said


def test_a_resumed_fit_counts_on(tmp_path: Path) -> None:
    model, first = Perceptron(), WeightUsageMonitor()
    fit = fitted(first, tmp_path, model)
    fit.save_checkpoint(tmp_path / "a.ckpt")
    monitor = WeightUsageMonitor()
    again = trainer([monitor], tmp_path, max_epochs=4)
    again.fit(Perceptron(), train_loader(), val_loader(), ckpt_path=tmp_path / "a.ckpt")
    assert len(monitor.history) == 4
    assert monitor.history[-1]["run_flops"] == pytest.approx(first.history[-1]["run_flops"] * 4 / 3)


class Encoder(Perceptron):
    """In evaluation its layers are fused, unless they have hooks."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(FEATURES, 2, 16, batch_first=True)
        self.net = nn.Sequential(
            nn.Unflatten(1, (1, FEATURES)),
            nn.TransformerEncoder(layer, 2),
            nn.Flatten(),
            nn.Linear(FEATURES, CLASSES),
        )
        self.losses: list[float] = []

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.losses.append(float(self.loss(batch)))


def test_fused_encoders_validate_to_the_same_bits(tmp_path: Path) -> None:
    runs = []
    both: tuple[list[Callback], ...] = ([], [WeightUsageMonitor()])
    for callbacks in both:
        seed_everything(3, verbose=False)
        model = Encoder()
        trainer(callbacks, tmp_path).fit(model, train_loader(), val_loader())
        runs.append((bits(model), model.losses))
    assert runs[0] == runs[1]


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("step", ["training_step", "validation_step"])
def test_no_hook_stays_where_a_step_raises(step: str, tmp_path: Path) -> None:
    def breaks(self: Perceptron, batch: list[Tensor], batch_idx: int) -> Tensor:
        if self.trainer.current_epoch == 1:
            raise KeyError("broken")
        return self.loss(batch)

    model = type("Breaks", (Perceptron,), {step: breaks})()
    options: dict[str, Any] = {"limit_val_batches": 0} if step == "training_step" else {}
    with pytest.raises(KeyError, match="broken"):
        fitted(WeightUsageMonitor(num_batches=None), tmp_path, model, **options)
    assert hooks_of(model) == 0


def test_listening_ends_after_its_batches(tmp_path: Path) -> None:
    class Counts(Perceptron):
        def __init__(self) -> None:
            super().__init__()
            self.hooked: list[bool] = []

        def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
            self.hooked.append(hooks_of(self) > 0)

    model = Counts()
    fitted(WeightUsageMonitor(num_batches=2), tmp_path, model, max_epochs=1)
    assert model.hooked == [False, True, True, False, False], "the first is the sanity check"


def test_every_n_epochs_is_counted_as_lightning_does(tmp_path: Path) -> None:
    monitor = WeightUsageMonitor(every_n_epochs=2)
    fitted(monitor, tmp_path, max_epochs=6)
    assert [entry["epoch"] for entry in monitor.history] == [0, 1, 3, 5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_batches": 0}, "num_batches must be how many batches"),
        ({"num_batches": 2.5}, "num_batches must be how many batches"),
        ({"mode": "magnitude"}, "mode must be 'wanda' or 'wua'"),
        ({"layers": "net.0"}, "layers must be a list"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WeightUsageMonitor(**arguments)


def test_a_pattern_that_fits_no_layer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'decoder' fits nothing in this model"):
        fitted(WeightUsageMonitor(layers=["decoder"]), tmp_path)


def test_a_fit_by_the_clock_is_no_fault(tmp_path: Path) -> None:
    monitor = WeightUsageMonitor()
    fit = trainer([monitor, Timer(duration={"seconds": 60})], tmp_path, max_epochs=1)
    fit.fit(Perceptron(), loader(TRAIN, seed=1), loader(VALIDATION, seed=2))
    assert monitor.report is not None


def test_compiled_parts_get_no_hooks_and_are_named(tmp_path: Path) -> None:
    model, monitor = Perceptron(), WeightUsageMonitor()
    hooked = []
    model.net[2].register_forward_pre_hook(lambda *_: None)
    before = hooks_of(model.net)
    model.net.compile(backend="eager")

    class Looks(Callback):
        def on_validation_batch_end(self, *_: Any) -> None:
            hooked.append(hooks_of(model.net))

    fitted(monitor, tmp_path, model, callbacks=(Looks(),), max_epochs=1)
    assert set(hooked) == {before}
    reasons = {item.name: item.reason for item in report_of(monitor).skipped}
    assert reasons["net.0"] == "it is compiled, and hooks on it would be too"


def test_two_monitors_stand_side_by_side_on_fused_layers(tmp_path: Path) -> None:
    seed_everything(3, verbose=False)
    alone = Encoder()
    trainer([], tmp_path).fit(alone, train_loader(), val_loader())
    seed_everything(3, verbose=False)
    model, first = Encoder(), WeightUsageMonitor(prefix="a")
    second = WeightUsageMonitor(prefix="b", mode="wua", num_batches=2)
    trainer([first, second], tmp_path).fit(model, train_loader(), val_loader())
    assert (bits(model), model.losses) == (bits(alone), alone.losses)
    assert (report_of(first).batches, report_of(second).batches) == (4, 2)
    assert not any("forward" in vars(module) for module in model.modules())


class Reads(Perceptron):
    """Its forward reads a value, which a copy without values cannot, and counts its calls."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        assert x.mean().item() is not None
        return super().forward(x)


def test_a_model_that_cannot_be_counted_is_not_run_once_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runs = []
    both: tuple[list[Callback], ...] = ([], [WeightUsageMonitor()])
    for callbacks in both:
        model = Reads()
        with caplog.at_level("INFO"):
            fit = trainer(callbacks, tmp_path, logger=TensorBoardLogger(tmp_path))
            fit.fit(model, train_loader(), val_loader())
        runs.append(model.calls)
    assert runs[0] == runs[1]
    assert "WeightUsageMonitor does not count operations" in caplog.text
    assert "WeightUsageMonitor does not draw the network" in caplog.text
    assert "run_flops" not in both[1][0].history[-1]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "options",
    [
        {"max_steps": 4, "accumulate_grad_batches": 2, "max_epochs": -1},
        {"max_epochs": 2},
        {"max_epochs": 100, "max_time": {"milliseconds": 1}},
    ],
    ids=["steps", "epochs", "time"],
)
def test_a_fit_that_ends_as_planned_saves_nothing(
    options: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        fitted(WeightUsageMonitor(), tmp_path, **options)
    assert "of training and validation." in caplog.text
    assert "ended early" not in caplog.text


@pytest.mark.parametrize(
    "options",
    [
        {"val_check_interval": 50, "check_val_every_n_epoch": None},
        {"val_check_interval": timedelta(hours=1), "check_val_every_n_epoch": None},
    ],
    ids=["batches", "clock"],
)
def test_where_a_validation_does_not_come_the_last_batches_are_listened_to(
    options: dict[str, Any], tmp_path: Path
) -> None:
    monitor = WeightUsageMonitor(num_batches=2)
    fitted(monitor, tmp_path, **options)
    assert [entry["epoch"] for entry in monitor.history] == [0, 1, 2]
    assert report_of(monitor).batches == 2


def test_an_epoch_with_a_validation_within_it_is_measured_there(tmp_path: Path) -> None:
    monitor = WeightUsageMonitor()
    options = {"val_check_interval": 4, "check_val_every_n_epoch": None, "max_epochs": 2}
    fitted(monitor, tmp_path, **options)  # type: ignore[arg-type]
    assert len(monitor.history) == 3, "of 12 batches, after every fourth"
    assert report_of(monitor).samples == VALIDATION


def test_other_weights_than_those_of_the_validation_are_refused(tmp_path: Path) -> None:
    class WeightAveraging(Callback):
        pass

    averaging, monitor = WeightAveraging(), WeightUsageMonitor()
    with pytest.raises(ValueError, match="WeightAveraging is listed before WeightUsageMonitor"):
        trainer([averaging, monitor], tmp_path).fit(Perceptron(), train_loader(), val_loader())
    fitted(monitor, tmp_path, callbacks=(averaging,), max_epochs=1)


def test_a_layer_that_thaws_costs_more_from_then_on(tmp_path: Path) -> None:
    class Thaws(Perceptron):
        def __init__(self) -> None:
            super().__init__()
            self.net[:3].requires_grad_(False)

        def on_train_epoch_start(self) -> None:
            self.net[:3].requires_grad_(self.current_epoch > 0)

    monitor = WeightUsageMonitor()
    fitted(monitor, tmp_path, Thaws(), max_epochs=2)
    first, second = (entry["run_flops"] for entry in monitor.history)
    head = 2 * 40 * CLASSES
    assert first == (FORWARD + 2 * head) * TRAIN + FORWARD * VALIDATION
    assert second - first == 3 * FORWARD * TRAIN + FORWARD * VALIDATION


def test_a_fit_goes_on_counting_on_another_number_of_processes() -> None:
    first, second = RunCost(), RunCost()
    first.processes, second.processes = 2, 1
    first.restore({"flops": 12.0, "batches": 3})
    second.restore(first.state())
    assert (first.state(), second.state()) == ({"flops": 12.0, "batches": 3},) * 2


def test_a_copy_that_is_made_after_a_validation_has_no_hooks(tmp_path: Path) -> None:
    class Copies(Callback):
        def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            assert isinstance(pl_module, Perceptron)
            copies.append(copy.deepcopy(pl_module.net))

    copies: list[nn.Module] = []
    monitor = WeightUsageMonitor()
    trainer([Copies(), monitor], tmp_path).fit(Perceptron(), train_loader(), val_loader())
    assert [hooks_of(made) for made in copies] == [0] * len(copies)
    assert report_of(monitor).batches == 4


def test_of_many_modules_there_are_no_charts_and_histograms_of_each(tmp_path: Path) -> None:
    model = Perceptron()
    model.net = nn.Sequential(
        nn.Linear(FEATURES, CLASSES), *(nn.Linear(CLASSES, CLASSES) for _ in range(70))
    )
    logger = TensorBoardLogger(tmp_path)
    fitted(WeightUsageMonitor(), tmp_path, model, logger=logger, max_epochs=1)
    events = EventAccumulator(logger.log_dir)
    tags = [
        tag for found in events.Reload().Tags().values() if isinstance(found, list) for tag in found
    ]
    assert "weightwatch/effective_weights_share" in tags
    assert not [tag for tag in tags if tag.startswith("weightwatch-")]


def test_functions_that_are_compiled_as_a_whole_stay_so(tmp_path: Path) -> None:
    class Compiled(Perceptron):
        def __init__(self) -> None:
            super().__init__()
            self.run = [torch.compile(self.net.forward, backend="eager", fullgraph=True)]

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.run[0](x)
            return logits

    monitor = WeightUsageMonitor()
    fitted(monitor, tmp_path, Compiled(), limit_val_batches=0, max_epochs=1)
    assert len(monitor.history) == 1


@pytest.mark.parametrize("step", ["training_step", "validation_step"])
def test_a_model_may_be_copied_in_any_step(step: str, tmp_path: Path) -> None:
    class Copies(Perceptron):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor | None:
            self.keep(step == "training_step")
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
            self.keep(step == "validation_step")
            super().validation_step(batch, batch_idx)

        def keep(self, now: bool) -> None:
            if now:
                kept.append(copy.deepcopy(self.net))
                torch.save(self.net, tmp_path / "net.pt")

    kept: list[nn.Module] = []
    options: dict[str, Any] = {"limit_val_batches": 0} if step == "training_step" else {}
    runs = []
    both: tuple[list[Callback], ...] = ([], [WeightUsageMonitor(num_batches=None)])
    for callbacks in both:
        seed_everything(3, verbose=False)
        model = Copies()
        trainer(callbacks, tmp_path, **options).fit(model, train_loader(), val_loader())
        runs.append(bits(model))
    assert runs[0] == runs[1]
    assert all(made(torch.zeros(1, FEATURES)).shape == (1, CLASSES) for made in kept)
