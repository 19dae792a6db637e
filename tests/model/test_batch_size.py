"""The size of a batch: found in whatever batches are made of, also when they hold one sample."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, zeros
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import default_collate

from lightning_weightwatch.model.batch_size import (
    batch_size,
    known_batch_size,
)

SIZES = (4, 1, 2, 3, 7, 40)
LARGEST = 40


class Pair(NamedTuple):
    x: Tensor
    y: Tensor | int


@dataclass
class Record:
    x: Tensor
    y: Tensor | int


class Bag:
    def __init__(self, **parts: Any) -> None:
        vars(self).update(parts)


class Opaque:
    __slots__ = ()


def images(n: int) -> list[Tensor]:
    return [zeros(3, 20 + i, 30 + i) for i in range(n)]


def targets(n: int) -> list[dict[str, Tensor]]:
    return [{"boxes": zeros(i % 4, 4), "labels": zeros(i % 4), "id": zeros(1)} for i in range(n)]


def clouds(n: int) -> list[Tensor]:
    return [zeros(100 + i * i, 3) for i in range(n)]


def sequences(n: int) -> list[Tensor]:
    return [zeros(n + 3 - i, 2) for i in range(n)]


def ints(n: int) -> Tensor:
    return torch.zeros(n, dtype=torch.long)


KINDS: dict[str, Callable[[int], Any]] = {
    "a tensor": lambda n: zeros(n, 3),
    "features and labels": lambda n: [zeros(n, 3), ints(n)],
    "features alone in a list": lambda n: [zeros(n, 3)],
    "noisy and clean images": lambda n: (zeros(n, 3, 8, 8), zeros(n, 3, 8, 8)),
    "crops of two sizes": lambda n: [[zeros(n, 3, 9, 9)] * 2 + [zeros(n, 3, 4, 4)] * 8, zeros(n)],
    "a triplet of pairs": lambda n: ((zeros(n, 3), zeros(n, 3)),) * 3,
    "detection": lambda n: (images(n), targets(n)),
    "detection with images of one shape": lambda n: ([zeros(3, 8, 8)] * n, targets(n)),
    "detection by zip": lambda n: tuple(zip(*zip(images(n), targets(n), strict=True), strict=True)),
    "detection, pinned": lambda n: [images(n), targets(n)],
    "detection, not collated": lambda n: list(zip(images(n), targets(n), strict=True)),
    "detection in dictionaries": lambda n: [
        {"image": image, "height": 3, "instances": Bag(boxes=zeros(5, 4))} for image in images(n)
    ],
    "segmentation": lambda n: (images(n), [zeros(20 + i, 30 + i) for i in range(n)]),
    "segmentation, not collated": lambda n: [(zeros(3, 8, 9), zeros(8, 9)) for _ in range(n)],
    "images and labels": lambda n: ([zeros(3, 8, 8)] * n, ints(n)),
    "point clouds": clouds,
    "point clouds and labels": lambda n: (clouds(n), ints(n)),
    "point clouds and numbers": lambda n: (tuple(clouds(n)), tuple(range(n))),
    "two tuples of point clouds": lambda n: (tuple(clouds(n)), tuple(clouds(n))),
    "point clouds of numpy": lambda n: [cloud.numpy() for cloud in clouds(n)],
    "cut sequences": lambda n: [zeros(min(512, 300 + 100 * i)) for i in range(n)],
    "translation, not collated": lambda n: [(ints(41 + i), ints(50 + i)) for i in range(n)],
    "tokens in dictionaries": lambda n: [
        {"ids": ints(41 + i), "mask": ints(41 + i)} for i in range(n)
    ],
    "samples": lambda n: [(zeros(3, 4, 4), 1) for _ in range(n)],
    "samples with scalar tensors": lambda n: [(zeros(5), torch.tensor(1.0)) for _ in range(n)],
    "samples in named tuples": lambda n: [Pair(zeros(3, 2), 1) for _ in range(n)],
    "samples in dataclasses": lambda n: [Record(zeros(3, 2), 1) for _ in range(n)],
    "samples in objects": lambda n: [Bag(x=zeros(3), y=1) for _ in range(n)],
    "opaque samples": lambda n: [Opaque() for _ in range(n)],
    "opaque samples and labels": lambda n: ([Opaque() for _ in range(n)], ints(n)),
    "graphs": lambda n: Bag(x=zeros(n * 3, 2), batch=ints(n * 3), num_graphs=n),
    "graphs and labels": lambda n: (Bag(x=zeros(n * 3, 2), num_graphs=n), zeros(n)),
    "a batch_size": lambda n: Bag(x=zeros(9, 2), batch_size=n),
    "a batch_size of several": lambda n: Bag(x=zeros(9, 2), batch_size=torch.Size([n, 7])),
    "a batch_size of none": lambda n: Bag(x=zeros(n, 2), batch_size=torch.Size([])),
    "a batch_size that is a flag": lambda n: Bag(x=zeros(n, 2), batch_size=True),
    "another mapping": lambda n: UserDict(ids=zeros(n, 3)),
    "numpy": lambda n: np.zeros((n, 3)),
    "numpy in a dictionary": lambda n: {"x": np.zeros((n, 3)), "y": np.zeros(n)},
    "texts": lambda n: ["text"] * n,
    "texts by columns": lambda n: default_collate([("a", "b", "c")] * n),
    "texts and labels": lambda n: {"text": ["text"] * n, "y": zeros(n)},
    "class weights": lambda n: {"weights": zeros(50), "y": zeros(n)},
    "fewer class weights": lambda n: {"weights": zeros(2), "x": zeros(n, 3), "y": zeros(n)},
    "numbers about the batch": lambda n: {"size": (480, 640), "names": ["a"] * 9, "x": zeros(n, 3)},
    "labels, tokens, offsets": lambda n: (ints(n), ints(7 * n), ints(n)),
    "tokens and offsets": lambda n: {"tokens": ints(7 * n), "offsets": ints(n)},
    "packed sequences": lambda n: pack_sequence(sequences(n)),
    "pairs of packed sequences": lambda n: (pack_sequence(sequences(n)),) * 2,
    "jagged": lambda n: torch.nested.nested_tensor(sequences(n), layout=torch.jagged),
    "nested": lambda n: torch.nested.as_nested_tensor(sequences(n)),
    "sparse": lambda n: zeros(n, 4).to_sparse(),
    "a named tuple": lambda n: Pair(zeros(n, 2), zeros(n)),
    "a dataclass": lambda n: Record(zeros(n, 2), zeros(n)),
    "an object": lambda n: Bag(x=zeros(n, 2), y=zeros(n)),
    "a step": lambda n: {"step": torch.tensor(3), "y": zeros(n)},
    "two loaders": lambda n: {"a": [zeros(n, 3), ints(n)], "b": [zeros(n, 3), ints(n)]},
    "loaders in a list": lambda n: [[zeros(n, 3), ints(n)], [zeros(2 * n, 3), ints(2 * n)]],
    "a loader, its number and its batch": lambda n: ([zeros(n, 3), zeros(n)], 0, 1),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_the_size_is_found_in(kind: str) -> None:
    assert [batch_size(KINDS[kind](n), LARGEST) for n in SIZES] == list(SIZES)


def test_without_the_loader_a_list_of_one_tensor_is_a_batch_of_its_length() -> None:
    assert batch_size([zeros(100, 3)]) == 100
    assert batch_size([zeros(100, 3)], at_most=4) == 1


def test_a_batch_that_grew_on_its_way_is_larger_than_the_loader_says() -> None:
    assert batch_size((zeros(16, 3), zeros(16)), at_most=8) == 16


def test_time_before_samples_is_taken_for_samples() -> None:
    assert batch_size(zeros(100, 8, 3)) == 100


class Raises:
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


class RaisingMapping(dict[str, Any]):
    def values(self) -> Any:
        raise RuntimeError("no values")


def inside_itself() -> list[Any]:
    batch: list[Any] = []
    batch.append(batch)
    return batch


@pytest.mark.parametrize(
    "batch",
    [
        *(None, 5, "text", object(), [], {}, (), int, torch.tensor(1.0), iter([zeros(3)])),
        *(Raises(), RaisingMapping(x=1), inside_itself()),
    ],
    ids=lambda batch: type(batch).__name__,
)
def test_nothing_is_known_of(batch: Any) -> None:
    assert known_batch_size(batch) is None
    assert batch_size(batch) == 1


def test_a_part_that_cannot_be_looked_into_leaves_it_to_the_others() -> None:
    assert batch_size((Raises(), zeros(4))) == 4
    assert batch_size({"a": RaisingMapping(x=zeros(3)), "y": zeros(4)}) == 4


def test_an_iterator_keeps_what_it_has() -> None:
    iterator = iter([zeros(3)])
    batch_size({"more": iterator, "x": zeros(4)})
    assert len(list(iterator)) == 1


def test_no_more_than_a_few_dozen_parts_are_looked_at() -> None:
    asked = []

    class Asked:
        @property
        def batch_size(self) -> None:
            asked.append(1)

    batch = {i: {j: {k: Asked() for k in range(30)} for j in range(30)} for i in range(30)}
    batch_size(batch)
    assert 0 < len(asked) <= 128
