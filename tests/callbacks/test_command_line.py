"""A YAML file with our callbacks works under LightningCLI."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.demos.boring_classes import BoringDataModule

from tests.callbacks.fits import Perceptron, train_loader, val_loader

CONFIG = """
seed_everything: 0
trainer:
  accelerator: cpu
  max_epochs: 1
  logger: false
  enable_progress_bar: false
  enable_model_summary: false
  default_root_dir: ROOT
  callbacks:
    - class_path: lightning_weightwatch.WeightHistogram
      init_args: {parameters: ["*.weight"], every_n_epochs: 2}
    - class_path: lightning_weightwatch.SpectralMonitor
      init_args: {layers: ["net.2"], at_start: true}
    - class_path: lightning_weightwatch.OverfittingMonitor
      init_args: {monitor: val_loss, mode: min}
    - class_path: lightning_weightwatch.QuantizationTrial
      init_args: {bits: [8, 4], granularity: [tensor, channel], limit_batches: 2, verbose: false}
    - class_path: lightning_weightwatch.PruningTrial
      init_args: {amounts: [0.5, "2:4"], method: [magnitude, wanda], limit_batches: 0.5}
    - class_path: lightning.pytorch.callbacks.EarlyStopping
      init_args: {monitor: weightwatch/alpha_min, stopping_threshold: 0.1, patience: 1000000}
"""


@pytest.fixture(autouse=True)
def _no_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["fit.py"])


class Data(BoringDataModule):
    def train_dataloader(self):  # type: ignore[no-untyped-def] # noqa: ANN201
        return train_loader()

    def val_dataloader(self):  # type: ignore[no-untyped-def] # noqa: ANN201
        return val_loader()


def run(config: str, root: Path) -> LightningCLI:
    path = root / "config.yaml"
    path.write_text(config.replace("ROOT", str(root)))
    return LightningCLI(
        Perceptron, Data, args=["fit", "--config", str(path)], save_config_callback=None
    )


def test_a_yaml_file_configures_every_callback(tmp_path: Path) -> None:
    trainer = run(CONFIG, tmp_path).trainer
    histogram, spectral, losses, bits, amounts = trainer.callbacks[:5]  # type: ignore[attr-defined]
    assert histogram.parameters == ("*.weight",)
    assert spectral.report.layers[0].name == "net.2"
    assert len(losses.history) == 1
    names = ["baseline", "int8_tensor", "int8", "int4_tensor", "int4"]
    assert [row.name for row in bits.report.rows] == names
    names = ["baseline", "pruned50", "pruned50_wanda", "pruned2of4", "pruned2of4_wanda"]
    assert [row.name for row in amounts.report.rows] == names
    assert (bits.limit_batches, amounts.limit_batches) == (2, 0.5)
    assert "weightwatch/alpha_min" in trainer.callback_metrics


def test_the_printed_configuration_can_be_read_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.replace("ROOT", str(tmp_path)))
    with pytest.raises(SystemExit, match="0"):
        LightningCLI(Perceptron, Data, args=["fit", "--config", str(path), "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    first = printed["trainer"]["callbacks"][0]
    assert first["class_path"] == "lightning_weightwatch.WeightHistogram"
    assert first["init_args"]["every_n_epochs"] == 2


def test_a_wrong_type_in_the_file_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(CONFIG.replace("every_n_epochs: 2", "every_n_epochs: often"), tmp_path)
    assert "every_n_epochs" in capsys.readouterr().err
