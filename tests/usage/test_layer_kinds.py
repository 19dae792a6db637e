"""Importance is the magnitude of a weight times the root mean square of what it meets."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_weightwatch.usage.measurement import measure_usage
from tests.trials.layers import Conv1D, normal
from tests.usage.measured import Array, Attending, assert_importance, matrix, rms, rows_of


@pytest.mark.parametrize(
    "layer", [nn.Linear(5, 3), Conv1D(3, 5)], ids=["Linear", "Conv1D of GPT-2"]
)
def test_of_a_linear_layer(layer: nn.Module) -> None:
    x = normal(4, 6, 5)
    weight = matrix(layer.weight)
    weight = weight if isinstance(layer, nn.Linear) else weight.T
    (found,) = rows_of(layer, x).values()
    assert (found.inputs, found.outputs, found.name) == (5, 3, type(layer).__name__)
    assert_importance(found, weight * rms(x))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": 1, "stride": 2},
        {"padding": "same", "dilation": 2},
        {"padding": 2, "padding_mode": "circular"},
    ],
    ids=str,
)
def test_of_a_convolution_over_its_windows(options: dict[str, Any]) -> None:
    layer, x = nn.Conv2d(4, 6, 3, **options), normal(2, 4, 9, 8)
    mode = "wrap" if "padding_mode" in options else "constant"
    side = 2 if options.get("padding") == "same" else options.get("padding", 0)
    padded = np.pad(x.double().numpy(), [(0, 0), (0, 0), (side, side), (side, side)], mode=mode)  # type: ignore[call-overload]
    patches = F.unfold(
        torch.tensor(padded), 3, dilation=options.get("dilation", 1), stride=layer.stride
    )
    sizes = rms(patches.transpose(1, 2)).reshape(1, 4, 3, 3)
    (found,) = rows_of(layer, x).values()
    assert_importance(found, matrix(layer.weight) * sizes)


def test_of_images_larger_than_what_is_read_at_once() -> None:
    layer, x = nn.Conv2d(3, 2, 1), normal(2, 3, 256, 256)
    for given in (x, x.to(memory_format=torch.channels_last), x.half().float()):
        (found,) = rows_of(layer, given).values()
        sizes = rms(given.movedim(1, -1)).reshape(1, 3, 1, 1)
        assert_importance(found, matrix(layer.weight) * sizes)


def test_of_a_convolution_with_groups_each_sees_its_own_inputs() -> None:
    layer, x = nn.Conv1d(6, 4, 3, groups=2), normal(3, 6, 7)
    x[:, 4] = 0
    windows = x.unfold(2, 3, 1).permute(0, 2, 1, 3).flatten(2)
    sizes = rms(windows).reshape(2, 1, 3, 3)
    expected = np.zeros((4, 6, 3))
    for group, scores in enumerate(matrix(layer.weight).reshape(2, 2, 3, 3) * sizes):
        expected[2 * group : 2 * group + 2, 3 * group : 3 * group + 3] = scores
    (found,) = rows_of(layer, x).values()
    assert found.weights == 36
    assert found.input_importance.numpy() == pytest.approx(expected.sum((0, 2)), rel=1e-6)
    assert found.output_importance.numpy() == pytest.approx(expected.sum((1, 2)), rel=1e-6)
    assert found.blocks.numpy() == pytest.approx(expected.sum(2), rel=1e-6)
    assert found.dead_inputs == (4,)


@pytest.mark.parametrize("groups", [1, 2])
def test_of_a_transposed_convolution_by_channel(groups: int) -> None:
    layer, x = nn.ConvTranspose2d(4, 6, 3, stride=2, groups=groups), normal(2, 4, 5, 5)
    x[:, 1] = 0
    sizes = rms(x.movedim(1, -1))
    expected = matrix(layer.weight) * sizes[:, None, None, None]  # [in, out / groups, k, k]
    (found,) = rows_of(layer, x).values()
    assert (found.inputs, found.outputs, found.weights) == (4, 6, layer.weight.numel())
    assert found.input_importance.numpy() == pytest.approx(expected.sum((1, 2, 3)), rel=1e-6)
    of_groups = expected.reshape(groups, 4 // groups, -1, 9).sum((1, 3)).flatten()
    assert found.output_importance.numpy() == pytest.approx(of_groups, rel=1e-6)
    assert found.dead_inputs == (1,)


def test_of_an_embedding_by_the_share_of_lookups() -> None:
    layer, ids = nn.Embedding(5, 3), torch.tensor([[0, 0, 3], [3, 0, 4]])
    (found,) = rows_of(layer, ids).values()
    shares = np.bincount(ids.flatten(), minlength=5) / 6
    assert (found.inputs, found.outputs, found.dead_inputs) == (5, 3, (1, 2))
    assert_importance(found, (matrix(layer.weight) * np.sqrt(shares)[:, None]).T)


def test_of_a_bag_padding_is_no_lookup_and_weights_are_values() -> None:
    layer = nn.EmbeddingBag(5, 3, mode="sum", padding_idx=0)
    ids, sizes = torch.tensor([0, 1, 1, 4]), torch.tensor([9.0, 1.0, 2.0, 3.0])

    def run(model: nn.Module, batch: Any) -> Tensor:
        return model(ids, torch.tensor([0, 2]), per_sample_weights=sizes)  # type: ignore[no-any-return]

    (found,) = rows_of(layer, ids, run=run).values()
    squares = np.array([0, 1 + 4, 0, 0, 9]) / 3
    assert_importance(found, (matrix(layer.weight) * np.sqrt(squares)[:, None]).T)


def heads(own: nn.MultiheadAttention, *inputs: Tensor, **given: Any) -> Array:
    """What `out_proj` gets, by the formula, all in [samples, steps, features]."""
    if not own.batch_first:
        inputs = tuple(x.transpose(0, 1) for x in inputs)
    projections: tuple[Tensor, ...] = (own.q_proj_weight, own.k_proj_weight, own.v_proj_weight)
    if own.in_proj_weight is not None:
        projections = own.in_proj_weight.chunk(3)
    biases = [torch.zeros(8)] * 3 if own.in_proj_bias is None else own.in_proj_bias.chunk(3)
    q, k, v = (
        (x @ weight.t() + bias).detach().double()
        for x, weight, bias in zip(inputs, projections, biases, strict=True)
    )
    added = torch.zeros(len(q), q.shape[1], k.shape[1], dtype=torch.float64)
    mask, ignored = given.get("attn_mask"), given.get("key_padding_mask")
    if mask is not None and mask.dtype == torch.bool:
        added.masked_fill_(mask, -torch.inf)
    elif mask is not None:
        added += mask
    if ignored is not None:
        added.masked_fill_(ignored.unsqueeze(1), -torch.inf)
    more = [own.bias_k, own.bias_v] if own.bias_k is not None and own.bias_v is not None else []
    rows = [[part.detach().double().expand(len(q), 1, 8) for part in more]] if more else []
    rows += [[torch.zeros(len(q), 1, 8, dtype=torch.float64)] * 2] * own.add_zero_attn
    for of_k, of_v in rows:
        k, v, added = torch.cat([k, of_k], 1), torch.cat([v, of_v], 1), F.pad(added, (0, 1))
    found = []
    for head in (slice(0, 4), slice(4, 8)):
        scores = (q[..., head] @ k[..., head].transpose(1, 2) / 2 + added).softmax(-1)
        found.append(scores @ v[..., head])
    return np.asarray(torch.cat(found, -1).numpy())


CAUSAL = torch.ones(4, 5, dtype=torch.bool).triu(1)
PADDED = torch.tensor([[False] * 5, [False] * 3 + [True] * 2, [False] * 5])
ATTENTION: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"batch_first": True}, {}),
    ({"batch_first": True}, {"need_weights": False, "attn_mask": CAUSAL}),
    ({"batch_first": True, "dropout": 0.5}, {"key_padding_mask": PADDED}),
    ({"bias": False}, {"attn_mask": torch.randn(3, 5, generator=torch.Generator())}),
    ({"kdim": 6, "vdim": 4, "batch_first": True}, {"need_weights": False}),
    ({"add_bias_kv": True, "add_zero_attn": True, "batch_first": True}, {"attn_mask": CAUSAL}),
]


@pytest.mark.parametrize(("options", "given"), ATTENTION, ids=str)
def test_of_attention_each_projection_by_what_it_meets(
    options: dict[str, Any], given: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    model = Attending(**options)
    model.given = given
    query = normal(3, 4, 8)
    key = normal(3, 5, options.get("kdim", 8), seed=1)
    value = normal(3, 5, options.get("vdim", 8), seed=2)
    if not options.get("batch_first"):  # 3 is the length of the query then, and of the keys
        query, key, value = normal(3, 4, 8), normal(5, 4, 8, seed=1), normal(5, 4, 8, seed=2)
    found = rows_of(model, (query, key, value))
    own = model.attention
    if "kdim" in options:
        projections = {
            f"attention.{which}_proj_weight": getattr(own, f"{which}_proj_weight")
            for which in "qkv"
        }
    else:
        parts = own.in_proj_weight.chunk(3)
        projections = {
            f"attention.in_proj_weight.{which}": part
            for which, part in zip("qkv", parts, strict=True)
        }
    assert found.keys() == {*projections, "attention.out_proj"}
    for (name, weight), x in zip(projections.items(), (query, key, value), strict=True):
        assert found[name].shape == tuple(weight.shape)
        assert_importance(found[name], matrix(weight) * rms(x))
    before = rms(heads(own, query, key, value, **given))
    assert_importance(found["attention.out_proj"], matrix(own.out_proj.weight) * before)


def test_attention_to_itself_shares_one_input() -> None:
    class Itself(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(8, 8)
            self.attention = nn.MultiheadAttention(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.first(x) - 1e9)
            return self.attention(x, x, x)[0]  # type: ignore[no-any-return]

    report = measure_usage(Itself(), normal(4, 3, 8))
    shares = {layer.name: layer.shares_input_with for layer in report.layers}
    q = "attention.in_proj_weight.q"
    assert shares == {
        "first": None, q: None, "attention.in_proj_weight.k": q, "attention.in_proj_weight.v": q,
        "attention.out_proj": None,
    }  # fmt: skip
    # `first` gets the data; what `out_proj` gets are the biases of a new model, which are 0.
    assert report.summary()["dead_channels"] == 8 + 8


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_of_an_encoder_that_leaves_padding_out_only_the_rest_counts() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 1)
    x, padding = normal(2, 5, 8), torch.zeros(2, 5, dtype=torch.bool)
    padding[1, 3:] = True

    def run(model: nn.Module, batch: Any) -> Any:
        return model(batch, src_key_padding_mask=padding)

    found = rows_of(encoder, x, run=run)
    own = encoder.layers[0].self_attn
    real = x[~padding]
    assert_importance(
        found["layers.0.self_attn.in_proj_weight.v"],
        matrix(own.in_proj_weight.chunk(3)[2]) * rms(real),
    )
    met = torch.tensor(heads(own, x, x, x, key_padding_mask=padding))[~padding]
    assert_importance(found["layers.0.self_attn.out_proj"], matrix(own.out_proj.weight) * rms(met))
