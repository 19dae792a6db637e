"""Networks whose costs are published, in plain torch. Make them under `torch.device("meta")`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.model.zoo import Conv1D


class Basic(nn.Module):
    """The block of ResNet-18."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_convolved(inputs, width, 3, stride), nn.ReLU(), *_convolved(width, width, 3)
        )
        self.shortcut = _shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class Bottleneck(nn.Module):
    """The block of ResNet-50, whose 3 × 3 convolution has the stride (v1.5)."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_convolved(inputs, width, 1),
            nn.ReLU(),
            *_convolved(width, width, 3, stride),
            nn.ReLU(),
            *_convolved(width, 4 * width, 1),
        )
        self.shortcut = _shortcut(inputs, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(self, block: type[Basic | Bottleneck], depths: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_convolved(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        stages, inputs = [], 64
        for stage, depth in enumerate(depths):
            width, blocks = 64 * 2**stage, []
            for place in range(depth):
                blocks.append(block(inputs, width, 2 if stage and not place else 1))
                inputs = width * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(inputs, 1000)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(self.stem(x)).mean((2, 3)))  # type: ignore[no-any-return]


def resnet18() -> nn.Module:
    return ResNet(Basic, (2, 2, 2, 2))


def resnet50() -> nn.Module:
    return ResNet(Bottleneck, (3, 4, 6, 3))


def vgg16() -> nn.Module:
    layers: list[nn.Module] = []
    inputs = 3
    for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(depth):
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
            inputs = width
        layers.append(nn.MaxPool2d(2))
    layers += [nn.Flatten(), nn.Linear(512 * 7 * 7, 4096), nn.ReLU(), nn.Dropout()]
    return nn.Sequential(
        *layers, nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 1000)
    )


class ViT(nn.Module):
    """ViT-B/16 at 224² with a class token, for 1000 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 768, 16, 16)
        self.token = nn.Parameter(torch.zeros(1, 1, 768))
        self.positions = nn.Parameter(torch.zeros(1, 197, 768))
        self.layers = nn.ModuleList(_encoder_layer(norm_first=True) for _ in range(12))
        self.norm = nn.LayerNorm(768)
        self.head = nn.Linear(768, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x)[:, 0])  # type: ignore[no-any-return]


class Bert(nn.Module):
    """BERT-base with its pooler."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(30522, 768)
        self.positions = nn.Embedding(512, 768)
        self.types = nn.Embedding(2, 768)
        self.norm = nn.LayerNorm(768)
        self.layers = nn.ModuleList(_encoder_layer(norm_first=False) for _ in range(12))
        self.pooler = nn.Linear(768, 768)

    def forward(self, input_ids: Tensor) -> Tensor:
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        types = self.types(torch.zeros_like(input_ids))
        x = self.norm(self.words(input_ids) + self.positions(places) + types)
        for layer in self.layers:
            x = layer(x)
        return torch.tanh(self.pooler(x[:, 0]))


class Gpt2Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(768), nn.LayerNorm(768)
        self.inward, self.outward = Conv1D(3 * 768, 768), Conv1D(768, 768)
        self.widening, self.narrowing = Conv1D(4 * 768, 768), Conv1D(768, 4 * 768)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.inward(self.before(x)).chunk(3, -1)
        query, key, value = (part.unflatten(-1, (12, 64)).transpose(1, 2) for part in parts)
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.outward(seen.transpose(1, 2).flatten(2))
        return x + self.narrowing(F.gelu(self.widening(self.between(x))))  # type: ignore[no-any-return]


class Gpt2(nn.Module):
    """GPT-2 small, whose last layer has the weight of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50257, 768)
        self.positions = nn.Embedding(1024, 768)
        self.blocks = nn.Sequential(*(Gpt2Block() for _ in range(12)))
        self.norm = nn.LayerNorm(768)
        self.head = nn.Linear(768, 50257, bias=False)
        self.head.weight = self.words.weight

    def forward(self, input_ids: Tensor) -> Tensor:
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.words(input_ids) + self.positions(places)
        return self.head(self.norm(self.blocks(x)))  # type: ignore[no-any-return]


def _convolved(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(outputs)]


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if inputs == outputs and stride == 1:
        return nn.Identity()
    return nn.Sequential(*_convolved(inputs, outputs, 1, stride))


def _encoder_layer(norm_first: bool) -> nn.Module:
    return nn.TransformerEncoderLayer(
        768, 12, 3072, activation="gelu", batch_first=True, norm_first=norm_first
    )
