"""Every combination of settings that a trial is asked for, checked before anything runs."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

from lightning_weightwatch.trials.activation_quantization import ActivationQuantization
from lightning_weightwatch.trials.compression import Compression
from lightning_weightwatch.trials.int8_kernels import Int8Kernels, available
from lightning_weightwatch.trials.pruning import Method, Pruning, Scope
from lightning_weightwatch.trials.quantization import (
    Clip,
    CodeRange,
    Granularity,
    Quantization,
    Scheme,
)
from lightning_weightwatch.usage.input_ranges import InputRanges, RangeClip
from lightning_weightwatch.usage.inputs import InputNorms


def quantizations(
    bits: int | Sequence[int],
    granularity: Granularity | Sequence[Granularity],
    clip: Clip | Sequence[Clip],
    scheme: Scheme | Sequence[Scheme],
    range: CodeRange,
    group_size: int,
    percentile: float,
) -> tuple[Quantization, ...]:
    """Every combination, from the first number of bits on.

    Raises:
        ValueError: For a setting that is not allowed, or is given twice.
    """
    settings = product(
        several("bits", bits, "[8, 4]"),
        several("granularity", granularity, "['tensor', 'channel']"),
        several("clip", clip, "['absmax', 'mse']"),
        several("scheme", scheme, "['symmetric', 'asymmetric']"),
    )
    return tuple(
        Quantization(
            number,
            granularity=grain,
            clip=clipped,
            scheme=kind,
            range=range,
            group_size=group_size,
            percentile=percentile,
        )
        for number, grain, clipped, kind in settings
    )


def with_activations(
    quantized: Sequence[Quantization],
    bits: int | Sequence[int] | None,
    clip: RangeClip,
    ranges: InputRanges | None = None,
) -> list[Compression]:
    """Each quantization of weights, and after it the same with inputs of so many bits.

    Args:
        quantized: The grid.
        bits: Of an activation; None for no such variants.
        clip: Of their ranges.
        ranges: As found in the evaluation of the baseline.

    Raises:
        ValueError: For a setting that is not allowed, or is given twice.
    """
    numbers = () if bits is None else several("activation_bits", bits, "[8, 4]")
    found: list[Compression] = []
    for each in quantized:
        found += [each, *(ActivationQuantization(each, number, clip, ranges) for number in numbers)]
    return found


def prunings(
    amounts: str | float | Sequence[str | float],
    method: Method | Sequence[Method],
    scope: Scope | Sequence[Scope],
    norms: InputNorms | None = None,
) -> tuple[Pruning, ...]:
    """Every combination, from the first amount on; scopes only where they make a difference.

    Raises:
        ValueError: For a setting that is not allowed, or is given twice.
    """
    settings = product(
        several("amounts", amounts, "[0.2, 0.5]"),
        several("method", method, "['magnitude', 'wanda']"),
        several("scope", scope, "['global', 'layer']"),
    )
    found: dict[str, Pruning] = {}
    for amount, how, where in settings:
        pruning = Pruning(amount, method=how, scope=where, norms=norms)
        found.setdefault(pruning.name, pruning)
    return tuple(found.values())


def several(name: str, given: Any, example: str) -> tuple[Any, ...]:
    """One value, or some that differ, as a tuple.

    Raises:
        ValueError: For none, for anything that is no sequence, or for two of the same.
    """
    if isinstance(given, np.ndarray | np.generic):
        given = given.tolist()
    values: tuple[Any, ...]
    if isinstance(given, str | int | float):
        values = (given,)
    elif isinstance(given, Sequence) and len(given):
        values = tuple(v.item() if isinstance(v, np.generic) else v for v in given)
    else:
        raise ValueError(f"{name} must be a value or a list such as {example}, got {given!r}")
    if any(value in values[:at] for at, value in enumerate(values)):
        raise ValueError(f"{name} must differ from each other, got {list(values)}")
    return values


def with_kernels(
    simulated: Sequence[Compression], int8_kernels: bool, tied: frozenset[str] = frozenset()
) -> list[Compression]:
    """What is simulated, and after it torchao's kernels where they are asked for.

    Args:
        simulated: The grid.
        int8_kernels: Whether they are.
        tied: Names of the weights that are used in several places.
    """
    real = [Int8Kernels("float", tied), Int8Kernels("int8", tied)] if int8_kernels else []
    return [*simulated, *real]


def check_kernels(int8_kernels: bool) -> None:
    """Refuse to use torchao where it is not there.

    Raises:
        ValueError: With what to do.
    """
    missing = available() if int8_kernels else None
    if missing is not None:
        raise ValueError(f"int8_kernels=True: {missing}")
