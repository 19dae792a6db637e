"""What models cost, against published figures, closed formulas and the counter of torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_sequence
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.colorizer import UNet
from lightning_weightwatch.usage.flops.count import count_flops
from tests.usage import architectures

IMAGE = torch.zeros(1, 3, 224, 224)
TOKENS = torch.zeros(1, 128, dtype=torch.int64)
# Parameters and multiplications as published: see the model cards of torchvision, and for the
# transformers the products of a layer, written out.
LAYER = 4 * 128 * 768**2 + 2 * 128**2 * 768 + 2 * 128 * 768 * 3072
PUBLISHED: list[tuple[Callable[[], nn.Module], Tensor, int, int]] = [
    (architectures.resnet18, IMAGE, 11_689_512, 1_814_073_344),
    (architectures.resnet50, IMAGE, 25_557_032, 4_089_184_256),
    (architectures.vgg16, IMAGE, 138_357_544, 15_470_264_320),
    (architectures.ViT, IMAGE, 86_567_656, 17_563_828_224),
    (architectures.Bert, TOKENS, 109_482_240, 12 * LAYER + 768**2),
    (architectures.Gpt2, TOKENS, 124_439_808, 12 * LAYER + 128 * 768 * 50257),
    (UNet, torch.zeros(1, 1, 256, 256), 31_036_546, 48_096_083_968),
]


@pytest.mark.parametrize(
    ("make", "batch", "parameters", "macs"), PUBLISHED, ids=lambda v: getattr(v, "__name__", "")
)
def test_known_architectures_cost_what_is_published(
    make: Callable[[], nn.Module], batch: Tensor, parameters: int, macs: int
) -> None:
    with torch.device("meta"):
        model = make()
    report = count_flops(model, batch)
    assert (report.device, report.fallback) == ("meta", "")
    assert report.parameters == parameters == sum(p.numel() for p in model.parameters())
    assert report.parameter_bytes == 4 * parameters
    assert report.macs == macs
    assert report.forward == 2 * macs
    assert report.training_step == 3 * report.forward
    assert not report.unknown
    assert sum(module.own_forward for module in report.modules) == report.forward


def test_the_transformers_are_the_published_sums() -> None:
    assert 12 * LAYER + 768**2 == 11_174_215_680
    assert 12 * LAYER + 128 * 768 * 50257 == 16_114_089_984


class Values(nn.Module):
    """Asks for a value, which there is none of on meta."""

    def __init__(self, within: nn.Module, asks: bool = True, grads: bool = True) -> None:
        super().__init__()
        self.within, self.asks, self.grads = within, asks, grads

    def forward(self, x: Tensor) -> Any:
        if self.asks:
            x.sum().item()
        with torch.set_grad_enabled(self.grads):
            return self.within(x)


class Attention(nn.Module):
    """Attention of 4 heads of 16 within one sequence: 2 · 2 · heads · length² · width."""

    def forward(self, x: Tensor) -> Tensor:
        heads = x.view(*x.shape[:2], 4, 16).transpose(1, 2)
        return F.scaled_dot_product_attention(heads, heads, heads)


class ToItself(nn.Module):
    def __init__(self, need_weights: bool = False) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.need_weights = need_weights

    def forward(self, x: Tensor) -> Tensor:
        attended: Tensor = self.attention(x, x, x, need_weights=self.need_weights)[0]
        return attended


def encoder(layers: int) -> nn.Module:
    layer = nn.TransformerEncoderLayer(32, 4, 128, batch_first=True)
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)


# Products of a batch of n sequences of length t with widths d, and gates · (i + h) · h a step.
N, T, D = 2, 16, 32
HEADS = N * (4 * T * D * D + 2 * T * T * D)
ENCODER = HEADS + N * 2 * T * D * 128
SEQUENCE = torch.zeros(N, T, D)
HARD: dict[str, tuple[Callable[[], nn.Module], Tensor, int]] = {
    "attention": (Attention, torch.zeros(2, 16, 64), 2 * N * T * T * 64),
    "MultiheadAttention": (ToItself, SEQUENCE, HEADS),
    "with its weights": (lambda: ToItself(True), SEQUENCE, HEADS),
    "TransformerEncoderLayer": (lambda: encoder(1), SEQUENCE, ENCODER),
    "TransformerEncoder": (lambda: encoder(3), SEQUENCE, 3 * ENCODER),
    "LSTM": (lambda: nn.LSTM(D, 48, batch_first=True), SEQUENCE, N * T * 4 * 48 * (D + 48)),
    "BiLSTM of two layers": (
        lambda: nn.LSTM(D, 48, 2, batch_first=True, bidirectional=True),
        SEQUENCE,
        N * T * 2 * 4 * 48 * (D + 48 + 96 + 48),
    ),
    "GRU": (lambda: nn.GRU(D, 48), SEQUENCE, N * T * 3 * 48 * (D + 48)),
    "RNN": (lambda: nn.RNN(D, 48), SEQUENCE, N * T * 48 * (D + 48)),
    "grouped": (lambda: nn.Conv1d(16, 24, 3, groups=4), SEQUENCE, N * (D - 2) * 24 * 4 * 3),
    "depthwise": (lambda: nn.Conv1d(16, 16, 3, groups=16), SEQUENCE, N * (D - 2) * 16 * 3),
    "transposed": (lambda: nn.ConvTranspose1d(16, 8, 2, stride=2), SEQUENCE, N * D * 16 * 8 * 2),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("name", HARD)
def test_attention_and_recurrent_layers_cost_the_same_on_meta_and_on_the_cpu(
    name: str, frozen: bool, training: bool
) -> None:
    make, batch, macs = HARD[name]
    model = make().requires_grad_(not frozen).train(training)
    trained = 0 if frozen or name == "attention" else 4 * macs
    for asks in (False, True):
        for grads in (False, True):
            report = count_flops(Values(model, asks=asks, grads=grads), batch)
            assert report.device == ("cpu" if asks else "meta")
            assert report.forward == 2 * macs
            assert report.backward == (trained if grads else 0)
            assert not report.unknown


@pytest.mark.parametrize("name", [name for name in HARD if name not in ("LSTM", "GRU", "RNN")])
def test_what_was_counted_is_what_torch_counts(name: str) -> None:
    make, batch, _ = HARD[name]
    model = make().to("meta").eval()
    with FlopCounterMode(display=False) as counter:
        model(batch.to("meta"))
    assert count_flops(model, batch).forward == counter.get_total_flops()


def test_fused_attention_keeps_as_much_on_meta_as_on_the_cpu() -> None:
    for model in (ToItself(), encoder(2)):
        meta, cpu = count_flops(model, SEQUENCE), count_flops(Values(model), SEQUENCE)
        assert meta.activation_bytes == cpu.activation_bytes > 0
        assert meta.intensity == cpu.intensity


def kept_bytes(model: nn.Module, *batch: Tensor) -> int:
    """What autograd keeps, as torch tells, without the weights."""
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(*batch)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    return sum(size for place, size in kept.items() if place not in weights)


@pytest.mark.skipif(torch.__version__ < "2.13", reason="known of torch 2.13: it takes them")
def test_attention_with_shared_heads_keeps_what_the_kernel_of_the_cpu_keeps() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(64, 64 + 2 * 16)

        def forward(self, x: Tensor) -> Tensor:
            parts = self.qkv(x).split([64, 16, 16], -1)
            q, k, v = (part.unflatten(-1, (-1, 8)).transpose(1, 2) for part in parts)
            return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)

    model, batch, length = Shared().eval(), torch.randn(1, 256, 64), 256
    report = count_flops(model, batch)
    assert report.macs == length * 64 * 96 + 2 * length**2 * 64
    assert report.activation_bytes < 4 * 8 * length**2  # the scores alone, were they kept
    values = count_flops(Values(model), batch)
    assert (report.activation_bytes, report.macs) == (values.activation_bytes, values.macs)
    assert report.activation_bytes == kept_bytes(model, batch)


def test_a_tensor_that_is_several_inputs_is_kept_once() -> None:
    layer = nn.MultiheadAttention(32, 4, batch_first=True).eval()
    report = count_flops(layer, (SEQUENCE, SEQUENCE, SEQUENCE))
    assert report.activation_bytes == kept_bytes(layer, SEQUENCE, SEQUENCE, SEQUENCE)


@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_padding_is_computed_like_all_else(frozen: bool, asks: bool) -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(32, 4, 128, batch_first=True)
            self.layers = nn.TransformerEncoder(layer, 2)

        def forward(self, x: Tensor) -> Tensor:
            padding = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
            padding[:, 9:] = True
            made: Tensor = self.layers(x, src_key_padding_mask=padding)
            return made

    model = Padded().eval().requires_grad_(not frozen)
    report = count_flops(Values(model, asks), SEQUENCE)
    assert report.device == ("cpu" if asks else "meta")
    assert report.forward == 2 * 2 * ENCODER


def test_the_fused_layers_of_torch_have_the_cost_of_their_parts() -> None:
    layer = nn.TransformerEncoderLayer(32, 4, 128, batch_first=True).eval()
    attention = layer.self_attn

    class Fused(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = torch.ops.aten._transformer_encoder_layer_fwd(
                x, 32, 4, attention.in_proj_weight, attention.in_proj_bias,
                attention.out_proj.weight, attention.out_proj.bias, False, False, 1e-5,
                layer.norm1.weight, layer.norm1.bias, layer.norm2.weight, layer.norm2.bias,
                layer.linear1.weight, layer.linear1.bias, layer.linear2.weight, layer.linear2.bias,
            )  # fmt: skip
            return made

    with torch.no_grad():
        report = count_flops(Values(Fused()), SEQUENCE)
    assert report.forward == 2 * ENCODER
    assert not report.unknown


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
@pytest.mark.parametrize("batch_first", [True, False])
def test_long_sequences_take_no_time_on_meta_and_have_their_shapes(
    kind: Callable[..., nn.RNNBase], gates: int, batch_first: bool
) -> None:
    """2 layers, 2 directions: 100,000 steps, and the same batch packed."""
    layer = kind(4, 6, 2, bidirectional=True, batch_first=batch_first, dropout=0.5).train()
    shape = (2, 100_000, 4) if batch_first else (100_000, 2, 4)
    report = count_flops(layer, torch.zeros(1).expand(shape))
    assert report.fallback == ""
    assert report.macs == 2 * 100_000 * 2 * gates * 6 * ((4 + 6) + (12 + 6))
    assert report.modules[0].output_shape == (*shape[:2], 12)
    packed = pack_sequence([torch.ones(5, 4), torch.ones(3, 4)])
    assert count_flops(layer, packed).macs * 2 * 100_000 == report.macs * 8
    assert count_flops(layer, packed).modules[0].output_shape == (8, 12)


def test_recurrent_layers_keep_their_gates_and_states_for_the_backward_pass() -> None:
    """As many as on the CPU, which keeps no more for those of one layer."""
    for layer in (nn.GRU(8, 16), nn.RNN(8, 16)):
        x = torch.ones(50, 4, 8)
        meta, cpu = count_flops(layer, x), count_flops(Values(layer), x)
        assert meta.activation_bytes == pytest.approx(cpu.activation_bytes, rel=0.02)
