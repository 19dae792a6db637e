"""A convolutional network that reads digits: what fewer bits and fewer weights really cost it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from lightning_weightwatch import PruningTrial, QuantizationTrial
from lightning_weightwatch.trials.report import TrialReport

datasets = pytest.importorskip("sklearn.datasets")

TRAINED_ON = 1200
HALF_A_POINT = 0.005


class DigitsCNN(LightningModule):
    """Two convolutions with batch normalisation, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * 4 * 4, 10),
        )
        self.accuracy = MulticlassAccuracy(10, average="micro")

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        logits = self.net(batch[0])
        self.accuracy(logits, batch[1])
        self.log("val_acc", self.accuracy)
        self.log("val_loss", nn.functional.cross_entropy(logits, batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


@dataclass(frozen=True)
class Fit:
    """What a training left."""

    model: DigitsCNN
    held_out: TensorDataset
    quantized: TrialReport
    pruned: TrialReport


def digits(seed: int) -> tuple[TensorDataset, TensorDataset]:
    """Images to train on and those held out, [n, 1, 8, 8] from 0 to 1, with their labels."""
    pixels, numbers = datasets.load_digits(return_X_y=True)
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(seed))
    images = torch.from_numpy(pixels).float().view(-1, 1, 8, 8)[order] / 16
    labels = torch.from_numpy(numbers)[order]
    parts = slice(0, TRAINED_ON), slice(TRAINED_ON, None)
    train, held_out = (TensorDataset(images[part], labels[part]) for part in parts)
    return train, held_out


def trained(root: Path, seed: int = 0) -> Fit:
    """Eight epochs, then the trials."""
    torch.manual_seed(seed)
    train, held_out = digits(seed)
    model = DigitsCNN()
    quantization = QuantizationTrial(
        bits=(8, 4, 2),
        granularity=("channel", "tensor"),
        clip=("absmax", "mse"),
        monitor="val_acc",
        mode="max",
        verbose=False,
    )
    pruning = PruningTrial(
        amounts=(0.2, 0.5, 0.9),
        method=("magnitude", "wanda"),
        monitor="val_acc",
        mode="max",
        verbose=False,
    )
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=8,
        num_sanity_val_steps=0,
        default_root_dir=root,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[quantization, pruning],
    )
    batches = DataLoader(train, batch_size=32, shuffle=True)
    trainer.fit(model, batches, DataLoader(held_out, batch_size=64))
    assert quantization.report is not None
    assert pruning.report is not None
    return Fit(model, held_out, quantization.report, pruning.report)


@pytest.fixture(scope="module")
def fit(tmp_path_factory: pytest.TempPathFactory) -> Fit:
    return trained(tmp_path_factory.mktemp("digits"))


def evaluated(fit: Fit, compress: Callable[[list[Any]], None]) -> dict[str, float]:
    """A plain loop of our own over a compressed copy of the network."""
    net = copy.deepcopy(fit.model.net).eval()
    compress([part for part in net if isinstance(part, nn.Conv2d | nn.Linear)])
    images, labels = fit.held_out.tensors
    with torch.no_grad():
        logits = net(images)
    return {
        "val_acc": float((logits.argmax(1) == labels).double().mean()),
        "val_loss": float(nn.functional.cross_entropy(logits, labels)),
    }


def fake_quantize(layers: list[Any], bits: int, granularity: str) -> None:
    """By torch's own operators, with scales that reach the largest value."""
    top = 2 ** (bits - 1) - 1
    for layer in layers:
        weight = layer.weight.detach()
        if granularity == "channel":
            scale = weight.abs().flatten(1).amax(1) / top
            zeros = torch.zeros(len(scale), dtype=torch.int32)
            found = torch.fake_quantize_per_channel_affine(weight, scale, zeros, 0, -top, top)
        else:
            scale = float(weight.abs().amax() / top)
            found = torch.fake_quantize_per_tensor_affine(weight, scale, 0, -top, top)
        layer.weight.data = found


def remove(layers: list[Any], amount: float) -> None:
    """The least of all weights together, by torch.nn.utils.prune."""
    places = [(layer, "weight") for layer in layers]
    prune.global_unstructured(places, pruning_method=prune.L1Unstructured, amount=amount)


def by_name(report: TrialReport) -> dict[str, dict[str, float]]:
    assert [row.error for row in report.rows] == [""] * len(report.rows)
    return {row.name: dict(row.metrics) for row in report.rows}


def losses(report: TrialReport) -> dict[str, float]:
    """Accuracy that each variant loses, 0.01 for a point."""
    rows = by_name(report)
    return {name: rows["baseline"]["val_acc"] - row["val_acc"] for name, row in rows.items()}


def test_the_network_reads_digits(fit: Fit) -> None:
    assert fit.quantized.monitor == "val_acc"
    assert fit.quantized.baseline == fit.pruned.baseline > 0.97


def test_eight_bits_cost_less_than_half_a_point(fit: Fit) -> None:
    lost = losses(fit.quantized)
    names = [name for name in lost if name.startswith("int8")]
    assert names == ["int8_absmax", "int8", "int8_tensor_absmax", "int8_tensor"]
    assert all(abs(lost[name]) < HALF_A_POINT for name in names), lost


def test_two_bits_are_seen(fit: Fit) -> None:
    lost = losses(fit.quantized)
    assert min(lost["int2_absmax"], lost["int2_tensor_absmax"]) > 0.1, lost
    assert min(lost["int2"], lost["int2_tensor"]) > HALF_A_POINT, lost


def test_scales_of_least_error_save_two_bits(fit: Fit) -> None:
    """Ten points at least, to those that reach the largest value."""
    lost = losses(fit.quantized)
    assert lost["int2"] < lost["int2_absmax"] - 0.1, lost
    assert lost["int2_tensor"] < lost["int2_tensor_absmax"] - 0.1, lost


def test_every_number_is_that_of_an_independent_evaluation(fit: Fit) -> None:
    rows = by_name(fit.quantized)
    assert rows["baseline"] == pytest.approx(evaluated(fit, lambda _: None), rel=1e-5)
    for bits in (8, 4, 2):
        for granularity, name in (("channel", "absmax"), ("tensor", "tensor_absmax")):
            compress = partial(fake_quantize, bits=bits, granularity=granularity)
            expected = evaluated(fit, compress)
            assert rows[f"int{bits}_{name}"] == pytest.approx(expected, rel=1e-5)


def test_pruned_rows_are_those_of_torchs_own_pruning(fit: Fit) -> None:
    rows = by_name(fit.pruned)
    for amount, name in ((0.2, "pruned20"), (0.5, "pruned50"), (0.9, "pruned90")):
        expected = evaluated(fit, partial(remove, amount=amount))
        assert rows[name] == pytest.approx(expected, rel=1e-5)


def test_a_tenth_of_the_weights_is_not_enough(fit: Fit) -> None:
    lost = losses(fit.pruned)
    assert abs(lost["pruned20"]) < HALF_A_POINT
    assert abs(lost["pruned20_wanda"]) < HALF_A_POINT
    assert lost["pruned90"] > 0.1
    assert lost["pruned90_wanda"] > 0.1


@pytest.mark.parametrize("which", ["quantized", "pruned"])
def test_the_best_is_the_smallest_that_does_no_harm(which: str, fit: Fit) -> None:
    report: TrialReport = getattr(fit, which)
    lost = losses(report)
    best = report.best
    assert best is not None
    assert lost[best.name] <= 0.01 * report.baseline
    smaller = [row.name for row in report.rows if row.packed_bytes < best.packed_bytes]
    assert all(lost[name] > 0.01 * report.baseline for name in smaller)
    assert best.packed_bytes < (0.2 if which == "quantized" else 0.95) * report.disk_bytes
