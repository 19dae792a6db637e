"""A description takes a few megabytes for its threads, however large the model is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

MEASURE = """
import json, sys
from pathlib import Path
import torch
from torch import nn
from lightning_weightwatch.weights.description import describe_weights

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

torch.set_num_threads(2)
sizes = [10_000_000, 10_000_000, 10_000_000, 1_000_000]
model = nn.ParameterList([nn.Parameter(torch.randn(size)) for size in sizes])
if sys.argv[1] == "bfloat16":
    model = model.bfloat16()
if sys.argv[1] == "expanded":
    model = nn.ParameterList([nn.Parameter(torch.randn(1000).expand(31_000, 1000))])
describe_weights(nn.ParameterList([torch.randn(200_000), torch.randn(9)])).model  # on first use
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
report = describe_weights(model)
assert report.total.count == report.model.moments.count == 31_000_000
print(json.dumps(status("VmHWM") - before))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak")
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "expanded"])
def test_the_peak_is_thirty_megabytes_above_a_model_of_31_million_weights(kind: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, kind], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) < 30 << 20
