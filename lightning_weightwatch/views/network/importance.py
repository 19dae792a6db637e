"""How much of a layer's importance goes from which dot to which, where neurons are few dots."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_weightwatch.model.graph import Graph, is_layer
from lightning_weightwatch.usage.report import LayerUsage, UsageReport

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

# Weights of a layer that do not see its inputs: what comes after them, and hidden states.
_WITHIN = ("out_proj", "weight_hh", "weight_hr")


@dataclass(frozen=True)
class Importance:
    """What is known of the importance of a layer.

    Attributes:
        blocks: Σ I over runs of outputs × runs of inputs.
        folds: How many outputs of the weight make one of the layer: gates, one after the other.
        effective_share: Effective weights of all weights of the layer.
        dead: Which of the outputs of the layer are known to be dead.
    """

    blocks: FloatArray
    folds: int
    effective_share: float
    dead: BoolArray

    def between(self, outputs: int, inputs: int, part: tuple[float, float]) -> FloatArray:
        """Σ I from each dot of the inputs to each dot of the outputs, [outputs, inputs].

        Args:
            outputs: Dots of the layer.
            inputs: Dots of what feeds it.
            part: Where in the inputs of the layer these are, from 0 to 1.
        """
        rows = spread(self.blocks.shape[0], outputs * self.folds, (0, 1))
        folded = (rows @ self.blocks).reshape(self.folds, outputs, -1).sum(0)
        return np.asarray(folded @ spread(self.blocks.shape[1], inputs, part).T)


def importances(graph: Graph, usage: UsageReport | None) -> dict[int, Importance]:
    """What a report knows of the layers of a graph, by their positions."""
    if usage is None:
        return {}
    found: dict[int, Importance] = {}
    for at, node in enumerate(graph.nodes):
        parts = _parts(graph, at, usage.layers) if is_layer(node) else []
        seeing = [part for part in parts if not any(word in part.name for word in _WITHIN)]
        seeing = [part for part in seeing if part.blocks.shape == seeing[0].blocks.shape]
        if not seeing:
            continue
        blocks = sum(part.blocks.double().numpy() for part in seeing)
        outputs = node.outputs or seeing[0].outputs
        folds, rest = divmod(seeing[0].outputs, outputs)
        weights = sum(part.weights for part in parts)
        effective = np.nansum([part.effective_weights for part in parts])
        dead = np.zeros(outputs, dtype=bool)
        if not rest and folds == 1 and len(parts) == 1:
            dead[list(seeing[0].dead_outputs)] = True
        found[at] = Importance(
            np.asarray(blocks, dtype=np.float64),
            folds if not rest else 1,
            float(effective) / weights,
            dead,
        )
    _mark_unread(graph, usage, found)
    return found


def _parts(graph: Graph, at: int, layers: Sequence[LayerUsage]) -> list[LayerUsage]:
    """The weights of a layer; all of them where the model is a layer itself."""
    if len(graph.layers) == 1:
        return list(layers)
    name = graph.nodes[at].name.partition(" (")[0]
    exact = [layer for layer in layers if layer.name == name]
    return exact or [layer for layer in layers if layer.name.startswith(f"{name}.")]


def _mark_unread(graph: Graph, usage: UsageReport, found: dict[int, Importance]) -> None:
    """An output that comes as 0 to the only layer that takes it is dead: ReLU stands between."""
    takers: dict[int, list[int]] = {}
    for start, end in graph.edges:
        takers.setdefault(start, []).append(end)
    for at, known in found.items():
        ends = takers.get(at, [])
        if len(ends) != 1 or not is_layer(graph.nodes[ends[0]]):
            continue
        parts = _parts(graph, ends[0], usage.layers)
        if len(parts) != 1 or parts[0].inputs % known.dead.size:
            continue
        inputs = np.zeros(parts[0].inputs, dtype=bool)
        inputs[list(parts[0].dead_inputs)] = True
        known.dead[:] |= inputs.reshape(known.dead.size, -1).all(1)


def spread(groups: int, dots: int, part: tuple[float, float]) -> FloatArray:
    """[dots, groups]: which share of each group falls to each dot, by their places.

    Args:
        groups: Equal parts from 0 to 1.
        dots: Equal parts of `part`.
        part: (from, to) between 0 and 1.

    >>> spread(2, 3, (0, 1)).round(2).tolist()
    [[0.67, 0.0], [0.33, 0.33], [0.0, 0.67]]
    """
    ends = np.linspace(*part, dots + 1)
    bounds = np.linspace(0, 1, groups + 1)
    upper = np.minimum(ends[1:, None], bounds[None, 1:])
    lower = np.maximum(ends[:-1, None], bounds[None, :-1])
    return np.asarray(np.maximum(upper - lower, 0) * groups)


def dead_dots(dead: BoolArray, dots: int) -> tuple[BoolArray, BoolArray]:
    """Which dots are dead altogether, and which of the others by half at least."""
    if not dots:
        return np.zeros(0, dtype=bool), np.zeros(0, dtype=bool)
    share = spread(dead.size, dots, (0, 1)) @ dead / (dead.size / dots)
    gone = share > 1 - 1e-9
    return gone, (share >= 0.5) & ~gone
