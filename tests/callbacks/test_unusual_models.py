"""No weight that a model can have ends a fit, and what is not measured is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchmetrics
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from lightning_weightwatch import (
    OverfittingMonitor,
    PruningTrial,
    QuantizationTrial,
    SpectralMonitor,
    WeightHistogram,
    WeightUsageMonitor,
)
from tests.callbacks.fits import (
    FEATURES,
    Perceptron,
    WitnessStopper,
    bits,
    train_loader,
    trainer,
    val_loader,
)


class Menagerie(Perceptron):
    """Everything at once that has made such tools crash."""

    def __init__(self) -> None:
        super().__init__()
        self.criterion = nn.CrossEntropyLoss()
        self.weighted = nn.CrossEntropyLoss(weight=torch.ones(4))
        self.accuracy = torchmetrics.MeanMetric()
        self.plain_norm = nn.BatchNorm1d(FEATURES, affine=False)
        self.instance_norm = nn.InstanceNorm1d(3)
        self.tied = nn.Linear(40, 40, bias=False)
        self.tied.weight = self.large.weight
        self.frozen = nn.Linear(40, 40).requires_grad_(False)
        self.empty = nn.Linear(40, 1)
        self.empty.weight = nn.Parameter(torch.empty(0, 40))
        self.bf16 = nn.Linear(40, 40).bfloat16().requires_grad_(False)
        self.broken = nn.Linear(40, 40).requires_grad_(False)
        self.scaled = parametrizations.weight_norm(nn.Linear(40, 40))
        self.spectral = parametrizations.spectral_norm(nn.Linear(40, 40))
        self.pruned = nn.Linear(40, 40)
        prune.l1_unstructured(self.pruned, "weight", 0.5)  # type: ignore[no-untyped-call]
        self.convolution = nn.Conv1d(4, 8, 3)
        self.recurrent = nn.LSTM(8, 8)
        self.transposed = nn.ConvTranspose2d(4, 8, 3)
        self.bare = nn.Parameter(torch.zeros(3, 3))
        self.lazy = nn.LazyLinear(10)
        self.words = nn.EmbeddingBag(50, 40)
        self.complex = nn.Parameter(torch.zeros(3, 3, dtype=torch.complex64))
        with torch.no_grad():
            self.broken.weight[0, 0] = float("nan")
            self.broken.weight[1, 1] = float("inf")

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        loss = self.criterion(self(self.plain_norm(batch[0])), batch[1])
        self.accuracy.update(loss)
        self.log("val_loss", loss)

    def on_validation_epoch_end(self) -> None:
        self.log("val_mean", self.accuracy.compute())
        self.accuracy.reset()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.net.parameters(), lr=0.05)


@pytest.fixture
def callbacks() -> list[Any]:
    return [
        WeightHistogram(),
        SpectralMonitor(),
        OverfittingMonitor(),
        WeightUsageMonitor(),
        QuantizationTrial(bits=(8,), verbose=False),
        PruningTrial(amounts=(0.5,), verbose=False),
    ]


def test_no_fit_ends_and_every_layer_is_measured_or_named(
    callbacks: list[Any], tmp_path: Path
) -> None:
    model = Menagerie()
    stopper = WitnessStopper("weightwatch/alpha_min", truth=lambda _: 0.0)
    fit = trainer([stopper, *callbacks], tmp_path, max_epochs=2)
    fit.fit(model, train_loader(), val_loader())

    histogram, spectral, losses, usage, *trials = callbacks
    measured = {layer.name for layer in spectral.report.layers}
    reasons = {item.name: item.reason for item in spectral.report.skipped}
    gates = {f"recurrent.weight_{side}_l0.{gate}" for side in ("ih", "hh") for gate in "ifgo"}
    assert measured == gates | {
        "net.0", "net.2", "frozen", "bf16", "pruned", "words", "scaled", "spectral", "convolution",
        "transposed",
    }  # fmt: skip
    expected = {
        "criterion": "weight=None",
        "plain_norm": "weight=None",
        "tied.weight": "tied to net.2.weight",
        "empty": "empty",
        "broken": "2 of 1600 values are NaN or infinite",
        "bare": "3 eigenvalues",
        "lazy": "lazy",
        "complex": "3 eigenvalues",
        "net.4": "4 eigenvalues",
    }
    for name, reason in expected.items():
        assert reason in reasons[name], name
    assert histogram.report.total.nonfinite == 2
    assert "lazy.weight" in {item.name for item in histogram.report.skipped}
    assert len(losses.history) == 2
    assert {"net.0", "net.2", "net.4"} <= {layer.name for layer in usage.report.layers}
    unused = {item.name: item.reason for item in usage.report.skipped}
    assert {"lazy", "frozen", "bf16"} <= set(unused), "nothing is given to them"
    for trial in trials:
        assert [row.error for row in trial.report.rows] == ["", ""]
        skipped = {item.name: item.reason for item in trial.report.skipped}
        assert {"broken.weight", "lazy.weight", "empty.weight", "tied.weight"} <= set(skipped)
    assert len(stopper.seen) == 2


def test_odd_weights_keep_their_bits_through_the_trials(
    callbacks: list[Any], tmp_path: Path
) -> None:
    torch.manual_seed(5)
    model = Menagerie()
    del model.lazy  # its values are not there to compare
    odd = ["tied", "frozen", "bf16", "broken", "scaled", "spectral", "pruned", "words"]
    before = {name: bits(model.get_submodule(name)) for name in odd if name != "tied"}
    trainer(callbacks, tmp_path, max_epochs=1).fit(model, train_loader(), val_loader())
    assert {name: bits(model.get_submodule(name)) for name in before} == before
    assert model.tied.weight is model.large.weight


def test_spectral_norm_is_not_iterated_by_looking_at_it(tmp_path: Path) -> None:
    model = Menagerie()
    before = bits(model.spectral)
    trainer([SpectralMonitor(), WeightHistogram()], tmp_path, max_epochs=1).fit(
        model, train_loader(), val_loader()
    )
    assert bits(model.spectral) == before


def test_weights_that_turn_nan_repeat_the_last_value(tmp_path: Path) -> None:
    class Diverging(Perceptron):
        def on_train_epoch_start(self) -> None:
            with torch.no_grad():
                self.large.weight.fill_(float("nan"))

    spectral, histogram = SpectralMonitor(), WeightHistogram()
    stopper = WitnessStopper("weightwatch/alpha_min", truth=lambda _: 0.0)
    fit = trainer([stopper, spectral, histogram], tmp_path, max_epochs=2)
    model = Diverging()
    fit.fit(model, train_loader(), val_loader())
    assert fit.current_epoch == 2
    values = [value for value, _ in stopper.seen]
    assert len(set(values)) == 1, "the value from before training"
    assert float(fit.callback_metrics["weightwatch/nonfinite"]) > 0
    assert spectral.report is not None
    assert "net.2" in {item.name for item in spectral.report.skipped}


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed", "64-true"])
def test_precisions(precision: Any, callbacks: list[Any], tmp_path: Path) -> None:
    class Cast(Perceptron):
        def loss(self, batch: list[Tensor]) -> Tensor:
            return nn.functional.cross_entropy(self(batch[0].to(self.dtype)).float(), batch[1])

    fit = trainer(callbacks, tmp_path, max_epochs=1, precision=precision)
    fit.fit(Cast(), train_loader(), val_loader())
    assert float(fit.callback_metrics["weightwatch/weight_norm"]) > 0
    assert callbacks[3].report.layers[0].effective_weights > 1
    assert callbacks[4].report.rows[1].error == ""


def test_a_compiled_module_has_the_names_of_the_plain_one(tmp_path: Path) -> None:
    model = Perceptron()
    model.net = torch.compile(model.net, backend="eager")  # type: ignore[assignment]
    spectral = SpectralMonitor(layers=["net.2"])
    trainer([spectral], tmp_path, max_epochs=1).fit(model, train_loader(), val_loader())
    assert spectral.report is not None
    assert [row["name"] for row in spectral.report.records()] == ["net.2"]
