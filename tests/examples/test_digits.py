"""The demo: its three claims about alpha hold, and all it prints follows from what it logged."""

import io
import logging
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from examples import digits
from lightning_weightwatch import SpectralMonitor

SCRIPT = Path(digits.__file__)
BOTH: tuple[digits.Labels, ...] = ("clean", "noisy")


@dataclass(frozen=True)
class Demo:
    """A finished demo: what was printed, and where it logged."""

    text: str
    folder: Path

    def section(self, labels: digits.Labels) -> str:
        """What was printed about one run."""
        after = self.text.split(f" {labels} labels ─", 1)[1]
        return re.split(r"─ (?:noisy labels|what they show together) ─", after, maxsplit=1)[0]

    def sentence(self, labels: digits.Labels, topic: str) -> str:
        found = re.search(rf"^{topic}: (.*?)(?=^\w+: |\Z)", self.section(labels), re.M | re.S)
        assert found is not None
        return " ".join(found[1].split())

    def rows(self, labels: digits.Labels) -> list[str]:
        return re.findall(r"^ +\d+  .*$", self.section(labels), re.M)

    def table_row(self, title: str, *first_cells: str) -> list[str]:
        table = self.text.split(title, 1)[1].split("└", 1)[0]
        cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in table.splitlines()]
        (row,) = (row for row in cells if row[: len(first_cells)] == list(first_cells))
        return row[len(first_cells) :]

    def curve(self, labels: digits.Labels, tag: str) -> list[float]:
        return [event.value for event in events(self.folder / "digits" / labels).Scalars(tag)]


@cache
def events(folder: Path) -> EventAccumulator:
    """What TensorBoard reads of a run."""
    (file,) = folder.glob("events.*")
    accumulator = EventAccumulator(str(file), size_guidance={"scalars": 0})
    accumulator.Reload()
    return accumulator


def tell(folder: Path, *options: str) -> Demo:
    """Run the demo in this process; what it changes there is put back."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels, threads = [logger.level for logger in loggers], torch.get_num_threads()
    console = Console(file=io.StringIO(), width=100, record=True)
    try:
        assert digits.main(["--log-dir", str(folder), *options], console) == 0
    finally:
        torch.set_num_threads(threads)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    return Demo(console.export_text(), folder)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    return tell(tmp_path_factory.mktemp("demo"))


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def first_alarm(alphas: list[float]) -> int | None:
    return next((epoch for epoch, alpha in enumerate(alphas, start=1) if alpha < 2), None)


def check_claims(demo: Demo) -> None:
    """(i) to (iii) of reference/learning-curves-and-spectra.md, 2.8."""
    clean, noisy = (demo.curve(labels, "weightwatch/alpha_min") for labels in BOTH)
    assert len(clean) == len(noisy) == 30
    assert first_alarm(clean) is None
    assert (first_alarm(noisy) or 99) <= 25
    last = {labels: demo.curve(labels, "weightwatch-alpha/000_net.0")[-1] for labels in BOTH}
    assert last["clean"] - last["noisy"] > 0.5


def test_alpha_stays_above_2_on_clean_labels_and_falls_below_it_on_wrong_ones(demo: Demo) -> None:
    check_claims(demo)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1, 6))
def test_alpha_does_so_with_other_seeds_too(seed: int, tmp_path: Path) -> None:
    check_claims(tell(tmp_path, "--seed", str(seed)))


def window(index: int) -> int:
    return max(3, math.ceil(math.sqrt(index + 1)))


def running_medians(curve: list[float]) -> list[float]:
    return [
        statistics.median(curve[max(0, index + 1 - window(index)) : index + 1])
        for index in range(len(curve))
    ]


@pytest.mark.parametrize("labels", BOTH)
def test_a_row_shows_what_was_logged_and_the_alarms_that_follow(
    demo: Demo, labels: digits.Labels
) -> None:
    train, val = demo.curve(labels, "weightwatch/train_loss"), demo.curve(labels, "val_loss")
    accuracies = demo.curve(labels, "val_acc")
    first, second = (
        demo.curve(labels, f"weightwatch-alpha/{tag}") for tag in ("000_net.0", "001_net.2")
    )
    rows = demo.rows(labels)
    assert len(rows) == 30
    for index, row in enumerate(rows):
        medians, trained = running_medians(val[: index + 1]), running_medians(train[: index + 1])
        best = min(range(index + 1), key=medians.__getitem__)
        overfitting = (
            index - best >= window(index)
            and medians[index] > 1.05 * medians[best]
            and trained[index] < trained[best]
        )
        printed = [float(number) for number in row.split()[:6]]
        logged = [index + 1, train[index], val[index], accuracies[index]]
        assert printed == pytest.approx([*logged, first[index], second[index]], abs=0.00501)
        assert ("overfitting" in row) == overfitting
        assert ("alpha < 2" in row) == (min(first[index], second[index]) < 2)


@pytest.mark.parametrize("labels", BOTH)
def test_the_alarm_is_said_to_ring_in_the_first_epoch_below_2(
    demo: Demo, labels: digits.Labels
) -> None:
    alarm = first_alarm(demo.curve(labels, "weightwatch/alpha_min"))
    sentence = demo.sentence(labels, "Alpha")
    if alarm is None:
        assert sentence.startswith("no hidden layer fell below 2")
    else:
        assert sentence.startswith(f"a hidden layer fell below 2 in epoch {alarm}.")
        assert "EarlyStopping asked to stop" in sentence


@pytest.mark.parametrize("labels", BOTH)
def test_the_verdict_on_the_losses_follows_from_its_rule(demo: Demo, labels: digits.Labels) -> None:
    train, val = demo.curve(labels, "weightwatch/train_loss"), demo.curve(labels, "val_loss")
    best = min(range(30), key=val.__getitem__)
    rise = val[-1] / val[best] - 1
    sentence = demo.sentence(labels, "Losses")
    assert f"val_loss was best in epoch {best + 1} ({val[best]:.4g})" in sentence
    assert ("overfitting." in sentence.replace("no overfitting", "")) == (
        rise > 0.04 and train[-1] < train[best]
    )
    assert ("severe overfitting" in sentence) == (rise > 0.15 and train[-1] < train[best])
    (named,) = re.findall(r"kept in (\S+\.ckpt)", sentence)
    assert (demo.folder / "digits" / labels / "checkpoints" / named).is_file()


@pytest.mark.parametrize("labels", BOTH)
def test_the_test_accuracies_are_those_of_the_checkpoints(
    demo: Demo, labels: digits.Labels
) -> None:
    run = demo.folder / "digits" / labels
    images, truth = digits.digits(labels, 0)[2].tensors
    accuracy = {}
    for file in (run / "final.ckpt", *(run / "checkpoints").iterdir()):
        model = digits.DigitsClassifier()
        checkpoint = torch.load(file, weights_only=True)
        model.load_state_dict(checkpoint["state_dict"])
        right = int((model.net(images).argmax(1) == truth).sum())
        accuracy[file.name == "final.ckpt"] = f"{right / 800:.3f} (epoch {checkpoint['epoch'] + 1})"
    last, at_alarm, best = demo.table_row("Test accuracy", labels)
    assert best == accuracy[False]
    assert last.split()[0] == accuracy[True].split()[0]
    alarm = first_alarm(demo.curve(labels, "weightwatch/alpha_min"))
    assert at_alarm.endswith(f"(epoch {alarm})" if alarm else "never")


def test_it_says_what_alpha_is(demo: Demo) -> None:
    said = " ".join(demo.text.split())
    assert "Alpha is an alarm for memorisation, not a replacement for validation" in said


@pytest.mark.parametrize("labels", BOTH)
def test_what_is_said_of_the_accuracies_stands_in_their_table(
    demo: Demo, labels: digits.Labels
) -> None:
    last, at_alarm, best = (cell.split()[0] for cell in demo.table_row("Test accuracy", labels))
    said = " ".join(demo.text.split())
    unharmed = "overfitting" in demo.rows(labels)[-1] and float(last) >= float(best)
    assert (f"With {labels} labels val_loss ends above its best, but test" in said) == unharmed
    rang = f"With {labels} labels alpha rang in epoch "
    if at_alarm == "never":
        assert rang not in said
    else:
        _, numbers = said.split(rang)
        alarm = first_alarm(demo.curve(labels, "weightwatch/alpha_min"))
        assert numbers.startswith(
            f"{alarm}, at a test accuracy of {at_alarm}; at the best val_loss it is {best}."
        )


TRIALS = {
    "int8": "quantization_int8",
    "int4": "quantization_int4",
    "pruned50": "pruning_pruned50",
    "pruned90": "pruning_pruned90",
}


@pytest.mark.parametrize("labels", BOTH)
def test_the_trials_of_both_runs_stand_in_one_table(demo: Demo, labels: digits.Labels) -> None:
    value, change, verdict, accuracy, size = demo.table_row(
        "Trials after training", labels, "baseline"
    )
    assert float(value) == pytest.approx(demo.curve(labels, "val_loss")[-1], rel=1e-3)
    assert float(accuracy) == pytest.approx(demo.curve(labels, "val_acc")[-1], rel=1e-3)
    assert (change, verdict, size) == ("0", "", "100 %")
    model = digits.DigitsClassifier()
    whole = sum(4 * parameter.numel() for parameter in model.parameters())
    for trial, tag in TRIALS.items():
        _, change, verdict, _, size = demo.table_row("Trials after training", labels, trial)
        (logged,) = demo.curve(labels, f"weightwatch/{tag}_delta")
        delta, reach = map(float, change.split(" ± "))
        assert delta == pytest.approx(logged, abs=0.051 * reach)
        beyond = "same" if abs(logged) < reach else "worse" if logged > 0 else "better"
        assert verdict == beyond or abs(logged) == pytest.approx(reach, rel=0.051)
        (logged,) = demo.curve(labels, f"weightwatch/{tag}_bytes")
        assert size == f"{100 * logged / whole:.0f} %"


@pytest.mark.parametrize("labels", BOTH)
def test_what_is_said_of_the_trials_stands_in_their_table(
    demo: Demo, labels: digits.Labels
) -> None:
    rows = {
        trial: demo.table_row("Trials after training", labels, trial)
        for trial in ("baseline", *TRIALS)
    }
    said = " ".join(demo.text.split()).split(f"With {labels} labels val_loss is ")[1]
    for verdict in ("better", "same", "worse"):
        named = [trial for trial in TRIALS if rows[trial][2] == verdict]
        assert (f"{verdict} for {', '.join(named)}" in said.split(" Accuracy")[0]) == bool(named)
    accuracies = [float(row[3]) for row in rows.values()]
    lost = accuracies[0] - min(accuracies)
    found = re.match(r".*?Accuracy falls by (\S+) at most\.", said)
    assert found is not None
    assert float(found[1]) == pytest.approx(lost, abs=0.001)


@pytest.mark.parametrize("labels", BOTH)
def test_tensorboard_gets_curves_histograms_figures_and_texts(
    demo: Demo, labels: digits.Labels
) -> None:
    tags = events(demo.folder / "digits" / labels).Tags()
    keys = (
        "alpha_mean alpha_median alpha_min alpha_max log_norm_mean alpha_weighted_mean "
        "overtrained_share undertrained_share alpha_distance weight_norm weight_std nonfinite "
        "train_loss val_metric val_loss_rise loss_gap overfit_alarm"
    )
    assert {f"weightwatch/{key}" for key in keys.split()} <= set(tags["scalars"])
    names = ["weight", "bias"]
    parameters = [f"net.{layer}.{name}" for layer in (0, 2, 4) for name in names]
    histograms = {f"weightwatch-weights/{i:03d}_{name}" for i, name in enumerate(parameters)}
    histograms |= {f"weightwatch-gradients/{i:03d}_{name}" for i, name in enumerate(parameters)}
    of_all = {"weightwatch/weights", "weightwatch/gradients", "weightwatch/alpha_layers"}
    histograms |= {f"weightwatch-activations/{i:03d}_net.{i}" for i in range(5)}
    assert {*of_all, *histograms} == set(tags["histograms"])
    figures = {f"weightwatch-esd/{layer}" for layer in ("000_net.0", "001_net.2")}
    figures |= {
        f"weightwatch/{name}"
        for name in ("loss_curve", "alpha_depth", "alpha_heat_map", "weight_grid")
    }
    figures |= {
        f"weightwatch/{trial}_{name}"
        for trial in ("quantization", "pruning")
        for name in ("damage", "layers")
    }
    figures |= {"weightwatch/quantization_weights", "weightwatch/pareto"}
    figures |= {
        f"weightwatch/{name}" for name in ("network", "activation_ranges", "flop_hot_spots")
    }
    assert set(tags["images"]) == figures
    texts = ("diagnosis", "quantization", "pruning", "modules", "usage")
    assert set(tags["tensors"]) == {f"weightwatch/{text}/text_summary" for text in texts}


def fit_by_hand(epochs: int, *callbacks: L.Callback) -> tuple[L.Trainer, digits.DigitsClassifier]:
    """The noisy run with no other callbacks than these, and no logger."""
    torch.manual_seed(0)
    model, (train, val, _) = digits.DigitsClassifier(), digits.digits("noisy", 0)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[*callbacks],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, DataLoader(train, 16, shuffle=True), DataLoader(val, 16))
    return trainer, model


@pytest.mark.usefixtures("one_thread")
def test_without_min_epochs_early_stopping_ends_the_run_where_the_demo_says(demo: Demo) -> None:
    trainer, _ = fit_by_hand(
        30,
        EarlyStopping("weightwatch/alpha_min", stopping_threshold=2.0, patience=10**6),
        SpectralMonitor(layers=["net.0", "net.2"]),
    )
    assert trainer.current_epoch == first_alarm(demo.curve("noisy", "weightwatch/alpha_min"))


@pytest.mark.usefixtures("one_thread")
def test_every_callback_on_leaves_the_same_bits_as_none(tmp_path: Path) -> None:
    _, alone = fit_by_hand(3)
    silent = Console(file=io.StringIO())
    digits.run("noisy", log_dir=tmp_path, epochs=3, seed=0, console=silent)
    watched = torch.load(tmp_path / "digits/noisy/final.ckpt", weights_only=True)["state_dict"]
    assert list(watched) == list(alone.state_dict())
    for name, values in alone.state_dict().items():
        assert values.numpy().tobytes() == watched[name].numpy().tobytes(), name


def test_40_percent_of_the_labels_to_fit_are_wrong_and_none_to_test_on() -> None:
    for clean, noisy, wrong in zip(
        digits.digits("clean", 0), digits.digits("noisy", 0), (240, 159, 0), strict=True
    ):
        assert torch.equal(clean.tensors[0], noisy.tensors[0])
        assert int((clean.tensors[1] != noisy.tensors[1]).sum()) == wrong
        assert set(noisy.tensors[1].tolist()) == set(range(10))


def test_a_second_demo_replaces_the_first_and_writes_plain_text_to_a_pipe(
    demo: Demo, tmp_path: Path
) -> None:
    shutil.copytree(demo.folder, tmp_path / "lightning_logs")
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1])}
    environment.pop("COLUMNS", None)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--epochs", "1"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert done.stderr == ""
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", done.stdout)
    lines = done.stdout.splitlines()
    assert [len(line) for line in lines if len(line) > 80 and "://" not in line] == []
    assert done.stdout.rstrip().endswith("tensorboard --logdir lightning_logs")
    for labels in BOTH:
        run = tmp_path / "lightning_logs" / "digits" / labels
        assert len(list(run.glob("events.*"))) == 1
        assert len(list(run.glob("checkpoints/*"))) == 1


def test_no_epochs_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        digits.main(["--epochs", "0"])
    assert "--epochs must be 1 or more, got 0" in capsys.readouterr().err
