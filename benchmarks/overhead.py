"""What each callback adds to an epoch, and how far its maths is from the floor.

Times on a shared machine say little, ratios within one run do: every pair is measured in turns,
and the median of the ratios is printed. ``python benchmarks/overhead.py [--rounds N]``.
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
from itertools import pairwise

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_weightwatch import OverfittingMonitor, SpectralMonitor, WeightHistogram, analyze
from lightning_weightwatch.spectral.eigenvalues import eigenvalues
from lightning_weightwatch.spectral.power_law import fit_power_law
from lightning_weightwatch.views.alpha_depth import alpha_depth_figure
from lightning_weightwatch.views.esd import esd_figure
from lightning_weightwatch.views.heat_map import heat_map_figure
from lightning_weightwatch.views.histogram_grid import histogram_figure
from lightning_weightwatch.views.png import png_bytes
from lightning_weightwatch.weights.description import describe_weights

WIDTHS = {"64-512-512-10": (64, 512, 512, 10), "256-1024-1024-1024-10": (256, *[1024] * 3, 10)}
EPOCHS = 4


class Perceptron(LightningModule):
    """A multilayer perceptron on random images."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        self.net = nn.Sequential(*layers[:-1])

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy."""
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Cross-entropy, logged."""
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=0.01)


def seconds_per_epoch(widths: tuple[int, ...], callbacks: list[Callback]) -> float:
    """One fit of 4 epochs of 2,560 samples in batches of 32."""
    data = TensorDataset(torch.randn(2560, widths[0]), torch.randint(0, widths[-1], (2560,)))
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=EPOCHS,
            logger=TensorBoardLogger(folder),
            callbacks=callbacks,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        model, loader = Perceptron(widths), DataLoader(data, batch_size=32)
        started = time.perf_counter()
        trainer.fit(model, loader, DataLoader(data, batch_size=256))
        return (time.perf_counter() - started) / EPOCHS


def paired(first: Callable[[], object], second: Callable[[], object], rounds: int) -> float:
    """Median over rounds of the time of ``first`` divided by that of ``second``."""
    ratios = []
    for _ in range(rounds):
        spent = []
        for call in (first, second):
            started = time.perf_counter()
            call()
            spent.append(time.perf_counter() - started)
        ratios.append(spent[0] / spent[1])
    return statistics.median(ratios)


def overhead(rounds: int) -> Table:
    """Epochs with each callback, as shares of the epoch without."""
    table = Table(title="Time of an epoch with a callback / without", title_justify="left")
    for column in ("model", "WeightHistogram", "SpectralMonitor", "OverfittingMonitor"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for name, widths in WIDTHS.items():
        seconds_per_epoch(widths, [])  # warms up
        row = []
        for callback in (WeightHistogram, SpectralMonitor, OverfittingMonitor):
            ratios = [
                seconds_per_epoch(widths, [callback()]) / seconds_per_epoch(widths, [])
                for _ in range(rounds)
            ]
            row.append(f"{statistics.median(ratios):.2f}")
        table.add_row(name, *row)
    return table


def floors(rounds: int) -> Table:
    """Our spectra beside the calls that they cannot do without."""
    weight = torch.randn(1024, 1024)
    double = weight.double().numpy()
    evals = eigenvalues(weight)

    def bare_lapack() -> None:
        with threadpool_limits(limits=1, user_api="blas"):
            np.linalg.eigvalsh(double.T @ double)

    table = Table(title="Our time / that of Gram + eigvalsh, 1024 x 1024", title_justify="left")
    table.add_column("ours")
    table.add_column("ratio", justify="right")
    for ours, call in (
        ("eigenvalues", lambda: eigenvalues(weight)),
        ("power-law fit of 1,024 points", lambda: fit_power_law(evals)),
    ):
        call()
        table.add_row(ours, f"{paired(call, bare_lapack, rounds):.2f}")
    return table


def figures(rounds: int) -> Table:
    """What a figure costs: milliseconds to draw and encode it, and kilobytes."""
    table = Table(title="Figures", title_justify="left")
    for column in ("figure", "layers", "ms", "kB"):
        table.add_column(column, justify="left" if column == "figure" else "right")
    for layers in (7, 50, 300):
        model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(layers)))
        weights, spectra = describe_weights(model), analyze(model)
        names, epochs = [layer.name for layer in spectra.layers], list(range(60))
        alphas = np.random.default_rng(0).uniform(1, 8, (layers, 60))
        layer = spectra.layers[0]
        drawings: dict[str, Callable[[], Figure]] = {
            "weight_grid": partial(histogram_figure, weights),
            "alpha_depth": partial(alpha_depth_figure, spectra),
            "alpha_heat_map, 60 epochs": partial(heat_map_figure, names, epochs, alphas),
            "esd": partial(esd_figure, layer, layer.evals),
        }
        for name, draw in drawings.items():
            spent, size = [], len(png_bytes(draw()))
            for _ in range(rounds):
                started = time.perf_counter()
                png_bytes(draw())
                spent.append(time.perf_counter() - started)
            cost = f"{1000 * statistics.median(spent):.0f}"
            table.add_row(name, str(layers), cost, f"{size / 1000:.0f}")
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
    console.print(floors(rounds))
    console.print(figures(rounds))
    console.print(overhead(rounds))


if __name__ == "__main__":
    main()
