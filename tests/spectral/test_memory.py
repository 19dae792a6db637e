"""At its peak an analysis takes four times the largest layer in float64, and what BLAS needs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SIDE = 2048
MEASURE = """
import json, sys
from pathlib import Path
import torch
from torch import nn
from lightning_weightwatch import analyze

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

kind, side = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(2)
torch.manual_seed(0)
model = nn.Sequential(*(nn.Linear(side, side, bias=False) for _ in range(4)))
if kind == "deficient":
    with torch.no_grad():
        model[0].weight[:100] = 0
if kind == "bfloat16":
    model = model.bfloat16()
if kind == "convolution":
    model = nn.Sequential(*(nn.Conv2d(side // 2, side // 2, 2, bias=False) for _ in range(4)))
analyze(nn.Sequential(nn.Linear(600, 600), nn.Linear(600, 500)))  # what is loaded on first use
Path("/proc/self/clear_refs").write_text("5")
before = status("RssAnon")
assert len(analyze(model).layers) == 4
print(json.dumps(status("VmHWM") - status("VmRSS") + status("RssAnon") - before))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak")
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "deficient", "convolution"])
def test_the_peak_is_four_times_the_largest_layer(kind: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, kind, str(SIDE)], capture_output=True, text=True, check=True
    )
    layer, buffers = 8 * SIDE**2, 24 << 20
    peak = json.loads(done.stdout)
    assert layer / 2 < peak <= 4 * layer + buffers
