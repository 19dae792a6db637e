"""What it costs to measure the usage of a model, to count its operations and to draw it.

Times on a shared machine say little, ratios within one run do: each pair is measured in turns, and
the median of the ratios is printed. ``python benchmarks/usage.py [--rounds N]``.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial

import torch
from lightning.pytorch import LightningModule, Trainer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.colorizer import UNet
from lightning_weightwatch import WeightUsageMonitor, count_flops, draw_network, measure_usage
from lightning_weightwatch.model.running import without_a_trace
from lightning_weightwatch.views.png import png_bytes


def perceptron() -> nn.Module:
    """64-512-512-10."""
    return nn.Sequential(
        nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
    )


def encoder() -> nn.Module:
    """Six layers of 256 features and 4 heads."""
    layer = nn.TransformerEncoderLayer(256, 4, 1024, batch_first=True)
    return nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)


#: Each with the size of a batch.
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MLP 64-512-512-10": (perceptron, (256, 64)),
    "encoder, 6 layers": (encoder, (8, 128, 256)),
    "UNet, 31 M, 128²": (UNet, (2, 1, 128, 128)),
}


def ratio(first: Callable[[], object], second: Callable[[], object], rounds: int) -> float:
    """Median over rounds of the time of ``first`` divided by that of ``second``, warmed up."""
    ratios = []
    for _ in range(rounds + 1):
        spent = []
        for call in (first, second):
            started = time.perf_counter()
            call()
            spent.append(time.perf_counter() - started)
        ratios.append(spent[0] / spent[1])
    return statistics.median(ratios[1:])


def milliseconds(call: Callable[[], object], rounds: int) -> float:
    """Median time of a call, warmed up."""
    spent = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        call()
        spent.append(time.perf_counter() - started)
    return 1000 * statistics.median(spent[1:])


def by_torch(model: nn.Module, batch: Tensor) -> int:
    """The forward pass by torch's own counter, as it is used: on real tensors."""
    with FlopCounterMode(display=False) as counter, without_a_trace(model):
        model(batch)
    return int(counter.get_total_flops())


def functions(rounds: int) -> Table:
    """Beside a bare forward pass of the same batch."""
    table = Table(title="Without a Trainer", title_justify="left")
    table.add_column("model")
    for column in (
        "usage of 8 batches / bare forward",
        "without activations",
        "count_flops, ms",
        "torch's counter, ms",
        "draw, ms",
    ):
        table.add_column(column, justify="right")
    for name, (build, shape) in MODELS.items():
        torch.manual_seed(0)
        table.add_row(name, *costs(build(), torch.randn(shape), rounds))
    return table


def costs(model: nn.Module, batch: Tensor, rounds: int) -> list[str]:
    """A row of the table."""
    usage = measure_usage(model, iter([batch]))

    def bare() -> None:
        with without_a_trace(model):
            for _ in range(8):
                model(batch)

    def measured(activations: bool) -> None:
        measure_usage(model, iter([batch] * 8), activations=activations)

    def drawn() -> None:
        png_bytes(draw_network(model, batch, usage))

    return [
        f"{ratio(partial(measured, True), bare, rounds):.2f}",
        f"{ratio(partial(measured, False), bare, rounds):.2f}",
        f"{milliseconds(partial(count_flops, model, batch), rounds):.0f}",
        f"{milliseconds(partial(by_torch, model, batch), rounds):.0f}",
        f"{milliseconds(drawn, rounds):.0f}",
    ]


class Regressor(LightningModule):
    """Any of the models, trained towards zero."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Mean square."""
        loss: Tensor = self.net(batch[0]).square().mean()
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Mean square, logged."""
        self.log("val_loss", self.net(batch[0]).square().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def fit(net: nn.Module, shape: tuple[int, ...], *, watched: bool = False) -> None:
    """Three epochs of 40 batches of training and 10 of validation."""
    size, *rest = shape
    data = TensorDataset(torch.randn(size * 40, *rest))
    loader = DataLoader(data, batch_size=size)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=3,
            limit_val_batches=10,
            default_root_dir=folder,
            logger=False,
            callbacks=[WeightUsageMonitor()] if watched else [],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(Regressor(net), loader, loader)


def in_a_fit(rounds: int) -> Table:
    """Fits with the monitor beside fits without."""
    table = Table(title="Time of a fit with WeightUsageMonitor / without", title_justify="left")
    table.add_column("model")
    table.add_column("ratio", justify="right")
    for name in list(MODELS)[:2]:
        build, shape = MODELS[name]
        net = build()
        watched = partial(fit, net, shape, watched=True)
        table.add_row(name, f"{ratio(watched, partial(fit, net, shape), rounds):.2f}")
    return table


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="repetitions of each pair")
    rounds = parser.parse_args().rounds
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    console = Console()
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {rounds} rounds")
    console.print(functions(rounds))
    console.print(in_a_fit(rounds))


if __name__ == "__main__":
    main()
