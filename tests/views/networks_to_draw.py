"""Networks of all shapes, chains, residuals, branches, attention, and usage that is made up."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_weightwatch.model.graph import Graph
from lightning_weightwatch.usage.activations import LayerActivations
from lightning_weightwatch.usage.report import LayerUsage, UsageReport
from lightning_weightwatch.values.statistics import Histogram


def chain(*sizes: int) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class DigitsCNN(nn.Module):
    """Two convolutions and two linear layers for images [n, 1, 8, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.hidden = nn.Linear(512, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.hidden(self.features(x).flatten(1)).relu())
        return logits


class Bottleneck(nn.Module):
    """A block of ResNet-50: 1 × 1, 3 × 3, 1 × 1, and the input added."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        added: Tensor = self.relu(out)
        return added


class ResNet50(nn.Module):
    """Of images [n, 3, h, w], under torchvision's names; `width` is 64 there."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        inputs = width
        for index, blocks in enumerate((3, 4, 6, 3)):
            wide, stage = width * 2**index, nn.Sequential()
            for block in range(blocks):
                stride = 2 if index and not block else 1
                stage.append(Bottleneck(inputs, wide, stride))
                inputs = 4 * wide
            self.add_module(f"layer{index + 1}", stage)
        self.fc = nn.Linear(inputs, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for index in range(1, 5):
            x = self.get_submodule(f"layer{index}")(x)
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


class BertLayer(nn.Module):
    """Attention and a feed-forward part, each added to what it was given."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.attended = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width)
        self.intermediate = nn.Linear(width, 4 * width)
        self.output = nn.Linear(4 * width, width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        if mask is not None:
            scores = scores + mask
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = self.norm1(x + self.attended(mixed))
        made: Tensor = self.norm2(x + self.output(F.gelu(self.intermediate(x))))
        return made


class Bert(nn.Module):
    """Embeddings of tokens and positions, layers, a pooler; takes what transformers' takes."""

    def __init__(self, layers: int = 12, width: int = 768, heads: int = 12) -> None:
        super().__init__()
        self.words = nn.Embedding(1000, width)
        self.positions = nn.Embedding(64, width)
        self.norm = nn.LayerNorm(width)
        self.layer = nn.ModuleList(BertLayer(width, heads) for _ in range(layers))
        self.pooler = nn.Linear(width, width)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.norm(self.words(input_ids) + self.positions(places))
        mask = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * -1e4
        for layer in self.layer:
            x = layer(x, mask)
        return {"last_hidden_state": x, "pooler_output": self.pooler(x[:, 0]).tanh()}


def tokens(count: int = 8) -> dict[str, Tensor]:
    """A batch for `Bert`."""
    ids = torch.arange(2 * count).reshape(2, count)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


class Branches(nn.Module):
    """Four branches of different lengths that are concatenated, as in Inception."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3)
        self.a = nn.Conv2d(32, 16, 1)
        self.b = nn.Sequential(nn.Conv2d(32, 16, 1), nn.Conv2d(16, 24, 3, padding=1))
        self.c = nn.Sequential(*(nn.Conv2d(n, 8, 1) for n in (32, 8, 8)))
        self.pooled = nn.Conv2d(32, 8, 1)
        self.head = nn.Conv2d(56, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        pooled = self.pooled(F.avg_pool2d(x, 3, 1, 1))
        made: Tensor = self.head(torch.cat([self.a(x), self.b(x), self.c(x), pooled], 1))
        return made


def usage_of(layers: dict[str, NDArray[np.float64]]) -> UsageReport:
    """A report of layers whose importance is given, as [outputs, inputs].

    Outputs without importance were 0 in every sample.
    """
    return UsageReport(
        tuple(_layer(name, values) for name, values in layers.items()),
        tuple(_activations(name, values.sum(1)) for name, values in layers.items()),
        "wanda", 1, 1, 0.99, (),
    )  # fmt: skip


class Written(nn.Module):
    """Some layers by name, and a forward pass of them."""

    def __init__(self, forward: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.written = forward

    def forward(self, x: Tensor) -> Any:
        return self.written(self, x)


def made_up(graph: Graph, seed: int = 0) -> UsageReport:
    """Importance for all layers, some of them with dead outputs."""
    generator = np.random.default_rng(seed)
    layers = {}
    for node in graph.layers:
        shape = (node.outputs or 1, min(node.inputs or 1, 2048))
        values = np.outer(*(generator.lognormal(0, 0.7, size) for size in shape))
        values *= np.abs(generator.normal(size=shape))
        values[generator.uniform(size=shape[0]) < 0.05] = 0
        layers[node.name] = values
    return usage_of(layers)


def _activations(name: str, given: NDArray[np.float64]) -> LayerActivations:
    each = torch.from_numpy(given)
    return LayerActivations(
        name=name, type="Linear", channels=each.numel(), count=1, nonfinite=0, mean=0.0, std=0.0,
        min=0.0, max=1.0, p999=1.0, zero_share=0.0, channel_mean=each, channel_std=each,
        channel_min=each, channel_max=each, channel_zero_share=each,
        dead=tuple(np.flatnonzero(given == 0).tolist()), constant=(),
        histogram=Histogram((0.0, 1.0), (1,)),
    )  # fmt: skip


def _layer(name: str, values: NDArray[np.float64]) -> LayerUsage:
    outputs, inputs = values.shape
    shares = values[values > 0] / values.sum()
    entropy = -float((shares * np.log(shares)).sum())
    blocks = values
    for axis in (0, 1):
        starts = -(-np.arange(32) * values.shape[axis] // 32)
        if values.shape[axis] > 32:
            blocks = np.add.reduceat(blocks, starts, axis)
    return LayerUsage(
        name=name, kind="linear", shape=(outputs, inputs), weights=values.size, inputs=inputs,
        outputs=outputs, entropy=entropy, effective_weights=float(np.exp(entropy)),
        participation_ratio=1.0, low_share=0.0, top90_share=0.5, dead_inputs=(),
        dead_outputs=tuple(np.flatnonzero(values.sum(1) == 0).tolist()),
        input_importance=torch.from_numpy(values.sum(0)),
        output_importance=torch.from_numpy(values.sum(1)), blocks=torch.from_numpy(blocks),
        suggested_inputs=inputs,
    )  # fmt: skip
