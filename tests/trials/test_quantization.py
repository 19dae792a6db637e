"""What a quantization says of itself and of weights is true, whatever the threads."""

import math
import re
from typing import Any

import pytest
import torch
from torch import nn

from lightning_weightwatch.trials.quantization import Quantization
from lightning_weightwatch.trials.scale_groups import Granularity
from lightning_weightwatch.trials.scales import Clip
from lightning_weightwatch.trials.targets import find_targets
from tests.trials.layers import applied, normal

BITS = [2, 3, 4, 5, 6, 7, 8]
GRANULARITIES: list[Granularity] = ["model", "tensor", "channel", "group"]
CLIPS: list[Clip] = ["absmax", "percentile", "mse"]
WAYS: list[dict[str, Any]] = [{}, {"range": "full"}, {"scheme": "asymmetric"}]


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
def test_what_is_said_of_a_weight_is_true(
    granularity: Granularity, clip: Clip, scheme: str
) -> None:
    values = normal(20, 70) + 0.2
    found, layer = applied(values, 3, clip, granularity=granularity, scheme=scheme, percentile=90.0)
    before, after = values.double(), found.double()
    assert layer.signal == pytest.approx(float(before.square().sum()), rel=1e-12)
    assert layer.noise == pytest.approx(float((before - after).square().sum()), rel=1e-12)
    assert layer.live == int((found != 0).sum())
    scales = {"model": 1, "tensor": 1, "channel": 20, "group": 60}[granularity]
    zero_points = math.ceil(scales * 3 / 8) if scheme == "asymmetric" else 0
    assert layer.packed_bytes == math.ceil(1400 * 3 / 8) + 4 * scales + zero_points


def test_what_the_codes_miss_by_more_than_half_a_step_is_clipped() -> None:
    values = normal(4, 5000)
    for way in WAYS:
        for bits in BITS:
            assert applied(values, bits, **way)[1].clipped == 0
    found, layer = applied(values, 8, "percentile", percentile=99.0)
    step = values.abs().quantile(0.99, dim=1, keepdim=True) / 127
    assert layer.clipped == int(((values - found).abs() > step / 2 * 1.001).sum())
    assert 150 < layer.clipped <= 200
    assert layer.clipped_share == layer.clipped / 20_000


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_not_a_bit_depends_on_the_threads(granularity: Granularity) -> None:
    values, threads = normal(300, 1000), torch.get_num_threads()
    found = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(applied(values, 4, "mse", granularity=granularity))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


def test_least_squares_beat_the_others() -> None:
    values = normal(16, 2000) ** 3
    for bits in BITS:
        for granularity in GRANULARITIES:
            noise = {
                clip: applied(values, bits, clip, granularity=granularity)[1].noise
                for clip in CLIPS
            }
            assert noise["mse"] <= noise["absmax"]
            assert noise["mse"] <= noise["percentile"] * 1.001


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"bits": 2}, "int2"),
        ({"bits": 8}, "int8"),
        ({"bits": 8, "granularity": "tensor"}, "int8_tensor"),
        ({"bits": 4, "granularity": "model"}, "int4_model"),
        ({"bits": 4, "granularity": "group"}, "int4_group32"),
        ({"bits": 4, "granularity": "group", "group_size": 64}, "int4_group64"),
        ({"bits": 4, "group_size": 64}, "int4"),
        ({"bits": 8, "clip": "absmax"}, "int8_absmax"),
        ({"bits": 4, "clip": "percentile"}, "int4_percentile"),
        ({"bits": 4, "clip": "percentile", "percentile": 99.5}, "int4_percentile99.5"),
        ({"bits": 4, "clip": "percentile", "percentile": 99}, "int4_percentile99"),
        ({"bits": 4, "percentile": 99}, "int4"),
        ({"bits": 4, "scheme": "asymmetric"}, "int4_asymmetric"),
        ({"bits": 4, "scheme": "asymmetric", "range": "full"}, "int4_asymmetric"),
        ({"bits": 4, "range": "full"}, "int4_full"),
        (
            {"bits": 4, "granularity": "group", "clip": "absmax", "scheme": "asymmetric"},
            "int4_group32_absmax_asymmetric",
        ),
    ],
)
def test_a_name_has_what_differs_from_the_defaults(settings: dict[str, Any], name: str) -> None:
    assert Quantization(**settings).name == name
    assert re.fullmatch(r"[A-Za-z0-9_.]+", name)


def test_only_settings_that_matter_are_told() -> None:
    assert Quantization(8).settings == {
        "bits": 8,
        "granularity": "channel",
        "clip": "mse",
        "scheme": "symmetric",
        "range": "restricted",
    }
    everything = Quantization(4, "group", "percentile", "asymmetric", "full", 64, 99.5)
    assert everything.settings == {
        "bits": 4,
        "granularity": "group",
        "clip": "percentile",
        "scheme": "asymmetric",
        "group_size": 64,
        "percentile": 99.5,
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 1}, "bits must be a whole number between 2 and 8, got 1.*PruningTrial"),
        ({"bits": 9}, "got 9"),
        ({"bits": True}, "got True"),
        ({"bits": 4.0}, "got 4.0"),
        ({"granularity": "row"}, "granularity must be one of 'model', 'tensor', .*got 'row'"),
        ({"clip": "max"}, "clip must be one of 'absmax', 'percentile', 'mse', got 'max'"),
        ({"clip": ["mse"]}, "got \\['mse'\\]"),
        ({"scheme": "affine"}, "scheme must be one of 'symmetric', 'asymmetric', got 'affine'"),
        ({"range": "narrow"}, "range must be one of 'restricted', 'full', got 'narrow'"),
        ({"group_size": 0}, "group_size must be a whole number of at least 1, got 0"),
        ({"percentile": 0}, "percentile must be above 0 and at most 100, got 0"),
        ({"percentile": 100.5}, "got 100.5"),
        ({"percentile": math.nan}, "got nan"),
    ],
)
def test_a_setting_out_of_its_range_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Quantization(**{"bits": 8, **settings})


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_asymmetric_values_are_those_of_torchs_observer_bit_for_bit(bits: int) -> None:
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    for seed in range(5):
        torch.manual_seed(seed)
        module = nn.Conv2d(6, 8, 3)
        weight = module.weight.detach().clone()
        rows = weight.flatten(1)
        # PerChannelMinMaxObserver with qscheme=per_channel_affine, in its own words.
        least = rows.amin(1).clamp(max=0)
        most = rows.amax(1).clamp(min=0)
        scale = (most - least) / float(high - low)
        zero_point = (low - torch.round(least / scale).to(torch.int)).clamp(low, high)
        expected = torch.fake_quantize_per_channel_affine(weight, scale, zero_point, 0, low, high)
        (found,) = find_targets(module).weights
        list(Quantization(bits, clip="absmax", scheme="asymmetric").apply([found]))
        assert torch.equal(module.weight, expected)
