"""Baseline and variants are evaluated on the same batches, whatever the loaders are."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    Subset,
)

from lightning_weightwatch import QuantizationTrial
from lightning_weightwatch.views.trials import trial_markdown
from tests.callbacks.fits import Perceptron, loader, train_loader, trainer

SAMPLES = 40
SEEN: list[list[float]] = []


class Looking(Perceptron):
    """Notes what it validates on."""

    def on_validation_epoch_start(self) -> None:
        SEEN.append([])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        SEEN[-1].append(float(batch[0].double().sum()))


class Augmented(Dataset[tuple[Tensor, Tensor]]):
    """Adds noise, of the global generators or of one of its own."""

    def __init__(self, own: Any = None) -> None:
        self.x, self.y = (torch.stack(parts) for parts in zip(*_samples(), strict=True))
        self.own = own

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = torch.rand(()) if self.own is None else float(self.own.random())
        return self.x[index] + noise, self.y[index]


class Shift:
    """A transform that draws from a generator of its own."""

    def __init__(self, generator: np.random.Generator) -> None:
        self.generator = generator


class Transforms:
    """Some transforms in a row."""

    def __init__(self, transforms: list[Shift]) -> None:
        self.transforms = transforms

    def random(self) -> float:
        return float(self.transforms[0].generator.random())


class GoesOn(IterableDataset[tuple[Tensor, Tensor]]):
    """A stream that nobody can take back."""

    def __init__(self) -> None:
        self.seed = iter(range(100, 10_000))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        dataset: Any = loader(SAMPLES, seed=next(self.seed)).dataset
        yield from dataset


class OwnOrder(Sampler[int]):
    def __init__(self) -> None:
        self.random = random.Random(3)

    def __len__(self) -> int:
        return SAMPLES

    def __iter__(self) -> Iterator[int]:
        return iter(self.random.sample(range(SAMPLES), SAMPLES))


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from _samples()


def _samples() -> list[tuple[Tensor, Tensor]]:
    dataset: Any = loader(SAMPLES, seed=2).dataset
    return [(x, y) for x, y in dataset]


def shuffled_batches() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    dataset: Any = loader(SAMPLES, seed=2).dataset
    order = RandomSampler(dataset, generator=generator)
    return DataLoader(dataset, batch_sampler=BatchSampler(order, 8, drop_last=False))


LOADERS: dict[str, Any] = {
    "a generator in the batch sampler": shuffled_batches,
    "a sampler of its own": lambda: DataLoader(
        loader(SAMPLES, seed=2).dataset, batch_size=8, sampler=OwnOrder()
    ),
    "noise": lambda: DataLoader(Augmented(), batch_size=8),
    "noise of NumPy": lambda: DataLoader(Augmented(np.random.default_rng(1)), batch_size=8),
    "noise of Python": lambda: DataLoader(Augmented(random.Random(1)), batch_size=8),
    "noise in a subset": lambda: DataLoader(
        Subset(Augmented(np.random.default_rng(1)), range(SAMPLES)), batch_size=8
    ),
    "noise in several": lambda: DataLoader(
        ConcatDataset([Augmented(np.random.default_rng(1))]), batch_size=8
    ),
    "noise in a transform": lambda: DataLoader(
        Augmented(Transforms([Shift(np.random.default_rng(1))])), batch_size=8
    ),
    "noise in workers": lambda: DataLoader(
        Augmented(), batch_size=8, num_workers=1, persistent_workers=True
    ),
}


def validated(data: Any, root: Path, **options: Any) -> list[list[float]]:
    """The batches of the evaluations after training."""
    SEEN.clear()
    limit = options.pop("limit_batches", None)
    trial = QuantizationTrial(bits=(8, 4), verbose=False, limit_batches=limit)
    torch.manual_seed(0)
    fit = trainer([trial], root, max_epochs=2, num_sanity_val_steps=0, **options)
    fit.fit(Looking(), train_loader(), data)
    assert trial.report is not None
    assert [row.error for row in trial.report.rows] == ["", "", ""]
    return SEEN[2:]


@pytest.mark.filterwarnings("ignore:Your `val_dataloader`.s sampler has shuffling:UserWarning")
@pytest.mark.parametrize("name", LOADERS)
def test_all_evaluations_see_the_same(name: str, tmp_path: Path) -> None:
    baseline, first, second = validated(LOADERS[name](), tmp_path)
    assert len(baseline) == 5
    assert baseline == first == second


def test_loaders_that_are_made_anew_each_epoch_are_not_made_for_a_trial(tmp_path: Path) -> None:
    data = loader(SAMPLES, seed=2)
    options = {"reload_dataloaders_every_n_epochs": 1, "limit_batches": 2}
    assert [len(seen) for seen in validated(data, tmp_path, **options)] == [2, 2, 2]


@pytest.mark.parametrize(("limit", "expected"), [(1.0, 5), (2, 2), (None, 5)])
def test_a_share_of_a_stream_is_all_of_it(limit: Any, expected: int, tmp_path: Path) -> None:
    data = DataLoader(Stream(), batch_size=8)
    found = validated(data, tmp_path, limit_batches=limit)
    assert [len(seen) for seen in found] == [expected] * 3


def test_a_stream_that_goes_on_has_no_interval_and_that_is_said(tmp_path: Path) -> None:
    trial = QuantizationTrial(bits=(8,), verbose=False)
    fit = trainer([trial], tmp_path, max_epochs=1, num_sanity_val_steps=0)
    fit.fit(Perceptron(), train_loader(), DataLoader(GoesOn(), batch_size=8))
    assert trial.report is not None
    (_, row) = trial.report.rows
    assert row.interval is None
    assert row.no_interval == "its batches were not those of the baseline"
    sentence = "No interval for int8: its batches were not those of the baseline."
    assert sentence in trial_markdown(trial.report)


def test_a_share_of_a_loader_without_a_length_is_refused(tmp_path: Path) -> None:
    trial = QuantizationTrial(bits=(8,), limit_batches=0.5, verbose=False)
    fit = trainer([trial], tmp_path, max_epochs=1)
    with pytest.warns(UserWarning, match="a share of a validation loader without a length"):
        fit.fit(Perceptron(), train_loader(), DataLoader(Stream(), batch_size=8))
