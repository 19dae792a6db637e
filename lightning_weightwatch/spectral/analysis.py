"""The spectra of a model, a state dict or a file: layer after layer, on all cores."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch

from lightning_weightwatch.model.matrices import Matrices
from lightning_weightwatch.model.weights import Kind
from lightning_weightwatch.report import Skipped
from lightning_weightwatch.spectral.convention import CONVENTIONS, ConventionName
from lightning_weightwatch.spectral.eigenvalues import one_blas_thread
from lightning_weightwatch.spectral.layer import LayerSpectrum
from lightning_weightwatch.spectral.measurement import (
    Settings,
    batches,
    held_by,
    measure,
    work_of,
)
from lightning_weightwatch.spectral.report import SpectralReport
from lightning_weightwatch.spectral.selection import (
    MIN_EVALS,
    Selection,
    Source,
    check,
    check_count,
    opened,
    select,
)
from lightning_weightwatch.spectral.unchanged import KnownSpectra
from lightning_weightwatch.spectral.workers import run_all

# What may be in memory at once, as multiples of the largest layer in float64.
_MEMORY = 4
# A model of small layers may take this much all the same: it is less than what torch itself takes.
_LEAST_MEMORY = 1 << 25


def analyze(
    model: Source,
    *,
    mp_fit: bool = False,
    randomize: bool = False,
    layers: Sequence[str] | None = None,
    kinds: Sequence[Kind] | None = None,
    pool: bool = True,
    min_evals: int = MIN_EVALS,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float64,
    convention: ConventionName = "weightwatcher",
    seed: int = 0,
    summary_min_evals: int = 32,
    trust: bool = False,
    known: KnownSpectra | None = None,
    progress: Callable[[float], None] | None = None,
) -> SpectralReport:
    """Measure the spectrum of every weight that has one.

    Every matrix of a model is one: of linear, embedding, bilinear and recurrent layers, of
    attention (q, k and v by themselves), of convolutions (a matrix for each kernel position) and
    of bare parameters. A weight that its layer computes, by weight_norm, spectral_norm, another
    parametrization or a pruning mask, is measured as computed. All else is named in `skipped`.

    The model is only read. On a CPU the matrices are spread over `torch.get_num_threads()` threads
    with one BLAS thread each; what is computed here does not depend on how many. With sharded
    parameters (DTensor) this is a collective: call it on every rank.

    Args:
        model: A module in any mode; or a state dict; or the path of a file: `.safetensors`, or
            `.ckpt`, `.pt` and the like.
        mp_fit: Also fit the Marchenko–Pastur bulk.
        randomize: Also compare with the matrices shuffled; takes several times as long.
        layers: Names or shell patterns (`"encoder.*"`); None for all.
        kinds: Kinds of layers (`"linear"`, `"conv2d"`, ...); None for all.
        pool: One row for all kernel positions of a convolution; False: a row for each.
        min_evals: Layers with fewer eigenvalues are skipped.
        device: Where to compute; None for where the weights are (a GPU, else the CPU).
        dtype: `torch.float64`; or `torch.float32`, faster, alpha within about 1e-3.
        convention: `"weightwatcher"` for the numbers of WeightWatcher 0.7.7; `"plain"` for
            eigenvalues of convolutions that are not halved, and floors relative to the largest
            eigenvalue, so that no scale of the weights changes alpha.
        seed: Of the shuffles of `randomize`.
        summary_min_evals: See `SpectralReport`.
        trust: Let a pickled file run the code in it: only for files whose origin you trust.
        known: What was measured before: weights that have not changed are not measured again.
        progress: Called with the share of the work that is done, 0 to 1.

    Raises:
        ValueError: For an argument out of its range.
        BadFile: A `ValueError`: for a file that cannot be read.
        TypeError: If `model` is none of the three.

    Examples:
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.LayerNorm(64))
        >>> report = analyze(model)
        >>> [layer.name for layer in report.layers], report.skipped[0].reason
        (['0'], 'a 1-D weight has no spectrum')
    """
    check(layers, kinds, min_evals)
    check_count("summary_min_evals", summary_min_evals)
    settings = Settings(mp_fit, randomize, pool, _device(device), dtype, convention, seed)
    _check(settings)
    with opened(model, trust=trust) as found:
        selection = select(found, layers=layers, kinds=kinds, min_evals=min_evals)
        rows = _measured(selection, settings, known, progress)
    measured = [row for row in rows if isinstance(row, LayerSpectrum)]
    failed = [row for row in rows if isinstance(row, Skipped)]
    return SpectralReport(tuple(measured), (*selection.skipped, *failed), summary_min_evals)


def _measured(
    selection: Selection,
    settings: Settings,
    known: KnownSpectra | None,
    progress: Callable[[float], None] | None,
) -> list[LayerSpectrum | Skipped]:
    """The rows of all weights, in their order; the largest go first, so that no core idles long."""
    # Of equal work those of one orientation stand together: they can share a call as they lie.
    planned = sorted(
        enumerate(selection.weights),
        key=lambda item: (-work_of(item[1]), item[1][1][0].rows),
    )
    groups = list(batches((item for _, item in planned), settings))
    costs = [sum(map(work_of, group)) for group in groups]
    spent, total = 0.0, sum(costs)

    def on_done(index: int) -> None:
        nonlocal spent
        spent += costs[index]
        if progress is not None:
            progress(spent / total)

    with one_blas_thread():
        results = run_all(
            (measure(group, settings, known) for group in groups),
            threads=torch.get_num_threads(),
            memory=_memory(selection),
            held=[sum(held_by(item, settings) for item in group) for group in groups],
            on_done=on_done,
        )
    in_order = sorted(
        zip(planned, chain.from_iterable(results), strict=True), key=lambda r: r[0][0]
    )
    return [row for _, rows in in_order for row in rows]


def _memory(selection: Selection) -> int:
    sizes = [8 * part.count * part.N * part.M for part in selection.matrices]
    return max(_MEMORY * max(sizes, default=0), _LEAST_MEMORY)


def _device(device: str | torch.device | None) -> torch.device | None:
    if device is None:
        return None
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device must be 'cpu' or 'cuda', got {device!r}") from error
    if found.type not in ("cpu", "cuda"):
        raise ValueError(
            f"device must be 'cpu' or 'cuda', got {device!r}; leave it out to have weights of "
            "other devices measured on the CPU"
        )
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device!r} is not there: no CUDA on this machine; leave it out")
    return found


def _check(settings: Settings) -> None:
    if settings.dtype not in (torch.float64, torch.float32):
        raise ValueError(f"dtype must be torch.float64 or torch.float32, got {settings.dtype!r}")
    if not isinstance(settings.convention, str) or settings.convention not in CONVENTIONS:
        raise ValueError(
            f"convention must be 'weightwatcher' or 'plain', got {settings.convention!r}"
        )
    if isinstance(settings.seed, bool) or not isinstance(settings.seed, int) or settings.seed < 0:
        raise ValueError(f"seed must be an integer of 0 or more, got {settings.seed!r}")


@dataclass(frozen=True)
class ShapeReport:
    """What `analyze` would measure, by shape alone: `describe` of WeightWatcher.

    Attributes:
        layers: The matrices of each row.
        skipped: Every other place with a weight, with its reason.
    """

    layers: tuple[Matrices, ...]
    skipped: tuple[Skipped, ...]

    def records(self) -> list[dict[str, Any]]:
        """A row per layer, with WeightWatcher's names."""
        return [
            {
                "layer_id": found.weight.layer_id,
                "name": found.name,
                "kind": found.kind,
                "N": found.N,
                "M": found.M,
                "Q": found.N / found.M,
                "rf": found.count,
                "num_evals": found.num_evals,
                "num_params": found.count * found.N * found.M,
            }
            for found in self.layers
        ]

    def summary(self) -> dict[str, float]:
        """Layers, their eigenvalues and their parameters."""
        return {
            "layers": float(len(self.layers)),
            "num_evals": float(sum(found.num_evals for found in self.layers)),
            "num_params": float(sum(found.count * found.N * found.M for found in self.layers)),
        }


def describe(
    model: Source,
    *,
    layers: Sequence[str] | None = None,
    kinds: Sequence[Kind] | None = None,
    min_evals: int = MIN_EVALS,
    trust: bool = False,
) -> ShapeReport:
    """What `analyze` would measure, without reading a value. For the arguments see there."""
    with opened(model, trust=trust) as found:
        selection = select(found, layers=layers, kinds=kinds, min_evals=min_evals)
        return ShapeReport(selection.matrices, selection.skipped)
