"""A fit's own validation tells what quantized activations cost, and the fit does not notice."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor, nn

from lightning_weightwatch import QuantizationTrial
from tests.callbacks.fits import ConvNet, train_loader, trainer, val_loader


def validated(net: nn.Sequential) -> float:
    """The loss by a plain loop."""
    loss = count = 0.0
    with torch.no_grad():
        for x, y in val_loader():
            loss += float(nn.functional.cross_entropy(net.eval()(x), y)) * len(y)
            count += len(y)
    return loss / count


def with_quantized_inputs(net: nn.Sequential, bits: int) -> nn.Sequential:
    """By torch's own operators: weights with 8 bits, inputs over their range in the validation."""
    other = copy.deepcopy(net).eval()
    x = torch.cat([batch[0] for batch in val_loader()])
    top = 2**bits - 1
    for layer, copied in zip(net.eval(), other, strict=True):
        if isinstance(copied, nn.Conv2d | nn.Linear):
            weight = copied.weight.detach()
            scales = weight.abs().flatten(1).amax(1) / 127
            zeros = torch.zeros(len(scales), dtype=torch.int32)
            copied.weight.data = torch.fake_quantize_per_channel_affine(
                weight, scales, zeros, 0, -127, 127
            )
            low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
            scale = (high - low) / top
            zero_point = round(-low / scale)

            def hook(
                _: nn.Module, args: tuple[Tensor], scale: float = scale, zero: int = zero_point
            ) -> Tensor:
                return torch.fake_quantize_per_tensor_affine(args[0], scale, zero, 0, top)

            copied.register_forward_pre_hook(hook)
        with torch.no_grad():
            x = layer(x)
    return other


def fitted(root: Path, trials: list[Callback]) -> ConvNet:
    torch.manual_seed(0)
    model = ConvNet()
    trainer(trials, root).fit(model, train_loader(), val_loader())
    return model


def test_a_row_is_what_torchs_operators_make_of_weights_and_inputs(tmp_path: Path) -> None:
    trial = QuantizationTrial(
        bits=8, clip="absmax", activation_bits=(8, 3), activation_clip="minmax", verbose=False
    )
    model = fitted(tmp_path / "with", [trial])
    report = trial.report
    assert report is not None
    assert [row.name for row in report.rows] == [
        "baseline", "int8_absmax", "int8_absmax_a8_minmax", "int8_absmax_a3_minmax",
    ]  # fmt: skip
    assert report.rows[0].metrics["val_loss"] == pytest.approx(validated(model.net), rel=1e-5)
    for row, bits in zip(report.rows[2:], (8, 3), strict=True):
        expected = validated(with_quantized_inputs(model.net, bits))
        assert row.metrics["val_loss"] == pytest.approx(expected, rel=1e-4)
    assert report.rows[3].metrics["val_loss"] != pytest.approx(
        report.rows[1].metrics["val_loss"], rel=1e-3
    ), "else the test tells nothing"
    plain = fitted(tmp_path / "without", [])
    for mine, other in zip(model.state_dict().values(), plain.state_dict().values(), strict=True):
        assert mine.numpy().tobytes() == other.numpy().tobytes()
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_its_keys_and_files_have_the_bits_of_activations(tmp_path: Path) -> None:
    trial = QuantizationTrial(bits=8, activation_bits=8, verbose=False)
    assert trial.logged_keys[2:] == (
        "weightwatch/quantization_int8_a8_delta",
        "weightwatch/quantization_int8_a8_bytes",
    )
    fitted(tmp_path, [trial])
    (path,) = tmp_path.rglob("quantization.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    found = [(row["trial"], row.get("activation_bits")) for row in rows if "trial" in row]
    assert found == [("baseline", None), ("int8", None), ("int8_a8", 8)]


def test_what_is_wrong_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="activation_bits must be a whole number from 2 to 8"):
        QuantizationTrial(activation_bits=32)
