"""The spectral analysis beside WeightWatcher 0.7.7, and beside the calls it cannot do without.

Times on a shared machine say little, ratios within one run do: ours and theirs are measured in
turns, and the median of the ratios is printed. `make bench` runs it; by hand
``python benchmarks/spectra.py --weightwatcher PYTHON [--rounds N]``, PYTHON being that of an
environment with weightwatcher==0.7.7.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.models import build
from lightning_weightwatch import analyze
from lightning_weightwatch.model.weights import Kind
from lightning_weightwatch.spectral.analysis import describe
from lightning_weightwatch.spectral.eigenvalues import one_blas_thread, shared_call

MEBIBYTE = 1 << 20
#: What WeightWatcher measures too: on equal terms.
THEIR_KINDS: tuple[Kind, ...] = ("linear", "embedding", "conv2d")


class Rival:
    """WeightWatcher in its process."""

    def __init__(self, python: str) -> None:
        script = Path(__file__).with_name("weightwatcher_side.py")
        self._process = subprocess.Popen(
            [python, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.trained_weights: str = self._answer()

    def analyze(self, name: str, mp_fit: bool) -> dict[str, Any]:
        """Its seconds and its alphas."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([name, {"mp_fit": mp_fit}]) + "\n")
        self._process.stdin.flush()
        found: dict[str, Any] = self._answer()
        return found

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("WeightWatcher's process ended: run it by hand to see why")
        return json.loads(line)


def seconds_of(call: Callable[[], object]) -> float:
    """The time of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def beside_weightwatcher(rival: Rival, models: dict[str, nn.Module], rounds: int) -> Table:
    """Their time over ours on the layers that both measure, and how far the alphas differ."""
    table = Table(title="WeightWatcher 0.7.7 / ours", title_justify="left")
    for column in ("model", "options", "layers", "theirs, s", "ours, s", "ratio", "alpha differs"):
        table.add_column(column, justify="left" if column in ("model", "options") else "right")
    for name, model in models.items():
        for mp_fit, repeated in ((False, rounds), (True, 1)):
            theirs, ours, worst = [], [], 0.0
            for _ in range(repeated):
                answer = rival.analyze(name, mp_fit)
                theirs.append(answer["seconds"])
                for _ in range(rounds // repeated):
                    started = time.perf_counter()
                    report = analyze(model, kinds=THEIR_KINDS, mp_fit=mp_fit)
                    ours.append(time.perf_counter() - started)
                alphas = {layer.name: layer.alpha for layer in report.layers}
                assert alphas.keys() == answer["alphas"].keys(), "not the same layers"
                worst = max(abs(alphas[n] / a - 1) for n, a in answer["alphas"].items())
            pairs = zip(theirs * (len(ours) // len(theirs)), ours, strict=True)
            table.add_row(
                name,
                "mp_fit" if mp_fit else "default",
                str(len(alphas)),
                f"{statistics.median(theirs):.2f}",
                f"{statistics.median(ours):.2f}",
                f"{statistics.median(t / o for t, o in pairs):.1f}",
                f"{worst:.0e}",
            )
    return table


def bare_calls(model: nn.Module) -> dict[str, Callable[[], object]]:
    """Gram matrices and their eigenvalues and nothing else, by four ways to set up the BLAS."""
    matrices: list[np.ndarray[Any, np.dtype[np.float64]]] = []
    for part in describe(model).layers:
        for matrix in part.of(part.weight.read()).double().numpy():
            upright = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
            matrices.append(np.ascontiguousarray(upright))
    matrices.sort(key=lambda m: -(m.shape[1] ** 2) * (m.shape[0] + 8 * m.shape[1]))
    tensors = [torch.from_numpy(matrix) for matrix in matrices]
    stacks: list[np.ndarray[Any, np.dtype[np.float64]]] = []
    waiting: list[np.ndarray[Any, np.dtype[np.float64]]] = []
    for matrix, following in zip(matrices, [*matrices[1:], None], strict=True):
        waiting.append(matrix)
        same = following is not None and following.shape == matrix.shape
        if not same or len(waiting) >= shared_call(matrix.shape[1]):
            stacks.append(np.stack(waiting))
            waiting = []

    def solve(matrix: np.ndarray[Any, np.dtype[np.float64]]) -> object:
        return np.linalg.eigvalsh(matrix.swapaxes(-2, -1) @ matrix)

    def spread(items: list[np.ndarray[Any, np.dtype[np.float64]]]) -> None:
        with one_blas_thread(), ThreadPoolExecutor(torch.get_num_threads()) as pool:
            list(pool.map(solve, items))

    return {
        "numpy, a thread per matrix": lambda: spread(matrices),
        "numpy, a thread per call that lets go of the lock": lambda: spread(stacks),
        "numpy, all threads on each matrix": lambda: [solve(matrix) for matrix in matrices],
        "torch, all threads on each matrix": lambda: [
            torch.linalg.eigvalsh(tensor.mT @ tensor) for tensor in tensors
        ],
    }


def beside_the_floor(models: dict[str, nn.Module], rounds: int) -> Table:
    """Our time over that of the bare calls."""
    table = Table(title="Ours / bare Gram and eigvalsh", title_justify="left")
    for column in ("model", "bare calls", "seconds", "ratio"):
        table.add_column(column, justify="left" if column in ("model", "bare calls") else "right")
    for name, model in models.items():
        for set_up, call in bare_calls(model).items():
            # Pairs of one set-up only: BLAS threads go on spinning for a while after a call.
            times = [
                (seconds_of(call), seconds_of(lambda: analyze(model)))  # noqa: B023 - called here
                for _ in range(rounds + 1)
            ][1:]  # the first warms up
            ratio = statistics.median(ours / bare for bare, ours in times)
            seconds = statistics.median(bare for bare, _ in times)
            table.add_row(name, set_up, f"{seconds:.2f}", f"{ratio:.2f}")
    return table


def status(field: str) -> int:
    """A number of bytes out of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def memory(model: nn.Module) -> tuple[float, float]:
    """What an analysis takes at its peak above the model, and the largest layer in float64."""
    analyze(nn.Linear(600, 600))  # loads what is loaded on first use
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    analyze(model)
    peak = status("VmHWM") - before
    largest = max(8 * part.count * part.N * part.M for part in describe(model).layers)
    return peak, largest


def peak_memory(names: Iterable[str], weights: str | None) -> Table:
    """The peak of each model, in a process of its own."""
    table = Table(title="Peak memory above the model", title_justify="left")
    for column in ("model", "peak, MiB", "largest layer in float64, MiB", "ratio"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for name in names:
        done = subprocess.run(
            [sys.executable, __file__, "--memory-of", name, *([weights] if weights else [])],
            capture_output=True,
            text=True,
            check=True,
        )
        peak, largest = json.loads(done.stdout)
        table.add_row(
            name, f"{peak / MEBIBYTE:.0f}", f"{largest / MEBIBYTE:.0f}", f"{peak / largest:.2f}"
        )
    return table


def main() -> None:
    """Print the three tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weightwatcher", metavar="PYTHON", help="python of its environment")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions of each pair")
    parser.add_argument("--memory-of", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print(json.dumps(memory(build(*[*options.memory_of, None][:2]))))
        return
    rival = Rival(options.weightwatcher) if options.weightwatcher else None
    weights = rival.trained_weights if rival is not None else None
    models = {name: build(name, weights) for name in (["UNet", "MiniLM"] if rival else ["UNet"])}
    console = Console()
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    console.print(beside_the_floor(models, options.rounds))
    if Path("/proc/self/clear_refs").exists():
        console.print(peak_memory(models, weights))
    if rival is not None:
        console.print("WeightWatcher's mp_fit takes some minutes ...")
        console.print(beside_weightwatcher(rival, models, options.rounds))


if __name__ == "__main__":
    main()
