"""The steps of a forward pass, and the order in which a graph has them."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lightning_weightwatch.model.weights import Kind

#: Of each input of a step which output of another it is, -1 for none.
Wiring = NDArray[np.int64]

#: What a step of the pass is.
StepKind = Kind | Literal["input", "output", "junction"]


@dataclass
class Step:
    """A layer that ran, a function that joined the outputs of several, the input or the output.

    Attributes:
        name: Of the layer; of a function with a number from its second time on.
        kind: That of the layer, or what else it is.
        operation: Class of the layer, or what the function does.
        outputs: Channels or features that it gives, None where that is not known.
        inputs: Those that it takes.
        sources: Positions of the steps whose outputs it takes, all before its own.
        wirings: By source, which of its outputs each input is, None where that is not known.
    """

    name: str
    kind: StepKind
    operation: str
    outputs: int | None = None
    inputs: int | None = None
    sources: list[int] = field(default_factory=list)
    wirings: dict[int, Wiring | None] = field(default_factory=dict)

    def wire(self, source: int, wiring: Wiring | None) -> None:
        """Note how it takes the outputs of a source; of two ways neither is known."""
        known = self.wirings.setdefault(source, wiring)
        if known is not wiring and (
            known is None or wiring is None or not np.array_equal(known, wiring)
        ):
            self.wirings[source] = None


def through(first: Wiring | None, second: Wiring | None) -> Wiring | None:
    """Which output of a step each input of another is, with one step between them.

    Args:
        first: Of the step between.
        second: Of the one behind it.
    """
    if first is None or second is None or (second.size and second.max() >= first.size):
        return None
    return np.where(second >= 0, first[second], -1)


def with_attention(steps: list[Step], attended: Mapping[int, int]) -> list[Step]:
    """The steps in which a product, its softmax and the next product are one attention."""
    readers = _readers(steps)
    gone: set[int] = set()
    for first, second in sorted(attended.items()):
        scores, values = steps[first], steps[second]
        if scores.operation == "matmul" and readers.get(first) == [second]:
            gone.add(first)
            kept = [at for at in values.sources if at != first]
            values.sources = list(dict.fromkeys([*scores.sources, *kept]))
            values.operation, values.wirings = "attention", {}
            values.outputs = next((steps[at].outputs for at in kept), values.outputs)
    return _without(steps, gone)


def with_long_sums(steps: list[Step]) -> list[Step]:
    """The steps in which a + b + c is one sum, where nothing else reads a + b."""
    readers = _readers(steps)
    gone: set[int] = set()
    for at, step in enumerate(steps):
        if (step.kind, step.operation) != ("junction", "add"):
            continue
        sources: list[int] = []
        before, step.wirings = step.wirings, {}
        for source in step.sources:
            inner = steps[source]
            same = (inner.kind, inner.operation) == (step.kind, step.operation)
            if same and readers[source] == [at]:
                gone.add(source)
                sources += inner.sources
                for each in inner.sources:
                    step.wire(each, through(inner.wirings.get(each), before.get(source)))
            else:
                sources.append(source)
                step.wire(source, before.get(source))
        step.sources = list(dict.fromkeys(sources))
    return _without(steps, gone)


def numbered(steps: list[Step], taken: Collection[str]) -> list[Step]:
    """The steps with names for the junctions, by their number, that no module has."""
    numbers: Counter[str] = Counter()
    for step in steps:
        while step.kind == "junction" and (not step.name or step.name in taken):
            numbers[step.operation] += 1
            number = numbers[step.operation]
            step.name = step.operation if number == 1 else f"{step.operation}_{number}"
    return steps


def _readers(steps: Sequence[Step]) -> dict[int, list[int]]:
    readers: dict[int, list[int]] = {}
    for at, step in enumerate(steps):
        for source in step.sources:
            readers.setdefault(source, []).append(at)
    return readers


def inputs_first(steps: list[Step]) -> list[Step]:
    """The inputs first, by number, without those that nothing is made of."""
    inputs = [at for at, step in enumerate(steps) if step.kind == "input"]
    read = {source for step in steps for source in step.sources}
    used = [at for at in inputs if at in read] or inputs[:1]
    for number, at in enumerate(used, start=1):
        steps[at].name = "input" if number == 1 else f"input_{number}"
    order = [*used, *(at for at in range(len(steps)) if at not in inputs)]
    places = {at: place for place, at in enumerate(order)}
    for step in steps:
        _move(step, places)
    return [steps[at] for at in order]


def _without(steps: list[Step], gone: set[int]) -> list[Step]:
    order = [at for at in range(len(steps)) if at not in gone]
    places = {at: place for place, at in enumerate(order)}
    kept = [steps[at] for at in order]
    for step in kept:
        _move(step, places)
    return kept


def _move(step: Step, places: Mapping[int, int]) -> None:
    step.sources = [places[source] for source in step.sources]
    step.wirings = {places[at]: how for at, how in step.wirings.items() if at in places}
