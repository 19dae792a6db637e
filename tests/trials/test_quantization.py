"""Weights are quantized in place with the scales they should share, and every number is counted."""

import itertools
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_weightwatch.model.weights import Weight, walk
from lightning_weightwatch.trials import scale_groups
from lightning_weightwatch.trials.compression import CompressedLayer
from lightning_weightwatch.trials.quantization import Quantization
from lightning_weightwatch.trials.scale_groups import Granularity
from lightning_weightwatch.trials.scales import Clip

BITS = [2, 3, 4, 5, 6, 7, 8]
GRANULARITIES: list[Granularity] = ["model", "tensor", "channel", "group"]
CLIPS: list[Clip] = ["absmax", "percentile", "mse"]
WAYS: list[dict[str, Any]] = [{}, {"range": "full"}, {"scheme": "asymmetric"}]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def matrices(model: nn.Module) -> list[Weight]:
    found = [weight for weight in walk(model) if isinstance(weight, Weight)]
    return [weight for weight in found if weight.parameter.ndim > 1]


def linear(values: Tensor) -> nn.Linear:
    layer = nn.Linear(1, 1, bias=False)
    layer.weight = nn.Parameter(values.clone())
    return layer


def applied(
    values: Tensor, bits: int = 4, clip: Clip = "absmax", **settings: Any
) -> tuple[Tensor, CompressedLayer]:
    """A matrix after its quantization, and what is said of it."""
    layer = linear(values)
    (compressed,) = Quantization(bits, clip=clip, **settings).apply(matrices(layer))
    return layer.weight.detach(), compressed


def by_torch(weight: Tensor, bits: int, axis: int = 0) -> Tensor:
    """torch's per-channel operator with the restricted symmetric range."""
    top = 2 ** (bits - 1) - 1
    others = [dim for dim in range(weight.ndim) if dim != axis]
    scale = weight.abs().amax(others) / top
    zero_point = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero_point, axis, -top, top)


def run_by_torch(values: Tensor, bits: int) -> Tensor:
    """torch's per-tensor operator with the restricted symmetric range."""
    top = 2 ** (bits - 1) - 1
    scale = float(values.abs().max() / top)
    return torch.fake_quantize_per_tensor_affine(values, scale, 0, -top, top)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(
    ("make", "axis"),
    [
        (lambda: nn.Linear(60, 50), 0),
        (lambda: nn.Embedding(9, 40), 0),
        (lambda: nn.Conv1d(4, 5, 3), 0),
        (lambda: nn.Conv2d(4, 6, 3, groups=2), 0),
        (lambda: nn.Conv3d(2, 5, 2), 0),
        (lambda: nn.ConvTranspose1d(4, 5, 3), 1),
        (lambda: nn.ConvTranspose2d(4, 5, 3), 1),
        (lambda: nn.ConvTranspose3d(2, 5, 2), 1),
        (lambda: nn.GRU(3, 4), 0),
        (lambda: nn.MultiheadAttention(8, 2), 0),
    ],
    ids=["linear", "embedding", "c1d", "c2d", "c3d", "t1d", "t2d", "t3d", "gru", "attention"],
)
def test_every_kind_is_torchs_operator_along_its_output_channels(
    make: Callable[[], nn.Module], axis: int, bits: int
) -> None:
    model = make()
    weights = matrices(model)
    originals = [weight.parameter.detach().clone() for weight in weights]
    found = list(Quantization(bits, clip="absmax").apply(weights))
    assert len(found) == len(weights)
    for weight, original, layer in zip(weights, originals, found, strict=True):
        assert torch.equal(weight.parameter, by_torch(original, bits, axis))
        assert weight.parameter.requires_grad
        codes = math.ceil(original.numel() * bits / 8)
        assert layer.packed_bytes == codes + 4 * original.shape[axis]
        assert (layer.name, layer.kind) == (weight.name, weight.kind)
        assert (layer.shape, layer.bytes) == (original.shape, 4 * original.numel())


def test_a_convolution_and_its_transpose_quantize_alike() -> None:
    # A transposed convolution's kernel [in, out, …] with its axes swapped is a convolution's.
    for granularity in GRANULARITIES:
        transposed, plain = nn.ConvTranspose2d(4, 6, 3), nn.Conv2d(4, 6, 3)
        with torch.no_grad():
            plain.weight.copy_(transposed.weight.transpose(0, 1))
        quantization = Quantization(3, granularity, group_size=8)
        found = [next(quantization.apply(matrices(module))) for module in (transposed, plain)]
        assert torch.equal(transposed.weight.transpose(0, 1), plain.weight)
        assert found[0].packed_bytes == found[1].packed_bytes


def test_a_grouped_transposed_convolution_has_a_scale_per_channel_of_each_group() -> None:
    module = nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False)  # weight [4, 3, 3, 3]
    with torch.no_grad():
        module.weight[2:] *= 100  # the second group
    halves = [by_torch(half.clone(), 4, axis=1) for half in module.weight.detach().chunk(2)]
    (layer,) = Quantization(4, clip="absmax").apply(matrices(module))
    assert torch.equal(module.weight, torch.cat(halves))
    assert layer.packed_bytes == 4 * 3 * 9 // 2 + 6 * 4


@pytest.mark.parametrize(("shape", "size"), [((5, 96), 32), ((5, 100), 32), ((3, 7), 32)])
def test_a_group_is_a_run_along_the_inputs_and_a_short_tail_is_one(
    shape: tuple[int, int], size: int
) -> None:
    values = normal(*shape)
    found, layer = applied(values, granularity="group", group_size=size)
    for row, original in zip(found, values, strict=True):
        runs = [run_by_torch(run, 4) for run in torch.split(original, size)]
        assert torch.equal(row, torch.cat(runs))
    scales = shape[0] * math.ceil(shape[1] / size)
    assert layer.packed_bytes == math.ceil(values.numel() / 2) + 4 * scales


def test_the_groups_of_a_kernel_run_over_its_inputs_and_their_places() -> None:
    kernel = nn.Conv2d(5, 3, 3)
    original = kernel.weight.detach().clone()
    list(Quantization(4, "group", clip="absmax", group_size=16).apply(matrices(kernel)))
    for channel, before in zip(kernel.weight, original, strict=True):
        runs = [run_by_torch(run, 4) for run in torch.split(before.reshape(-1), 16)]
        assert torch.equal(channel.reshape(-1), torch.cat(runs))


def test_a_tensor_has_one_scale() -> None:
    values = normal(40, 30)
    found, layer = applied(values, granularity="tensor")
    assert torch.equal(found, run_by_torch(values, 4))
    assert layer.packed_bytes == 600 + 4


def test_a_model_has_one_scale_that_is_counted_once() -> None:
    model = nn.Sequential(linear(normal(4, 9)), linear(10 * normal(6, 4)), linear(normal(3, 6)))
    together = torch.cat([weight.parameter.detach().view(-1) for weight in matrices(model)])
    found = list(Quantization(5, "model", clip="absmax").apply(matrices(model)))
    values = torch.cat([weight.parameter.detach().view(-1) for weight in matrices(model)])
    assert torch.equal(values, run_by_torch(together, 5))
    assert [layer.packed_bytes for layer in found] == [math.ceil(36 * 5 / 8) + 4, 15, 12]


def test_a_model_without_weights_has_nothing_to_quantize() -> None:
    assert list(Quantization(8, "model").apply([])) == []


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("clip", CLIPS)
def test_how_memory_is_cut_into_blocks_changes_nothing(
    granularity: Granularity, clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    def outcome() -> tuple[list[Tensor], list[CompressedLayer]]:
        torch.manual_seed(0)
        strided = nn.Conv2d(7, 5, 3)
        strided.weight.data = strided.weight.data.to(memory_format=torch.channels_last)
        model = nn.Sequential(strided, nn.ConvTranspose2d(6, 8, 2, groups=2), nn.Linear(301, 3))
        quantization = Quantization(6, granularity, clip, group_size=16, percentile=97.0)
        layers = list(quantization.apply(matrices(model)))
        return [weight.parameter.detach() for weight in matrices(model)], layers

    whole = outcome()
    monkeypatch.setattr(scale_groups, "BLOCK", 40)
    for expected, found in zip(whole[0], outcome()[0], strict=True):
        assert torch.equal(expected, found)
    for one, other in zip(whole[1], outcome()[1], strict=True):
        assert one.noise == pytest.approx(other.noise, rel=1e-9)
        assert (one.live, one.clipped, one.packed_bytes) == (
            other.live,
            other.clipped,
            other.packed_bytes,
        )


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


@pytest.mark.parametrize("bits", BITS)
def test_values_on_the_grid_are_kept_bit_for_bit(bits: int) -> None:
    top = 2 ** (bits - 1) - 1
    grid = torch.arange(-top, top + 1).repeat(3, 1) * torch.tensor([[1.0], [0.25], [2.0**20]])
    for clip in ("absmax", "mse"):
        found, layer = applied(grid, bits, clip)
        assert torch.equal(found, grid)
        assert layer.noise == 0
        assert layer.sqnr == math.inf


@pytest.mark.parametrize("clip", CLIPS)
def test_a_channel_does_not_feel_the_others(clip: Clip) -> None:
    values, scales = normal(6, 24), 2.0 ** torch.arange(6).unsqueeze(1)
    assert torch.equal(applied(values * scales, 4, clip)[0], applied(values, 4, clip)[0] * scales)


@pytest.mark.parametrize(
    ("granularity", "clip", "scheme"),
    list(itertools.product(["channel", "group"], CLIPS, ["symmetric", "asymmetric"])),
)
def test_a_channel_of_zeros_stays(granularity: Granularity, clip: Clip, scheme: str) -> None:
    values = normal(3, 40)
    values[1] = 0
    settings: dict[str, Any] = {"granularity": granularity, "scheme": scheme}
    found, _ = applied(values, 4, clip, **settings)
    assert not found[1].any()
    assert torch.equal(found[[0, 2]], applied(values[[0, 2]], 4, clip, **settings)[0])


@pytest.mark.parametrize("clip", CLIPS)
def test_a_weight_of_zeros_has_no_ratio(clip: Clip) -> None:
    found, layer = applied(torch.zeros(3, 4), 4, clip)
    assert not found.any()
    assert math.isnan(layer.sqnr)
    assert layer.clipped == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_dtype_is_kept_and_the_arithmetic_is_at_least_float32(dtype: torch.dtype) -> None:
    values = normal(8, 50).to(dtype)
    found, layer = applied(values, 8)
    assert found.dtype == dtype
    assert layer.bytes == 400 * values.element_size()
    if dtype != torch.float64:
        assert torch.equal(found, by_torch(values.float(), 8).to(dtype))
    wide, _ = applied(values.double(), 8)
    torch.testing.assert_close(found.double(), wide, rtol=1e-2, atol=1e-7)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (torch.float64, 1.7e308),
        (torch.float64, 1e-308),
        (torch.float64, 5e-324),
        (torch.float32, 3.4e38),
        (torch.float32, 3e38),
        (torch.float32, 1e-38),
        (torch.float32, 1e-45),
        (torch.float16, 65504.0),
        (torch.float16, 6e-8),
        (torch.bfloat16, 3e38),
        (torch.bfloat16, 1e-38),
    ],
)
def test_the_ends_of_the_number_range_stay_finite(dtype: torch.dtype, value: float) -> None:
    values = torch.tensor([[value, -value, 0.0], [1.0, -0.5, 0.25]], dtype=dtype)
    for bits, granularity, clip in itertools.product((2, 5, 8), GRANULARITIES, CLIPS):
        for way in WAYS:
            found, layer = applied(values, bits, clip, granularity=granularity, **way)
            assert torch.isfinite(found).all()
            if dtype != torch.float64:
                assert math.isfinite(layer.noise)
                assert layer.signal > 0


@pytest.mark.parametrize("value", [3e38, 1e-30, 1e-44])
def test_the_ends_of_the_number_range_are_as_exact_as_its_middle(value: float) -> None:
    ratios = torch.tensor([[1.0, 0.5, -1.0, 0.0]])
    found, _ = applied(ratios * value, 8)
    expected = by_torch(ratios, 8).double() * value
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1.5e-45)


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


def test_finer_scales_have_less_noise() -> None:
    values = normal(32, 256) * torch.logspace(-1, 1, 32).unsqueeze(1)
    noise = [applied(values, granularity=each)[1].noise for each in ("tensor", "channel", "group")]
    assert noise == sorted(noise, reverse=True)


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


MEASURE = """
import json
from pathlib import Path
import torch
from torch import nn
from lightning_weightwatch.model.weights import Weight, walk
from lightning_weightwatch.trials.quantization import Quantization

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

def peak_of(model, *settings):
    weights = [w for w in walk(model) if isinstance(w, Weight) and w.parameter.ndim > 1]
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    list(Quantization(4, *settings).apply(weights))
    return status("VmHWM") - before

model = nn.Sequential(
    nn.Linear(3000, 5000), nn.ConvTranspose2d(1000, 1250, 3), nn.Linear(4_750_000, 1)
)
assert sum(p.numel() for p in model.parameters() if p.ndim > 1) == 31_000_000
ways = [("channel", "mse"), ("model", "percentile"), ("group", "absmax")]
for way in ways:
    peak_of(nn.Linear(1_000, 1_000), *way)  # what is loaded on first use
print(json.dumps([peak_of(model, *way) for way in ways]))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak")
def test_the_peak_is_a_fifth_above_a_model_of_31_million_weights() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True
    )
    assert max(json.loads(done.stdout)) < 0.2 * 4 * 31_000_000
