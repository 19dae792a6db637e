"""Wrong arguments and wrong combinations are refused before training, with what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

import lightning_weightwatch
from lightning_weightwatch import (
    OverfittingMonitor,
    PruningTrial,
    QuantizationTrial,
    SpectralMonitor,
    WeightHistogram,
    weightwatch,
)
from tests.callbacks.fits import Perceptron, train_loader, trainer, val_loader


@pytest.mark.parametrize(
    ("callback", "arguments", "message"),
    [
        (SpectralMonitor, {"every_n_epochs": 0}, "every_n_epochs must be 1 or more, got 0"),
        (WeightHistogram, {"every_n_epochs": 1.5}, "every_n_epochs must be an integer, got 1.5"),
        (WeightHistogram, {"every_n_epochs": True}, "must be an integer, got True"),
        (SpectralMonitor, {"layers": "net.0"}, r"write layers=\['net.0'\]"),
        (SpectralMonitor, {"layers": []}, "leave it out for all"),
        (WeightHistogram, {"parameters": [3]}, r"got \[3\]"),
        (SpectralMonitor, {"summary_min_evals": 0}, "summary_min_evals must be 1 or more"),
        (SpectralMonitor, {"summary_min_evals": True}, "must be an integer, got True"),
        (SpectralMonitor, {"prefix": ""}, "prefix must be a name"),
        (WeightHistogram, {"prefix": "a/"}, "without a slash or blank at its ends"),
        (OverfittingMonitor, {"monitor": ""}, "monitor must be the name of a metric"),
        (OverfittingMonitor, {"mode": "maximum"}, "mode must be 'min'"),
        (QuantizationTrial, {"bits": (1,)}, "between 2 and 8, got 1. .* use PruningTrial"),
        (QuantizationTrial, {"bits": (8, 8)}, "differ from each other"),
        (QuantizationTrial, {"bits": (8.0,)}, "between 2 and 8, got 8.0"),
        (QuantizationTrial, {"granularity": "layer"}, "granularity must be .*got 'layer'"),
        (QuantizationTrial, {"weights": "first"}, "weights must be 'last' .* got 'first'"),
        (QuantizationTrial, {"limit_batches": 0}, "limit_batches must be a number .* got 0"),
        (QuantizationTrial, {"limit_batches": 1.5}, "limit_batches must be .* got 1.5"),
        (QuantizationTrial, {"max_seconds": -1}, "max_seconds must be a positive number"),
        (PruningTrial, {"max_evaluations": 0}, "max_evaluations must be 1 or more"),
        (PruningTrial, {"per_layer": -1}, "per_layer must be the number of weights"),
        (PruningTrial, {"tolerance": "none"}, "tolerance must be a share"),
        (PruningTrial, {"amounts": iter([0.5])}, r"a list such as"),
        (SpectralMonitor, {"layers": 5}, "a list of names or patterns, got 5"),
        (PruningTrial, {"amounts": (50,)}, "between 0 and 1, both excluded, got 50"),
        (PruningTrial, {"amounts": ()}, "a list such as"),
        (PruningTrial, {"amounts": ("half",)}, "got 'half'"),
    ],
)
def test_wrong_arguments_raise_at_construction(
    callback: Any, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        callback(**arguments)


def fit(callbacks: list[Any], root: Path) -> None:
    trainer(callbacks, root, max_epochs=1).fit(Perceptron(), train_loader(), val_loader())


@pytest.mark.parametrize(
    "pair",
    [
        lambda: [WeightHistogram(), WeightHistogram()],
        lambda: [SpectralMonitor(layers=["net.0"]), SpectralMonitor(layers=["net.2"])],
        lambda: [QuantizationTrial(bits=(8, 4)), QuantizationTrial(bits=(4,))],
        lambda: [*weightwatch(), OverfittingMonitor(monitor="val_loss")],
    ],
)
def test_two_callbacks_that_publish_one_key_are_refused(pair: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"would both publish weightwatch/.*prefix"):
        fit(pair(), tmp_path)


def test_instances_with_prefixes_of_their_own_stand_side_by_side(tmp_path: Path) -> None:
    first = SpectralMonitor(layers=["net.2"], prefix="second")
    everything = SpectralMonitor(summary_min_evals=8)
    run = trainer([first, everything], tmp_path, max_epochs=1)
    run.fit(Perceptron(), train_loader(), val_loader())
    assert first.report is not None
    assert everything.report is not None
    assert len(first.report.records()) == 1
    assert len(everything.report.records()) == 2
    assert "second/alpha_min" in run.callback_metrics
    assert "weightwatch/alpha_min" in run.callback_metrics


@pytest.mark.parametrize("watcher", [EarlyStopping, ModelCheckpoint])
def test_a_typo_in_the_monitor_of_another_lists_the_keys(watcher: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"alpha_minimum.*There are: .*weightwatch/alpha_min,"):
        fit([watcher(monitor="weightwatch/alpha_minimum"), SpectralMonitor()], tmp_path)


def test_a_key_of_a_trial_cannot_be_monitored_while_training(tmp_path: Path) -> None:
    stopper = EarlyStopping(monitor="weightwatch/quantization_int8_delta")
    with pytest.raises(ValueError, match="known only after training"):
        fit([stopper, QuantizationTrial(), SpectralMonitor()], tmp_path)


@pytest.mark.parametrize(
    ("key", "callback"),
    [
        ("alpha_distance", SpectralMonitor),
        ("overtrained_share", SpectralMonitor),
        ("overfit_alarm", OverfittingMonitor),
        ("val_loss_rise", OverfittingMonitor),
        ("nonfinite", WeightHistogram),
    ],
)
def test_patience_on_an_alarm_is_refused_with_the_right_way_to_write_it(
    key: str, callback: Any, tmp_path: Path
) -> None:
    monitor = f"weightwatch/{key}"
    with pytest.raises(ValueError, match="would stop a healthy run") as refusal:
        fit([EarlyStopping(monitor=monitor, patience=3), callback()], tmp_path)
    advice = str(refusal.value).split("Write ")[1]
    written = advice.replace("<the value to stop at>", "1e9")
    fit([eval(written, {"EarlyStopping": EarlyStopping}), callback()], tmp_path)


def test_a_threshold_that_a_resting_alarm_would_reach_is_refused(tmp_path: Path) -> None:
    stopper = EarlyStopping(
        monitor="weightwatch/overfit_alarm", stopping_threshold=0.5, patience=10**6
    )
    with pytest.raises(ValueError, match="would stop at once"):
        fit([stopper, OverfittingMonitor()], tmp_path)


def test_patience_on_a_key_that_is_no_alarm_is_the_users_choice(tmp_path: Path) -> None:
    fit([EarlyStopping(monitor="weightwatch/alpha_mean", patience=2), SpectralMonitor()], tmp_path)


def test_a_pattern_that_fits_no_layer_lists_the_layers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'nett\.\*' fits nothing.*There are: net.0, net.2"):
        fit([SpectralMonitor(layers=["net.0", "nett.*"])], tmp_path)
    with pytest.raises(ValueError, match=r"'net\.9\.weight' fits nothing.*net.0.weight"):
        fit([WeightHistogram(parameters=["net.9.weight"])], tmp_path)


def test_a_monitored_key_that_no_layer_is_large_enough_for_is_refused(tmp_path: Path) -> None:
    stopper = EarlyStopping(monitor="weightwatch/alpha_min", patience=10**6)
    with pytest.raises(ValueError, match=r"no layer has summary_min_evals=32.*net.0 \(12\)"):
        fit([stopper, SpectralMonitor(layers=["net.0"])], tmp_path)


@pytest.mark.parametrize("callback", [OverfittingMonitor, QuantizationTrial])
def test_a_typo_in_our_monitor_is_a_warning_with_the_metrics_there_are(
    callback: Any, tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match=r"'val_los'.*logs?(ged)? val_loss.*[Ss]et monitor"):
        fit([callback(monitor="val_los")], tmp_path)


def test_the_default_callbacks_are_all_there_and_fit_together(tmp_path: Path) -> None:
    callbacks = weightwatch()
    assert {type(callback).__name__ for callback in callbacks} == {
        name for name in lightning_weightwatch.__all__ if name[0].isupper()
    }
    fit(callbacks, tmp_path)


def test_a_callback_of_the_users_that_monitors_an_alarm_is_left_alone(tmp_path: Path) -> None:
    class Theirs(Callback):
        monitor, patience = "weightwatch/nonfinite", 10**6

    fit([Theirs(), WeightHistogram()], tmp_path)
