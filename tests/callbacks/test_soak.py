"""Random Trainers: whatever is combined, the bits stay and whoever monitors sees fresh values."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_weightwatch import (
    OverfittingMonitor,
    PruningTrial,
    QuantizationTrial,
    SpectralMonitor,
    WeightHistogram,
    WeightUsageMonitor,
)
from tests.callbacks.fits import (
    ConvNet,
    ManualPerceptron,
    Perceptron,
    WitnessStopper,
    bits,
    train_loader,
    trainer,
    val_loader,
    weight_norm,
)

pytestmark = [
    pytest.mark.soak,
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before"),
]


def drawn(draw: random.Random) -> tuple[type[Perceptron], dict[str, Any]]:
    """A module and the options of a Trainer for it."""
    module = draw.choice([Perceptron, ConvNet, ManualPerceptron])
    options: dict[str, Any] = {
        "max_epochs": draw.randint(2, 5),
        "num_sanity_val_steps": draw.choice([0, 1, 2]),
        "limit_train_batches": draw.choice([1, 4, 1.0]),
        "limit_val_batches": draw.choice([1, 1.0]),
        "log_every_n_steps": draw.choice([1, 50]),
        "reload_dataloaders_every_n_epochs": draw.choice([0, 1]),
    }
    if options["limit_train_batches"] != 1:
        options["val_check_interval"] = draw.choice([1.0, 0.5, 2])
    options["check_val_every_n_epoch"] = draw.choice([1, 1, 2])
    if module is not ManualPerceptron:
        options["accumulate_grad_batches"] = draw.choice([1, 3])
        options["gradient_clip_val"] = draw.choice([None, 0.5])
    if draw.random() < 0.3:
        options["max_steps"] = draw.randint(3, 12)
    return module, options


def ours(draw: random.Random) -> list[Callback]:
    def schedule() -> dict[str, Any]:
        return {"every_n_epochs": 1, "at_start": draw.random() < 0.3}

    callbacks: list[Callback] = [
        WeightHistogram(**schedule()),
        SpectralMonitor(**schedule()),
        OverfittingMonitor(monitor="val_loss", **schedule()),
        WeightUsageMonitor(),
        QuantizationTrial(bits=draw.sample(range(2, 9), 2), verbose=False),
        PruningTrial(amounts=(draw.uniform(0.1, 0.9),), verbose=False),
    ]
    draw.shuffle(callbacks)
    return callbacks


@pytest.mark.parametrize("seed", range(120))
def test_random_trainers(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    module, options = drawn(draw)
    stopper = WitnessStopper("weightwatch/weight_norm")
    callbacks = ours(draw)
    callbacks.insert(draw.randint(0, len(callbacks)), stopper)

    seed_everything(seed, verbose=False)
    watched = module()
    trainer(callbacks, tmp_path, **options).fit(watched, train_loader(), val_loader())
    seed_everything(seed, verbose=False)
    plain = module()
    trainer([], tmp_path, **options).fit(plain, train_loader(), val_loader())

    assert bits(watched) == bits(plain), options
    for value, truth in stopper.seen:
        assert value == pytest.approx(truth, rel=1e-6), options


@pytest.mark.parametrize("seed", range(60))
def test_random_resumes(seed: int, tmp_path: Path) -> None:
    draw = random.Random(1000 + seed)
    every = draw.choice([1, 2, 3, 5])

    def checkpoint() -> ModelCheckpoint:
        return ModelCheckpoint(
            dirpath=tmp_path, save_top_k=-1, filename="{step}", every_n_train_steps=every
        )

    first = trainer([*ours(draw), checkpoint()], tmp_path, max_epochs=2)
    first.fit(Perceptron(), train_loader(), val_loader())
    path = draw.choice(sorted(tmp_path.glob("*.ckpt")))
    histogram, stopper = WeightHistogram(), WitnessStopper("weightwatch/weight_norm")
    model = Perceptron()
    second = trainer([stopper, histogram, checkpoint()], tmp_path, max_epochs=4)
    second.fit(model, train_loader(), val_loader(), ckpt_path=path)

    epochs = [entry["epoch"] for entry in histogram.history]
    assert epochs == sorted(set(epochs))
    assert epochs[-1] == 3
    assert histogram.history[-1]["weight_norm"] == pytest.approx(weight_norm(model), rel=1e-6)
    for value, truth in stopper.seen:
        assert value == pytest.approx(truth, rel=1e-6), path


def test_a_long_run_keeps_its_state_small(tmp_path: Path) -> None:
    callbacks = [WeightHistogram(), SpectralMonitor(), OverfittingMonitor()]
    checkpoint = ModelCheckpoint(dirpath=tmp_path, save_last=True)
    fit = trainer([*callbacks, checkpoint], tmp_path, max_epochs=300, limit_train_batches=2)
    fit.fit(Perceptron(), train_loader(), val_loader())
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["lightning_weightwatch"]
    torch.save(state, tmp_path / "state.pt")
    assert (tmp_path / "state.pt").stat().st_size < 300 * 40 * 8 * 4
