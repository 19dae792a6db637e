"""The UNet that colours grey images, under the names that a user gave its layers.

31,036,546 parameters, 30.4 % of them in `bottleneck.3.weight`. Torch alone: in a fresh process it
is to be the only thing in memory.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

CHANNELS = (64, 128, 256, 512, 1024)


class UNet(nn.Module):
    """Four halvings of an image [n, 1, h, w] and four doublings, to two colour channels."""

    def __init__(self) -> None:
        super().__init__()
        sides = list(pairwise((1, *CHANNELS[:-1])))
        self.enc1, self.enc2, self.enc3, self.enc4 = (_block(*pair) for pair in sides)
        self.bottleneck = _block(CHANNELS[-2], CHANNELS[-1])
        for level in (4, 3, 2, 1):
            channels = CHANNELS[level - 1]
            up = nn.ConvTranspose2d(2 * channels, channels, 2, stride=2)
            self.add_module(f"up{level}", up)
            self.add_module(f"dec{level}", _block(2 * channels, channels))
        self.final = nn.Conv2d(CHANNELS[0], 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Colours [n, 2, h, w]; h and w are multiples of 16."""
        kept = []
        for encode in (self.enc1, self.enc2, self.enc3, self.enc4):
            x = encode(x)
            kept.append(x)
            x = nn.functional.max_pool2d(x, 2)
        x = self.bottleneck(x)
        for level in (4, 3, 2, 1):
            x = self.get_submodule(f"up{level}")(x)
            x = self.get_submodule(f"dec{level}")(torch.cat([x, kept[level - 1]], dim=1))
        colours: Tensor = self.final(x)
        return colours


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )
