"""The masks are those of torch.nn.utils.prune, the counts exact, the bytes those of a bitmap."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from lightning_weightwatch.model.weights import Weight, walk
from lightning_weightwatch.trials.pruning import Pruning, magnitude_masks, packed_bytes


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def net() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(20, 30), nn.ConvTranspose2d(4, 4, 2))


def matrices(model: nn.Module) -> list[Weight]:
    found = [item for item in walk(model) if isinstance(item, Weight)]
    return [weight for weight in found if weight.parameter.ndim > 1]


@pytest.mark.parametrize("amount", [0.0, 0.001, 0.1, 0.3, 0.5, 0.77, 0.9, 0.999, 1.0])
def test_masks_are_those_of_global_unstructured_pruning(amount: float) -> None:
    model = net()
    weights = matrices(model)
    magnitudes = torch.cat([weight.parameter.detach().abs().flatten() for weight in weights])
    assert len(set(magnitudes.tolist())) == len(magnitudes), "the comparison needs distinct values"
    masks = magnitude_masks([weight.parameter.detach() for weight in weights], amount)
    prune.global_unstructured(
        [(weight.module, "weight") for weight in weights],
        pruning_method=prune.L1Unstructured,
        amount=amount,
    )
    for weight, mask in zip(weights, masks, strict=True):
        assert mask.dtype == torch.bool
        assert torch.equal(mask, weight.module.get_buffer("weight_mask").bool())


@pytest.mark.parametrize("amount", [0.0, 0.37, 0.5, 0.005, 0.015, 0.999, 1.0])
@pytest.mark.parametrize(
    "values",
    [torch.ones(100), torch.ones(100).neg(), torch.arange(100.0) // 10, torch.zeros(100)],
    ids=["equal", "equal and negative", "tens of equals", "zeros"],
)
def test_exactly_the_asked_number_goes_where_magnitudes_tie(values: Tensor, amount: float) -> None:
    first, second = magnitude_masks([values[:30].view(5, 6), values[30:]], amount)
    gone = ~torch.cat([first.flatten(), second])
    assert int(gone.sum()) == round(100 * amount)
    if gone.any() and not gone.all():
        assert values[gone].abs().max() <= values[~gone].abs().min()


def test_among_equals_the_first_go() -> None:
    first, second = magnitude_masks([torch.ones(2, 3), -torch.ones(4)], 0.7)
    assert first.tolist() == [[False] * 3] * 2
    assert second.tolist() == [False, True, True, True]


def test_all_weights_are_ranked_together() -> None:
    small, large = 0.01 * normal(50), 10 + normal(50, seed=1)
    masks = magnitude_masks([large, small], 0.5)
    assert masks[0].all()
    assert not masks[1].any()


def test_dtypes_are_ranked_together_by_value() -> None:
    weights = [
        torch.tensor([4.0, 1.0], dtype=torch.float64),
        torch.tensor([-2.0, 5.0], dtype=torch.bfloat16),
        torch.tensor([0.5, -3.0], dtype=torch.float16),
    ]
    masks = magnitude_masks(weights, 0.5)
    assert [mask.tolist() for mask in masks] == [[True, False], [False, True], [False, True]]


@pytest.mark.parametrize(
    ("smaller", "larger"), [(1.0, 1.0 + 1e-12), (1e-300, 2e-300), (1e200, 2e200)]
)
def test_float64_weights_are_ranked_in_float64(smaller: float, larger: float) -> None:
    weight = torch.tensor([larger, smaller], dtype=torch.float64)
    assert magnitude_masks([weight], 0.5)[0].tolist() == [True, False]


@pytest.mark.parametrize(
    ("live", "total", "element_size", "expected"),
    [
        # The bottleneck of a U-Net, 3·3·1024·1024 float32 values: half, none and nearly all gone.
        (4_718_592, 9_437_184, 4, 18_874_368 + 1_179_648),
        (9_437_184, 9_437_184, 4, 37_748_736),
        (94_372, 9_437_184, 4, 377_488 + 1_179_648),
        # A bitmap costs 1 bit of 32: it pays from 1/32 of zeros on.
        (31, 32, 4, 31 * 4 + 4),
        (30, 32, 4, 30 * 4 + 4),
        (32, 32, 4, 128),
        (15, 16, 2, 15 * 2 + 2),
        (0, 9, 4, 2),
        (5, 9, 8, 42),
    ],
)
def test_packed_bytes_are_live_values_and_a_bitmap_or_all_values(
    live: int, total: int, element_size: int, expected: int
) -> None:
    mask = torch.zeros(total, dtype=torch.bool)
    mask[:live] = True
    assert packed_bytes(mask, element_size) == expected


@pytest.mark.parametrize("amount", [0.25, 0.5, 0.9])
def test_what_stays_keeps_its_bits_and_the_rest_is_zero(amount: float) -> None:
    weights = matrices(net())
    masks = magnitude_masks([weight.parameter.detach() for weight in weights], amount)
    total = live = 0
    for (weight, values, size), expected in zip(
        Pruning(amount).compress(weights), masks, strict=True
    ):
        original = weight.parameter.detach()
        assert torch.equal(values, original * expected)
        assert torch.equal(values[expected], original[expected])
        kept = int(expected.sum())
        assert size == min(4 * kept + math.ceil(original.numel() / 8), 4 * original.numel())
        total, live = total + original.numel(), live + kept
    assert total - live == round(amount * total)


def test_without_weights_there_is_nothing_to_prune() -> None:
    assert list(Pruning(0.5).compress([])) == []


def test_the_weights_are_only_read() -> None:
    model = net()
    before = [weight.parameter.detach().clone() for weight in matrices(model)]
    list(Pruning(0.9).compress(matrices(model)))
    after = [weight.parameter.detach() for weight in matrices(model)]
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("amount", "name"),
    [(0.5, "pruned50"), (0.3, "pruned30"), (0.125, "pruned12.5"), (0.07, "pruned7")],
)
def test_a_trial_is_named_after_its_percentage(amount: float, name: str) -> None:
    assert Pruning(amount).name == name
