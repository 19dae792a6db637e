"""What `analyze` and `describe` read, measure, print and write."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from safetensors.torch import save_file
from torch import nn

from lightning_weightwatch.spectral.analysis import analyze, describe
from tests.cli.commands import network, printed, refused, saved

BOTH = pytest.mark.parametrize("command", ["analyze", "describe"])


class Module(LightningModule):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Linear(width, 40)


def lightning_checkpoint(path: Path) -> Module:
    module = Module(width=48)
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.strategy.connect(module)
    trainer.save_checkpoint(path)
    return module


def without_ids(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A file numbers its layers in its own way."""
    return [
        {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in row.items()
            if key != "layer_id"
        }
        for row in records
    ]


def test_the_json_holds_what_analyze_finds_in_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = saved(tmp_path), tmp_path / "out.json"
    asked = ["--mp-fit", "--randomize", "--seed", "3", "--min-evals", "9", "--convention", "plain"]
    printed(capsys, "analyze", file, *asked, "--json", str(out))
    found = json.loads(out.read_text(encoding="utf-8"))
    report = analyze(
        network(), mp_fit=True, randomize=True, seed=3, min_evals=9, convention="plain"
    )
    assert without_ids(found["layers"]) == without_ids(report.records())
    assert len(found["layers"]) == 3
    assert found["summary"] == report.summary()
    assert found["file"] == file
    assert found["settings"]["seed"] == 3
    assert found["settings"]["convention"] == "plain"
    assert {item["name"] for item in found["skipped"]} == {item.name for item in report.skipped}
    assert sorted(found) == ["file", "layers", "settings", "skipped", "summary"]


def test_every_option_reaches_the_measurement(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--no-pool", "--kinds", "conv2d", "--min-evals", "1", "--dtype", "float32"]
    out = printed(
        capsys, "analyze", saved(tmp_path), *asked, "--device", "cpu", "--layers", "2", "--json=-"
    )
    expected = analyze(
        network(), pool=False, kinds=["conv2d"], min_evals=1, dtype=torch.float32, device="cpu"
    )
    assert without_ids(json.loads(out)["layers"]) == without_ids(expected.records())
    assert len(expected.layers) == 9


def test_the_csv_is_read_back_as_the_same_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = printed(capsys, "analyze", saved(tmp_path), "--csv", "-")
    rows = list(csv.DictReader(io.StringIO(out)))
    records = analyze(saved(tmp_path)).records()
    assert [row["name"] for row in rows] == [record["name"] for record in records]
    for row, record in zip(rows, records, strict=True):
        assert float(row["alpha"]) == record["alpha"]
        assert int(row["num_evals"]) == record["num_evals"]


@pytest.mark.parametrize("form", ["safetensors", "pt", "ckpt"])
def test_each_format_is_read(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"model.{form}"
    module: nn.Module = network()
    if form == "ckpt":
        module = lightning_checkpoint(path)
        capsys.readouterr()
    elif form == "pt":
        torch.save(module.state_dict(), path)
    else:
        save_file(module.state_dict(), path)
    table = printed(capsys, "analyze", str(path))
    for layer in analyze(module).layers:
        assert f"{layer.name} " in table
        assert f"{layer.alpha:.2f} ± {layer.sigma:.2f}" in table


@BOTH
def test_a_file_that_cannot_be_read_is_told_in_one_line(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = Path(saved(tmp_path)).read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    save_file(network().state_dict(), tmp_path / "model.safetensors")
    tensors = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(tensors[: len(tensors) // 2])
    (tmp_path / "empty.ckpt").touch()
    (tmp_path / "loss.txt").write_text("epoch,loss\n0,1.5\n")
    for name in ["cut.pt", "cut.safetensors", "empty.ckpt", "loss.txt", "missing.ckpt", "."]:
        path = str(tmp_path / name)
        assert path in refused(capsys, command, path)


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def test_code_in_a_checkpoint_runs_with_trust_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marker, path = tmp_path / "marker", str(tmp_path / "evil.ckpt")
    torch.save({"state_dict": network().state_dict(), "trap": Trap(marker)}, path)
    assert "--trust" in refused(capsys, "analyze", path)
    assert not marker.exists()
    assert "48×40" in printed(capsys, "describe", path, "--trust")
    assert marker.exists()
    marker.rmdir()  # a second run of the trap would find the folder that the first one made
    assert "48×40" in printed(capsys, "analyze", path, "--trust", "--layers", "*")


def test_describe_reads_no_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with torch.device("meta"):
        torch.save(nn.Linear(100_000, 3000).state_dict(), tmp_path / "meta.pt")
    found = json.loads(printed(capsys, "describe", str(tmp_path / "meta.pt"), "--json", "-"))
    assert [row["num_params"] for row in found["layers"]] == [300_000_000]


def test_describe_lists_what_analyze_would_measure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = saved(tmp_path)
    described = json.loads(printed(capsys, "describe", file, "--json", "-"))
    assert described["layers"] == describe(file).records()
    measured = json.loads(printed(capsys, "analyze", file, "--json", "-"))
    names = [[row["name"] for row in found["layers"]] for found in (described, measured)]
    assert names[0] == names[1]


@BOTH
def test_a_pattern_that_fits_nothing_is_told_with_the_names_there_are(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(
        {f"block.{number}.weight": torch.zeros(8, 8) for number in range(20)},
        tmp_path / "blocks.pt",
    )
    told = refused(capsys, command, str(tmp_path / "blocks.pt"), "--layers", "block.1", "blok.*")
    assert "--layers blok.* fits no layer" in told
    assert "block.0, block.1," in told
    assert "12 more" in told


@BOTH
def test_a_file_without_a_layer_to_measure_says_why(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(nn.LayerNorm(8).state_dict(), tmp_path / "norm.pt")
    text = printed(capsys, command, str(tmp_path / "norm.pt"), "--csv", str(tmp_path / "a.csv"))
    assert "No layer to measure" in text
    assert "a 1-D weight has no spectrum" in text
    assert (tmp_path / "a.csv").read_text() == "name\n"


@pytest.mark.parametrize("output", ["table", "--json", "--csv"])
def test_hostile_names_do_no_harm_anywhere(
    output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    names = ["\x1b[31mred\x1b[0m", "a\nb", "[red]x[/red]", "=1+1", "\u202evil", "x" * 500, "\x9b1m"]
    path = str(tmp_path / "hostile\x1b[2J.pt")
    torch.save({f"{name}.weight": torch.eye(8) for name in names}, path)
    text = printed(capsys, "analyze", path, *([] if output == "table" else [output, "-"]))
    assert all(character.isprintable() or character == "\n" for character in text)
    assert "[red]x[/red]" in text
    assert "x" * 500 in text
    if output == "--json":
        found = json.loads(text)
        assert [row["name"] for row in found["layers"]] == names
        assert found["file"] == path
