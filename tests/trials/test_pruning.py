"""The masks are those of torch.nn.utils.prune and of the papers, the counts exact, in place."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from lightning_weightwatch.model.weights import Weight
from lightning_weightwatch.trials.compression import CompressedLayer
from lightning_weightwatch.trials.pruning import Pruning, packed_bytes, pattern_bytes
from lightning_weightwatch.usage.inputs import InputNorms
from tests.trials.layers import kept_of_runs, matrices, normal


def net() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(20, 30), nn.ConvTranspose2d(4, 4, 2))


def holding(*tensors: Tensor) -> list[Weight]:
    """Weights of the given values."""
    model = nn.ModuleList([nn.Linear(1, 1, bias=False) for _ in tensors])
    for layer, values in zip(model, tensors, strict=True):
        layer.weight = nn.Parameter(values.clone())
    return matrices(model)


def stays(weights: Sequence[Weight], pruning: Pruning) -> list[Tensor]:
    """Where values that are not zero are left after pruning."""
    assert len(list(pruning.apply(weights))) == len(weights)
    return [weight.parameter.detach() != 0 for weight in weights]


AMOUNTS = [0.001, 0.1, 0.3, 0.5, 0.77, 0.9, 0.999]


@pytest.mark.parametrize("amount", AMOUNTS)
def test_masks_are_those_of_global_unstructured_pruning(amount: float) -> None:
    ours, theirs = net(), net()
    weights = matrices(theirs)
    magnitudes = torch.cat([weight.parameter.detach().abs().flatten() for weight in weights])
    assert len(set(magnitudes.tolist())) == len(magnitudes), "the comparison needs distinct values"
    prune.global_unstructured(
        [(weight.module, "weight") for weight in weights],
        pruning_method=prune.L1Unstructured,
        amount=amount,
    )
    for mask, weight in zip(stays(matrices(ours), Pruning(amount)), weights, strict=True):
        assert torch.equal(mask, weight.module.get_buffer("weight_mask").bool())


@pytest.mark.parametrize("amount", AMOUNTS)
def test_masks_of_each_layer_are_those_of_l1_unstructured_pruning(amount: float) -> None:
    ours, theirs = net(), net()
    masks = stays(matrices(ours), Pruning(amount, scope="layer"))
    for mask, weight in zip(masks, matrices(theirs), strict=True):
        prune.l1_unstructured(weight.module, "weight", amount=amount)  # type: ignore[no-untyped-call]
        assert torch.equal(mask, weight.module.get_buffer("weight_mask").bool())


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("amount", [0.37, 0.5, 0.005, 0.015, 0.999])
@pytest.mark.parametrize(
    "values",
    [torch.ones(100), torch.ones(100).neg(), 1 + torch.arange(100.0) // 10],
    ids=["equal", "equal and negative", "tens of equals"],
)
def test_exactly_the_asked_number_goes_where_magnitudes_tie(
    values: Tensor, amount: float, scope: Any
) -> None:
    parts = (
        [values.view(10, 10)] if scope == "layer" else [values[:30].view(5, 6), values[30:, None]]
    )
    gone = ~torch.cat(
        [mask.flatten() for mask in stays(holding(*parts), Pruning(amount, scope=scope))]
    )
    assert int(gone.sum()) == round(100 * amount)
    if gone.any() and not gone.all():
        assert values[gone].abs().max() <= values[~gone].abs().min()


def test_among_equals_the_first_go() -> None:
    first, second = stays(holding(torch.ones(2, 3), -torch.ones(1, 4)), Pruning(0.7))
    assert first.tolist() == [[False] * 3] * 2
    assert second.tolist() == [[False, True, True, True]]
    (mask,) = stays(holding(torch.ones(2, 6)), Pruning("2:4"))
    assert mask.tolist() == [[False, False, True, True, False, True]] * 2


def test_all_weights_are_ranked_together_or_each_layer_by_itself() -> None:
    small, large = 0.01 * normal(5, 10), 10 + normal(5, 10, seed=1)
    large_mask, small_mask = stays(holding(large, small), Pruning(0.5))
    assert large_mask.all()
    assert not small_mask.any()
    for mask in stays(holding(large, small), Pruning(0.5, scope="layer")):
        assert int(mask.sum()) == 25


def test_dtypes_are_ranked_together_by_value() -> None:
    masks = stays(
        holding(
            torch.tensor([[4.0, 1.0]], dtype=torch.float64),
            torch.tensor([[-2.0, 5.0]], dtype=torch.bfloat16),
            torch.tensor([[0.5, -3.0]], dtype=torch.float16),
        ),
        Pruning(0.5),
    )
    assert [mask.tolist() for mask in masks] == [[[True, False]], [[False, True]], [[False, True]]]


@pytest.mark.parametrize("pruning", [Pruning(0.5), Pruning("1:2")], ids=lambda p: p.name)
@pytest.mark.parametrize(
    ("smaller", "larger"), [(1.0, 1.0 + 1e-12), (1e-300, 2e-300), (1e200, 2e200)]
)
def test_float64_weights_are_ranked_in_float64(
    smaller: float, larger: float, pruning: Pruning
) -> None:
    (mask,) = stays(holding(torch.tensor([[larger, smaller]], dtype=torch.float64)), pruning)
    assert mask.tolist() == [[True, False]]


@pytest.mark.parametrize("pattern", ["2:4", "1:4", "3:4", "1:2", "2:3", "5:8", "16:32", "1:32"])
@pytest.mark.parametrize("shape", [(6, 16), (5, 19), (4, 3, 3, 3), (3, 2)], ids=str)
def test_a_pattern_keeps_the_largest_of_every_run_of_a_row(
    shape: tuple[int, ...], pattern: str
) -> None:
    values, (kept, run) = normal(*shape), map(int, pattern.split(":"))
    (mask,) = stays(holding(values), Pruning(pattern))
    expected = [kept_of_runs(row, kept, run) for row in values.flatten(1).numpy()]
    assert mask.flatten(1).tolist() == expected


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
    assert packed_bytes(total, live, element_size) == expected


@pytest.mark.parametrize(
    ("kept", "total", "element_size", "run", "expected"),
    [
        # 2:4 in half precision is 9/16 of it: NVIDIA's Ampere whitepaper, 2 bits a kept value.
        (4_718_592, 9_437_184, 2, 4, 9_437_184 * 2 * 9 // 16),
        (4_718_592, 9_437_184, 4, 4, 18_874_368 + 1_179_648),
        (1, 2, 4, 2, 4 + 1),
        (5, 8, 4, 8, 20 + 2),  # 15 bits
        (7, 24, 4, 24, 28 + 5),  # 35 bits
        (31, 32, 1, 32, 32),
    ],
)
def test_packed_bytes_of_a_pattern_are_kept_values_and_their_places_or_all_values(
    kept: int, total: int, element_size: int, run: int, expected: int
) -> None:
    assert pattern_bytes(total, kept, element_size, run) == expected


def close(expected: Tensor) -> Any:
    return pytest.approx(float(expected), rel=1e-12)


EVERY = [Pruning(0.25), Pruning(0.9), Pruning(0.5, scope="layer"), Pruning("2:4"), Pruning("3:7")]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("pruning", EVERY, ids=lambda p: p.name)
def test_what_stays_keeps_its_bits_and_the_rest_is_plus_zero(
    pruning: Pruning, dtype: torch.dtype
) -> None:
    weights = matrices(net().to(dtype))
    before = [weight.parameter.detach().clone() for weight in weights]
    done = list(pruning.apply(weights))
    for weight, old, layer in zip(weights, before, done, strict=True):
        new = weight.parameter.detach()
        assert new.dtype == dtype
        stayed = new != 0
        bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[new.element_size()]
        assert torch.equal(
            new.view(bits), torch.where(stayed, old, torch.zeros_like(old)).view(bits)
        )
        exact, left = old.double(), new.double()
        live, size, width = int(stayed.sum()), old.numel(), old.element_size()
        if isinstance(pruning.amount, str):
            run = int(pruning.amount[2])
            packed = width * live + math.ceil(live * math.ceil(math.log2(run)) / 8)
        else:
            packed = width * live + math.ceil(size / 8)
        assert layer == CompressedLayer(
            name=weight.name,
            kind=weight.kind,
            shape=tuple(old.shape),
            bytes=size * width,
            packed_bytes=min(packed, size * width),
            signal=close(exact.square().sum()),
            noise=close((exact - left).square().sum()),
            live=live,
        )


@pytest.mark.parametrize("pruning", [Pruning(0.5), Pruning("1:2")], ids=lambda p: p.name)
def test_zeros_that_a_model_has_already_are_not_live(pruning: Pruning) -> None:
    (weight,) = holding(torch.tensor([[0.0, 0.0, -0.0, 3.0]]))
    (layer,) = pruning.apply([weight])
    assert (layer.live, layer.noise, layer.sqnr) == (1, 0.0, math.inf)


def test_without_weights_there_is_nothing_to_prune() -> None:
    for pruning in EVERY:
        assert list(pruning.apply([])) == []


def test_where_the_share_is_less_than_half_a_weight_none_goes() -> None:
    (layer,) = Pruning(0.001).apply(holding(torch.ones(4, 4)))
    assert layer.live == 16


@pytest.mark.parametrize(
    ("pruning", "name", "settings"),
    [
        (Pruning(0.5), "pruned50", {"amount": 0.5, "scope": "global"}),
        (Pruning(0.3), "pruned30", {"amount": 0.3, "scope": "global"}),
        (Pruning(0.07), "pruned7", {"amount": 0.07, "scope": "global"}),
        (Pruning(1e-9), "pruned0.0000001", {"amount": 1e-9, "scope": "global"}),
        (Pruning(0.125), "pruned12.5", {"amount": 0.125, "scope": "global"}),
        (Pruning(0.5, scope="layer"), "pruned50_layer", {"amount": 0.5, "scope": "layer"}),
        (Pruning(0.5, "wanda"), "pruned50_wanda", {"amount": 0.5, "scope": "row"}),
        (Pruning("2:4"), "pruned2of4", {"amount": 0.5, "pattern": "2:4"}),
        (Pruning("1:8", "wanda"), "pruned1of8_wanda", {"amount": 0.875, "pattern": "1:8"}),
    ],
)
def test_a_variant_is_named_after_its_settings(
    pruning: Pruning, name: str, settings: dict[str, object]
) -> None:
    assert pruning.name == name
    assert pruning.settings == {**settings, "method": pruning.method}


def test_two_of_the_same_settings_are_equal_whatever_they_have_seen() -> None:
    seen = Pruning(0.5, "wanda", norms=InputNorms([]))
    assert seen == replace(seen, norms=None)
    assert "norms" not in repr(seen)
    assert Pruning(0.5) != Pruning(0.5, scope="layer")


def test_where_rows_are_compared_the_scope_makes_no_difference() -> None:
    assert Pruning(0.5, "wanda", "layer") == Pruning(0.5, "wanda")
    assert Pruning("2:4", scope="layer") == Pruning("2:4")
    assert Pruning("2:4", scope="layer").name == "pruned2of4"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0,), r"share between 0 and 1, both excluded, got 0\.0; 0\.5 removes half"),
        ((1,), "share between 0 and 1, both excluded, got 1"),
        ((math.nan,), "both excluded, got nan"),
        ((True,), "number between 0 and 1 or a pattern such as '2:4', got True"),
        ((None,), "pattern such as '2:4', got None"),
        (("4:4",), "n:m with 0 < n < m <= 32, got '4:4'"),
        (("0:4",), "0 < n < m"),
        (("1:64",), "m <= 32"),
        (("50%",), "'2:4' keeps 2 of every 4"),
        (("2:4 ",), "got '2:4 '"),
        ((0.5, "random"), "method must be one of magnitude, wanda, got 'random'"),
        ((0.5, "magnitude", "model"), "scope must be one of global, layer, got 'model'"),
    ],
)
def test_an_argument_out_of_its_range_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Pruning(*arguments)
