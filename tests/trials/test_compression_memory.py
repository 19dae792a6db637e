"""Compressions take a few blocks of memory, however large the model is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

MEASURE = """
import ctypes, json
from pathlib import Path
import torch
from torch import nn
from lightning_weightwatch.model.weights import Weight, walk
from lightning_weightwatch.usage.inputs import InputNorms
from lightning_weightwatch.trials.pruning import Pruning
from lightning_weightwatch.trials.quantization import Quantization

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

def peak_of(weights, compression):
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before would be used again unseen
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    layers = list(compression.apply(weights))
    return status("VmHWM") - before, sum(layer.live for layer in layers)

def variants(model, inputs):
    weights = [item for item in walk(model) if isinstance(item, Weight)]
    with InputNorms(weights) as norms, torch.no_grad():
        model(inputs)
    yield from ((weights, pruning) for pruning in (
        Pruning(0.5), Pruning(0.5, scope="layer"), Pruning("2:4"),
        Pruning(0.5, "wanda", norms=norms),
    ))

def layers(side, dtype):
    model = nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in range(3)))
    for layer in model:
        layer.weight = nn.Parameter(torch.rand(side, side).to(dtype) - 0.5)
    return model

torch.set_num_threads(1)
peaks = {}
for side in (30, 2400):  # the small one loads what is loaded on first use
    for dtype in (torch.float32, torch.bfloat16):
        inputs = torch.randn(2, side, dtype=dtype)
        for weights, pruning in variants(layers(side, dtype), inputs):
            peak, live = peak_of(weights, pruning)
            assert live <= 3 * side * side // 2
            peaks[f"{pruning.name} {dtype} {side}"] = peak

large = nn.Sequential(
    nn.Linear(3000, 5000), nn.ConvTranspose2d(1000, 1250, 3), nn.Linear(4_750_000, 1)
)
for model in (nn.Linear(1000, 1000), large):
    weights = [item for item in walk(model) if isinstance(item, Weight) and item.parameter.ndim > 1]
    size = sum(weight.parameter.numel() for weight in weights)
    for quantization in (
        Quantization(4), Quantization(4, "model", "percentile"), Quantization(4, "group", "absmax"),
    ):
        peaks[f"{quantization.name} {size}"], _ = peak_of(weights, quantization)
print(json.dumps(peaks))
"""


@pytest.fixture(scope="module")
def peaks() -> dict[str, int]:
    """Of one process, as torch takes seconds to load."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("Linux tells the peak")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True
    )
    found: dict[str, int] = json.loads(done.stdout)
    return found


def test_pruning_peaks_twenty_five_megabytes_above_a_model_of_17_million_weights(
    peaks: dict[str, int],
) -> None:
    found = {name: peak for name, peak in peaks.items() if name.startswith("pruned")}
    assert len(found) == 16
    assert max(found.values()) < 25 << 20, found


def test_quantizing_peaks_a_fifth_above_a_model_of_31_million_weights(
    peaks: dict[str, int],
) -> None:
    found = {name: peak for name, peak in peaks.items() if name.endswith(" 31000000")}
    assert len(found) == 3
    assert max(found.values()) < 0.2 * 4 * 31_000_000, found
