"""quantize: a copy of a model whose weights hold what a few bits would leave of them."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from lightning_weightwatch.model.weights import Weight, matches
from lightning_weightwatch.report import Skipped
from lightning_weightwatch.trials.compression import CompressedLayer, sqnr_of
from lightning_weightwatch.trials.quantization import Quantization
from lightning_weightwatch.trials.quantizer import CodeRange, Scheme
from lightning_weightwatch.trials.scale_groups import Granularity
from lightning_weightwatch.trials.scales import Clip
from lightning_weightwatch.trials.targets import Targets, find_targets
from lightning_weightwatch.values.measurement import measure
from lightning_weightwatch.values.statistics import Histogram

# Of `measure`, which counts outliers as well; ours is about the histogram.
_OUTLIER_MADS = 10.0


@dataclass(frozen=True)
class LayerHistograms:
    """The values of a weight before and after, over common edges.

    Attributes:
        before: Of the model that was given.
        after: Of its quantized copy.
        low_before: Least value before.
        high_before: Greatest one.
        low_after: Least value after.
        high_after: Greatest one.
    """

    before: Histogram
    after: Histogram
    low_before: float
    high_before: float
    low_after: float
    high_after: float


@dataclass(frozen=True)
class QuantizedModel:
    """A quantized copy of a model, and what became of each weight.

    Attributes:
        model: The copy. Its weights are of their own dtype and hold quantized values.
        layers: What became of each quantized weight.
        histograms: Of each of them before and after, by its name.
        skipped: Weights that were left as they are.
        bytes: That the model takes today: parameters and buffers, each once.
        packed_bytes: That it would take with packed codes, float32 scales and zero points, and
            everything else as it is. No file of today has this size.
    """

    model: nn.Module
    layers: tuple[CompressedLayer, ...]
    histograms: Mapping[str, LayerHistograms]
    skipped: tuple[Skipped, ...]
    bytes: int
    packed_bytes: int

    @property
    def sqnr(self) -> float:
        """Signal-to-quantization-noise ratio over all quantized weights together, in dB."""
        return sqnr_of(self.layers)

    def summary(self) -> dict[str, float]:
        """`sqnr`, `lowest_sqnr` of a layer, `bytes`, `packed_bytes`, `size_ratio`, shares."""
        size = max(sum(layer.size for layer in self.layers), 1)
        live = sum(layer.live for layer in self.layers)
        values = {
            "sqnr": self.sqnr,
            "lowest_sqnr": min((layer.sqnr for layer in self.layers), default=math.nan),
            "bytes": float(self.bytes),
            "packed_bytes": float(self.packed_bytes),
            "size_ratio": self.packed_bytes / max(self.bytes, 1),
            "clipped_share": sum(layer.clipped for layer in self.layers) / size,
            "sparsity": 1 - live / size if self.layers else 0.0,
        }
        return {key: value for key, value in values.items() if math.isfinite(value)}

    def records(self) -> list[dict[str, Any]]:
        """A row per quantized weight: bytes, SQNR, error, and its range before and after."""
        return [
            {
                **layer.record(),
                "low_before": self.histograms[layer.name].low_before,
                "low_after": self.histograms[layer.name].low_after,
                "high_before": self.histograms[layer.name].high_before,
                "high_after": self.histograms[layer.name].high_after,
            }
            for layer in self.layers
        ]


def quantize(
    model: nn.Module,
    bits: int = 8,
    granularity: Granularity = "channel",
    clip: Clip = "mse",
    scheme: Scheme = "symmetric",
    range: CodeRange = "restricted",
    group_size: int = 32,
    percentile: float = 99.9,
    layers: Sequence[str] | None = None,
) -> QuantizedModel:
    """Quantize the weights of a copy of a model; the model itself is only read.

    Weights only, simulated: the copy computes as before, with values that few bits could hold.
    Matrices and kernels of Linear, Conv, ConvTranspose, Embedding, attention and recurrent layers;
    biases and norms stay.

    Args:
        model: Any module.
        bits: Of a code, 2 to 8.
        granularity: What has a scale: each output `"channel"`, each `"group"` of values along the
            inputs of a channel, each `"tensor"`, or the whole `"model"`.
        clip: Where codes end: at the largest magnitude (`"absmax"`), at a `"percentile"` of the
            magnitudes, or where the mean squared error is least (`"mse"`).
        scheme: `"symmetric"`, or `"asymmetric"` with a zero point for each scale.
        range: Of symmetric codes: `"restricted"` to ±(2^(b−1) − 1), or `"full"`.
        group_size: Values of a group.
        percentile: In percent.
        layers: Names or shell patterns of parameters (`["encoder.*"]`); None for all.

    Raises:
        TypeError: For what is no module.
        ValueError: For an argument out of its range, or a model that cannot be copied.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from lightning_weightwatch.trials.quantized_model import quantize
        >>> layer = nn.Linear(3, 1, bias=False)
        >>> layer.weight.data = torch.tensor([[7.0, 0.4, -3.0]])
        >>> quantized = quantize(layer, bits=4, clip="absmax")
        >>> quantized.model.weight.tolist()
        [[7.0, 0.0, -3.0]]
        >>> quantized.bytes, quantized.packed_bytes
        (12, 6)
    """
    quantization = Quantization(
        bits, granularity, clip, scheme, range, group_size=group_size, percentile=percentile
    )
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"quantize needs a torch.nn.Module, got {type(model).__name__}; of a checkpoint, load "
            "the model first"
        )
    originals = find_targets(model, frozen=True)
    names = {weight.name for weight in _chosen(originals, layers)}
    copied = _copy_of(model)
    targets = find_targets(copied, frozen=True)
    weights = [weight for weight in targets.weights if weight.name in names]
    compressed = tuple(quantization.apply(weights))
    before = {weight.name: weight for weight in originals.weights}
    return QuantizedModel(
        copied,
        compressed,
        {weight.name: _histograms(before[weight.name], weight) for weight in weights},
        targets.skipped,
        targets.model_bytes,
        targets.model_bytes + sum(layer.packed_bytes - layer.bytes for layer in compressed),
    )


def largest_quantized(
    model: nn.Module, quantization: Quantization, most: int
) -> list[tuple[CompressedLayer, LayerHistograms]]:
    """What a quantization would do to the largest weights of a model, which is only read.

    Args:
        model: Its weights are copied one at a time.
        quantization: Of a granularity that looks at one weight at a time.
        most: How many weights.
    """
    weights = sorted(find_targets(model).weights, key=lambda found: -found.parameter.numel())
    looked_at = []
    for weight in weights[:most]:
        values = nn.Parameter(weight.parameter.detach().clone(), requires_grad=False)
        copied = replace(weight, parameter=values)
        (layer,) = quantization.apply([copied])
        looked_at.append((layer, _histograms(weight, copied)))
    return looked_at


def _chosen(targets: Targets, layers: Sequence[str] | None) -> list[Weight]:
    """The weights that are asked for."""
    if isinstance(layers, str):
        raise ValueError(
            f"layers must be a list of names or patterns, got the string {layers!r}; write "
            f"layers=[{layers!r}]"
        )
    chosen = [weight for weight in targets.weights if matches(weight.name, layers)]
    if layers is not None and not chosen:
        names = ", ".join(weight.name for weight in targets.weights) or "none"
        raise ValueError(
            f"layers={list(layers)} fits no weight that can be quantized. There are: {names}; "
            "shell patterns such as 'encoder.*' are allowed"
        )
    return chosen


def _copy_of(model: nn.Module) -> nn.Module:
    try:
        copied = copy.deepcopy(model)
    except Exception as fault:
        raise ValueError(
            f"{type(model).__name__} cannot be copied: {type(fault).__name__}: {fault}. Quantize a "
            "model that copy.deepcopy can copy: after torch.nn.utils.prune call prune.remove("
            "module, 'weight') first, and let it keep no activations, generators or open files"
        ) from fault
    for module in copied.modules():
        # LightningModule.log looks metrics up by the ids they had in the model that was copied.
        if vars(module).get("_metric_attributes") is not None:
            vars(module)["_metric_attributes"] = None
    return copied


def _histograms(before: Weight, after: Weight) -> LayerHistograms:
    (old, new), joint = measure([before.parameter, after.parameter], outlier_mads=_OUTLIER_MADS)
    assert joint is not None, "targets are finite"
    return LayerHistograms(
        Histogram(joint.edges, old.joint),
        Histogram(joint.edges, new.joint),
        old.moments.min,
        old.moments.max,
        new.moments.min,
        new.moments.max,
    )
