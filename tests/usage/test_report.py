"""The summary weighs every weight the same, counts a tensor once, and holds nothing unknown."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_weightwatch.report import Report, Skipped
from lightning_weightwatch.usage.measurement import measure_usage
from lightning_weightwatch.usage.report import LayerUsage, UsageReport
from lightning_weightwatch.views.records import csv_text, json_text
from tests.trials.layers import normal

ROW = LayerUsage(
    name="conv2",
    kind="conv2d",
    shape=(16, 64, 3, 3),
    weights=9216,
    inputs=64,
    outputs=16,
    entropy=math.log(2304),
    effective_weights=2304.0,
    participation_ratio=1000.0,
    low_share=0.25,
    top90_share=0.5,
    dead_inputs=(1, 5),
    dead_outputs=(),
    input_importance=torch.ones(64),
    output_importance=torch.ones(16),
    blocks=torch.ones(16, 32),
    suggested_inputs=36,
    channels_read=64,
    dead_channels=(1, 5),
)
UNKNOWN = replace(
    ROW,
    name="zero",
    entropy=math.nan,
    effective_weights=math.nan,
    participation_ratio=math.nan,
    low_share=math.nan,
    top90_share=math.nan,
    dead_inputs=tuple(range(64)),
    suggested_inputs=0,
    dead_channels=tuple(range(64)),
)


def report(*layers: LayerUsage, skipped: tuple[Skipped, ...] = ()) -> UsageReport:
    return UsageReport(layers, (), "wanda", 2, 8, 0.99, skipped)


def test_a_weight_counts_as_much_as_any_other() -> None:
    small = replace(
        ROW, name="head", weights=1024, effective_weights=1024.0, low_share=0.0, top90_share=0.9
    )
    summary = report(ROW, small).summary()
    assert summary["effective_weights_share"] == pytest.approx((2304 + 1024) / 10240)
    assert summary["low_contribution_share"] == pytest.approx(0.25 * 0.9)
    assert summary["top90_share"] == pytest.approx((0.5 * 9216 + 0.9 * 1024) / 10240)


def test_what_part_of_a_table_was_looked_up_does_not_count() -> None:
    table = replace(ROW, name="table", kind="embedding", effective_weights=1.0, channels_read=0)
    table = replace(table, dead_channels=())
    assert report(ROW, table).summary() == report(ROW).summary()
    assert report(table).summary() == {}


def test_a_layer_without_importance_is_absent_but_for_its_dead_inputs() -> None:
    summary = report(ROW, UNKNOWN).summary()
    assert summary["effective_weights_share"] == 0.25
    assert (summary["dead_channels"], summary["dead_channels_share"]) == (66, 66 / 128)
    assert report(UNKNOWN).summary() == {"dead_channels": 64.0, "dead_channels_share": 1.0}
    assert report().summary() == {}


def test_channels_that_are_read_are_counted_and_not_positions_of_them() -> None:
    flat = replace(ROW, name="flat", inputs=490, dead_inputs=tuple(range(49)), channels_read=10)
    flat = replace(flat, dead_channels=(0,))
    summary = report(ROW, flat).summary()
    assert (summary["dead_channels"], summary["dead_channels_share"]) == (3, 3 / 74)
    joined = replace(ROW, name="joined", channels_read=0, dead_channels=())
    assert report(ROW, joined).summary()["dead_channels"] == 2
    assert "dead_channels" not in report(joined).summary()


@pytest.mark.parametrize(
    ("kind", "name", "module"),
    [
        ("linear", "head.q", "head.q"),
        ("attention", "a.in_proj_weight.q", "a"),
        ("attention", "a.v_proj_weight", "a"),
        ("attention", "in_proj_weight.k", ""),
        ("rnn", "encoder.lstm.weight_ih_l0_reverse", "encoder.lstm"),
        ("rnn", "weight_hh", ""),
    ],
)
def test_weights_of_a_module_know_it(kind: Any, name: str, module: str) -> None:
    assert replace(ROW, kind=kind, name=name).module == module


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.left, self.right = nn.Linear(3, 6), nn.Linear(6, 2), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        return self.left(x) + self.right(x)  # type: ignore[no-any-return]


def test_everything_fits_the_shape_of_a_report() -> None:
    usage = measure_usage(Shared(), normal(4, 3))
    as_one: Report = usage
    assert set(as_one.summary()) == {
        "effective_weights_share",
        "low_contribution_share",
        "top90_share",
        "dead_channels",
        "dead_channels_share",
        "zero_activations_share",
    }
    assert all(math.isfinite(value) for value in as_one.summary().values())
    rows = as_one.records()
    assert [row["name"] for row in rows] == ["first", "left", "right"]
    assert [row["shares_input_with"] for row in rows] == [None, None, "left"]
    assert all(type(value) in (str, int, float, bool, type(None)) for value in rows[0].values())
    assert len(csv_text(rows).splitlines()) == 4
    assert '"shape": "6x3"' in json_text(usage, "model", {})


def test_reports_of_the_same_model_and_data_are_equal() -> None:
    torch.manual_seed(0)
    model, x = Shared(), normal(4, 3)
    first, second = (measure_usage(model, x, activations=False) for _ in range(2))
    assert first == second
    assert first.layers[0].blocks.equal(second.layers[0].blocks)
    assert "tensor" not in repr(first)
