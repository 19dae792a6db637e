"""Fits with FSDP2 on two processes, started by test_best_ddp.py: what each rank saw, as JSON."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.distributed.fsdp import fully_shard

from lightning_weightwatch import OverfittingMonitor
from tests.callbacks.best_ddp_fit import BEST, ScriptedRank, digest, fit


class ShardedRank(ScriptedRank):
    """Every linear layer is its own unit, which a forward pass may leave gathered."""

    def __init__(self, gathered: bool = False) -> None:
        super().__init__()
        self.gathered = gathered
        self.seen_gathered: list[bool] = []

    def configure_model(self) -> None:
        assert self.device_mesh is not None
        mesh = self.device_mesh["data_parallel"]
        for index in (0, 2, 4):
            fully_shard(self.net[index], mesh=mesh, reshard_after_forward=not self.gathered)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.loss(batch)
        super().validation_step(batch, batch_idx)

    def on_validation_end(self) -> None:
        """Not by way of the state dict, which takes apart again what was gathered."""
        self.seen_gathered.append(not hasattr(self.large.weight, "full_tensor"))
        self.of_epoch.append(digest(dict(self.named_parameters())))


def sharded(folders: bool = True) -> ModelParallelStrategy:
    """Its checkpoints are folders with the shards, or files with the whole."""
    return ModelParallelStrategy(
        data_parallel_size=2,
        tensor_parallel_size=1,
        save_distributed_checkpoint=folders,
        timeout=timedelta(seconds=60),
    )


def restored(root: Path, gathered: bool) -> dict[str, Any]:
    """A fit with nothing but the monitor."""
    model = ShardedRank(gathered)
    monitor = OverfittingMonitor(save_best=True, restore_best=True)
    _, seen = fit(model, monitor, [], sharded(), root, epochs=BEST + 2)
    return {**seen, "of_epoch": model.of_epoch, "gathered": model.seen_gathered}


def resumed(root: Path, folders: bool) -> dict[str, Any]:
    """A fit that stops after its best epoch, and its rest."""
    model = ShardedRank()
    keeps = ModelCheckpoint(dirpath=root, filename="{epoch}", save_top_k=-1)
    _, first = fit(model, OverfittingMonitor(), [keeps], sharded(folders), root, epochs=BEST + 2)
    after = ShardedRank()
    monitor = OverfittingMonitor(restore_best=True)
    source = str(root / f"epoch={BEST + 1}.ckpt")
    _, seen = fit(after, monitor, [], sharded(folders), root, epochs=BEST + 3, resume=source)
    return {"first": first, **seen, "best": model.of_epoch[BEST], "last": after.of_epoch[-1]}


def main(root: Path) -> None:
    """Train, and write ``rank-N.json``."""
    torch.set_num_threads(1)
    seed_everything(0, verbose=False)
    seen = {
        "sharded": restored(root / "sharded", gathered=False),
        "gathered": restored(root / "gathered", gathered=True),
        "folders": resumed(root / "folders", folders=True),
        "files": resumed(root / "files", folders=False),
    }
    (root / f"rank-{torch.distributed.get_rank()}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
