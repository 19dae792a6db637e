"""What measuring the usage of a model found: a layer's weights by importance, and the scalars."""

import math
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
        suggested_inputs: The fewest inputs that carry the share `keep` of ΣI; of a tensor that
            several layers are given, all inputs that one of them needs so. Of a convolution in
            groups it is a multiple of them, if those are not one a channel. What else reads the
            same inputs, such as a skip connection, no hook sees.
        shares_input_with: The first layer that was given the very same tensor, if any.
        from_data: Whether its inputs are those of the model, whatever was done to them on the way
            to it, not what another layer gave. A second input that is computed with before its
            first layer is taken for what a layer gave.
        channels_read: How many channels of the layer that ran before it its inputs are, one by one
            or flattened. 0 where they are another number (what is joined or split), where the data
            are its inputs, and where `shares_input_with` counts them.
        dead_channels: Those of them that were 0 in every sample and position.
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
    channels_read: int = 0
    dead_channels: tuple[int, ...] = ()

    @property
    def module(self) -> str:
        """The path of the module: of attention and recurrent layers without that of the weight."""
        if self.kind not in ("attention", "rnn"):
            return self.name
        weight = self.name[:-2] if self.name.endswith((".q", ".k", ".v")) else self.name
        return weight.rpartition(".")[0]

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
            "channels_read": self.channels_read,
            "dead_channels": len(self.dead_channels),
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
        | `dead_channels`           | channels of layers that were always 0 where the layer that  |
        |                           | ran next reads them; a flattened one counts once            |
        | `dead_channels_share`     | those of all channels that are read so                      |
        | `zero_activations_share`  | values that are 0 of all that layers gave                   |

        Neither the data count as channels, nor what is joined (`cat`) or split before it is read:
        there may be more dead ones than that. What nothing is known of is absent.
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
        if channels := sum(layer.channels_read for layer in self.layers):
            dead = sum(len(layer.dead_channels) for layer in self.layers)
            summary |= {"dead_channels": float(dead), "dead_channels_share": dead / channels}
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
