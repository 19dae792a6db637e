"""What describing all weights costs beside TensorBoard's histograms alone.

Two models: the UNet of 31 million parameters of ``models.py`` and a perceptron of 100 layers.
Ours is everything that ``describe_weights`` measures (moments, median, MAD, kurtosis, outliers,
a histogram for each parameter and one for all) and the rows of every parameter, kind and module.
Theirs are the histograms that ``SummaryWriter.add_histogram`` counts and writes. Times of a busy
machine mean little, so that each pair is measured in turns; ratios are printed, the median first
and then each round. ``taskset -c 0,1 python benchmarks/histograms.py [--rounds N]``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.tensorboard.writer import SummaryWriter

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.models import unet
from lightning_weightwatch.weights.description import WeightReport, describe_weights


def perceptron() -> nn.Module:
    """100 layers of 256 units, 6,579,200 parameters."""
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(256, 256) for _ in range(100)))


def ours(model: nn.Module) -> WeightReport:
    """Everything, with the rows of all groups."""
    report = describe_weights(model)
    report.records()
    report.records_by_kind()
    report.records_by_module()
    report.model_record()
    return report


def theirs(model: nn.Module, **options: Any) -> int:
    """A histogram of every parameter by `SummaryWriter.add_histogram`; the bytes it writes."""

    def write(writer: SummaryWriter) -> None:
        for name, parameter in model.named_parameters():
            writer.add_histogram(name, parameter, 0, **options)

    return bytes_written(write)


def raw(report: WeightReport) -> int:
    """The histograms of a report by `SummaryWriter.add_histogram_raw`; the bytes it writes."""

    def write(writer: SummaryWriter) -> None:
        for parameter in report.parameters:
            histogram, moments = parameter.histogram, parameter.moments
            if histogram is not None:
                writer.add_histogram_raw(
                    parameter.name,
                    min=moments.min,
                    max=moments.max,
                    num=moments.count,
                    sum=moments.total,
                    sum_squares=moments.sum_of_squares,
                    bucket_limits=list(histogram.edges[1:]),
                    bucket_counts=list(histogram.counts),
                    global_step=0,
                )

    return bytes_written(write)


def bytes_written(write: Callable[[SummaryWriter], None]) -> int:
    """The size of the event files of one epoch."""
    with tempfile.TemporaryDirectory() as folder:
        writer = SummaryWriter(folder)
        write(writer)
        writer.close()
        return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


def floor(model: nn.Module) -> None:
    """One pass that does next to nothing, on all threads of torch."""
    for parameter in model.parameters():
        parameter.detach().aminmax()


def seconds(call: Callable[[], object]) -> float:
    """The time of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def compare(name: str, model: nn.Module, rounds: int) -> Table:
    """Our time beside each of the others, round by round."""
    size = sum(parameter.numel() for parameter in model.parameters())
    table = Table(title=f"{name}, {size:,} parameters", title_justify="left")
    for column in ("beside", "ours, ns/weight", "its, ns/weight", "its / ours", "rounds"):
        table.add_column(column, justify="left" if column == "beside" else "right")
    report = ours(model)
    for label, other in (
        ("add_histogram, default bins", lambda: theirs(model)),
        ("add_histogram, bins=64", lambda: theirs(model, bins=64)),
        ("add_histogram_raw of the report (writing alone)", lambda: raw(report)),
        ("one torch.aminmax pass", lambda: floor(model)),
    ):
        other()
        pairs = [(seconds(lambda: ours(model)), seconds(other)) for _ in range(rounds)]
        ratios = [its / our for our, its in pairs]
        table.add_row(
            label,
            f"{statistics.median(our for our, _ in pairs) / size * 1e9:.2f}",
            f"{statistics.median(its for _, its in pairs) / size * 1e9:.2f}",
            f"{statistics.median(ratios):.3g}",
            " ".join(f"{ratio:.3g}" for ratio in ratios),
        )
    return table


def main() -> None:
    """Print a table for each model, and one of the bytes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="repetitions of each pair")
    rounds = parser.parse_args().rounds
    console = Console(width=120)
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {rounds} rounds")
    sizes = Table(title="Bytes of an epoch's event file", title_justify="left")
    for column in ("model", "64 raw bins", "add_histogram", "share"):
        sizes.add_column(column, justify="left" if column == "model" else "right")
    for name, model in (("UNet", unet()), ("perceptron of 100 layers", perceptron())):
        console.print(compare(name, model, rounds))
        small, large = raw(ours(model)), theirs(model)
        sizes.add_row(name, f"{small:,}", f"{large:,}", f"{small / large:.3f}")
    console.print(sizes)


if __name__ == "__main__":
    main()
