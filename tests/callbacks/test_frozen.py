"""A frozen layer is measured once in a fit, and a trained one after every epoch."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_weightwatch import SpectralMonitor
from lightning_weightwatch.spectral.layer import layer_spectrum
from tests.callbacks.fits import Perceptron, train_loader, trainer, val_loader


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the metrics of each layer were computed."""
    counts: Counter[str] = Counter()

    def counting(values: Any, *, name: str, **others: Any) -> Any:
        counts[name] += 1
        return layer_spectrum(values, name=name, **others)

    monkeypatch.setattr("lightning_weightwatch.spectral.measurement.layer_spectrum", counting)
    return counts


def fit(model: Perceptron, monitor: SpectralMonitor, root: Path, epochs: int = 4) -> None:
    options = {"max_epochs": epochs, "logger": False, "enable_checkpointing": False}
    trainer([monitor], root, **options).fit(model, train_loader(), val_loader())


def frozen_perceptron() -> Perceptron:
    model = Perceptron()
    model.large.weight.requires_grad_(False)
    return model


def test_a_frozen_layer_is_measured_once(measured: Counter[str], tmp_path: Path) -> None:
    monitor = SpectralMonitor()
    fit(frozen_perceptron(), monitor, tmp_path)
    assert measured["net.2"] == 1
    assert measured["net.0"] == 4


def test_its_row_is_that_of_a_new_measurement(measured: Counter[str], tmp_path: Path) -> None:
    model, monitor = frozen_perceptron(), SpectralMonitor()
    fit(model, monitor, tmp_path)
    fresh = SpectralMonitor()
    fit(model, fresh, tmp_path, epochs=1)
    assert monitor.report is not None
    assert fresh.report is not None
    old, new = ({row["name"]: row for row in r.records()} for r in (monitor.report, fresh.report))
    assert old["net.2"] == new["net.2"]
    assert measured["net.2"] == 2


def test_a_layer_that_thaws_is_measured_again(measured: Counter[str], tmp_path: Path) -> None:
    class Thawing(Perceptron):
        def on_train_epoch_start(self) -> None:
            self.large.weight.requires_grad_(self.current_epoch >= 2)

    fit(Thawing(), SpectralMonitor(), tmp_path)
    assert measured["net.2"] == 3, "once while frozen, then after the epochs 2 and 3"


def test_writing_around_pytorch_is_seen(measured: Counter[str], tmp_path: Path) -> None:
    class Written(Perceptron):
        def on_train_epoch_end(self) -> None:
            self.large.weight.data.view(-1)[0] += 1.0

        def on_train_epoch_start(self) -> None:
            self.large.weight.requires_grad_(False)

    monitor = SpectralMonitor()
    fit(Written(), monitor, tmp_path)
    norms = [entry["log_norm_mean"] for entry in monitor.history]
    assert len(set(norms)) == 4


def test_the_next_fit_of_a_callback_starts_anew(measured: Counter[str], tmp_path: Path) -> None:
    model, monitor = frozen_perceptron(), SpectralMonitor()
    fit(model, monitor, tmp_path, epochs=2)
    with torch.no_grad():
        model.large.weight.mul_(2.0)
    fit(model, monitor, tmp_path, epochs=2)
    assert measured["net.2"] == 2
