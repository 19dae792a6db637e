"""The work of measuring some weights, divided among threads, or in batches on a GPU."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from lightning_weightwatch.model.effective import EffectiveWeight
from lightning_weightwatch.model.matrices import Matrices
from lightning_weightwatch.model.weights import non_finite
from lightning_weightwatch.report import Skipped
from lightning_weightwatch.spectral.convention import CONVENTIONS, ConventionName
from lightning_weightwatch.spectral.eigenvalues import (
    NUMPY_DTYPES,
    Array,
    FloatArray,
    array_of,
    eigenvalues_on_cpu,
    eigenvalues_on_device,
    numpy_dtype,
    shared_call,
)
from lightning_weightwatch.spectral.layer import LayerSpectrum, layer_spectrum
from lightning_weightwatch.spectral.marchenko_pastur import fit_marchenko_pastur
from lightning_weightwatch.spectral.randomization import (
    RandomizedSpectrum,
    compare,
    replicas,
    shuffled,
)
from lightning_weightwatch.spectral.unchanged import KnownSpectra, Rows
from lightning_weightwatch.spectral.workers import Call, Work

Planned = tuple[EffectiveWeight, tuple[Matrices, ...]]

# Bytes of the Gram matrices of one batch on a GPU.
_BATCH_BYTES = 1 << 28
# Bytes, in float64, of the small matrices that share a call on a CPU.
_SMALL_BATCH_BYTES = 1 << 24


@dataclass(frozen=True)
class Settings:
    """How to measure; see `analyze`."""

    mp_fit: bool = False
    randomize: bool = False
    pool: bool = True
    device: torch.device | None = None
    dtype: torch.dtype = torch.float64
    convention: ConventionName = "weightwatcher"
    seed: int = 0


def batches(planned: Iterable[Planned], settings: Settings) -> Iterator[list[Planned]]:
    """Weights one by one; neighbours whose matrices have one shape together where that helps.

    On a GPU as many as its memory should take, on a CPU just so many that their solver lets other
    threads run.
    """
    batch: list[Planned] = []
    for item in planned:
        if batch and not _fit_together([*batch, item], settings):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _fit_together(batch: list[Planned], settings: Settings) -> bool:
    parts = [part for _, parts in batch for part in parts]
    if len({(part.N, part.M) for part in parts}) > 1:
        return False
    if all(_on_gpu(item, settings) for item in batch):
        return sum(8 * part.M**2 * part.count for part in parts) <= _BATCH_BYTES
    enough = shared_call(parts[0].M)
    before = sum(part.count for _, parts in batch[:-1] for part in parts)
    return before < enough and sum(8 * p.N * p.M * p.count for p in parts) <= _SMALL_BATCH_BYTES


def _on_gpu(item: Planned, settings: Settings) -> bool:
    parameter = item[0].parameter
    device = settings.device or (None if parameter is None else parameter.device)
    return device is not None and device.type == "cuda"


def work_of(planned: Planned) -> float:
    """About how many multiplications the spectra of a weight take."""
    return sum(part.work for part in planned[1])


def held_by(planned: Planned, settings: Settings) -> int:
    """Bytes that are allocated for a weight as long as it is measured; 0 for a view of it.

    Gathered and computed ones are copies; numpy is given one of a dtype that it does not know, of
    the interleaved matrices of a convolution, and of shuffled ones.
    """
    weight, parts = planned
    known = weight.dtype in NUMPY_DTYPES
    copies = weight.is_copy + (not known) + settings.randomize
    copies += any(part.count > 1 for part in parts)
    return copies * math.prod(weight.shape) * (weight.dtype.itemsize if known else 4)


def measure(
    batch: list[Planned], settings: Settings, known: KnownSpectra | None = None
) -> Work[list[Rows]]:
    """The rows of each weight of a batch; a weight that cannot be measured gives its reason."""
    rows: dict[int, Rows] = {}
    values: dict[int, Tensor] = {}
    for index, (weight, parts) in enumerate(batch):
        try:
            found = _values(weight, settings)
            asked = _asked(weight, parts, settings)
            rows_before = known.find(weight, found, asked) if known is not None else None
        except Exception as error:  # whatever a tensor subclass or a parametrization raises
            reason = f"cannot be read: {error}"
            rows[index] = tuple(Skipped(part.name, reason) for part in parts)
            continue
        if rows_before is not None:
            rows[index] = rows_before
        else:
            values[index] = found
    pieces = [
        (index, part, part.of(tensor))
        for index, tensor in values.items()
        for part in batch[index][1]
    ]
    spectra = yield from _spectra([stack for _, _, stack in pieces], settings)
    calls: list[tuple[int, Call]] = []
    for (index, part, stack), evals in zip(pieces, spectra, strict=True):
        try:
            finishing = yield from _finishing(part, stack, evals, settings)
        except Exception as error:  # no memory for its shuffled matrices: one layer, not all
            finishing = [Call(partial(Skipped, part.name, f"failed: {error}"))]
        calls += [(index, call) for call in finishing]
    finished = yield [call for _, call in calls]
    measured: dict[int, list[LayerSpectrum | Skipped]] = {index: [] for index in values}
    for (index, _), row in zip(calls, finished, strict=True):
        measured[index].append(row)
    for index, tensor in values.items():
        rows[index] = tuple(measured[index])
        # What failed may have failed for want of memory: it is tried again.
        if known is not None and not any(isinstance(row, Skipped) for row in rows[index]):
            weight, parts = batch[index]
            known.keep(weight, tensor, _asked(weight, parts, settings), rows[index])
    return [rows[index] for index in range(len(batch))]


def _asked(weight: EffectiveWeight, parts: tuple[Matrices, ...], settings: Settings) -> object:
    """All that the rows of a weight follow from but its values."""
    return settings, weight.kind, weight.layer_id, tuple(part.name for part in parts)


def _values(weight: EffectiveWeight, settings: Settings) -> Tensor:
    """The whole weight where it is to be measured."""
    # In a mixed-precision fit a weight would be computed in half precision.
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        values = weight.read().detach()
    if tuple(values.shape) != weight.shape:
        raise ValueError(f"it has the shape {tuple(values.shape)}, not {weight.shape}")
    if settings.device is not None:
        values = values.to(settings.device)
    return values if values.device.type == "cuda" else values.cpu()


def _spectra(stacks: list[Tensor], settings: Settings) -> Work[list[FloatArray | Exception]]:
    """The eigenvalues of each stack; together, or one by one when that fails."""
    if len(stacks) > 1:
        try:
            found = yield from _eigenvalues(stacks, settings)
            return list(found)
        except Exception:  # one of them is not finite, or there is no memory for all
            pass
    alone: list[FloatArray | Exception] = []
    for stack in stacks:
        try:
            alone += yield from _eigenvalues([stack], settings)
        except Exception as error:  # LAPACK's, or out of memory: one layer, not the analysis
            alone.append(error)
    return alone


def _eigenvalues(stacks: list[Tensor], settings: Settings) -> Work[list[FloatArray]]:
    """The eigenvalues of stacks [count, rows, columns] whose matrices have one shape."""
    if not stacks:
        return []
    if all(stack.device.type == "cuda" for stack in stacks):
        return eigenvalues_on_device(stacks, settings.dtype)
    arrays = [array_of(stack) for stack in stacks]
    matrices: Sequence[Array] | Array = arrays[0]
    if len(arrays) > 1:
        matrices = [matrix for array in arrays for matrix in array]
    values = yield from eigenvalues_on_cpu(matrices, numpy_dtype(settings.dtype))
    return np.split(values, np.cumsum([len(stack) for stack in stacks])[:-1])


def _finishing(
    part: Matrices, stack: Tensor, evals: FloatArray | Exception, settings: Settings
) -> Work[list[Call]]:
    """The calls that give the rows of a stack, one for all matrices pooled or one for each."""
    if isinstance(evals, Exception):
        skipped = Skipped(part.name, non_finite(stack) or f"failed: {evals}")
        return [Call(lambda: skipped)]
    groups = [slice(None)] if settings.pool else [slice(i, i + 1) for i in range(part.count)]
    scale = CONVENTIONS[settings.convention].scale(part.kind, part.count, pooled=settings.pool)
    calls = []
    for number, group in enumerate(groups):
        name = part.name if settings.pool else f"{part.name}[{number}]"
        random: list[FloatArray] = []
        shuffles = replicas(evals[group].size) + 1 if settings.randomize else 0
        for replica in range(shuffles):
            mixed = yield from shuffled(
                array_of(stack[group]), seed=settings.seed, name=name, replica=replica
            )
            (found,) = yield from _eigenvalues([torch.from_numpy(mixed).to(stack.device)], settings)
            random.append(found * scale)
        slice_id = None if settings.pool else number
        calls.append(Call(partial(_finish, part, evals[group] * scale, random, slice_id, settings)))
    return calls


def _finish(
    part: Matrices,
    evals: FloatArray,
    random: list[FloatArray],
    slice_id: int | None,
    settings: Settings,
) -> LayerSpectrum | Skipped:
    """The metrics, once the eigenvalues are there."""
    try:
        return _row(part, evals, random, slice_id, settings)
    except Exception as error:  # a layer that breaks the fits does not break the analysis
        return Skipped(part.name, f"failed: {error}")


def _row(
    part: Matrices,
    evals: FloatArray,
    random: list[FloatArray],
    slice_id: int | None,
    settings: Settings,
) -> LayerSpectrum:
    row = layer_spectrum(
        evals,
        name=part.name,
        kind=part.kind,
        N=part.N,
        convention=CONVENTIONS[settings.convention],
        layer_id=part.weight.layer_id,
        slice_id=slice_id,
        rf=part.count,
        epsilon=float(np.finfo(numpy_dtype(settings.dtype)).eps),
    )
    if settings.mp_fit:
        row = row.with_bulk(fit_marchenko_pastur(evals, N=part.N, M=part.M))
    if random:
        *replicated, again = random
        compared: RandomizedSpectrum = compare(evals, replicated, again, N=part.N, M=part.M)
        row = row.with_randomized(compared)
    return row
