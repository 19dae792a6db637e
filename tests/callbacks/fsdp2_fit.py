"""A fit with FSDP2 on two processes, started by test_ddp.py: what each rank reports, as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from lightning_weightwatch import (
    PruningTrial,
    SpectralMonitor,
    WeightHistogram,
    WeightUsageMonitor,
)
from tests.callbacks.fits import Perceptron, train_loader


class Sharded(Perceptron):
    """Every linear layer is its own unit."""

    local_sizes: list[int] = []  # noqa: RUF012

    def on_train_epoch_end(self) -> None:
        weight = self.large.weight
        local = weight.to_local() if isinstance(weight, DTensor) else weight
        self.local_sizes.append(local.numel())

    def configure_model(self) -> None:
        assert self.device_mesh is not None
        for index in (0, 2, 4):
            fully_shard(self.net[index], mesh=self.device_mesh["data_parallel"])


def rows_of(monitor: WeightHistogram | SpectralMonitor) -> list[dict[str, Any]]:
    assert monitor.report is not None
    return monitor.report.records()


def main(root: Path) -> None:
    """Train, and write ``rank-N.json``."""
    torch.set_num_threads(1)
    seed_everything(0, verbose=False)
    histogram, spectral = WeightHistogram(), SpectralMonitor()
    usage, trial = WeightUsageMonitor(), PruningTrial(verbose=False)
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy=ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1),
        max_epochs=2,
        default_root_dir=root,
        logger=False,
        enable_checkpointing=False,
        limit_val_batches=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[histogram, spectral, usage, trial],
    )
    model = Sharded()
    trainer.fit(model, train_loader())  # a validation would leave the weights gathered
    whole = [p.full_tensor() if isinstance(p, DTensor) else p for p in model.parameters()]
    seen = {
        "history": [histogram.history, spectral.history, usage.history],
        "counts": [row["count"] for row in rows_of(histogram)],
        "names": [row["name"] for row in rows_of(spectral)],
        "squares": sum(float(p.detach().double().square().sum()) for p in whole),
        "local_sizes": model.local_sizes,
        "refused": trial.report is None,
    }
    (root / f"rank-{trainer.global_rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
