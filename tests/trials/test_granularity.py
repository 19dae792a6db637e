"""A scale belongs to the values that should share it, however they lie in memory."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lightning_weightwatch.trials import scale_groups
from lightning_weightwatch.trials.compression import CompressedLayer
from lightning_weightwatch.trials.quantization import Quantization
from lightning_weightwatch.trials.scale_groups import Granularity
from lightning_weightwatch.trials.scales import Clip
from tests.trials.layers import applied, by_torch, linear, matrices, normal, run_by_torch

BITS = [2, 3, 4, 5, 6, 7, 8]
GRANULARITIES: list[Granularity] = ["model", "tensor", "channel", "group"]
CLIPS: list[Clip] = ["absmax", "percentile", "mse"]


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
    monkeypatch.setattr(scale_groups, "values_at_once", lambda device: 40)
    for expected, found in zip(whole[0], outcome()[0], strict=True):
        assert torch.equal(expected, found)
    for one, other in zip(whole[1], outcome()[1], strict=True):
        assert one.noise == pytest.approx(other.noise, rel=1e-9)
        assert (one.live, one.clipped, one.packed_bytes) == (
            other.live,
            other.clipped,
            other.packed_bytes,
        )


@pytest.mark.parametrize("clip", CLIPS)
def test_a_channel_does_not_feel_the_others(clip: Clip) -> None:
    values, scales = normal(6, 24), 2.0 ** torch.arange(6).unsqueeze(1)
    assert torch.equal(applied(values * scales, 4, clip)[0], applied(values, 4, clip)[0] * scales)


def test_finer_scales_have_less_noise() -> None:
    values = normal(32, 256) * torch.logspace(-1, 1, 32).unsqueeze(1)
    noise = [applied(values, granularity=each)[1].noise for each in ("tensor", "channel", "group")]
    assert noise == sorted(noise, reverse=True)
