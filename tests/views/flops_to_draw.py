"""Reports of FLOPs with chosen costs, for the views of them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lightning_weightwatch.usage.flops.report import FlopReport, ModuleCost, Uncounted

# The convolutions of a U-Net of 64 to 1024 channels: name, channels in and out, size of the image.
UNET = [
    *((f"enc{i}.{at}", wide if at else wide // 2, wide, 256 >> (i - 1))
      for i, wide in enumerate((64, 128, 256, 512), 1) for at in (0, 3)),
    ("bottleneck.0", 512, 1024, 16),
    ("bottleneck.3", 1024, 1024, 16),
    *((f"dec{i}.{at}", wide if at else 2 * wide, wide, 256 >> (i - 1))
      for i, wide in ((4, 512), (3, 256), (2, 128), (1, 64)) for at in (0, 3)),
]  # fmt: skip


def cost(name: str, own_forward: int = 0, own_parameters: int = 0, **more: Any) -> ModuleCost:
    """A module whose backward pass has twice the FLOPs of its forward pass."""
    settings: dict[str, Any] = {
        "type": "Linear",
        "depth": name.count(".") + 1,
        "own_backward": 2 * own_forward,
        "forward": own_forward,
        "backward": 2 * own_forward,
        "parameters": own_parameters,
        "parameter_bytes": 4 * own_parameters,
        "activation_bytes": own_forward // 4,
        "own_bytes": own_forward // 8,
        "calls": 1,
        "output_shape": (8, 16),
        **more,
    }
    return ModuleCost(name=name, own_forward=own_forward, own_parameters=own_parameters, **settings)


def report_of(*leaves: ModuleCost, name: str = "Net", **more: Any) -> FlopReport:
    """The leaves below the modules that their names ask for, with the sums of what is below."""
    sums = ("forward", "backward", "parameters", "parameter_bytes", "activation_bytes")
    paths = dict.fromkeys(
        ".".join(leaf.name.split(".")[:end])
        for leaf in leaves
        for end in range(leaf.name.count(".") + 2)
    )
    given = {leaf.name: leaf for leaf in leaves}
    modules = []
    for path in paths:
        below = [leaf for leaf in leaves if not path or f"{leaf.name}.".startswith(f"{path}.")]
        total = {key: sum(getattr(leaf, key) for leaf in below) for key in sums}
        if path in given:
            modules.append(replace(given[path], **total))
        else:
            kind, depth = ("Sequential", path.count(".") + 1) if path else (name, 0)
            modules.append(cost(path or name, type=kind, depth=depth, **total))
    settings: dict[str, Any] = {
        "uncounted": (),
        "batch_size": 1,
        "device": "meta",
        "fallback": "",
        "ran": "forward",
        **more,
    }
    return FlopReport(modules=tuple(modules), **settings)


def unet(**more: Any) -> FlopReport:
    leaves = [
        cost(name, 2 * 9 * ins * outs * size**2, 9 * ins * outs, type="Conv2d",
             output_shape=(1, outs, size, size), own_bytes=4 * (ins + outs) * size**2)
        for name, ins, outs, size in UNET
    ]  # fmt: skip
    return report_of(*leaves, name="UNet", **more)


def chain(count: int, folder: str = "layers") -> FlopReport:
    """A model of so many layers, in blocks of five."""
    leaves = [
        cost(f"{folder}.{i // 5}.fc{i % 5}", 1000 * (i % 7 + 1) + i, 100 * (i % 11 + 1))
        for i in range(count)
    ]
    return report_of(*leaves)


RELU, FFT = Uncounted("aten.relu", 12, 5000, True), Uncounted("aten.fft_r2c", 2, 4096, False)


def hostile(names: Sequence[str]) -> FlopReport:
    """Layers right below the model that are named so, whatever their dots."""
    leaves = [cost(name, 100 * i + 100, 70 - i, depth=1) for i, name in enumerate(names)]
    whole = report_of(cost("x", sum(leaf.forward for leaf in leaves), 1000)).modules[0]
    return FlopReport((whole, *leaves), (), 1, "meta", "", "forward")
