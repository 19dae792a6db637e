"""What TensorBoard shows first: the link at the end of a fit, and the charts of Custom Scalars."""

from __future__ import annotations

import json
import logging
import re
import shlex
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

from lightning_weightwatch import (
    OverfittingMonitor,
    PruningTrial,
    SpectralMonitor,
    WeightHistogram,
)
from lightning_weightwatch.callbacks.dashboard import dashboard_link
from tests.callbacks.fits import Perceptron, train_loader, trainer, val_loader


def said(
    caplog: pytest.LogCaptureFixture, callbacks: list[Any], root: Path, **options: Any
) -> list[str]:
    """What a fit says of TensorBoard."""
    with caplog.at_level(logging.INFO):
        trainer(callbacks, root, **options).fit(Perceptron(), train_loader(), val_loader())
    return [message for message in caplog.messages if "tensorboard" in message]


def pinned(link: str) -> list[dict[str, Any]]:
    cards: list[dict[str, Any]] = json.loads(parse_qs(urlsplit(link).query)["pinnedCards"][0])
    return cards


def callbacks() -> list[Any]:
    return [
        WeightHistogram(),
        SpectralMonitor(),
        OverfittingMonitor(verbose=False),
        PruningTrial(verbose=False),
    ]


def test_a_fit_ends_with_the_command_and_a_link_said_once(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    logger = TensorBoardLogger(tmp_path, name="some name")
    (message,) = said(caplog, callbacks(), tmp_path, logger=logger)
    command, link = re.fullmatch(r"To see what was logged: (.+)\nand then (\S+)", message).groups()  # type: ignore[union-attr]
    *start, folder = shlex.split(command)
    assert start == ["tensorboard", "--logdir"]
    assert Path(folder).samefile(tmp_path / "some name")
    query = parse_qs(urlsplit(link).query)
    assert query["smoothing"] == ["0"]
    (runs,) = query["runFilter"]
    assert re.search(runs, "version_0")
    assert re.search(runs, "version_0/train")
    assert not re.search(runs, "version_01")
    assert urlsplit(link).fragment == "timeseries"


def test_every_card_of_the_link_was_written(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    logger = TensorBoardLogger(tmp_path)
    (message,) = said(caplog, callbacks(), tmp_path, logger=logger)
    cards = pinned(message.split()[-1])
    assert {card["plugin"] for card in cards} == {"scalars", "images", "histograms"}
    written: dict[str, set[str]] = {"scalars": set(), "images": set(), "histograms": set()}
    for run in (".", "train", "val"):
        events = EventAccumulator(str(Path(logger.log_dir, run)))
        events.Reload()
        for plugin, found in written.items():
            found.update(events.Tags()[plugin])
    for card in cards:
        assert card["tag"] in written[card["plugin"]]
        if card["plugin"] != "scalars":
            assert card["runId"] == "defaultExperimentId/version_0"


def test_both_losses_are_the_first_card(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    watch = [OverfittingMonitor(verbose=False), WeightHistogram()]
    (message,) = said(caplog, watch, tmp_path, logger=TensorBoardLogger(tmp_path))
    tags = [card["tag"] for card in pinned(message.split()[-1])]
    assert tags == ["weightwatch/loss", "weightwatch/loss_curve", "weightwatch/weights"]


def test_a_metric_that_is_to_rise_is_pinned_in_place_of_both_losses(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monitor = OverfittingMonitor(mode="max", verbose=False)
    logger = TensorBoardLogger(tmp_path)
    (message,) = said(caplog, [monitor], tmp_path, logger=logger)
    tags = [card["tag"] for card in pinned(message.split()[-1])]
    assert tags == ["weightwatch/val_metric", "weightwatch/loss_curve"]
    assert not Path(logger.log_dir, "val").exists()


@pytest.mark.parametrize("logger", [False, "csv"])
def test_without_tensorboard_nothing_is_said(
    caplog: pytest.LogCaptureFixture, logger: Any, tmp_path: Path
) -> None:
    chosen = CSVLogger(tmp_path) if logger == "csv" else logger
    assert said(caplog, callbacks(), tmp_path, logger=chosen) == []


def test_a_folder_that_is_the_run_itself_is_shown_from_above(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    logger = TensorBoardLogger(tmp_path / "runs", name="", version="")
    (message,) = said(caplog, [WeightHistogram()], tmp_path, logger=logger)
    folder = shlex.split(message.splitlines()[0])[-1]
    assert Path(folder).samefile(tmp_path)
    assert pinned(message.split()[-1])[0]["runId"] == "defaultExperimentId/runs"


def test_a_run_with_odd_letters_finds_itself() -> None:
    run = 'v1 (a+b) "é"'
    link = dashboard_link(run, [("images", "weightwatch/alpha_depth")])
    assert re.fullmatch(r"[!-~]+", link), "a link that a terminal can open"
    (runs,) = parse_qs(urlsplit(link).query)["runFilter"]
    assert re.search(runs, run)
    assert pinned(link)[0]["runId"] == f"defaultExperimentId/{run}"


def layout_of(folder: Path) -> Layout | None:
    events = EventAccumulator(str(folder))
    events.Reload()
    if "custom_scalars__config__" not in events.Tags()["tensors"]:
        return None
    (event,) = events.Tensors("custom_scalars__config__")
    return Layout.FromString(event.tensor_proto.string_val[0])


def test_the_charts_of_all_callbacks_are_written_once(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    said_by = trainer(callbacks(), tmp_path, logger=logger)
    said_by.fit(Perceptron(), train_loader(), val_loader())
    assert layout_of(Path(logger.log_dir)) is None, "that place is the user's"
    layout = layout_of(Path(logger.log_dir, "train"))
    assert layout is not None
    (category,) = layout.category
    assert category.title == "weightwatch"
    margin, lines = category.chart
    (series,) = margin.margin.series
    assert (series.value, series.lower, series.upper) == (
        "weightwatch/alpha_mean",
        "weightwatch/alpha_min",
        "weightwatch/alpha_max",
    )
    (pattern,) = lines.multiline.tag
    assert re.match(pattern, "weightwatch/loss")
    assert not re.match(pattern, "weightwatch/loss_gap")


def losses_of(folder: Path) -> list[int]:
    events = EventAccumulator(str(folder))
    events.Reload()
    (tag,) = (tag for tag in events.Tags()["scalars"] if tag.endswith("/loss"))
    return [event.step for event in events.Scalars(tag)]


def test_callbacks_of_two_prefixes_share_the_files_of_the_runs_beside(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    watch = [OverfittingMonitor(verbose=False), OverfittingMonitor(verbose=False, prefix="b")]
    fit = trainer(list(watch), tmp_path, logger=logger)
    fit.fit(Perceptron(), train_loader(), val_loader())
    for run in ("train", "val"):
        (file,) = Path(logger.log_dir, run).iterdir()
        events = EventAccumulator(str(file))
        events.Reload()
        for tag in ("weightwatch/loss", "b/loss"):
            assert [event.step for event in events.Scalars(tag)] == [5, 11, 17]


def test_every_tensorboard_logger_gets_both_losses(tmp_path: Path) -> None:
    loggers = [TensorBoardLogger(tmp_path / name) for name in "ab"]
    fit = trainer([OverfittingMonitor(verbose=False)], tmp_path, logger=loggers)
    fit.fit(Perceptron(), train_loader(), val_loader())
    for logger in loggers:
        for run in ("train", "val"):
            assert losses_of(Path(logger.log_dir, run)) == [5, 11, 17]


def test_the_prefix_of_a_logger_stands_before_all_that_is_ours(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    logger = TensorBoardLogger(tmp_path, prefix="mine")
    (message,) = said(caplog, callbacks(), tmp_path, logger=logger)
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    for plugin in ("scalars", "images", "histograms", "tensors"):
        tags = [tag for tag in events.Tags()[plugin] if "weightwatch" in tag]
        assert tags
        assert all(tag.startswith("mine-weightwatch") for tag in tags)
    assert all(card["tag"].startswith("mine-") for card in pinned(message.split()[-1]))
    assert losses_of(Path(logger.log_dir, "train")) == [5, 11, 17]


@pytest.mark.parametrize("prefix", ["weightwatch", "b/c", "a+b", "w-w"])
def test_every_key_and_chart_has_a_description_under_any_prefix(prefix: str) -> None:
    for callback in (WeightHistogram(prefix=prefix), SpectralMonitor(prefix=prefix)):
        for key in callback.logged_keys:
            assert callback.description(key).endswith(".")
        assert callback.description(callback.layer_tag("mean", 3, "a/b")) == (
            callback.description(callback.layer_tag("mean", 4, "c"))
        )
    alpha = SpectralMonitor(prefix=prefix).layer_tag("alpha", 7, "encoder.0/x")
    assert "exponent" in SpectralMonitor(prefix=prefix).description(alpha)


def test_without_runs_beside_the_charts_stand_in_the_run(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    fit = trainer([SpectralMonitor()], tmp_path, logger=logger)
    fit.fit(Perceptron(), train_loader(), val_loader())
    layout = layout_of(Path(logger.log_dir))
    assert layout is not None
    assert [chart.WhichOneof("content") for chart in layout.category[0].chart] == ["margin"]
