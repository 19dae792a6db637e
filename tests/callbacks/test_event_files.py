"""What stands in the event files: every tag that the documentation names, at the right steps."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_weightwatch import (
    OverfittingMonitor,
    PruningTrial,
    QuantizationTrial,
    SpectralMonitor,
    WeightHistogram,
    WeightUsageMonitor,
)
from lightning_weightwatch.callbacks import publish
from tests.callbacks.fits import Perceptron, train_loader, trainer, val_loader, weight_norm

EPOCHS, STEPS = 3, [5, 11, 17]
DOCUMENTED = sorted(
    {
        tag
        for callback in (
            WeightHistogram,
            SpectralMonitor,
            OverfittingMonitor,
            WeightUsageMonitor,
            QuantizationTrial,
            PruningTrial,
        )
        for tag in re.findall(r"`(weightwatch[/-][^`*]+)`", callback.__doc__ or "")
    }
)
# Written for models of more than 64 parameters, and in runs beside that of the logger.
ELSEWHERE = {"weightwatch-mean/conv2d", "weightwatch/loss"}
STATISTICS = (
    "mean", "std", "min", "max", "mad", "kurtosis", "norm", "zero_share", "outliers", "nonfinite",
)  # fmt: skip
# What the documentation writes for a layer, or a parameter, of the reader's model.
OF_THIS_MODEL = {
    "esd/007_encoder.0": "esd/001_net.2",  # the only one that is large enough to count
    "007_encoder.0": "000_net.0",
    "003_net.0.weight": "002_net.2.weight",
}


class Logged:
    """A fit with every callback, its event file and the truth of its last weights."""

    def __init__(self, root: Path, **options: Any) -> None:
        self.model = Perceptron()
        self.callbacks: dict[str, Any] = {
            type(callback).__name__: callback
            for callback in (
                WeightHistogram(at_start=options.pop("at_start", False), gradients=True),
                SpectralMonitor(),
                OverfittingMonitor(),
                WeightUsageMonitor(),
                QuantizationTrial(bits=(8,), verbose=False),
                PruningTrial(amounts=(0.5,), verbose=False),
            )
        }
        logger = TensorBoardLogger(root)
        fit = trainer(
            [*self.callbacks.values(), ModelCheckpoint(monitor="val_loss")],
            root,
            logger=logger,
            max_epochs=EPOCHS,
            log_every_n_steps=1,
            **options,
        )
        fit.fit(self.model, train_loader(), val_loader())
        self.events = EventAccumulator(
            logger.log_dir, size_guidance={"scalars": 0, "histograms": 0, "images": 0}
        )
        self.events.Reload()

    def steps(self, tag: str) -> list[int]:
        tags = self.events.Tags()
        if tag in tags["scalars"]:
            return [event.step for event in self.events.Scalars(tag)]
        if tag in tags["histograms"]:
            return [event.step for event in self.events.Histograms(tag)]
        if tag in tags["images"]:
            return [event.step for event in self.events.Images(tag)]
        if f"{tag}/text_summary" in tags["tensors"]:
            return [event.step for event in self.events.Tensors(f"{tag}/text_summary")]
        return []


@pytest.fixture(autouse=True, scope="module")
def _unhurried() -> Iterator[None]:
    """However busy the machine is, no figure is left out for the time it takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publish, "FIGURE_SECONDS", 1e6)
        yield


@pytest.fixture(scope="module")
def logged(_unhurried: None, tmp_path_factory: pytest.TempPathFactory) -> Logged:
    return Logged(tmp_path_factory.mktemp("logged"))


def test_the_documentation_names_tags_of_every_kind() -> None:
    assert "weightwatch/alpha_min" in DOCUMENTED
    assert "weightwatch-alpha/007_encoder.0" in DOCUMENTED
    assert "weightwatch/loss_curve" in DOCUMENTED
    assert len(DOCUMENTED) > 25


@pytest.mark.parametrize("tag", [tag for tag in DOCUMENTED if tag not in ELSEWHERE])
def test_a_documented_tag_is_there_at_the_steps_of_self_log(tag: str, logged: Logged) -> None:
    for example, real in OF_THIS_MODEL.items():
        tag = tag.replace(example, real)
    at_the_end = re.search("quantization|pruning|pareto|loss_curve|diagnosis", tag)
    first_and_last = tag in ("weightwatch/modules", "weightwatch/usage")
    expected = STEPS[-1:] if at_the_end else STEPS[::2] if first_and_last else STEPS
    if tag == "weightwatch/flop_hot_spots":  # the same in every epoch
        expected = STEPS[:1]
    if tag.endswith("prechelt_pq"):  # a strip of five validations comes first
        expected = STEPS[4:]
    assert logged.steps("val_loss") == STEPS
    assert logged.steps(tag) == expected


def test_every_parameter_has_its_histogram_and_its_charts(logged: Logged) -> None:
    names = [name for name, _ in logged.model.named_parameters()]
    for index, name in enumerate(names):
        assert logged.steps(f"weightwatch-weights/{index:03d}_{name}") == STEPS
        for metric in STATISTICS:
            assert logged.steps(f"weightwatch-{metric}/{index:03d}_{name}") == STEPS


def test_no_tag_is_undocumented(logged: Logged) -> None:
    groups = {tag.split("/")[0] for tag in DOCUMENTED if tag.startswith("weightwatch-")}
    groups |= {f"weightwatch-{metric}" for metric in STATISTICS}
    tags = logged.events.Tags()
    for kind in ("scalars", "histograms", "images", "tensors"):
        for tag in tags[kind]:
            name = tag.removesuffix("/text_summary")
            if name.startswith("weightwatch"):
                assert name in DOCUMENTED or name.split("/")[0] in groups, name


def test_the_last_values_are_those_of_the_last_weights(logged: Logged) -> None:
    last = logged.events.Scalars("weightwatch/weight_norm")[-1].value
    assert last == pytest.approx(weight_norm(logged.model), rel=1e-6)


def test_a_histogram_holds_every_weight_once(logged: Logged) -> None:
    weight = logged.model.large.weight.detach().double().numpy()
    found = logged.events.Histograms("weightwatch-weights/002_net.2.weight")[-1].histogram_value
    counts, _ = np.histogram(weight, bins=64, range=(weight.min(), weight.max()))
    assert found.num == weight.size == sum(found.bucket)
    # The reader drops empty buckets at both ends.
    assert [c for c in found.bucket if c] == [c for c in counts.tolist() if c]
    assert found.min == pytest.approx(weight.min())
    assert found.max == pytest.approx(weight.max())
    assert found.sum == pytest.approx(weight.sum())
    assert found.sum_squares == pytest.approx(np.square(weight).sum())


def test_every_figure_is_700_pixels_wide(logged: Logged) -> None:
    tags = logged.events.Tags()["images"]
    assert len(tags) == 14
    assert {image.width for tag in tags for image in logged.events.Images(tag)} == {700}


def test_both_losses_are_one_tag_in_two_runs(logged: Logged) -> None:
    for run, key in (("train", "train_loss"), ("val", "val_metric")):
        events = EventAccumulator(str(Path(logged.events.path, run)))
        events.Reload()
        overlaid = events.Scalars("weightwatch/loss")
        alone = logged.events.Scalars(f"weightwatch/{key}")
        assert [(e.step, e.value) for e in overlaid] == [(e.step, e.value) for e in alone]


def test_charts_of_a_model_of_more_than_64_parameters_are_of_its_kinds(tmp_path: Path) -> None:
    class Deep(Perceptron):
        def __init__(self) -> None:
            super().__init__()
            self.net.extend([torch.nn.Linear(4, 4) for _ in range(31)])

    logger = TensorBoardLogger(tmp_path)
    fit = trainer([WeightHistogram(), SpectralMonitor()], tmp_path, logger=logger, max_epochs=1)
    fit.fit(Deep(), train_loader(), val_loader())
    events = EventAccumulator(logger.log_dir, size_guidance={"scalars": 0, "histograms": 0})
    events.Reload()
    tags = events.Tags()
    assert {tag for tag in tags["scalars"] if tag.startswith("weightwatch-")} >= {
        f"weightwatch-{metric}/{kind}" for metric in STATISTICS for kind in ("linear", "bias")
    }
    assert not [tag for tag in tags["scalars"] if re.match(r"weightwatch-(mean|std)/\d", tag)]
    assert len([tag for tag in tags["histograms"] if tag.startswith("weightwatch-weights/")]) == 68


def test_in_a_long_fit_no_card_has_more_steps_than_tensorboard_keeps(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    fit = trainer(
        [WeightHistogram(), SpectralMonitor()],
        tmp_path,
        logger=logger,
        max_epochs=70,
        limit_train_batches=1,
        limit_val_batches=1,
    )
    fit.fit(Perceptron(), train_loader(), val_loader())
    events = EventAccumulator(
        logger.log_dir, size_guidance={"scalars": 0, "histograms": 0, "images": 0, "tensors": 0}
    )
    events.Reload()
    last, tags = 69, events.Tags()
    steps = {tag: [e.step for e in events.Histograms(tag)] for tag in tags["histograms"]}
    assert {len(found) for found in steps.values()} == {51}
    drawn = {tag: [e.step for e in events.Images(tag)] for tag in tags["images"]}
    assert {len(found) for found in drawn.values()} <= set(range(1, 11))
    texts = [e.step for e in events.Tensors("weightwatch/modules/text_summary")]
    assert texts == [0, last]
    for found in [*steps.values(), *drawn.values(), texts]:
        assert found[-1] == last
        assert found == sorted(set(found))
    assert len(events.Scalars("weightwatch/alpha_mean")) == 70


def test_the_diagnosis_names_the_file_of_the_best_epoch(logged: Logged) -> None:
    (event,) = logged.events.Tensors("weightwatch/diagnosis/text_summary")
    monitor = logged.callbacks["OverfittingMonitor"]
    text = event.tensor_proto.string_val[0].decode().replace("\\", "")
    assert Path(monitor.best_checkpoint).exists()
    assert Path(monitor.best_checkpoint).name in text
    assert f"epoch {monitor.report.best_epoch + 1} " in text


def test_a_point_before_training_stands_at_step_0(tmp_path: Path) -> None:
    logged = Logged(tmp_path, at_start=True)
    assert logged.steps("weightwatch/weight_norm") == [0, *STEPS]


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"val_check_interval": 0.5}, [2, 5, 8, 11, 14, 17]),
        ({"accumulate_grad_batches": 2}, [2, 5, 8]),
    ],
)
def test_steps_follow_self_log_when_validation_or_steps_do_not(
    options: dict[str, Any], steps: list[int], tmp_path: Path
) -> None:
    logged = Logged(tmp_path, **options)
    assert logged.steps("val_loss") == steps
    assert logged.steps("weightwatch/weight_norm") == steps
    assert logged.steps("weightwatch/val_metric") == steps


def test_a_layer_keeps_its_number_when_another_drops_out(tmp_path: Path) -> None:
    class DropsOut(Perceptron):
        def __init__(self) -> None:
            super().__init__()
            net = self.net
            del self.net
            self.extra = torch.nn.Linear(40, 40).requires_grad_(False)
            self.net = net

        def on_train_epoch_start(self) -> None:
            if self.current_epoch == 1:
                with torch.no_grad():
                    self.extra.weight.fill_(float("nan"))

    logger = TensorBoardLogger(tmp_path)
    fit = trainer([SpectralMonitor()], tmp_path, logger=logger)
    fit.fit(DropsOut(), train_loader(), val_loader())
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    tags = {tag for tag in events.Tags()["scalars"] if tag.startswith("weightwatch-alpha/")}
    assert tags == {f"weightwatch-alpha/{t}" for t in ("000_extra", "001_net.0", "002_net.2")}
    assert len(events.Scalars("weightwatch-alpha/002_net.2")) == 3
