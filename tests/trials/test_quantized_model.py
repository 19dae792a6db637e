"""quantize leaves the model alone and returns a copy that says what became of it."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric

from lightning_weightwatch.trials.quantized_model import quantize
from lightning_weightwatch.trials.snapshot import digest


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ConvTranspose2d(8, 4, 2), nn.Linear(4, 5)
    )


def test_the_model_is_only_read_and_the_copy_holds_few_values() -> None:
    model = network()
    before = digest(model)
    found = quantize(model, bits=3)
    assert digest(model) == before
    assert type(found.model) is nn.Sequential
    for at, axis in ((0, 0), (2, 1), (3, 0)):
        weight = found.model.get_parameter(f"{at}.weight").detach()
        assert all(len(set(channel.flatten().tolist())) <= 7 for channel in weight.unbind(axis))
        assert not torch.equal(weight, model.get_parameter(f"{at}.weight"))
        assert torch.equal(
            found.model.get_parameter(f"{at}.bias"), model.get_parameter(f"{at}.bias")
        )
    assert torch.equal(found.model.get_parameter("1.weight"), model.get_parameter("1.weight"))


def test_its_sizes_are_those_of_the_whole_model() -> None:
    found = quantize(network(), bits=4, granularity="tensor")
    values = {"0.weight": 216, "2.weight": 128, "3.weight": 20}
    biases, norm = 8 + 4 + 5, 4 * 8 * 4 + 8  # with its counter of batches, an int64
    assert {layer.name: layer.size for layer in found.layers} == values
    assert found.bytes == 4 * (sum(values.values()) + biases) + norm
    assert found.packed_bytes == 108 + 64 + 10 + 3 * 4 + 4 * biases + norm
    assert found.summary()["size_ratio"] == found.packed_bytes / found.bytes


def test_its_ratio_is_that_of_all_values_together() -> None:
    model = network()
    found = quantize(model, bits=5)
    pairs = [
        (
            model.get_parameter(f"{at}.weight").detach().double(),
            found.model.get_parameter(f"{at}.weight").detach().double(),
        )
        for at in (0, 2, 3)
    ]
    signal = sum(float(old.square().sum()) for old, _ in pairs)
    noise = sum(float((old - new).square().sum()) for old, new in pairs)
    summary = found.summary()
    assert summary["sqnr"] == pytest.approx(10 * math.log10(signal / noise))
    assert summary["lowest_sqnr"] == min(layer.sqnr for layer in found.layers)
    assert summary["packed_bytes"] == found.packed_bytes


def test_histograms_before_and_after_have_common_edges_and_all_values() -> None:
    model = network()
    found = quantize(model, bits=2)
    assert list(found.histograms) == ["0.weight", "2.weight", "3.weight"]
    for at, histograms in zip((0, 2, 3), found.histograms.values(), strict=True):
        edges = np.array(histograms.before.edges)
        assert histograms.after.edges == histograms.before.edges
        for counted, weight in (
            (histograms.before, model.get_parameter(f"{at}.weight")),
            (histograms.after, found.model.get_parameter(f"{at}.weight")),
        ):
            values = weight.detach().double().numpy()
            assert counted.counts == tuple(np.histogram(values, edges)[0].tolist())


def test_a_row_has_its_range_before_and_after() -> None:
    layer = nn.Linear(4, 1, bias=False)
    layer.weight.data = torch.tensor([[7.0, -3.2, 0.4, 1.1]])
    (row,) = quantize(layer, bits=4, clip="absmax").records()
    assert row["name"] == "weight"
    assert [row["low_before"], row["high_before"]] == pytest.approx([-3.2, 7.0])
    assert [row["low_after"], row["high_after"]] == [-3.0, 7.0]
    assert row["packed_bytes"] == 2 + 4


def test_settings_are_those_of_the_quantization() -> None:
    layer = nn.Linear(64, 8)
    plain = quantize(layer, 4, "group", "percentile", "asymmetric", group_size=16, percentile=95.0)
    assert plain.layers[0].packed_bytes == 256 + 4 * 32 + 16
    assert plain.layers[0].clipped > 0
    full = quantize(layer, 4, clip="absmax", range="full").layers[0]
    assert full.noise < quantize(layer, 4, clip="absmax").layers[0].noise


def test_only_the_layers_asked_for_are_quantized() -> None:
    model = network()
    found = quantize(model, layers=["0.*", "3.weight"])
    assert [layer.name for layer in found.layers] == ["0.weight", "3.weight"]
    assert torch.equal(found.model.get_parameter("2.weight"), model.get_parameter("2.weight"))
    with pytest.raises(ValueError, match=r"\['encoder\*'\] fits no weight.*0.weight, 2.weight"):
        quantize(model, layers=["encoder*"])
    with pytest.raises(ValueError, match=r"must be a list.*write layers=\['0.weight'\]"):
        quantize(model, layers="0.weight")


def test_frozen_weights_are_quantized_and_tied_ones_stay_tied() -> None:
    embedding, head = nn.Embedding(6, 4), nn.Linear(4, 6, bias=False)
    head.weight = embedding.weight
    model = nn.Sequential(embedding, nn.Linear(4, 4), head)
    model.get_parameter("1.weight").requires_grad_(False)
    found = quantize(model, bits=4)
    assert [layer.name for layer in found.layers] == ["0.weight", "1.weight"]
    assert found.model.get_submodule("2").weight is found.model.get_parameter("0.weight")
    assert not found.model.get_parameter("1.weight").requires_grad
    assert [(each.name, each.reason) for each in found.skipped] == [
        ("2.weight", "tied to 0.weight")
    ]


def test_a_model_without_matrices_is_copied_as_it_is() -> None:
    found = quantize(nn.BatchNorm1d(3))
    assert found.layers == ()
    assert found.packed_bytes == found.bytes
    assert "sqnr" not in found.summary()
    assert found.records() == []


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(TypeError, match=r"needs a torch.nn.Module, got dict"):
        quantize({})  # type: ignore[arg-type]


def test_settings_are_checked_before_anything_else() -> None:
    with pytest.raises(ValueError, match="bits must be a whole number between 2 and 8, got 16"):
        quantize(nn.Linear(2, 2), bits=16)


def test_a_model_that_cannot_be_copied_is_refused_with_what_to_do() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    prune.l1_unstructured(model[0], "weight", amount=0.5)  # type: ignore[no-untyped-call]
    model(torch.ones(1, 4))  # its weight is now computed from a parameter
    with pytest.raises(ValueError, match=r"Sequential cannot be copied.*prune\.remove"):
        quantize(model)
    prune.remove(model[0], "weight")  # type: ignore[no-untyped-call]
    assert quantize(model).layers[0].live <= 8


class Logged(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.error = MeanMetric()

    def training_step(self, batch: Any, _: int) -> Tensor:
        loss: Tensor = self.layer(batch[0]).square().mean()
        return loss

    def validation_step(self, batch: Any, _: int) -> None:
        self.error(self.layer(batch[0]).square().mean())
        self.log("val_error", self.error)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Copying(Callback):
    """Quantizes while the module knows its metrics by their ids."""

    copied: nn.Module

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        known = pl_module._metric_attributes
        assert known
        self.copied = quantize(pl_module).model
        assert pl_module._metric_attributes is known


def test_a_copy_of_a_lightning_module_made_during_the_fit_logs_its_own_metrics(
    tmp_path: Path,
) -> None:
    data = DataLoader(TensorDataset(torch.ones(8, 3)), batch_size=4)
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "default_root_dir": tmp_path,
    }
    copying = Copying()
    fit = Trainer(max_epochs=1, num_sanity_val_steps=0, callbacks=[copying], **quiet)
    fit.fit(Logged(), data, data)
    copied = copying.copied
    assert isinstance(copied, Logged)
    (metrics,) = Trainer(**quiet).validate(copied, data, verbose=False)
    expected = copied.layer(torch.ones(1, 3)).square().item()
    assert metrics["val_error"] == pytest.approx(expected)
