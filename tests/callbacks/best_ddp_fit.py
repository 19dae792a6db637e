"""Fits on two processes, started by test_best_ddp.py: what each rank saw, as one JSON file."""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, ParallelStrategy
from torch import Tensor, nn

from lightning_weightwatch import OverfittingMonitor
from tests.callbacks.fits import Perceptron, train_loader, trainer, val_loader

#: By rank and epoch. The best epoch is 1 for rank 0, 3 for rank 1, and BEST for their mean.
VALUES = (
    (1.0, 0.125, 0.5, 1.375, 1.0, 1.125, 1.25, 1.25),
    (1.0, 1.125, 0.5, 0.375, 1.0, 1.125, 1.25, 1.25),
)
BEST = 2
BEST_PACKAGE = "lightning_weightwatch.callbacks.best"


class ScriptedRank(Perceptron):
    """Validation losses of its rank, as given; remembers the weights of each validation."""

    def __init__(self) -> None:
        super().__init__()
        self.of_epoch: list[str] = []

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", VALUES[self.global_rank][self.current_epoch])

    def on_validation_end(self) -> None:
        self.of_epoch.append(digest(self.state_dict()))


def digest(weights: Mapping[str, Tensor]) -> str:
    """Tells weights from others: every name, shape and byte counts. Shards are gathered."""
    told = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach()
        gather = getattr(value, "full_tensor", None)
        value = gather() if gather else value.clone()  # FSDP2 frees no memory that numpy has seen
        told.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        told.update(value.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return told.hexdigest()


def fit(
    model: Perceptron,
    monitor: OverfittingMonitor,
    others: list[Callback],
    strategy: ParallelStrategy,
    root: Path,
    epochs: int,
    resume: str | None = None,
) -> tuple[Trainer, dict[str, Any]]:
    """Train on two processes, and say what this one has seen of it."""
    told = trainer(
        [monitor, *others],
        root,
        devices=2,
        strategy=strategy,
        max_epochs=epochs,
        num_sanity_val_steps=0,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        told.fit(model, train_loader(), val_loader(), ckpt_path=resume)
    texts = [str(found.message) for found in caught if "takes long" not in str(found.message)]
    return told, {
        "report": repr(monitor.report),
        "history": monitor.history,
        "best_epoch": monitor.report.best_epoch if monitor.report else None,
        "best_checkpoint": monitor.best_checkpoint,
        "diagnosis": " ".join(monitor.diagnosis),
        "epochs": told.current_epoch,
        "weights": digest(model.state_dict()),
        "warnings": [text for text in texts if text.startswith("OverfittingMonitor ")],
    }


def ddp() -> DDPStrategy:
    """A rank that waits for another one is an error after a minute."""
    return DDPStrategy(timeout=timedelta(seconds=60))


def overfitting(root: Path) -> dict[str, Any]:
    """A fit that its alarm ends; and how often each rank wrote weights to `best.pt`."""
    monitor = OverfittingMonitor(save_best=True, restore_best=True)
    stopper = EarlyStopping(
        "weightwatch/overfit_alarm", mode="max", stopping_threshold=0.5, patience=1_000_000
    )
    keeps = ModelCheckpoint(dirpath=root / "kept", filename="{epoch}", save_top_k=-1)
    model = ScriptedRank()
    with mock.patch(f"{BEST_PACKAGE}.copies.torch.save", wraps=torch.save) as save:
        told, seen = fit(model, monitor, [stopper, keeps], ddp(), root, epochs=len(VALUES[0]))
    drafts = [call for call in save.call_args_list if "best.pt" in str(call.args[1])]
    return {
        **seen,
        "world_size": told.world_size,
        "local": float(told.callback_metrics["val_loss"]),
        "stopped": stopper.stopped_epoch,
        "of_epoch": model.of_epoch,
        "written": len(drafts),
        "files": sorted(str(file) for file in root.glob("weightwatch/*")),
    }


def without_disk(root: Path) -> dict[str, Any]:
    """A fit in which rank 0 cannot write `best.pt`."""
    model, monitor = ScriptedRank(), OverfittingMonitor(save_best=True, restore_best=True)
    with faulty("copies.torch.save", 0, OSError("the disk is full")):
        _, seen = fit(model, monitor, [], ddp(), root, epochs=BEST + 2)
    return {**seen, "best": model.of_epoch[BEST], "last": model.of_epoch[-1]}


def resumed(root: Path, best: str) -> dict[str, Any]:
    """The rest of the fit in `root`, whose checkpoint after its best epoch is there."""
    model, monitor = ScriptedRank(), OverfittingMonitor(restore_best=True)
    after = root / f"epoch={BEST + 1}.ckpt"
    _, seen = fit(model, monitor, [], ddp(), root, epochs=BEST + 3, resume=str(after))
    return {**seen, "best": best, "last": model.of_epoch[-1]}


@contextmanager
def faulty(place: str, rank: int, fault: Exception) -> Iterator[None]:
    """On one rank a function of ours fails; if it is given a model, when a weight is spoilt."""

    def fails(*given: Any, **_: Any) -> None:
        if isinstance(given[0], nn.Module):
            next(given[0].parameters()).data.zero_()
        raise fault

    here = torch.distributed.get_rank() == rank
    with mock.patch(f"{BEST_PACKAGE}.{place}", fails) if here else nullcontext():
        yield


def resumptions(root: Path) -> dict[str, Any]:
    """A fit that stops after its best epoch, and is resumed in sunshine and in rain."""
    model = ScriptedRank()
    keeps = ModelCheckpoint(dirpath=root, filename="{epoch}", save_top_k=-1)
    told, first = fit(model, OverfittingMonitor(), [keeps], ddp(), root, epochs=BEST + 2)
    best = model.of_epoch[BEST]
    seen = {"first": first, "resumed": resumed(root, best)}
    with faulty("weights.load_weights", 1, OSError("the disk is gone")):
        seen["unreadable on rank 1"] = resumed(root, best)
    with faulty("weights.load_weights", 0, OSError("the disk is gone")):
        seen["unreadable on rank 0"] = resumed(root, best)
    with faulty("weights.BestCopy.take", 1, MemoryError("no memory")):
        seen["no memory on rank 1"] = resumed(root, best)
    with faulty("weights.BestCopy.take", 0, MemoryError("no memory")):
        seen["no memory on rank 0"] = resumed(root, best)
    if told.is_global_zero:
        (root / f"epoch={BEST}.ckpt").unlink()
    torch.distributed.barrier()
    seen["deleted"] = resumed(root, best)
    return seen


def main(root: Path) -> None:
    """Train, and write ``rank-N.json``."""
    torch.set_num_threads(1)
    seed_everything(0, verbose=False)
    seen = {
        "overfitting": overfitting(root / "overfitting"),
        "disk full": without_disk(root / "full"),
        **resumptions(root / "resumed"),
    }
    (root / f"rank-{torch.distributed.get_rank()}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
