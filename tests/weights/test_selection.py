"""What is described is what was asked for, and a wrong wish says what would be right."""

from typing import Any

import pytest
import torch
from torch import nn

from lightning_weightwatch.model.weights import KINDS
from lightning_weightwatch.weights.description import describe_gradients, describe_weights
from lightning_weightwatch.weights.selection import check_selection


def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 3, 3), nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Linear(9, 8), nn.Linear(8, 9)
    )


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (["linear"], ["3.weight", "4.weight"]),
        (["conv*"], ["0.weight", "1.weight"]),
        (["norm", "bias"], ["0.bias", "1.bias", "2.weight", "2.bias", "3.bias", "4.bias"]),
        (["embedding"], []),
    ],
)
def test_parameters_are_chosen_by_kind_or_pattern(kinds: list[str], expected: list[str]) -> None:
    report = describe_weights(net(), kinds=kinds)
    assert [found.name for found in report.parameters] == expected
    assert report.skipped == ()


@pytest.mark.parametrize(
    ("top_k", "expected"),
    [
        (1, ["1.weight"]),
        (2, ["1.weight", "3.weight"]),
        (4, ["0.weight", "1.weight", "3.weight", "4.weight"]),
        (99, None),
    ],
)
def test_the_largest_come_in_the_order_of_the_model(top_k: int, expected: list[str] | None) -> None:
    model = net()
    names = [name for name, _ in model.named_parameters()]
    chosen = names if expected is None else [name for name in names if name in expected]
    report = describe_weights(model, top_k=top_k)
    assert [found.name for found in report.parameters] == chosen


def test_wishes_are_combined() -> None:
    report = describe_weights(net(), names=["*.weight"], kinds=["conv*", "linear"], top_k=3)
    assert [found.name for found in report.parameters] == ["1.weight", "3.weight", "4.weight"]
    assert report.total.count == 72 * 3


def test_what_was_not_asked_for_is_not_skipped_either() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta"))
    assert describe_weights(model, names=["0.*"]).skipped == ()
    assert describe_weights(model, kinds=["norm"]).skipped == ()
    assert len(describe_weights(model, kinds=["linear"]).skipped) == 1


def test_a_frozen_parameter_does_not_take_the_place_of_one_with_a_gradient() -> None:
    model = nn.Sequential(nn.Linear(50, 50).requires_grad_(False), nn.Linear(50, 2))
    model(torch.ones(1, 50)).sum().backward()
    report = describe_gradients(model, top_k=1)
    assert [found.name for found in report.parameters] == ["1.weight"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": "encoder.*"}, r"names must be a list .* write names=\['encoder.\*'\]"),
        ({"names": []}, "one name or pattern at least.*leave it out for all"),
        ({"names": [3]}, "names must be a list"),
        ({"kinds": "linear"}, r"write kinds=\['linear'\]"),
        ({"kinds": ["dense"]}, "no kind 'dense'. There are: " + ", ".join(KINDS)),
        ({"kinds": ["linear", "deconv*"]}, r"no kind 'deconv\*'"),
        ({"top_k": 0}, "top_k must be a whole number of at least 1, got 0"),
        ({"top_k": 2.0}, "got 2.0"),
        ({"top_k": True}, "got True"),
        ({"outlier_mads": 0}, "outlier_mads must be a positive number.*got 0"),
        ({"outlier_mads": float("nan")}, "got nan"),
        ({"outlier_mads": "10"}, "got '10'"),
        ({"outlier_mads": True}, "got True"),
    ],
)
def test_a_wrong_argument_is_named_with_what_is_allowed(
    arguments: dict[str, Any], message: str
) -> None:
    for refuse in (check_selection, lambda **given: describe_weights(net(), **given)):
        with pytest.raises(ValueError, match=message):
            refuse(**arguments)


def test_the_defaults_and_all_kinds_are_allowed() -> None:
    check_selection()
    check_selection(names=("a.*",), kinds=[*KINDS, "conv*"], top_k=1, outlier_mads=3)
