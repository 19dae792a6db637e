"""A fit with every callback on leaves the same bits as a fit without."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

from lightning_weightwatch import (
    OverfittingMonitor,
    PruningTrial,
    QuantizationTrial,
    SpectralMonitor,
    WeightHistogram,
    WeightUsageMonitor,
)
from tests.callbacks.fits import ConvNet, Perceptron, bits, train_loader, trainer, val_loader


def everything(at_start: bool = False) -> list[Callback]:
    return [
        WeightHistogram(at_start=at_start),
        SpectralMonitor(at_start=at_start),
        OverfittingMonitor(at_start=at_start),
        WeightUsageMonitor(),
        QuantizationTrial(bits=(8, 2), verbose=False),
        PruningTrial(amounts=(0.5, 0.9), verbose=False),
    ]


def fitted(module: type[Perceptron], callbacks: list[Callback], root: Path, **options: Any) -> Any:
    """The bits of a fit, those of its random generators and of its optimizer."""
    seed_everything(7, verbose=False)
    model = module()
    fit = trainer(callbacks, root, logger=TensorBoardLogger(root), **options)
    fit.fit(model, train_loader(), val_loader())
    momentum = [
        state["momentum_buffer"].numpy().tobytes() for state in fit.optimizers[0].state.values()
    ]
    generators = (
        torch.get_rng_state().numpy().tobytes(),
        np.random.get_state()[1].tobytes(),  # type: ignore[index]
        random.getstate(),
    )
    return {
        "weights": bits(model),
        "order": list(model.state_dict()),
        "momentum": momentum,
        "generators": generators,
        "modes": [part.training for part in model.modules()],
        "hooks": [(part._forward_hooks, part._forward_pre_hooks) for part in model.modules()],
        "attributes": {key for key in vars(model) if not key.startswith("_")},
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
    }


@pytest.mark.parametrize("module", [Perceptron, ConvNet])
@pytest.mark.parametrize("at_start", [False, True], ids=["", "at_start"])
@pytest.mark.parametrize(
    "options", [{}, {"val_check_interval": 0.5}, {"num_sanity_val_steps": 0}], ids=str
)
def test_bits_are_those_of_a_fit_without_callbacks(
    module: type[Perceptron], at_start: bool, options: dict[str, Any], tmp_path: Path
) -> None:
    with_callbacks = fitted(module, everything(at_start), tmp_path, **options)
    without = fitted(module, [], tmp_path, **options)
    for what, expected in without.items():
        assert with_callbacks[what] == expected, what


def test_the_comparison_can_fail(tmp_path: Path) -> None:
    class Careless(Callback):
        def on_validation_end(self, *_: Any) -> None:
            torch.rand(1)  # draws from the global generator

    careless = fitted(ConvNet, [Careless()], tmp_path)
    assert careless["weights"] != fitted(ConvNet, [], tmp_path)["weights"]


def test_the_checkpoint_after_the_trials_holds_the_trained_weights(tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint

    model = ConvNet()
    checkpoint = ModelCheckpoint(dirpath=tmp_path, save_last=True)
    fit = trainer([*everything(), checkpoint], tmp_path, max_epochs=1)
    fit.fit(model, train_loader(), val_loader())
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    holder = nn.Module()
    for index, value in enumerate(saved.values()):
        holder.register_buffer(f"b{index}", value)
    assert list(bits(holder).values()) == list(bits(model).values())
