"""The UNet of a colorizer: the sizes that its user computed by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.colorizer import UNet
from lightning_weightwatch.trials.quantized_model import QuantizedModel, quantize

PARAMETERS = 31_036_546
# Affine parameters of 18 BatchNorms, biases of the four up-convolutions, of the last convolution.
UNCOMPRESSED = 11_776 + 960 + 2
# Running means and variances, and a counter of batches for each BatchNorm.
BUFFERS = 4 * 11_776 + 8 * 18
UPS = {"up4": (1024, 512), "up3": (512, 256), "up2": (256, 128), "up1": (128, 64)}


@pytest.fixture(scope="module")
def unet() -> UNet:
    torch.manual_seed(0)
    return UNet()


@pytest.fixture(scope="module")
def int8(unet: UNet) -> QuantizedModel:
    return quantize(unet, bits=8, granularity="channel")


def records(quantized: QuantizedModel) -> dict[str, dict[str, Any]]:
    return {record["name"]: record for record in quantized.records()}


def test_it_is_the_unet_that_was_asked_about(unet: UNet) -> None:
    assert sum(parameter.numel() for parameter in unet.parameters()) == PARAMETERS
    assert sum(isinstance(part, nn.Conv2d) for part in unet.modules()) == 19
    with torch.no_grad():
        assert unet.eval()(torch.zeros(1, 1, 16, 32)).shape == (1, 2, 16, 32)


def test_the_largest_kernel_takes_a_byte_a_value_and_a_scale_a_channel(
    int8: QuantizedModel,
) -> None:
    record = records(int8)["bottleneck.3.weight"]
    assert record["bytes"] == 37_748_736
    assert record["packed_bytes"] == 9_441_280 == 1024 * 1024 * 9 + 1024 * 4


def test_five_kernels_are_three_quarters_of_the_model(int8: QuantizedModel) -> None:
    shares = {name: row["bytes"] / 4 / PARAMETERS for name, row in records(int8).items()}
    largest = sorted(shares, key=lambda name: -shares[name])[:5]
    assert set(largest) == {
        "bottleneck.3.weight", "bottleneck.0.weight", "dec4.0.weight", "enc4.3.weight",
        "dec4.3.weight",
    }  # fmt: skip
    rounded = [round(100 * shares[name], 2) for name in largest]
    assert rounded == [30.41, 15.2, 15.2, 7.6, 7.6]
    assert round(100 * sum(shares[name] for name in largest), 2) == 76.02


def test_the_whole_model_is_a_quarter_as_large(int8: QuantizedModel) -> None:
    assert int8.bytes == 4 * PARAMETERS + BUFFERS == 124_193_432
    scales = 2 * (64 + 128 + 256 + 512) * 2 + 2 * 1024 + sum(out for _, out in UPS.values()) + 2
    values = PARAMETERS - UNCOMPRESSED
    assert int8.packed_bytes == values + 4 * scales + 4 * UNCOMPRESSED + BUFFERS
    assert len(int8.layers) == 23
    assert int8.skipped == ()


def test_four_bits_in_groups_of_32_take_half_a_byte_and_an_eighth(unet: UNet) -> None:
    found = quantize(unet, 4, "group", "absmax", group_size=32)
    record = records(found)["bottleneck.3.weight"]
    count = 1024 * 1024 * 9
    assert record["packed_bytes"] == 5_898_240 == count // 2 + 4 * count // 32
    assert records(found)["enc1.0.weight"]["packed_bytes"] == 64 * 9 // 2 + 4 * 64
    groups = unet.get_parameter("bottleneck.3.weight").detach().view(-1, 32)
    expected = by_torch(groups, axis=0, top=7).view(1024, 1024, 3, 3)
    assert torch.equal(found.model.get_parameter("bottleneck.3.weight"), expected)


def test_a_transposed_convolution_has_a_scale_for_each_output_channel(
    unet: UNet, int8: QuantizedModel
) -> None:
    absmax = quantize(unet, 8, "channel", "absmax", layers=["up*"])
    assert [layer.name for layer in absmax.layers] == [f"{name}.weight" for name in UPS]
    for name, (inputs, outputs) in UPS.items():
        weight = unet.get_parameter(f"{name}.weight").detach()
        assert weight.shape == (inputs, outputs, 2, 2)
        packed = records(int8)[f"{name}.weight"]["packed_bytes"]
        assert packed == inputs * outputs * 4 + outputs * 4
        by_absmax = by_torch(weight, axis=1, top=127)
        assert torch.equal(absmax.model.get_parameter(f"{name}.weight"), by_absmax)
        by_mse = int8.model.get_parameter(f"{name}.weight").detach()
        errors = [(found - weight).double().square().mean() for found in (by_mse, by_absmax)]
        assert errors[0] <= errors[1]
        assert all(len(np.unique(channel)) <= 255 for channel in by_mse.unbind(1))


def by_torch(weight: Tensor, axis: int, top: int) -> Tensor:
    """What torch's own operator leaves of a weight, a scale for each slice along an axis."""
    others = [other for other in range(weight.ndim) if other != axis]
    scale = weight.abs().amax(others) / top
    zeros = torch.zeros(len(scale), dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zeros, axis, -top, top)
