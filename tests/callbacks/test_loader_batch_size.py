"""What training loaders say of their batch sizes."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_weightwatch.callbacks.epoch_mean import loader_batch_size
from tests.callbacks.fits import Perceptron, trainer, val_loader


@pytest.mark.parametrize(
    ("loaders", "size"),
    [
        (lambda: DataLoader(data(), batch_size=8), 8),
        (lambda: {"a": DataLoader(data(), batch_size=8), "b": DataLoader(data(), batch_size=3)}, 8),
        (lambda: CombinedLoader([DataLoader(data(), batch_size=6)], "min_size"), 6),
        (lambda: DataLoader(data(), batch_sampler=[[0, 1], [2]]), None),
        (lambda: OwnLoader(), None),
    ],
    ids=["a loader", "two", "combined", "its own sampler", "not of torch"],
)
def test_the_loader_says_how_many_samples_a_batch_has_at_most(
    loaders: Callable[[], Any], size: int | None, tmp_path: Path
) -> None:
    class Asks(Perceptron):
        def training_step(self, batch: Any, *_: Any) -> Any:
            said.append(loader_batch_size(self.trainer))
            return self.net(torch.zeros(1, 12)).sum()

    said: list[int | None] = []
    trainer([], tmp_path, max_epochs=1).fit(Asks(), loaders(), val_loader())
    assert set(said) == {size}


class OwnLoader:
    def __iter__(self) -> Iterator[Tensor]:
        return iter([torch.zeros(8, 12), torch.zeros(5, 12)])


def data() -> TensorDataset:
    return TensorDataset(torch.zeros(16, 12), torch.zeros(16, dtype=torch.int64))
