"""Pruning takes a few blocks of memory, however large the model is."""

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
from lightning_weightwatch.trials.activations import InputNorms
from lightning_weightwatch.trials.pruning import Pruning

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

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
            ctypes.CDLL(None).malloc_trim(0)  # what was freed before would be used again unseen
            Path("/proc/self/clear_refs").write_text("5")
            before = status("VmRSS")
            assert sum(layer.live for layer in pruning.apply(weights)) <= 3 * side * side // 2
            peaks[f"{pruning.name} {dtype} {side}"] = status("VmHWM") - before
print(json.dumps(peaks))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak")
def test_the_peak_is_twenty_five_megabytes_above_a_model_of_17_million_weights() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True
    )
    peaks = json.loads(done.stdout)
    assert len(peaks) == 16
    assert max(peaks.values()) < 25 << 20, peaks
