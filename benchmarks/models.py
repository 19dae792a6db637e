"""The two models of the spectral benchmark; imported in both environments, so by torch alone."""

from itertools import pairwise

import torch
from torch import nn

CHANNELS = (64, 128, 256, 512, 1024)


def unet() -> nn.Module:
    """The UNet of a colorizer, 31,036,546 parameters, freshly initialised."""
    torch.manual_seed(0)
    down = [_double(*sides) for sides in pairwise((1, *CHANNELS))]
    up = CHANNELS[-2::-1]
    model = nn.ModuleDict(
        {
            "encoder": nn.ModuleList(down),
            "up": nn.ModuleList([nn.ConvTranspose2d(2 * c, c, 2, stride=2) for c in up]),
            "decoder": nn.ModuleList([_double(2 * c, c) for c in up]),
            "final": nn.Conv2d(CHANNELS[0], 2, 1),
        }
    )
    assert sum(parameter.numel() for parameter in model.parameters()) == 31_036_546
    return model


def _double(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for sides in ((inputs, outputs), (outputs, outputs)):
        convolution = nn.Conv2d(*sides, 3, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


def minilm(weights: str) -> nn.Module:
    """The matrices of all-MiniLM-L6-v2, a trained sentence encoder, out of its safetensors file."""
    from safetensors.torch import load_file

    model = nn.Module()
    for name, values in load_file(weights).items():
        if values.ndim == 2 and values.is_floating_point():
            layer: nn.Module = nn.Linear(1, 1) if "layer" in name else nn.Embedding(1, 1)
            layer.register_parameter("weight", nn.Parameter(values))
            model.add_module(name.removesuffix(".weight").replace(".", "_"), layer)
    return model


def build(name: str, weights: str | None) -> nn.Module:
    """One of the two models, `"UNet"` or `"MiniLM"`; the file of weights is that of the second."""
    if name == "UNet":
        return unet()
    assert weights is not None
    return minilm(weights)
