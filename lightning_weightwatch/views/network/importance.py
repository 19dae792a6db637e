"""How much of a layer's importance goes from which dot to which, as far as that is known."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_weightwatch.model.graph import Graph, Node, is_layer
from lightning_weightwatch.model.trace_steps import Wiring
from lightning_weightwatch.usage.report import LayerUsage, UsageReport

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

# Weights of a layer that do not see its inputs: what comes after them, and hidden states.
_WITHIN = ("out_proj", "weight_hh", "weight_hr")
# A recurrent unit has the gates of an LSTM, of a GRU, or none.
_GATES = (1, 3, 4)


@dataclass(frozen=True)
class Weights:
    """One weight of a layer.

    Attributes:
        blocks: Σ I over runs of rows × runs of inputs; see `LayerUsage`.
        rows: Σ I of each row.
        inputs: Σ I of each input.
        outputs: Which output of the layer each row makes, None where a row makes none alone.
    """

    blocks: FloatArray
    rows: FloatArray
    inputs: FloatArray
    outputs: Wiring | None


@dataclass(frozen=True)
class Importance:
    """What is known of the importance of a layer.

    Attributes:
        weights: That see its inputs, all of as many.
        outputs: How many it has.
        effective_share: Effective weights of all weights of the layer.
        dead: Which of its outputs are known to be dead.
        made: Σ I of each output where no row makes one alone: of the weight that is behind them.
    """

    weights: tuple[Weights, ...]
    outputs: int
    effective_share: float
    dead: BoolArray
    made: FloatArray | None = None

    @property
    def inputs(self) -> int:
        """How many inputs the layer has."""
        return self.weights[0].inputs.size if self.weights else 0

    def between(
        self, dots: int, wiring: Wiring | None, sources: int, source_dots: int
    ) -> FloatArray | None:
        """Σ I from each dot of a source to each dot of the layer, None where that is not known.

        It is known by runs of inputs. What runs mix of sources that are far apart is not.

        Args:
            dots: Of the layer.
            wiring: Which output of the source each input is, -1 for none.
            sources: How many outputs the source has.
            source_dots: Its dots.
        """
        found = np.zeros((dots, source_dots))
        if wiring is None or wiring.size != self.inputs or wiring.max(initial=-1) >= sources:
            return None
        to = dots_of(wiring, sources, source_dots)
        for each in self.weights:
            if each.outputs is None:
                return None
            columns = _gathered(each.inputs, each.blocks.shape[1], to, source_dots)
            if columns is None:
                return None
            rows = dots_of(each.outputs, self.outputs, dots)
            found += _shares(each.rows, each.blocks.shape[0], rows, dots) @ each.blocks @ columns.T
        return found if self.weights else None

    def into(self, dots: int) -> FloatArray | None:
        """Σ I to each dot of the layer, None where that is not known."""
        found = np.zeros(dots)
        if self.made is not None:
            np.add.at(found, dots_of(np.arange(self.outputs), self.outputs, dots), self.made)
            return found
        for each in self.weights:
            if each.outputs is None:
                return None
            np.add.at(found, dots_of(each.outputs, self.outputs, dots), each.rows)
        return found if self.weights else None

    def out_of(self, wiring: Wiring | None, sources: int, source_dots: int) -> FloatArray | None:
        """Σ I from each dot of a source, None where that is not known; see `between`."""
        if wiring is None or wiring.size != self.inputs or wiring.max(initial=-1) >= sources:
            return None
        to = dots_of(wiring, sources, source_dots)
        found = np.zeros(source_dots + 1)
        for each in self.weights:
            np.add.at(found, to, each.inputs)
        return found[:-1] if self.weights else None


def importances(graph: Graph, usage: UsageReport | None) -> dict[int, Importance]:
    """What a report knows of the layers of a graph, by their positions."""
    if usage is None:
        return {}
    found: dict[int, Importance] = {}
    for at, node in enumerate(graph.nodes):
        parts = parts_of(graph, at, usage.layers) if is_layer(node) else []
        if not parts:
            continue
        outputs = node.outputs or parts[0].outputs
        behind = [part for part in parts if "out_proj" in part.name and part.outputs == outputs]
        found[at] = Importance(
            _weights(node, parts, outputs),
            outputs,
            float(np.nansum([part.effective_weights for part in parts]))
            / sum(part.weights for part in parts),
            np.zeros(outputs, dtype=bool),
            behind[0].output_importance.double().numpy() if behind else None,
        )
    return found


def parts_of(graph: Graph, at: int, layers: Sequence[LayerUsage]) -> list[LayerUsage]:
    """The weights of a layer; all of them where the model is a layer itself."""
    if len({each.name.partition(" (")[0] for each in graph.layers}) == 1:
        return list(layers)
    names = [graph.nodes[at].name]
    if names[0].endswith(")"):  # of a later call
        names.append(names[0].rpartition(" (")[0])
    for name in names:
        exact = [layer for layer in layers if layer.name == name]
        found = exact or [layer for layer in layers if layer.name.startswith(f"{name}.")]
        if found:
            return found
    return []


def seeing(node: Node, parts: Sequence[LayerUsage]) -> list[LayerUsage]:
    """Those weights of a layer that see what it is given; of recurrent ones in the first layer."""
    found = [part for part in parts if not any(word in part.name for word in _WITHIN)]
    if node.kind == "rnn":
        found = [part for part in found if "_ih_l" not in part.name or "_ih_l0" in part.name]
    return [part for part in found if node.inputs in (None, part.inputs)]


def _weights(node: Node, parts: Sequence[LayerUsage], outputs: int) -> tuple[Weights, ...]:
    found = seeing(node, parts)
    deep = any("_ih_l" in part.name and "_ih_l0" not in part.name for part in parts)
    weights = []
    for number, part in enumerate(found):
        made: Wiring | None = None
        if node.kind == "rnn" and not deep:
            units = outputs // len(found)
            gates, rest = divmod(part.outputs, units) if units else (0, 1)
            if not rest and gates in _GATES:
                made = number * units + np.arange(part.outputs) % units
        elif node.kind not in ("rnn", "attention") and part.outputs == outputs and len(found) == 1:
            made = np.arange(outputs)
        weights.append(
            Weights(
                part.blocks.double().numpy(),
                part.output_importance.double().numpy(),
                part.input_importance.double().numpy(),
                made,
            )
        )
    return tuple(each for each in weights if each.inputs.size == weights[0].inputs.size)


def dots_of(channels: Wiring, count: int, dots: int) -> Wiring:
    """The dot of each of some channels, of `count` in all; one more for those that have none."""
    return np.where(channels >= 0, channels * dots // max(count, 1), dots)


def _runs(size: int, runs: int) -> Wiring:
    return np.arange(size) * runs // max(size, 1)


def _shares(importance: FloatArray, runs: int, to: Wiring, dots: int) -> FloatArray:
    """[dots, runs]: which share of each run falls to each dot."""
    run = _runs(importance.size, runs)
    total = np.bincount(run, importance, runs)
    found = np.zeros((dots + 1, runs))
    np.add.at(found, (to, run), importance / np.where(total > 0, total, 1)[run])
    return found[:-1]


def _gathered(importance: FloatArray, runs: int, to: Wiring, dots: int) -> FloatArray | None:
    """Those shares, unless a run has inputs of dots that are not beside each other."""
    if importance.size > runs:
        run = _runs(importance.size, runs)
        mattering = (to < dots) & (importance > 0)
        first, last = np.full(runs, dots), np.full(runs, -1)
        np.minimum.at(first, run[mattering], to[mattering])
        np.maximum.at(last, run[mattering], to[mattering])
        if (last - first > 1).any():
            return None
    return _shares(importance, runs, to, dots)


def dead_dots(dead: BoolArray, dots: int) -> tuple[BoolArray, BoolArray]:
    """Which dots are dead altogether, and which of the others by half at least."""
    if not dots:
        return np.zeros(0, dtype=bool), np.zeros(0, dtype=bool)
    dot = dots_of(np.arange(dead.size), dead.size, dots)
    share = np.bincount(dot, dead, dots) / np.maximum(np.bincount(dot, minlength=dots), 1)
    return share == 1, (share >= 0.5) & (share < 1)
