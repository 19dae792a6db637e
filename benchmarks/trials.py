"""What trials cost: time beside a bare validation and the compression, memory beside the weights.

Three tables. Trials of real fits, beside a plain loop over the same batches and beside Lightning's
own ``val_loop`` without callbacks and loggers: measured in turns, the medians of the ratios, the
least and the greatest; "start to end" is the whole callback beside as many passes of that loop,
with the baseline, the copies, the digests and the files. Compressing the 31 million weights of a
UNet alone, beside torch's own operators. The peak of resident memory in a fresh process.
``taskset -c 0,1 python benchmarks/trials.py [--rounds N]``.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.colorizer import UNet
from lightning_weightwatch import PruningTrial, QuantizationTrial
from lightning_weightwatch.callbacks.trial import PostFitTrial
from lightning_weightwatch.trials.compression import Compression
from lightning_weightwatch.trials.pruning import Pruning
from lightning_weightwatch.trials.quantization import Quantization
from lightning_weightwatch.trials.targets import find_targets
from lightning_weightwatch.usage.inputs import InputNorms

GOAL_OF_TIME, GOAL_OF_MEMORY = 1.1, 1.2


class Regression(LightningModule):
    """Any network, with a plain loss and a torchmetrics object."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        from torchmetrics import MeanSquaredError

        self.net, self.error = net, MeanSquaredError()

    def loss(self, batch: list[Tensor]) -> Tensor:
        """What validation_step does, but for the logging."""
        output = self.net(batch[0])
        self.error.update(output, batch[1])
        return nn.functional.mse_loss(output, batch[1])

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Mean squared error."""
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """The same, logged twice."""
        self.log("val_loss", self.loss(batch))
        self.log("val_error", self.error)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=1e-3)


@dataclass(frozen=True)
class Subject:
    """A network, its images, and how often it is measured.

    For each round that is asked for there are `repeats`, with as many bare passes before and after
    each trial.
    """

    name: str
    net: Callable[[], nn.Module]
    image: tuple[int, ...]
    output: tuple[int, ...]
    batches: int
    batch_size: int
    repeats: int
    trials: Callable[[], list[PostFitTrial]]


def small_cnn() -> nn.Module:
    """Two convolutions and a linear layer, 30,186 weights."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 64, 10),
    )


SUBJECTS = (
    Subject(
        "small CNN, 20 batches",
        small_cnn,
        (1, 8, 8),
        (10,),
        20,
        64,
        4,
        lambda: [
            QuantizationTrial(verbose=False),
            PruningTrial(method=("magnitude", "wanda"), verbose=False),
        ],
    ),
    Subject(
        "UNet, 6 batches",
        UNet,
        (1, 32, 32),
        (2, 32, 32),
        6,
        4,
        1,
        lambda: [
            QuantizationTrial(bits=8, clip=("mse", "absmax"), verbose=False),
            PruningTrial(amounts=(0.5, "2:4"), verbose=False),
        ],
    ),
)


def plain_pass(module: Regression, loader: DataLoader[Any]) -> float:
    """A loop that a user would write by hand."""
    module.eval()
    with torch.inference_mode():
        losses = [module.loss(batch) for batch in loader]
        module.error.compute()
        mean = float(torch.stack(losses).mean())
    module.error.reset()
    module.train()
    return mean


def lightning_pass(trainer: Trainer) -> None:
    """The trainer's own loop, without callbacks and loggers, putting nothing back but these."""
    loop: Any = trainer.fit_loop.epoch_loop.val_loop
    callbacks, stage, verbose = trainer.callbacks, trainer.state.stage, loop.verbose  # type: ignore[attr-defined]
    trainer.callbacks, trainer.validating, loop.verbose = [], True, False  # type: ignore[attr-defined]
    loop.run()
    trainer.callbacks, trainer.state.stage, loop.verbose = callbacks, stage, verbose  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Round:
    """Seconds."""

    plain: float
    loop: float
    evaluations: float
    compressing: float
    whole: float
    count: int

    def ratio(self, bare: float) -> float:
        """Of the variants to as many bare passes and the compression."""
        return self.evaluations / (self.count * bare + self.compressing)

    def ratio_of_all(self, bare: float) -> float:
        """The same, the baseline and all that is done once included."""
        return self.whole / ((self.count + 1) * bare + self.compressing)


class Measuring(Callback):
    """Runs the trials of a fit again and again, in turns with bare passes.

    Args:
        trials: Listed before, so that they have run once.
        rounds: How often.
        passes: Of each kind, before a trial and again after it.
    """

    def __init__(self, trials: Sequence[PostFitTrial], rounds: int, passes: int) -> None:
        self.trials, self.rounds, self.passes = trials, rounds, passes
        self.found: dict[str, list[Round]] = {trial.AREA: [] for trial in trials}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """All the measurements."""
        assert isinstance(pl_module, Regression)
        loader: Any = trainer.val_dataloaders
        for _ in range(self.rounds):
            for trial in self.trials:
                bare: tuple[Callable[[], object], ...] = (
                    partial(plain_pass, pl_module, loader),
                    partial(lightning_pass, trainer),
                )
                before = [[seconds(call) for call in bare] for _ in range(self.passes)]
                whole = seconds(partial(trial.on_train_end, trainer, pl_module))
                after = [[seconds(call) for call in bare] for _ in range(self.passes)]
                plain, loop = map(statistics.mean, zip(*before, *after, strict=True))
                assert trial.report is not None
                rows = trial.report.rows[1:]
                assert not any(row.error for row in rows)
                self.found[trial.AREA].append(
                    Round(
                        plain,
                        loop,
                        sum(row.seconds for row in rows),
                        sum(row.compress_seconds for row in rows),
                        whole,
                        len(rows),
                    )
                )


def seconds(call: Callable[[], object]) -> float:
    """The time of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def fitted(subject: Subject, rounds: int) -> dict[str, list[Round]]:
    """A fit of one batch, its trials, and the rounds after it."""
    torch.manual_seed(0)
    count = subject.batches * subject.batch_size
    data = TensorDataset(torch.randn(count, *subject.image), torch.randn(count, *subject.output))
    loader = DataLoader(data, batch_size=subject.batch_size)
    trials = subject.trials()
    measuring = Measuring(trials, rounds * subject.repeats, subject.repeats)
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            accelerator="cpu",
            max_epochs=1,
            limit_train_batches=1,
            default_root_dir=folder,
            logger=False,
            callbacks=[*trials, measuring],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        ).fit(Regression(subject.net()), loader, loader)
    return measuring.found


def times(rounds: int) -> Table:
    """Trials beside bare passes."""
    title = f"Time of trials / (bare validations + compression); goal {GOAL_OF_TIME}"
    table = Table(title=title, title_justify="left")
    for column in (
        "fit", "trial", "variants", "plain loop, ms", "val_loop, ms", "compress, ms",
        "/ plain loop", "/ val_loop", "rounds", "start to end",
    ):  # fmt: skip
        table.add_column(column, justify="left" if column in ("fit", "trial") else "right")
    for subject in SUBJECTS:
        for name, found in fitted(subject, rounds).items():
            ratios = [each.ratio(each.loop) for each in found]
            table.add_row(
                subject.name,
                name,
                str(found[0].count),
                f"{1000 * statistics.median(each.plain for each in found):.1f}",
                f"{1000 * statistics.median(each.loop for each in found):.1f}",
                f"{1000 * statistics.median(each.compressing for each in found):.1f}",
                f"{statistics.median(each.ratio(each.plain) for each in found):.3f}",
                f"{statistics.median(ratios):.3f}",
                f"{min(ratios):.3f}-{max(ratios):.3f}",
                f"{statistics.median(each.ratio_of_all(each.loop) for each in found):.3f}",
            )
    return table


MEASURE = """
import ctypes, json
from pathlib import Path
import torch
from torch import nn
from benchmarks.colorizer import UNet
from lightning_weightwatch import try_pruning, try_quantization

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

def peak(call):
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before would be used again unseen
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    call()
    return status("VmHWM") - before

@torch.no_grad()
def evaluate(model):
    return {"loss": float(model.eval()(image).square().mean())}

def variants(model):
    for name, options in (
        ("channel mse", {}), ("tensor mse", {"granularity": "tensor"}),
        ("group of 32, mse", {"granularity": "group"}), ("model mse", {"granularity": "model"}),
    ):
        yield f"int8, {name}", lambda: try_quantization(model, evaluate, bits=8, **options)
    for name, options in (
        ("half, global", {"amounts": 0.5}), ("2:4", {"amounts": "2:4"}),
        ("half, each layer", {"amounts": 0.5, "scope": "layer"}),
        ("half, Wanda", {"amounts": 0.5, "method": "wanda"}),
    ):
        yield name, lambda: try_pruning(model, evaluate, **options)

torch.set_num_threads(2)
image = torch.randn(1, 4)
for _, call in variants(nn.Sequential(nn.Linear(4, 4))):  # what is loaded on first use
    call()
model, image = UNet(), torch.randn(1, 1, 16, 16)
evaluate(model)
bare = peak(lambda: evaluate(model))
touched = 4 * sum(p.numel() for p in model.parameters() if p.ndim > 1)
print(json.dumps({"bare": bare, "touched": touched, **{n: peak(c) for n, c in variants(model)}}))
"""


def memory() -> Table:
    """The peak above the model and a bare pass, beside the bytes of the touched weights."""
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    peaks = json.loads(done.stdout)
    bare, touched = peaks.pop("bare"), peaks.pop("touched")
    title = (
        f"Peak of memory above the model; touched {touched / 2**20:.1f} MiB, a bare pass takes "
        f"{bare / 2**20:.1f} MiB; goal {GOAL_OF_MEMORY}"
    )
    table = Table(title=title, title_justify="left")
    for column in ("UNet, one variant", "MiB", "/ touched", "(- bare) / touched"):
        table.add_column(column, justify="left" if column.startswith("UNet") else "right")
    for name, peak in peaks.items():
        shares = (peak / touched, (peak - bare) / touched)
        table.add_row(name, f"{peak / 2**20:.1f}", *(f"{share:.3f}" for share in shares))
    return table


@contextmanager
def put_back(model: nn.Module) -> Iterator[None]:
    """The weights as they were."""
    kept = {name: values.detach().clone() for name, values in model.named_parameters()}
    yield
    with torch.no_grad():
        for name, values in model.named_parameters():  # prune.remove changes their order
            values.copy_(kept[name])


def aminmax(model: nn.Module) -> None:
    """One pass that does next to nothing."""
    for parameter in model.parameters():
        parameter.detach().aminmax()


def fake_quantize(model: nn.Module) -> None:
    """Torch's own operator, scales that reach the largest value included."""
    for weight in find_targets(model).weights:
        values = weight.parameter.detach()
        others = [axis for axis in range(values.ndim) if axis != weight.output_axis]
        scale = values.abs().amax(others) / 127
        zeros = torch.zeros(len(scale), dtype=torch.int32)
        rounded = torch.fake_quantize_per_channel_affine(
            values, scale, zeros, weight.output_axis, -127, 127
        )
        values.copy_(rounded)


def global_unstructured(model: nn.Module) -> None:
    """Torch's own pruning of half of all weights, made permanent."""
    places: list[Any] = [(weight.module, "weight") for weight in find_targets(model).weights]
    prune.global_unstructured(places, pruning_method=prune.L1Unstructured, amount=0.5)
    for module, name in places:
        prune.remove(module, name)  # type: ignore[no-untyped-call]


def compression_times(rounds: int) -> Table:
    """Every setting on the UNet, and torch's own."""
    torch.manual_seed(0)
    model = UNet().eval()
    weights = find_targets(model).weights
    with InputNorms(weights) as norms, torch.no_grad():
        model(torch.randn(1, 1, 16, 16))
    grid: list[Compression] = [
        Quantization(8, grain, clip)
        for grain in ("channel", "tensor", "group", "model")
        for clip in ("absmax", "percentile", "mse")
    ]
    grid += [Quantization(4), Quantization(8, scheme="asymmetric")]
    grid += [Pruning(0.5), Pruning(0.5, scope="layer"), Pruning("2:4")]
    grid += [Pruning(0.5, "wanda", norms=norms)]

    def applied(compression: Compression) -> None:
        with torch.no_grad():
            list(compression.apply(weights))

    calls: dict[str, Callable[[], object]] = {each.name: partial(applied, each) for each in grid}
    calls["torch.aminmax, one pass"] = partial(aminmax, model)
    calls["torch.fake_quantize_per_channel_affine"] = partial(fake_quantize, model)
    calls["torch.nn.utils.prune.global_unstructured"] = partial(global_unstructured, model)
    size = sum(weight.parameter.numel() for weight in weights)
    table = Table(title=f"Compressing {size:,} weights of the UNet", title_justify="left")
    for column in ("how", "s", "ns/weight", "/ aminmax"):
        table.add_column(column, justify="left" if column == "how" else "right")
    for name, call in calls.items():
        pairs = []
        for _ in range(max(rounds // 3, 1)):
            with put_back(model):
                floor = min(seconds(partial(aminmax, model)) for _ in range(5))
                pairs.append((seconds(call), floor))
        spent = statistics.median(ours for ours, _ in pairs)
        ratio = statistics.median(ours / floor for ours, floor in pairs)
        table.add_row(name, f"{spent:.2f}", f"{spent / size * 1e9:.1f}", f"{ratio:.0f}")
    return table


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="repetitions of each pair")
    rounds = parser.parse_args().rounds
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    console = Console(width=140)
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {rounds} rounds")
    console.print(times(rounds))
    console.print(compression_times(rounds))
    if Path("/proc/self/clear_refs").exists():  # Linux tells the peak
        console.print(memory())


if __name__ == "__main__":
    main()
