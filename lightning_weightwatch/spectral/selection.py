"""Which weights of a model, a state dict or a file have a spectrum to be measured."""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, count
from typing import Any

from torch import nn

from lightning_weightwatch.files.checkpoint import open_weights
from lightning_weightwatch.files.state_dict import in_memory
from lightning_weightwatch.model.effective import EffectiveWeight, effective_weights
from lightning_weightwatch.model.matrices import Matrices, matrices
from lightning_weightwatch.model.state import effective_weights_of_state
from lightning_weightwatch.model.weights import KINDS, matches
from lightning_weightwatch.report import Skipped

#: Layers with fewer eigenvalues are skipped, as WeightWatcher 0.7.7 does.
MIN_EVALS = 8
#: Matrices whose smaller side exceeds this are skipped: their spectrum takes hours.
MAX_SIDE = 15_000
#: So are those that take more multiplications: an hour on one core, whatever their shape.
MAX_WORK = 1e14


class Weights(list[EffectiveWeight | Skipped]):
    """The weights of something that is open: `opened` gives them, and takes them."""


Source = nn.Module | Mapping[str, Any] | str | os.PathLike[str] | Weights


@dataclass(frozen=True)
class Selection:
    """The weights to be measured.

    Attributes:
        weights: Each with its matrices, in the order of the model.
        skipped: Every other place with a weight, with its reason.
    """

    weights: tuple[tuple[EffectiveWeight, tuple[Matrices, ...]], ...]
    skipped: tuple[Skipped, ...]

    @property
    def matrices(self) -> tuple[Matrices, ...]:
        """The matrices of all weights."""
        return tuple(found for _, parts in self.weights for found in parts)


@contextmanager
def opened(source: Source, *, trust: bool = False) -> Iterator[Weights]:
    """The weights of a model, a state dict or a file, which is open within the block.

    What is opened already is given back as it is, and left open.

    Raises:
        BadFile: See `files.checkpoint.open_weights`.
        TypeError: If it is none of these.
    """
    if isinstance(source, Weights):
        yield source
        return
    if isinstance(source, nn.Module):
        yield Weights(effective_weights(source))
        return
    if isinstance(source, Mapping):
        file = in_memory(source)
    elif isinstance(source, str | os.PathLike):
        file = open_weights(source, trust=trust)
    else:
        raise TypeError(
            "model must be a module, a state dict or the path of a file, got "
            f"{type(source).__name__}"
        )
    with file:
        yield Weights([*effective_weights_of_state(file), *file.ignored])


def select(
    found: Iterable[EffectiveWeight | Skipped],
    *,
    layers: Sequence[str] | None = None,
    kinds: Sequence[str] | None = None,
    min_evals: int = MIN_EVALS,
) -> Selection:
    """The weights that have a spectrum, judged by kind and shape alone.

    What `layers` and `kinds` do not ask for is in neither list.

    Args:
        found: The weights that there are.
        layers: Names or shell patterns of layers, weights or rows; None for all.
        kinds: Kinds of layers; None for all.
        min_evals: Layers with fewer eigenvalues are skipped.

    Raises:
        ValueError: For an argument out of its range.
    """
    check(layers, kinds, min_evals)
    chosen: list[tuple[EffectiveWeight, tuple[Matrices, ...]]] = []
    skipped: dict[Skipped, None] = {}
    taken: set[str] = set()
    for item in found:
        if isinstance(item, Skipped):
            owner = item.name.rpartition(".")[0]
            of_kind = kinds is None or item.kind in kinds
            if of_kind and (matches(item.name, layers) or matches(owner, layers)):
                skipped[item] = None
            continue
        if kinds is not None and item.kind not in kinds:
            continue
        whole_layer = matches(item.layer, layers) or matches(item.name, layers)
        parts = matrices(item)
        if isinstance(parts, str):
            if whole_layer:
                skipped[Skipped(_shown(item), parts)] = None
            continue
        parts = tuple(_with_own_name(part, taken) for part in parts)
        taken.update(part.name for part in parts)
        asked = [part for part in parts if whole_layer or matches(part.name, layers)]
        reasons = {part.name: _unfit(part, min_evals) for part in asked}
        skipped.update(
            (Skipped(name, reason), None) for name, reason in reasons.items() if reason is not None
        )
        fit = tuple(part for part in asked if reasons[part.name] is None)
        if fit:
            chosen.append((item, fit))
    return Selection(tuple(chosen), tuple(skipped))


def check(layers: Sequence[str] | None, kinds: Sequence[str] | None, min_evals: int) -> None:
    """Refuse arguments out of their range.

    Raises:
        ValueError: With what is allowed.
    """
    for argument, given in (("layers", layers), ("kinds", kinds)):
        if isinstance(given, str):
            raise ValueError(
                f"{argument} must be a list of strings, got the string {given!r}; "
                f"write {argument}=[{given!r}]"
            )
        listed = given is None or isinstance(given, Collection)
        if not listed or not all(isinstance(item, str) for item in given or ()):
            raise ValueError(f"{argument} must be None or a list of strings, got {given!r}")
    unknown = [kind for kind in kinds or () if kind not in KINDS]
    if unknown:
        raise ValueError(f"kinds must be among {', '.join(KINDS)}, got {unknown[0]!r}")
    check_count("min_evals", min_evals)


def check_count(argument: str, given: int) -> None:
    """Refuse anything but a number of eigenvalues.

    Raises:
        ValueError: With what is allowed.
    """
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise ValueError(f"{argument} must be an integer of 1 or more, got {given!r}")


def _with_own_name(found: Matrices, taken: set[str]) -> Matrices:
    """With the name of the weight where a layer and a bare parameter are called the same."""
    numbered = (f"{found.name}#{number}" for number in count(2))
    names = chain((found.name, found.weight.name), numbered)
    return replace(found, name=next(name for name in names if name not in taken))


def _shown(weight: EffectiveWeight) -> str:
    return weight.layer if weight.name.rpartition(".")[2] == "weight" else weight.name


def _unfit(found: Matrices, min_evals: int) -> str | None:
    if found.num_evals < min_evals:
        return f"{found.num_evals} eigenvalue{'s' * (found.num_evals != 1)}, fewer than {min_evals}"
    if found.M > MAX_SIDE:
        return f"its smaller side is {found.M}, above {MAX_SIDE}"
    if found.work > MAX_WORK:
        return f"its spectrum takes {found.work:.0e} multiplications, above {MAX_WORK:.0e}"
    return None
