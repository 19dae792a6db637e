"""What measuring the usage of a model found: a layer's weights by importance, and the scalars."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from torch import Tensor

from lightning_weightwatch.model.weights import Kind
from lightning_weightwatch.report import Skipped
from lightning_weightwatch.usage.activations import LayerActivations

Mode = Literal["wanda", "wua"]
MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True)
class LayerUsage:
    """The importance I of the weights of a layer, and what its inputs were.

    Where all importance is 0 there is nothing to share out: `entropy`, `effective_weights`,
    `participation_ratio`, `low_share` and `top90_share` are NaN, and `suggested_inputs` is 0.

    Attributes:
        name: Of the layer (`encoder.0`), where its weight is called `weight`; else of the weight
            (`encoder.weight_hh_l0`), for the parts of attention with `.q`, `.k` or `.v` behind.
        kind: Of the layer.
        shape: Of the weight, or of the part of it.
        weights: How many.
        inputs: Channels or features that the layer takes; of an embedding its entries.
        outputs: Channels or features that it gives; of a recurrent layer its gates' rows.
        entropy: H = −Σ p ln p of p = I / ΣI, in nats.
        effective_weights: exp(H): as many weights of one importance have the same entropy.
        participation_ratio: (ΣI)² / ΣI², from 1 to `effective_weights`.
        low_share: Share of the weights below 1 % of the layer's mean importance.
        top90_share: Share of the weights, the largest first, that carry 90 % of ΣI.
        dead_inputs: Inputs that were 0 in every sample and position; entries never looked up.
        dead_outputs: Outputs all of whose weights have no importance.
        input_importance: ΣI of each input, float64 [inputs].
        output_importance: ΣI of each output, float64 [outputs].
        blocks: ΣI over runs of outputs × runs of inputs of about equal length, float64, 32 × 32 at
            most: single neurons where there are no more than 32.
        suggested_inputs: The fewest inputs that carry the share `keep` of ΣI.
        shares_input_with: The first layer that was given the very same tensor, if any.
        from_data: Whether its inputs are those of the model, not what another layer gave.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    weights: int
    inputs: int
    outputs: int
    entropy: float
    effective_weights: float
    participation_ratio: float
    low_share: float
    top90_share: float
    dead_inputs: tuple[int, ...]
    dead_outputs: tuple[int, ...]
    input_importance: Tensor = field(repr=False, compare=False)
    output_importance: Tensor = field(repr=False, compare=False)
    blocks: Tensor = field(repr=False, compare=False)
    suggested_inputs: int
    shares_input_with: str | None = None
    from_data: bool = False

    @property
    def effective_share(self) -> float:
        """`effective_weights` of all weights of the layer; NaN where all importance is 0."""
        return self.effective_weights / self.weights

    def record(self) -> dict[str, Any]:
        """A row of plain values; of the dead ones their number."""
        return {
            "name": self.name,
            "kind": self.kind,
            "shape": "x".join(map(str, self.shape)),
            "weights": self.weights,
            "inputs": self.inputs,
            "outputs": self.outputs,
            "entropy": self.entropy,
            "effective_weights": self.effective_weights,
            "effective_share": self.effective_share,
            "participation_ratio": self.participation_ratio,
            "low_share": self.low_share,
            "top90_share": self.top90_share,
            "dead_inputs": len(self.dead_inputs),
            "dead_outputs": len(self.dead_outputs),
            "suggested_inputs": self.suggested_inputs,
            "shares_input_with": self.shares_input_with,
            "from_data": self.from_data,
        }


@dataclass(frozen=True)
class UsageReport:
    """How some batches used the weights of a model.

    Attributes:
        layers: One per weight that was measured, in the order of the model.
        activations: Of the outputs of layers, in the order of the model; empty if not asked for.
        mode: How importance was measured; see `measure_usage`.
        batches: How many were looked at.
        samples: How many those held.
        keep: The share of importance that `suggested_inputs` keeps.
        skipped: Every other place with a weight or an output, with its reason.
    """

    layers: tuple[LayerUsage, ...]
    activations: tuple[LayerActivations, ...]
    mode: Mode
    batches: int
    samples: int
    keep: float
    skipped: tuple[Skipped, ...]

    def records(self) -> list[dict[str, Any]]:
        """A row per layer."""
        return [layer.record() for layer in self.layers]

    def summary(self) -> dict[str, float]:
        """Over all layers but embeddings, a weight counting as much as any other.

        Of an embedding the entries matter that were looked up: the more batches, the more of them.

        | key                       | what it is                                                  |
        |---------------------------|-------------------------------------------------------------|
        | `effective_weights_share` | Σ `effective_weights` of all weights                        |
        | `low_contribution_share`  | weights below 1 % of the mean importance of their layer     |
        | `top90_share`             | weights that carry 90 % of the importance in their layer    |
        | `dead_channels`           | channels between layers that were always 0; a tensor that   |
        |                           | several layers are given counts once, the data do not       |
        | `dead_channels_share`     | those of all channels between layers                        |
        | `zero_activations_share`  | values that are 0 of all that layers gave                   |

        What nothing is known of is absent.
        """
        known = self.weighed
        weights = sum(layer.weights for layer in known)
        summary: dict[str, float] = {}
        if weights:
            summary = {
                "effective_weights_share": sum(layer.effective_weights for layer in known)
                / weights,
                "low_contribution_share": sum(layer.low_share * layer.weights for layer in known)
                / weights,
                "top90_share": sum(layer.top90_share * layer.weights for layer in known) / weights,
            }
        fed = list(self._fed())
        if inputs := sum(layer.inputs for layer in fed):
            dead = sum(len(layer.dead_inputs) for layer in fed)
            summary |= {"dead_channels": float(dead), "dead_channels_share": dead / inputs}
        if count := sum(layer.count for layer in self.activations):
            zeros = sum(layer.zero_share * layer.count for layer in self.activations if layer.count)
            summary["zero_activations_share"] = zeros / count
        return {key: value for key, value in summary.items() if math.isfinite(value)}

    @property
    def weighed(self) -> tuple[LayerUsage, ...]:
        """The layers that the shares of the summary are over: no embeddings, no all-zero ones."""
        return tuple(
            layer
            for layer in self.layers
            if layer.kind != "embedding" and math.isfinite(layer.entropy)
        )

    def _fed(self) -> Iterator[LayerUsage]:
        """The first layer to get each tensor, of those that layers give each other.

        The hidden states of recurrent layers count where another layer is given them.
        """
        return (
            layer
            for layer in self.layers
            if not (layer.shares_input_with or layer.from_data or layer.kind == "embedding")
            and not (layer.kind == "rnn" and ".weight_hh" in f".{layer.name}")
        )
