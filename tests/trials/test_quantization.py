"""Fake quantization is torch's own operator, its noise is that of theory, its bytes are counted."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lightning_weightwatch.model.weights import Weight, walk
from lightning_weightwatch.trials.quantization import Quantization, fake_quantize, packed_bytes
from lightning_weightwatch.trials.targets import find_targets

BITS = [2, 3, 4, 5, 6, 7, 8]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sqnr(signal: Tensor, quantized: Tensor) -> float:
    """Signal to quantization noise ratio in dB."""
    noise = (signal - quantized).double().square().sum()
    return 10 * math.log10(float(signal.double().square().sum() / noise))


def by_torch(weight: Tensor, bits: int, axis: int) -> Tensor:
    """torch's per-channel operator with the restricted symmetric range."""
    top = 2 ** (bits - 1) - 1
    others = [dim for dim in range(weight.ndim) if dim != axis]
    scale = weight.abs().amax(others) / top
    zero_point = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero_point, axis, -top, top)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((64, 100), 0), ((64, 100), 1), ((16, 8, 3, 3), 0), ((8, 16, 2, 2), 1), ((4, 5, 3), 2)],
    ids=str,
)
def test_it_is_torchs_fake_quantization(shape: tuple[int, ...], axis: int, bits: int) -> None:
    weight = normal(*shape)
    found, expected = fake_quantize(weight, bits, axis), by_torch(weight, bits, axis)
    # torch multiplies by 1/s where the formula divides by s: halves may round to either side.
    others = [dim for dim in range(weight.ndim) if dim != axis]
    scale = weight.double().abs().amax(others, keepdim=True) / (2 ** (bits - 1) - 1)
    tie = ((weight.double() / scale).frac().abs() - 0.5).abs() < 1e-4
    assert torch.equal(found[~tie], expected[~tie])
    assert int(tie.sum()) < 0.01 * weight.numel()


@pytest.mark.parametrize("bits", BITS)
def test_values_on_the_grid_are_kept_bit_for_bit(bits: int) -> None:
    top = 2 ** (bits - 1) - 1
    grid = torch.arange(-top, top + 1).repeat(3, 1) * torch.tensor([[1.0], [0.25], [2.0**20]])
    assert torch.equal(fake_quantize(grid, bits), grid)


def test_halves_round_to_the_nearest_even_code() -> None:
    weight = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5]])
    assert fake_quantize(weight, 8).tolist() == [[127.0, 0.0, 2.0, 2.0, -0.0, -2.0]]


@pytest.mark.parametrize("bits", BITS)
def test_no_channel_takes_more_values_than_its_bits_allow(bits: int) -> None:
    weight = normal(5, 4000)
    quantized = fake_quantize(weight, bits)
    for channel, original in zip(quantized, weight, strict=True):
        assert len(set(channel.tolist())) <= 2**bits - 1
        assert float(channel.abs().max()) == pytest.approx(float(original.abs().max()), rel=1e-6)
        step = float(original.abs().max()) / (2 ** (bits - 1) - 1)
        assert float((channel - original).abs().max()) <= step / 2 * (1 + 1e-5)


@pytest.mark.parametrize(("bits", "decibel"), [(2, 6.021), (3, 15.563), (4, 22.923), (8, 48.097)])
def test_the_noise_of_a_uniform_weight_is_that_of_theory(bits: int, decibel: float) -> None:
    uniform = torch.linspace(-1, 1, 1_000_001, dtype=torch.float64).unsqueeze(0)
    assert decibel == pytest.approx(20 * math.log10(2 * (2 ** (bits - 1) - 1)), abs=1e-3)
    assert sqnr(uniform, fake_quantize(uniform, bits)) == pytest.approx(decibel, abs=0.01)


@pytest.mark.parametrize(
    ("bits", "clip", "decibel"),
    # Max, "Quantizing for minimum distortion", IRE Trans. IT-6 (1960), for 2^b − 1 levels.
    [
        (2, 1.2240, 7.208),
        (3, 1.9523, 13.292),
        (4, 2.4739, 18.898),
        (5, 2.8987, 24.326),
        (6, 3.2701, 29.709),
        (7, 3.6075, 35.106),
        (8, 3.9205, 40.540),
    ],
)
def test_the_noise_of_a_gaussian_clipped_at_its_optimum_is_that_of_max(
    bits: int, clip: float, decibel: float
) -> None:
    grid = torch.linspace(-9, 9, 1_000_001, dtype=torch.float64).unsqueeze(0)
    amplitude = torch.exp(-(grid**2) / 4)  # the square root of the density
    quantized = fake_quantize(grid.clamp(-clip, clip), bits)
    assert sqnr(amplitude * grid, amplitude * quantized) == pytest.approx(decibel, abs=0.002)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_a_channel_does_not_feel_the_others(axis: int) -> None:
    weight = normal(6, 8, 3)
    scales = 2.0 ** torch.arange(weight.shape[axis])
    shape = [1, 1, 1]
    shape[axis] = -1
    scales = scales.view(shape)
    assert torch.equal(
        fake_quantize(weight * scales, 4, axis), fake_quantize(weight, 4, axis) * scales
    )


def test_a_channel_of_zeros_stays() -> None:
    weight = normal(3, 10)
    weight[1] = 0
    quantized = fake_quantize(weight, 4)
    assert not quantized[1].any()
    assert torch.equal(quantized[[0, 2]], fake_quantize(weight[[0, 2]], 4))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_dtype_is_kept_and_the_arithmetic_is_at_least_float32(dtype: torch.dtype) -> None:
    weight = normal(8, 50).to(dtype)
    quantized = fake_quantize(weight, 8)
    assert quantized.dtype == dtype
    wide = fake_quantize(weight.double(), 8)
    assert torch.allclose(quantized.double(), wide.to(dtype).double(), rtol=1e-2, atol=1e-7)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (torch.float32, 3e38),
        (torch.float32, 1e-38),
        (torch.float32, 1e-45),
        (torch.float16, 65504.0),
        (torch.float16, 6e-8),
        (torch.bfloat16, 3e38),
        (torch.bfloat16, 1e-38),
    ],
)
def test_the_ends_of_the_number_range_stay_finite(
    bits: int, dtype: torch.dtype, value: float
) -> None:
    quantized = fake_quantize(torch.tensor([[value, -value, 0.0]], dtype=dtype), bits)
    assert torch.isfinite(quantized).all()


@pytest.mark.parametrize(
    ("shape", "bits", "axis", "expected"),
    [
        # 3·3·1024·1024 codes and 1024 scales: the bottleneck of a U-Net.
        ((1024, 1024, 3, 3), 8, 0, 9_437_184 + 4_096),
        ((1024, 1024, 3, 3), 4, 0, 4_718_592 + 4_096),
        ((1024, 512, 2, 2), 8, 1, 2_097_152 + 2_048),
        ((3, 5), 8, 0, 15 + 12),
        ((3, 5), 4, 0, 8 + 12),
        ((3, 5), 3, 0, 6 + 12),
        ((3, 5), 2, 1, 4 + 20),
    ],
)
def test_packed_bytes_are_those_of_codes_end_to_end_and_scales(
    shape: tuple[int, ...], bits: int, axis: int, expected: int
) -> None:
    assert packed_bytes(shape, bits, axis) == expected


@pytest.mark.parametrize(
    ("make", "axis"),
    [
        (lambda: nn.Linear(6, 5), 0),
        (lambda: nn.Embedding(9, 4), 0),
        (lambda: nn.Conv1d(4, 5, 3), 0),
        (lambda: nn.Conv2d(4, 5, 3, groups=1), 0),
        (lambda: nn.Conv3d(2, 5, 2), 0),
        (lambda: nn.ConvTranspose1d(4, 5, 3), 1),
        (lambda: nn.ConvTranspose2d(4, 5, 3), 1),
        (lambda: nn.ConvTranspose3d(2, 5, 2), 1),
        (lambda: nn.GRU(3, 4), 0),
    ],
    ids=["linear", "embedding", "conv1d", "conv2d", "conv3d", "t1d", "t2d", "t3d", "gru"],
)
def test_every_kind_is_quantized_along_its_output_channels(
    make: Callable[[], nn.Module], axis: int
) -> None:
    weights = [w for w in walk(make()) if isinstance(w, Weight) and w.parameter.ndim > 1]
    for weight, values, size in Quantization(4).compress(weights):
        original = weight.parameter.detach()
        assert torch.equal(values, fake_quantize(original, 4, axis))
        assert size == math.ceil(original.numel() / 2) + 4 * original.shape[axis]
        assert not values.requires_grad


def test_a_convolution_and_its_transpose_quantize_alike() -> None:
    # A transposed convolution's kernel [in, out, …] with its axes swapped is a convolution's.
    transposed, plain = nn.ConvTranspose2d(4, 6, 3), nn.Conv2d(4, 6, 3)
    with torch.no_grad():
        plain.weight.copy_(transposed.weight.transpose(0, 1))
    found = []
    for module in (transposed, plain):
        weight = next(item for item in walk(module) if isinstance(item, Weight))
        found.append(next(iter(Quantization(3).compress([weight]))))
    assert torch.equal(found[0][1].transpose(0, 1), found[1][1])
    assert found[0][2] == found[1][2]


def test_the_weight_is_only_read() -> None:
    layer = nn.Linear(5, 4)
    before = layer.weight.detach().clone()
    weight = next(item for item in walk(layer) if isinstance(item, Weight))
    list(Quantization(2).compress([weight]))
    assert torch.equal(layer.weight, before)


def test_a_trial_is_named_after_its_bits() -> None:
    assert [Quantization(bits).name for bits in (2, 8)] == ["int2", "int8"]


def test_a_grouped_transposed_convolution_has_a_scale_per_channel_of_each_group() -> None:
    module = nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False)  # weight [4, 3, 3, 3]
    with torch.no_grad():
        module.weight[2:] *= 100  # the second group
    model = nn.Sequential(module)
    ((weight, values, size),) = Quantization(4).compress(find_targets(model).weights)
    halves = [fake_quantize(half, 4, axis=1) for half in torch.split(module.weight.detach(), 2)]
    assert torch.equal(values, torch.cat(halves))
    assert size == 4 * 3 * 9 // 2 + 6 * 4
    assert weight.name == "0.weight"
