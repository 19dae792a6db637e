"""The demo: a network learns digits from right and from wrong labels, with every callback on.

python examples/digits.py [--epochs 30] [--seed 0] [--log-dir lightning_logs]
"""

import argparse
import logging
import math
import os
import shlex
import shutil
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.fabric.utilities.warnings import disable_possible_user_warnings
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_weightwatch import (
    OverfittingMonitor,
    PruningTrial,
    QuantizationTrial,
    SpectralMonitor,
    WeightHistogram,
    WeightUsageMonitor,
)
from lightning_weightwatch.callbacks.dashboard import dashboard_link, pins_of
from lightning_weightwatch.views.tables import terminal_table
from lightning_weightwatch.views.trials import signed_change

Labels = Literal["clean", "noisy"]

INTRODUCTION = """\
[bold]lightning-weightwatch on scikit-learn's digits[/]

An MLP 64-512-512-10 learns 1,797 images: 600 to train on, 397 to validate, 800 to test. Xavier, \
batches of 16, SGD 0.05 with momentum 0.9. It is trained twice: with clean labels, and with 40 % \
of the training and validation labels replaced by a wrong one. The test labels are always true.
"""
NOISE = 0.4
VALIDATION_BATCH = 16  # 25 batches: enough for confidence intervals
MEMORISED = 2.0  # a layer with an alpha below it counts as over-trained


def digits(labels: Labels, seed: int) -> tuple[TensorDataset, TensorDataset, TensorDataset]:
    """The images to train, validate and test on, split by a seeded permutation.

    Noise is in all labels that a fit sees: those to validate on come from where the others do. They
    are mixed, so that each batch has its share: a confidence interval takes batches to be alike.
    """
    pixels, numbers = load_digits(return_X_y=True)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(1797, generator=generator)
    images, truth = (torch.from_numpy(pixels).float() / 16)[order], torch.from_numpy(numbers)[order]
    train, val, test = slice(0, 600), slice(600, 997), slice(997, 1797)
    if labels == "noisy":
        for part in (truth[train], truth[val]):
            wrong = part[: round(NOISE * len(part))]
            wrong += torch.randint(1, 10, wrong.shape, generator=generator)
            wrong %= 10
    mixed = 600 + torch.randperm(397, generator=torch.Generator().manual_seed(seed))
    return (
        TensorDataset(images[train], truth[train]),
        TensorDataset(images[mixed], truth[mixed]),
        TensorDataset(images[test], truth[test]),
    )


class DigitsClassifier(L.LightningModule):
    """An MLP 64-512-512-10, trained by SGD."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
        )
        for layer in self.net:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Cross entropy."""
        images, labels = batch
        loss = F.cross_entropy(self.net(images), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Cross entropy and accuracy."""
        images, labels = batch
        self.log("val_loss", F.cross_entropy(self.net(images), labels))
        self.log("val_acc", self.accuracy(images, labels))

    @torch.no_grad()
    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """The share of images that are given their label."""
        return float((self.net(images).argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD 0.05 with momentum 0.9."""
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


@dataclass(frozen=True)
class Epoch:
    """An epoch in numbers, counted from 1. Nothing is decided by the accuracy on test images."""

    number: int
    train_loss: float
    val_loss: float
    val_acc: float
    test_acc: float
    alphas: tuple[float, ...]
    overfitting: bool

    @property
    def alarm(self) -> bool:
        """Whether a hidden layer counts as over-trained."""
        return min(self.alphas) < MEMORISED

    def row(self) -> str:
        """A line of the table that grows while the network learns."""
        return (
            f"{self.number:>5}{self.train_loss:>13.4f}{self.val_loss:>11.4f}{self.val_acc:>10.3f}"
            + "".join(f"{alpha:>8.2f}" for alpha in self.alphas)
            + ("  [yellow]overfitting[/]" if self.overfitting else "")
            + (f"  [red]alpha < {MEMORISED:g}[/]" if self.alarm else "")
        )


@dataclass(frozen=True)
class RunResult:
    """A run in numbers: its epochs, the verdict on its losses, the trials by name, and a link."""

    labels: Labels
    epochs: tuple[Epoch, ...]
    diagnosis: str
    trials: dict[str, dict[str, Any]]
    link: str

    @property
    def alarm(self) -> Epoch | None:
        """The first epoch that ended with an alpha below 2."""
        return next((epoch for epoch in self.epochs if epoch.alarm), None)

    @property
    def best(self) -> Epoch:
        """The epoch of the least validation loss, whose weights ModelCheckpoint keeps."""
        return min(self.epochs, key=lambda epoch: epoch.val_loss)

    def alpha_sentence(self) -> str:
        """Whether and when the alarm rang."""
        if self.alarm is None:
            least = min(min(epoch.alphas) for epoch in self.epochs)
            return f"no hidden layer fell below {MEMORISED:g} (least: {least:.2f}): no alarm."
        return (
            f"a hidden layer fell below {MEMORISED:g} in epoch {self.alarm.number}. EarlyStopping "
            f"asked to stop there; min_epochs={len(self.epochs)} lets the run go on to show what "
            "follows."
        )


class Narrator(L.Callback):
    """Moves the bar with every batch, and prints a row above it after every epoch."""

    def __init__(self, spectral: SpectralMonitor, test: TensorDataset, bar: Progress) -> None:
        self.epochs: list[Epoch] = []
        self._spectral, self._test, self._bar = spectral, test, bar

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Only now is the number of batches known."""
        batches = int(trainer.num_training_batches) * (trainer.max_epochs or 0)
        self._task = self._bar.add_task("training", total=batches)

    def on_train_batch_end(self, *_: Any) -> None:
        """One batch more."""
        self._bar.advance(self._task)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Collect what the callbacks listed before this one have published."""
        published, spectra = trainer.callback_metrics, self._spectral.report
        assert spectra is not None
        assert isinstance(pl_module, DigitsClassifier)
        epoch = Epoch(
            number=trainer.current_epoch + 1,
            train_loss=float(published["weightwatch/train_loss"]),
            val_loss=float(published["val_loss"]),
            val_acc=float(published["val_acc"]),
            test_acc=pl_module.accuracy(*self._test.tensors),
            alphas=tuple(layer["alpha"] for layer in spectra.records()),
            overfitting=bool(published["weightwatch/overfit_alarm"]),
        )
        self.epochs.append(epoch)
        self._bar.console.print(epoch.row())


def run(labels: Labels, *, log_dir: Path, epochs: int, seed: int, console: Console) -> RunResult:
    """Train once with every callback on. `log_dir/digits/<labels>` is replaced."""
    logger = TensorBoardLogger(log_dir, name="digits", version=labels)
    shutil.rmtree(logger.log_dir, ignore_errors=True)
    console.rule(f"[bold]{labels} labels")
    console.print("[dim]epoch   train loss   val loss   val acc   alpha of net.0, net.2[/]")
    torch.manual_seed(seed)
    model, (train, val, test) = DigitsClassifier(), digits(labels, seed)
    spectral = SpectralMonitor(layers=["net.0", "net.2"])
    overfitting = OverfittingMonitor(monitor="val_loss", verbose=False)
    quantization = QuantizationTrial(bits=(8, 4), verbose=False)
    pruning = PruningTrial(amounts=(0.5, 0.9), verbose=False)
    alarm = EarlyStopping("weightwatch/alpha_min", stopping_threshold=MEMORISED, patience=10**6)
    best = ModelCheckpoint(monitor="val_loss")
    usage = WeightUsageMonitor()
    ours = [WeightHistogram(gradients=True), spectral, overfitting, usage, quantization, pruning]
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        narrator = Narrator(spectral, test, bar)
        trainer = L.Trainer(
            accelerator="cpu",
            min_epochs=epochs,
            max_epochs=epochs,
            logger=logger,
            callbacks=[*ours, alarm, best, narrator],
            log_every_n_steps=10,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        in_batches = DataLoader(train, batch_size=16, shuffle=True)
        trainer.fit(model, in_batches, DataLoader(val, batch_size=VALIDATION_BATCH))
    trainer.save_checkpoint(Path(logger.log_dir, "final.ckpt"))
    reports = [trial.report for trial in (quantization, pruning) if trial.report]
    result = RunResult(
        labels,
        tuple(narrator.epochs),
        " ".join(overfitting.diagnosis),
        {record["trial"]: record for report in reports for record in report.records()},
        dashboard_link(f"digits/{labels}", pins_of(ours)),
    )
    console.print(f"\n[bold]Losses:[/] {result.diagnosis}")
    console.print(f"[bold]Alpha:[/] {result.alpha_sentence()}\n")
    return result


def stopping_table(results: Sequence[RunResult]) -> Table:
    """Test accuracy for three ways to end the training."""

    def at(epoch: Epoch | None) -> str:
        return f"{epoch.test_acc:.3f} (epoch {epoch.number})" if epoch else "never"

    columns = ("labels", "of the last epoch", "when alpha rang", "of the best val_loss")
    rows = [(r.labels, at(r.epochs[-1]), at(r.alarm), at(r.best)) for r in results]
    records = [dict(zip(columns, row, strict=True)) for row in rows]
    return terminal_table(records, columns, "Test accuracy of the weights ...")


def lesson(results: Sequence[RunResult]) -> str:
    """What the table says of alpha, and what alpha is."""
    sentences = []
    for result in results:
        last, alarm, best = result.epochs[-1], result.alarm, result.best
        if last.overfitting and last.test_acc >= best.test_acc:
            sentences.append(
                f"With {result.labels} labels val_loss ends above its best, but test accuracy "
                "did not suffer."
            )
        if alarm:
            sentences.append(
                f"With {result.labels} labels alpha rang in epoch {alarm.number}, at a test "
                f"accuracy of {alarm.test_acc:.3f}; at the best val_loss it is {best.test_acc:.3f}."
            )
    sentences.append(
        "Alpha is an alarm for memorisation, not a replacement for validation: it tells how much "
        "structure the weights have absorbed, not whether that is signal or noise."
    )
    return " ".join(sentences)


def trials_table(results: Sequence[RunResult]) -> Table:
    """What fewer bits and fewer weights would cost, in both runs."""
    columns = ("labels", "trial", "loss", "change", "verdict", "acc", "size")
    rows = []
    for result in results:
        for record in result.trials.values():
            reach = (record["delta_high"] - record["delta_low"]) / 2
            change = signed_change(record["delta"], None if math.isnan(reach) else reach)
            accuracy = record["metrics"].get("val_acc", math.nan)
            size = f"{100 * record['size_ratio']:.0f} %"
            cells = (record["trial"], record["value"], change, record["verdict"], accuracy, size)
            rows.append(dict(zip(columns, (result.labels, *cells), strict=True)))
    return terminal_table(rows, columns, "Trials after training: val_loss with smaller weights")


def trials_lesson(results: Sequence[RunResult]) -> str:
    """What the table says of val_loss and of accuracy, and how to read it."""
    sentences = []
    for result in results:
        baseline, *tried = result.trials.values()
        verdicts = {
            verdict: [record["trial"] for record in tried if record["verdict"] == verdict]
            for verdict in ("better", "same", "worse")
        }
        said = [f"{verdict} for {', '.join(names)}" for verdict, names in verdicts.items() if names]
        accuracies = [record["metrics"].get("val_acc", math.nan) for record in tried]
        lost = max(baseline["metrics"]["val_acc"] - min(accuracies), 0)
        sentences.append(
            f"With {result.labels} labels val_loss is {'; '.join(said)}. Accuracy falls by "
            f"{lost:.3f} at most."
        )
    sentences.append(
        "± is the 95 % confidence interval over the validation batches, same: it has 0 in it. An "
        "overfitted model is too sure of itself, and what blunts it can lower its val_loss. Sizes "
        "are computed: no file has become smaller."
    )
    return " ".join(sentences)


def main(arguments: Sequence[str] | None = None, console: Console | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=30, help="of each run (default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random (default: 0)")
    where = "digits/clean and digits/noisy in it are replaced (default: lightning_logs)"
    parser.add_argument("--log-dir", type=Path, default=Path("lightning_logs"), help=where)
    options = parser.parse_args(arguments)
    if options.epochs < 1:
        parser.error(f"--epochs must be 1 or more, got {options.epochs}")
    for chatty in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    disable_possible_user_warnings()  # Lightning's advice, not meant for 1,797 images in memory
    warnings.filterwarnings("ignore", ".isinstance.treespec, LeafSpec", FutureWarning)  # its own
    torch.set_num_threads(1)  # enough for 16 images; two that share a core wait for each other

    console, started = console or Console(highlight=False), time.perf_counter()
    console.print(INTRODUCTION)
    both: tuple[Labels, ...] = ("clean", "noisy")
    results = [run(labels, **vars(options), console=console) for labels in both]
    console.rule("[bold]what they show together")
    console.print(stopping_table(results))
    console.print(lesson(results) + "\n")
    console.print(trials_table(results))
    console.print(trials_lesson(results))
    console.print(f"\nBoth runs: {time.perf_counter() - started:.0f} s.")
    console.print("While TensorBoard runs, this link opens a dashboard of the noisy run:")
    console.print(results[-1].link, soft_wrap=True, markup=False)
    console.print("All that was logged:")
    beside_python = os.path.relpath(Path(sys.executable).with_name("tensorboard"))
    tensorboard = "tensorboard" if shutil.which("tensorboard") else shlex.quote(beside_python)
    command = f"{tensorboard} --logdir {shlex.quote(str(options.log_dir))}"
    console.print(command, soft_wrap=True, markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
