"""A fit on two processes, started by test_ddp.py: prints what each rank saw as one JSON line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import CSVLogger

from lightning_weightwatch import (
    OverfittingMonitor,
    PruningTrial,
    QuantizationTrial,
    SpectralMonitor,
    WeightHistogram,
    WeightUsageMonitor,
    measure_usage,
)
from tests.callbacks.fits import ConvNet, train_loader, val_loader


class RankZero(ConvNet):
    """Logs its validation loss on one rank alone."""

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        if self.global_rank == 0:
            super().validation_step(batch, batch_idx)


def main(root: Path, rank_zero: bool) -> None:
    """Train, and write ``rank-N.json``."""
    torch.set_num_threads(1)
    seed_everything(0, verbose=False)
    monitors = [WeightHistogram(), SpectralMonitor(), OverfittingMonitor(), WeightUsageMonitor()]
    trials = [
        QuantizationTrial(bits=(8,), verbose=False),
        PruningTrial(amounts=(0.5,), verbose=False),
    ]
    stopper = EarlyStopping(monitor="weightwatch/alpha_mean", patience=10**6)
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=2,
        default_root_dir=root,
        logger=CSVLogger(root),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[stopper, *monitors, *trials],
    )
    model = RankZero() if rank_zero else ConvNet()
    trainer.fit(model, train_loader(), val_loader())
    seen = {
        "world_size": trainer.world_size,
        "metrics": {key: float(value) for key, value in trainer.callback_metrics.items()},
        "history": [monitor.history for monitor in monitors],
        "rows": [
            [dict(row.metrics) for row in trial.report.rows] for trial in trials if trial.report
        ],
        "errors": [row.error for trial in trials if trial.report for row in trial.report.rows],
        "usage": monitors[-1].history[-1],
        "usage_of_all": measure_usage(model, iter(val_loader())).summary(),
        "weights": [float(p.detach().double().square().sum()) for p in model.parameters()],
    }
    (root / f"rank-{trainer.global_rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]), rank_zero=len(sys.argv) > 2)
