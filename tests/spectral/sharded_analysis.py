"""An analysis on two processes, started by test_sharded.py: what each rank finds, as JSON."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.utils import parametrizations

from lightning_weightwatch import analyze


class Model(nn.Module):
    """A layer of every kind whose matrices are not just its weight, and some that are."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(51, 16)  # an odd number of rows: unequal shards
        self.up = nn.Linear(16, 40)
        self.down = nn.Linear(40, 16)
        self.convolution = nn.Conv2d(5, 12, 3)
        self.attention = nn.MultiheadAttention(16, 2)
        self.lstm = nn.LSTM(16, 9)
        self.normed = parametrizations.weight_norm(nn.Linear(16, 24))
        self.spectral = parametrizations.spectral_norm(nn.Linear(16, 24))
        self.table = nn.Parameter(torch.randn(20, 30))
        self.head = nn.Linear(16, 51, bias=False)
        self.head.weight = self.embedding.weight


def built() -> Model:
    """The same on every rank."""
    torch.manual_seed(0)
    return Model()


def main(root: Path) -> None:
    """Analyse the model whole, sharded by FSDP2, and in parallel by columns and rows."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    fsdp, parallel = built(), built()
    for layer in (fsdp.up, fsdp.attention, fsdp):
        fully_shard(layer, mesh=mesh)
    parallelize_module(parallel, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})
    found = {}
    for name, model in (("whole", built()), ("fsdp", fsdp), ("parallel", parallel)):
        report = analyze(model, mp_fit=True)
        found[name] = [report.records(), [[skip.name, skip.reason] for skip in report.skipped]]
    sharded = {
        name: sum(isinstance(p, DTensor) and p.to_local().numel() < p.numel() for p in parameters)
        for name, parameters in (("fsdp", fsdp.parameters()), ("parallel", parallel.parameters()))
    }
    (root / f"rank-{os.environ['RANK']}.json").write_text(json.dumps([found, sharded]))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
