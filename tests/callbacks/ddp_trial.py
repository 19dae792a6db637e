"""Trials on two processes, started by test_trial_ddp.py: what each rank saw, and what it expects.

What it expects comes from torch's own operators on copies of the model, over the rank's own part of
the validation data; the test puts the parts together.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchmetrics
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn.utils import prune

from lightning_weightwatch import PruningTrial, QuantizationTrial
from lightning_weightwatch.callbacks.trial import PostFitTrial
from tests.callbacks.fits import BATCH, CLASSES, ConvNet, bits, loader, train_loader

SAMPLES = 101  # 51 for each rank, the first of them for both: six batches of 8 and one of 3
AMOUNT = 0.5


class Diverging(ConvNet):
    """Best after the first epoch; once armed, its second validation raises half-way."""

    def __init__(self) -> None:
        super().__init__()
        self.accuracy = torchmetrics.classification.MulticlassAccuracy(CLASSES, average="micro")
        self.armed, self.validations = False, 0

    def on_train_epoch_start(self) -> None:
        if self.current_epoch > 0:
            for group in self.optimizers().param_groups:  # type: ignore[union-attr]
                group["lr"] = 0.5

    def on_validation_epoch_start(self) -> None:
        self.validations += self.armed

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        self.accuracy(self(batch[0]), batch[1])
        self.log("val_acc", self.accuracy)
        if self.validations == 2 and batch_idx == 3:
            raise ValueError("half-way")


class Witness(Callback):
    """Notes a hash over the bytes of all parameters and buffers when training has ended.

    Args:
        seen: Where to.
        arm: Whether the module raises from here on.
    """

    def __init__(self, seen: list[str], arm: bool = False) -> None:
        self.seen, self.arm = seen, arm

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        hashed = hashlib.sha256()
        for name, data in bits(pl_module).items():
            hashed.update(name.encode() + data)
        self.seen.append(hashed.hexdigest())
        assert isinstance(pl_module, Diverging)
        pl_module.armed = self.arm


def main(root: Path) -> None:
    """Train, try, and write ``rank-N.json``."""
    torch.set_num_threads(1)
    seed_everything(0, verbose=False)
    written: list[str] = []
    _note_renames(written)
    second = os.environ.get("LOCAL_RANK", "0") == "1"
    trials: dict[str, PostFitTrial] = {
        "last": QuantizationTrial(bits=(8, 4), clip="absmax", verbose=False),
        "best": PruningTrial(
            amounts=AMOUNT, method=("magnitude", "wanda"), weights="best", verbose=False
        ),
        "inputs": QuantizationTrial(
            bits=8,
            clip="absmax",
            activation_bits=4,
            activation_clip="minmax",
            prefix="inputs",
            verbose=False,
        ),
        "few": QuantizationTrial(bits=(8, 6, 4), max_evaluations=3, prefix="few", verbose=False),
        "hurried": QuantizationTrial(
            max_seconds=1e-9 if second else None, prefix="hurried", verbose=False
        ),
        "faulty": QuantizationTrial(bits=(8, 6), prefix="faulty", verbose=False),
    }
    checkpoint = ModelCheckpoint(dirpath=root / "checkpoints", monitor="val_loss")
    digests: list[str] = []
    listed: list[Callback] = [checkpoint, Witness(digests)]
    for name, trial in trials.items():
        listed += [trial, Witness(digests, arm=name == "hurried")]
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=2,
        default_root_dir=root,
        logger=CSVLogger(root),
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=listed,
    )
    model = Diverging()
    trainer.fit(model, train_loader(), loader(SAMPLES, seed=2))
    seen = {
        "digests": digests,
        "written": written,
        "trials": {name: _told(trial) for name, trial in trials.items()},
        "expected": _expected(model, checkpoint.best_model_path, trainer.global_rank),
    }
    (root / f"rank-{trainer.global_rank}.json").write_text(json.dumps(seen))


def _note_renames(paths: list[str]) -> None:
    """Every path that this process puts a finished file at, as Python's own audit tells."""

    def hear(event: str, given: tuple[Any, ...]) -> None:
        if event == "os.rename":
            paths.append(str(given[1]))

    sys.addaudithook(hear)


def _told(trial: PostFitTrial) -> dict[str, Any]:
    report = trial.report
    assert report is not None
    return {
        "monitor": report.monitor,
        "stopped": report.stopped,
        "rows": [
            {
                "name": row.name,
                "metrics": dict(row.metrics),
                "interval": row.interval,
                "error": row.error,
                "packed_bytes": row.packed_bytes,
            }
            for row in report.rows
        ],
    }


def _expected(model: Diverging, best: str, rank: int) -> dict[str, Any]:
    """For each variant the loss of every batch of this rank, and how many it classified right."""
    of_best = copy.deepcopy(model.net)
    saved = torch.load(best, weights_only=True)["state_dict"]
    of_best.load_state_dict(
        {name[4:]: values for name, values in saved.items() if name.startswith("net.")}
    )
    x, y = loader(SAMPLES, seed=2).dataset.tensors  # type: ignore[attr-defined]
    padded = torch.cat([torch.arange(SAMPLES), torch.tensor([0])])  # as DistributedSampler does
    mine = padded[rank::2]
    batches = torch.split(mine, BATCH)
    variants = {
        "last baseline": model.net,
        "last int8_absmax": _quantized(model.net, 8),
        "last int4_absmax": _quantized(model.net, 4),
        "inputs baseline": model.net,
        "inputs int8_absmax_a4_minmax": _with_inputs(model.net, x),
        "inputs of one rank": _with_inputs(model.net, x[mine]),
        "best baseline": of_best,
        "best pruned50": _pruned(of_best),
        "best pruned50_wanda": _pruned_by_wanda(of_best, x[padded]),
        "best pruned50_wanda, of one rank": _pruned_by_wanda(of_best, x[mine]),
    }
    found: dict[str, Any] = {"sizes": [len(part) for part in batches]}
    for name, net in variants.items():
        net.eval()
        with torch.no_grad():
            losses = [float(nn.functional.cross_entropy(net(x[part]), y[part])) for part in batches]
            right = int((net(x[mine]).argmax(1) == y[mine]).sum())
        found[name] = {"losses": losses, "right": right}
    return found


def _layers(net: nn.Sequential) -> list[Any]:
    return [layer for layer in net if isinstance(layer, nn.Conv2d | nn.Linear)]


def _quantized(net: nn.Sequential, bits: int) -> nn.Sequential:
    other, top = copy.deepcopy(net), 2 ** (bits - 1) - 1
    for layer in _layers(other):
        weight = layer.weight.detach()
        scale = weight.abs().flatten(1).amax(1) / top
        zeros = torch.zeros(len(scale), dtype=torch.int32)
        layer.weight.data = torch.fake_quantize_per_channel_affine(
            weight, scale, zeros, 0, -top, top
        )
    return other


@torch.no_grad()
def _with_inputs(net: nn.Sequential, x: Tensor) -> nn.Sequential:
    """Weights of 8 bits, inputs of 4: codes over the range of the inputs and 0."""
    other = _quantized(net, 8)
    net.eval()
    for layer, copied in zip(net, other, strict=True):
        if isinstance(copied, nn.Conv2d | nn.Linear):
            low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
            scale = (high - low) / 15
            codes = {"scale": scale, "zero_point": round(-low / scale), "quant_min": 0}
            quantize = partial(torch.fake_quantize_per_tensor_affine, quant_max=15, **codes)
            copied.register_forward_pre_hook(lambda _, args, quantize=quantize: quantize(args[0]))
        x = layer(x)
    return other


def _pruned(net: nn.Sequential) -> nn.Sequential:
    other = copy.deepcopy(net)
    places = [(layer, "weight") for layer in _layers(other)]
    prune.global_unstructured(places, pruning_method=prune.L1Unstructured, amount=AMOUNT)
    return other


@torch.no_grad()
def _pruned_by_wanda(net: nn.Sequential, x: Tensor) -> nn.Sequential:
    """Half of each output row goes, that of the least |w|·‖x‖; x are the inputs of the network."""
    other = copy.deepcopy(net)
    net.eval()
    for layer, copied in zip(net, other, strict=True):
        if isinstance(copied, nn.Conv2d | nn.Linear):
            columns = x.double()
            if isinstance(copied, nn.Conv2d):
                windows = nn.functional.unfold(columns, (3, 3), padding=1)
                columns = windows.transpose(1, 2).flatten(0, 1)
            weight = copied.weight.flatten(1)
            scores = weight.double().abs() * columns.norm(dim=0)
            least = scores.sort(dim=1, stable=True).indices[:, : int(AMOUNT * scores.shape[1])]
            copied.weight.copy_(weight.scatter(1, least, 0.0).view_as(copied.weight))
        x = layer(x)
    return other


if __name__ == "__main__":
    main(Path(sys.argv[1]))
