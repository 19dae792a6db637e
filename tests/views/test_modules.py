"""The tables of modules and kinds: what is counted is the model's, and 25 rows are enough."""

from __future__ import annotations

import torch
from torch import nn

from lightning_weightwatch.views.modules import modules_markdown
from lightning_weightwatch.weights.description import describe_weights

Rows = dict[str, dict[str, str]]


def tables(model: nn.Module) -> tuple[Rows, Rows]:
    """The rows of both tables by their first cell."""
    found = []
    for part in modules_markdown(describe_weights(model)).split("\n\n"):
        lines = [
            [cell.strip().replace("\\", "") for cell in line.strip("|").split(" | ")]
            for line in part.splitlines()
            if line.startswith("|") and not line.startswith("|-")
        ]
        if lines:
            header, *rows = lines
            found.append({row[0]: dict(zip(header, row, strict=True)) for row in rows})
    modules, kinds = found
    return modules, kinds


def block() -> nn.Module:
    inner = nn.Sequential(nn.Linear(8, 40), nn.Linear(40, 8))
    return nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), inner)


def test_modules_have_the_parameters_below_them_and_kinds_all_of_a_kind() -> None:
    modules, kinds = tables(nn.ModuleDict({"body": block(), "head": nn.Linear(8, 2)}))
    counts = {name: int(row["parameters"].replace(",", "")) for name, row in modules.items()}
    assert counts == {
        "all": 72 + 16 + 360 + 328 + 18,
        "body": 72 + 16 + 360 + 328,
        "body.0": 72,
        "body.1": 16,
        "body.2": 360 + 328,
        "body.2.0": 360,
        "body.2.1": 328,
        "head": 18,
    }
    assert modules["head"]["share"] == f"{18 / 794:.1%}"
    assert {kind: row["parameters"] for kind, row in kinds.items()} == {
        "linear": str(64 + 320 + 320 + 16),
        "bias": str(8 + 8 + 40 + 8 + 2),
        "norm": "8",
    }


def test_a_module_that_holds_no_more_than_the_one_within_it_has_no_row() -> None:
    modules, _ = tables(nn.ModuleDict({"net": nn.Sequential(nn.Sequential(nn.Linear(3, 3)))}))
    assert list(modules) == ["all"]


def test_scales_of_norms_are_no_outliers_of_the_model() -> None:
    torch.manual_seed(0)
    modules, kinds = tables(nn.Sequential(*(block() for _ in range(9))))
    own = describe_weights(nn.Sequential(*(block() for _ in range(9))))
    assert sum(parameter.outliers for parameter in own.parameters) == 0
    assert modules["all"]["outliers"] == "0"
    assert kinds["norm"]["mean"] == "1"


def test_of_300_layers_the_table_has_25_rows_and_says_how_many_are_missing() -> None:
    model = nn.ModuleDict({"h": nn.Sequential(*(block() for _ in range(75)))})
    modules, _ = tables(model)
    assert len(modules) == 25
    assert list(modules)[:3] == ["all", "h.0", "h.1"]
    missing = 75 * (1 + 3 + 2) - 24
    assert f"{missing} modules below these are not shown." in modules_markdown(
        describe_weights(model)
    )


def test_a_model_without_weights_has_an_empty_table() -> None:
    assert "nan" not in modules_markdown(describe_weights(nn.ReLU()))
