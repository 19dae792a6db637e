"""Weights & Biases and MLflow, the real ones and offline: what is read back is what was given."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import DummyLogger
from matplotlib.figure import Figure

from lightning_weightwatch.callbacks.loggers import mlflow as to_mlflow
from lightning_weightwatch.callbacks.loggers import wandb as to_wandb
from lightning_weightwatch.callbacks.loggers.sink import Sink
from lightning_weightwatch.values.statistics import Histogram, Moments
from tests.callbacks.fits import Perceptron, train_loader, trainer, val_loader

HISTOGRAM = Histogram(edges=(-1.5, -0.5, 0.5, 1.25), counts=(3, 0, 7))
MARKDOWN = "| layer | alpha |\n|---|---|\n| net\\_0 | 2.5 |\n\n<script>alert(1)</script>"
EPOCH, STEPS = 4, (17, 5)  # the second is behind the first, as after a resumed run
HOSTILE = [
    "weightwatch-alpha/000_../../../etc",
    "weightwatch-alpha/001_/net//./x",
    "weightwatch-alpha/002_é:*?<b>\n",
    "weightwatch-alpha/003_" + "x" * 300,
    "weightwatch-alpha/004_" + "x" * 300,
    "../..",
]


def picture() -> bytes:
    """A PNG of 60 by 40 pixels."""
    figure, file = Figure(figsize=(0.6, 0.4), dpi=100), io.BytesIO()
    figure.add_subplot().plot([1, 2])
    figure.savefig(file, format="png")
    return file.getvalue()


def fill(sink: Sink) -> None:
    """One thing of every kind at each of two steps, and every hostile name."""
    for step in STEPS:
        sink.scalars({"weightwatch-alpha/007_net.0": step + 0.5, "weightwatch/x": 1}, step, {})
        sink.histogram("weightwatch-weights/007_net.0", HISTOGRAM, Moments(), step, "")
        sink.figure("weightwatch/loss_curve", picture(), step, "Both losses.")
        sink.text("weightwatch/diagnosis", MARKDOWN, step, "")
    sink.scalars({tag: float(index) for index, tag in enumerate(HOSTILE)}, 20, {})


class WandbRun:
    """A finished offline run: its rows as they would be sent, and its media."""

    def __init__(self, root: Path) -> None:
        (self.files,) = root.glob("wandb/offline-run-*/files")
        (records,) = root.glob("wandb/offline-run-*/*.wandb")
        self.rows = [row for data in _records(records.read_bytes()) if (row := _row(data))]

    def with_key(self, key: str) -> list[dict[str, Any]]:
        return [row for row in self.rows if key in row]


def _records(raw: bytes) -> Iterator[bytes]:
    """LevelDB's log format, as `wandb sync` reads it: blocks of 32 KiB with parts of records."""
    at, parts = 7, b""
    while at + 7 <= len(raw):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, size, kind = struct.unpack_from("<IHB", raw, at)
        parts += raw[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def _row(data: bytes) -> dict[str, Any]:
    wandb_internal_pb2 = pytest.importorskip("wandb.proto.wandb_internal_pb2")

    items = wandb_internal_pb2.Record.FromString(data).history.item
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module, kept inside a folder, with its service stopped afterwards."""
    module = pytest.importorskip("wandb", reason="needs `pip install wandb`")
    for name in ("DIR", "CACHE_DIR", "CONFIG_DIR", "DATA_DIR", "ARTIFACT_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield module
    module.teardown()


@pytest.fixture
def mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, with files in place of a server."""
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # the database needs more than skinny
    return pytest.importorskip("mlflow", reason="needs `pip install mlflow-skinny`")


@pytest.fixture
def wandb_run(wandb: Any, tmp_path: Path) -> WandbRun:
    logger = WandbLogger(save_dir=tmp_path)
    assert to_wandb.accepts(logger)
    assert not to_mlflow.accepts(logger)
    fill(to_wandb.WandbSink(logger, EPOCH))
    logger.experiment.finish()
    wandb.teardown()  # on a busy machine the file is complete only when its writer is gone
    return WandbRun(tmp_path)


# tensorboard 2.21's own html5lib, on its first import. Seen 2026-11.
html5lib = pytest.mark.filterwarnings("ignore:html5lib's sanitizer is deprecated")


@html5lib
def test_wandb_has_the_numbers_at_the_steps_of_lightning_with_their_epoch(
    wandb_run: WandbRun,
) -> None:
    rows = wandb_run.with_key("weightwatch-alpha/007_net.0")
    found = [(r["trainer/global_step"], r["epoch"], r["weightwatch-alpha/007_net.0"]) for r in rows]
    assert found == [(17, EPOCH, 17.5), (5, EPOCH, 5.5)]
    (hostile,) = wandb_run.with_key(HOSTILE[0])
    assert {tag: hostile[tag] for tag in HOSTILE} == {t: i for i, t in enumerate(HOSTILE)}


@html5lib
def test_wandb_has_the_counts_and_edges_of_a_histogram(wandb_run: WandbRun) -> None:
    rows = wandb_run.with_key("weightwatch-weights/007_net.0/_type")
    assert [row["trainer/global_step"] for row in rows] == list(STEPS)
    for row in rows:
        assert row["weightwatch-weights/007_net.0/_type"] == "histogram"
        assert row["weightwatch-weights/007_net.0/values"] == list(HISTOGRAM.counts)
        assert row["weightwatch-weights/007_net.0/bins"] == list(HISTOGRAM.edges)


@html5lib
def test_wandb_has_the_pixels_of_a_figure_and_its_description(wandb_run: WandbRun) -> None:
    from PIL import Image

    rows = wandb_run.with_key("weightwatch/loss_curve/path")
    assert [row["trainer/global_step"] for row in rows] == list(STEPS)
    assert rows[0]["weightwatch/loss_curve/caption"] == "Both losses."
    expected = np.asarray(Image.open(io.BytesIO(picture())))
    stored = np.asarray(Image.open(wandb_run.files / rows[0]["weightwatch/loss_curve/path"]))
    assert np.array_equal(stored, expected)


@html5lib
def test_wandb_has_a_text_as_a_page_without_its_scripts(wandb_run: WandbRun) -> None:
    rows = wandb_run.with_key("weightwatch/diagnosis/path")
    assert [row["trainer/global_step"] for row in rows] == list(STEPS)
    page = (wandb_run.files / rows[0]["weightwatch/diagnosis/path"]).read_text()
    assert "<td>net_0</td>" in page
    assert "<script" not in page


def test_a_fit_with_wandb_ends_as_one_without(wandb: Any, tmp_path: Path) -> None:
    """The sink is used from within the fit, between Lightning's own rows."""
    from lightning.pytorch import Callback

    class Writes(Callback):
        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            if not trainer.sanity_checking:
                sink = to_wandb.WandbSink(trainer.logger, trainer.current_epoch)
                sink.histogram("h", HISTOGRAM, Moments(), trainer.global_step - 1, "")

    logger = WandbLogger(save_dir=tmp_path)
    fit = trainer([Writes()], tmp_path, logger=logger, max_epochs=2)
    fit.fit(Perceptron(), train_loader(), val_loader())
    logger.experiment.finish()
    wandb.teardown()
    run = WandbRun(tmp_path)
    steps = [row["trainer/global_step"] for row in run.with_key("val_loss")]
    assert [row["trainer/global_step"] for row in run.with_key("h/_type")] == steps == [5, 11]


def artifacts(client: Any, run_id: str, folder: str | None = None) -> Iterator[str]:
    for found in client.list_artifacts(run_id, folder):
        if found.is_dir:
            yield from artifacts(client, run_id, found.path)
        else:
            yield found.path


def test_mlflow_has_numbers_figures_and_texts(mlflow: Any, tmp_path: Path) -> None:
    logger = MLFlowLogger("trial", tracking_uri=(tmp_path / "runs").as_uri())
    assert to_mlflow.accepts(logger)
    assert not to_wandb.accepts(logger)
    sink = to_mlflow.MLflowSink(logger, EPOCH)
    assert not sink.takes_histograms
    fill(sink)
    logger.finalize("success")

    client = mlflow.MlflowClient((tmp_path / "runs").as_uri())
    run_id = str(logger.run_id)
    history = client.get_metric_history(run_id, "weightwatch-alpha/007_net.0")
    assert sorted((m.step, m.value) for m in history) == [(5, 5.5), (17, 17.5)]
    assert {m.value for m in client.get_metric_history(run_id, "epoch")} == {EPOCH}
    assert list(artifacts(client, run_id)) == [
        "weightwatch/diagnosis/0000005.md",
        "weightwatch/diagnosis/0000017.md",
        "weightwatch/loss_curve/0000005.png",
        "weightwatch/loss_curve/0000017.png",
    ]
    local = Path(client.download_artifacts(run_id, "weightwatch", str(tmp_path)))
    assert (local / "loss_curve/0000017.png").read_bytes() == picture()
    assert (local / "diagnosis/0000005.md").read_text() == MARKDOWN


def test_mlflow_takes_every_value_of_hostile_names(mlflow: Any, tmp_path: Path) -> None:
    logger = MLFlowLogger("hostile", tracking_uri=(tmp_path / "runs").as_uri(), prefix="mine")
    sink = to_mlflow.MLflowSink(logger, EPOCH)
    sink.scalars({tag: float(index) for index, tag in enumerate(HOSTILE)}, 1, {})
    for tag in HOSTILE:
        sink.figure(tag, picture(), 1, "")
        sink.text(tag, MARKDOWN, 1, "")
    stored = logger.experiment.get_run(str(logger.run_id)).data.metrics
    assert sorted(stored.values()) == sorted([*map(float, range(len(HOSTILE))), EPOCH])
    assert len(list(artifacts(logger.experiment, str(logger.run_id)))) == 2 * len(HOSTILE)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"], "nothing outside of the store"


@pytest.mark.parametrize(
    "tag", ["weightwatch-alpha/007_net.0", "weightwatch/loss curve", "ours-x/000_a.b.c-d_e"]
)
def test_ordinary_names_stay_as_they_are_in_mlflow(tag: str) -> None:
    assert to_mlflow.allowed_name(tag) == tag


def test_other_loggers_are_not_taken_for_these(tmp_path: Path) -> None:
    """Lightning's dummy has every method that it is asked for."""
    for logger in (TensorBoardLogger(tmp_path), CSVLogger(tmp_path), DummyLogger()):
        assert not to_wandb.accepts(logger)
        assert not to_mlflow.accepts(logger)
