"""The steps of a forward pass, and the order in which a graph has them."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from lightning_weightwatch.model.weights import Kind

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
    """

    name: str
    kind: StepKind
    operation: str
    outputs: int | None = None
    inputs: int | None = None
    sources: list[int] = field(default_factory=list)


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
            values.operation = "attention"
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
        for source in step.sources:
            inner = steps[source]
            same = (inner.kind, inner.operation) == (step.kind, step.operation)
            if same and readers[source] == [at]:
                gone.add(source)
                sources += inner.sources
            else:
                sources.append(source)
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
        step.sources = [places[source] for source in step.sources]
    return [steps[at] for at in order]


def _without(steps: list[Step], gone: set[int]) -> list[Step]:
    order = [at for at in range(len(steps)) if at not in gone]
    places = {at: place for place, at in enumerate(order)}
    kept = [steps[at] for at in order]
    for step in kept:
        step.sources = [places[source] for source in step.sources]
    return kept
