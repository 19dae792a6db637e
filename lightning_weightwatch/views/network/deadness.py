"""Which outputs of a layer are dead: 0 in every sample, or where the only reader takes them."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lightning_weightwatch.model.graph import Graph, is_layer
from lightning_weightwatch.usage.report import UsageReport
from lightning_weightwatch.views.network.importance import (
    BoolArray,
    Importance,
    parts_of,
    seeing,
)


def with_dead(
    graph: Graph, usage: UsageReport | None, known: dict[int, Importance]
) -> dict[int, Importance]:
    """What is known of layers, and with it which of their outputs are dead.

    Weights that do not matter make no output dead: it may have a bias.
    """
    if usage is None:
        return known
    given = {layer.name: layer for layer in usage.activations}
    readers: dict[int, list[int]] = defaultdict(list)
    for start, end in graph.edges:
        readers[start].append(end)
    found = {}
    for at, each in known.items():
        name = graph.nodes[at].name
        activations = given.get(name) or given.get(name.rpartition(" (")[0])
        dead = np.zeros(each.outputs, dtype=bool)
        if activations is not None and activations.channels == each.outputs:
            dead[list(activations.dead)] = True
        found[at] = replace(each, dead=dead | _unread(graph, usage, at, readers[at], each.outputs))
    return found


def _unread(
    graph: Graph, usage: UsageReport, at: int, readers: Sequence[int], outputs: int
) -> BoolArray:
    """What comes as 0 wherever the only layer takes it: ReLU stands between."""
    nothing = np.zeros(outputs, dtype=bool)
    if len(readers) != 1 or not is_layer(graph.nodes[readers[0]]):
        return nothing
    wiring = graph.wirings.get((at, readers[0]))
    parts = seeing(graph.nodes[readers[0]], parts_of(graph, readers[0], usage.layers))
    if wiring is None or wiring.max(initial=-1) >= outputs:
        return nothing
    if not parts or any(part.inputs != wiring.size for part in parts):
        return nothing
    unused = np.ones(wiring.size, dtype=bool)
    for part in parts:
        here = np.zeros(wiring.size, dtype=bool)
        here[list(part.dead_inputs)] = True
        unused &= here
    taken = wiring >= 0
    times = np.bincount(wiring[taken], minlength=outputs)
    gone = np.bincount(wiring[taken], unused[taken], outputs)
    return np.asarray((times > 0) & (gone == times))
