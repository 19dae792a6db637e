"""One small layer of each sort, with the matrices it multiplies with, found by other means."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

Array = NDArray[Any]
Rows = dict[str, list[Array]]


@dataclass(frozen=True)
class Animal:
    """A layer.

    Attributes:
        make: Makes it; it stands in a model under `place`.
        rows: Its matrices by the end of their row's name, once a pass in eval mode is done.
        kind: What it counts as.
        place: Its name in the model, which is all that a state dict tells of its sort.
        kind_in_state: What its tensors count as without a module; "" where the module is needed.
        inputs: Of a forward pass.
    """

    make: Callable[[], nn.Module]
    rows: Callable[[nn.Module], Rows]
    kind: str
    place: str = "layer"
    kind_in_state: str | None = None
    inputs: Callable[[], tuple[Any, ...]] | None = None

    def model(self) -> nn.Module:
        """The layer in a model, its power iterations begun, in train mode."""
        torch.manual_seed(0)
        layer = self.make()
        if self.inputs is not None:
            layer.train()(*self.inputs())
        return nn.ModuleDict({"first": nn.LayerNorm(3), self.place: layer}).train()

    def expected(self, model: nn.Module) -> Rows:
        """Its matrices by the names of their rows. Changes the model: makes an eval-mode pass."""
        layer = model.get_submodule(self.place).eval()
        if self.inputs is not None:
            with torch.no_grad():
                layer(*self.inputs())
        return {f"{self.place}{end}": matrices for end, matrices in self.rows(layer).items()}


class Conv1D(nn.Module):
    """Like that of transformers, for GPT-2: a linear layer that keeps its weight as [in, out]."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class Symmetric(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values.triu() + values.triu(1).mT


class LowRank(nn.Module):
    """A parametrization that makes two tensors of one."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return left @ right

    def right_inverse(self, values: Tensor) -> tuple[Tensor, Tensor]:
        u, s, v = torch.linalg.svd(values, full_matrices=False)
        return (u * s)[:, :4], v[:4]


class Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(12, 9))
        self.position = nn.Parameter(torch.randn(1, 10, 9))
        self.queries = nn.ParameterList([torch.randn(9, 11), torch.randn(11, 9)])
        self.heads = nn.ParameterDict({"left": torch.randn(9, 1, 13)})
        self.relative_bias = nn.Parameter(torch.randn(10, 14))
        self.scale = nn.Parameter(torch.tensor(2.0))


def numbers(values: Tensor) -> Array:
    """The values in double precision."""
    wide = torch.complex128 if values.is_complex() else torch.float64
    return values.detach().to(wide).clone().numpy()


def dense(layer: nn.Module) -> Rows:
    return {"": [numbers(layer.weight)]}  # type: ignore[arg-type]


def kernel(layer: nn.Module) -> Rows:
    weight = numbers(layer.weight)  # type: ignore[arg-type]
    return {"": [weight[(..., *place)] for place in np.ndindex(*weight.shape[2:])]}


def bilinear(layer: nn.Module) -> Rows:
    weight = numbers(layer.weight)  # type: ignore[arg-type]
    return {"": [weight[output] for output in range(len(weight))]}


def attention(layer: nn.Module) -> Rows:
    assert isinstance(layer, nn.MultiheadAttention)
    rows: Rows = {}
    if layer._qkv_same_embed_dim:
        stacked, size = numbers(layer.in_proj_weight), layer.embed_dim
        for place, letter in enumerate("qkv"):
            part = [stacked[size * place : size * (place + 1)]]
            rows[f".in_proj_weight.{letter}"] = part
    else:
        for letter in "qkv":
            rows[f".{letter}_proj_weight"] = [numbers(getattr(layer, f"{letter}_proj_weight"))]
    return rows | {".out_proj": [numbers(layer.out_proj.weight)]}


def recurrent(gates: str) -> Callable[[nn.Module], Rows]:
    """Gate by gate, as PyTorch documents the order: W_ii|W_if|W_ig|W_io and W_ir|W_iz|W_in."""

    def rows(layer: nn.Module) -> Rows:
        found: Rows = {}
        size: Any = layer.hidden_size
        names = [name for name, _ in layer.named_parameters()]
        stems = [name.removeprefix("parametrizations.").split(".")[0] for name in names]
        for stem in dict.fromkeys(s.removesuffix("_orig").removesuffix("_g") for s in stems):
            if not stem.startswith("weight") or stem.endswith("_v"):
                continue
            stacked = numbers(getattr(layer, stem))
            if not gates or stem.startswith("weight_hr"):
                found[f".{stem}"] = [stacked]
                continue
            for place, gate in enumerate(gates):
                found[f".{stem}.{gate}"] = [stacked[size * place : size * (place + 1)]]
        return found

    return rows


def bare(layer: nn.Module) -> Rows:
    assert isinstance(layer, Bare)
    return {
        ".table": [numbers(layer.table)],
        ".position": [numbers(layer.position)[0]],
        ".relative_bias": [numbers(layer.relative_bias)],
        ".queries.0": [numbers(layer.queries[0])],
        ".queries.1": [numbers(layer.queries[1])],
        ".heads.left": [numbers(layer.heads["left"])[:, 0]],
    }


def old(way: Callable[..., nn.Module], layer: nn.Module, **options: Any) -> nn.Module:
    """A layer with one of the reparametrizations that torch has deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return way(layer, **options)


def pruned(layer: nn.Module, *ways: str, name: str = "weight") -> nn.Module:
    for way in ways:
        if way == "structured":
            prune.ln_structured(layer, name, 0.3, n=2, dim=0)  # type: ignore[no-untyped-call]
        elif way == "random":
            prune.random_unstructured(layer, name, 0.3)  # type: ignore[no-untyped-call]
        else:
            prune.l1_unstructured(layer, name, 0.4)  # type: ignore[no-untyped-call]
    return layer


def with_(way: Callable[..., nn.Module], layer: nn.Module, **options: Any) -> nn.Module:
    """A parametrized layer whose trained values are no longer those that it was made from."""
    parametrized = way(layer, **options)
    with torch.no_grad():
        for parameter in parametrized.parameters():
            parameter.mul_(1.5).add_(0.01)
    return parametrized


def custom(layer: nn.Module, way: nn.Module) -> nn.Module:
    return parametrize.register_parametrization(layer, "weight", way)


def x(*shape: int) -> Callable[[], tuple[Tensor]]:
    return lambda: (torch.ones(shape),)


WEIGHT_NORM, SPECTRAL_NORM = torch.nn.utils.weight_norm, torch.nn.utils.spectral_norm
NEW_WEIGHT_NORM, NEW_SPECTRAL_NORM = parametrizations.weight_norm, parametrizations.spectral_norm

PLAIN: dict[str, Animal] = {
    "linear": Animal(lambda: nn.Linear(9, 12), dense, "linear"),
    "embedding": Animal(lambda: nn.Embedding(30, 9), dense, "embedding", "embedding"),
    "embedding bag": Animal(lambda: nn.EmbeddingBag(30, 9), dense, "embedding", "embed"),
    "conv1d": Animal(lambda: nn.Conv1d(9, 12, 5), kernel, "conv1d"),
    "conv2d": Animal(lambda: nn.Conv2d(9, 12, (3, 2)), kernel, "conv2d"),
    "conv3d": Animal(lambda: nn.Conv3d(9, 12, (2, 3, 1)), kernel, "conv3d"),
    "pointwise": Animal(lambda: nn.Conv2d(9, 12, 1), kernel, "conv2d"),
    "grouped": Animal(lambda: nn.Conv2d(8, 12, 3, groups=4), kernel, "conv2d"),
    "depthwise": Animal(lambda: nn.Conv1d(8, 8, 9, groups=8), kernel, "conv1d"),
    "transposed 1d": Animal(
        lambda: nn.ConvTranspose1d(9, 12, 4), kernel, "conv_transpose", kind_in_state="conv1d"
    ),
    "transposed 2d": Animal(
        lambda: nn.ConvTranspose2d(9, 12, 3), kernel, "conv_transpose", kind_in_state="conv2d"
    ),
    "transposed 3d": Animal(
        lambda: nn.ConvTranspose3d(8, 12, 2, groups=2),
        kernel,
        "conv_transpose",
        kind_in_state="conv3d",
    ),
    "bilinear": Animal(lambda: nn.Bilinear(9, 10, 4), bilinear, "bilinear", "bilinear"),
    "attention": Animal(lambda: nn.MultiheadAttention(12, 3), attention, "attention"),
    "attention with bias_k": Animal(
        lambda: nn.MultiheadAttention(12, 3, add_bias_kv=True), attention, "attention"
    ),
    "cross attention": Animal(
        lambda: nn.MultiheadAttention(12, 3, kdim=9, vdim=10), attention, "attention"
    ),
    "lstm": Animal(lambda: nn.LSTM(9, 10), recurrent("ifgo"), "rnn"),
    "lstm of all sorts": Animal(
        lambda: nn.LSTM(9, 10, num_layers=2, bidirectional=True, proj_size=8),
        recurrent("ifgo"),
        "rnn",
    ),
    "gru": Animal(lambda: nn.GRU(9, 10, bidirectional=True), recurrent("rzn"), "rnn"),
    "rnn": Animal(lambda: nn.RNN(9, 10, num_layers=2), recurrent(""), "rnn"),
    "lstm cell": Animal(lambda: nn.LSTMCell(9, 10), recurrent("ifgo"), "rnn"),
    "gru cell": Animal(lambda: nn.GRUCell(9, 10), recurrent("rzn"), "rnn"),
    "rnn cell": Animal(lambda: nn.RNNCell(9, 10), recurrent(""), "rnn"),
    "conv1d of GPT-2": Animal(lambda: Conv1D(27, 9), dense, "linear"),
    "bare parameters": Animal(Bare, bare, "other"),
    "bfloat16": Animal(lambda: nn.Linear(9, 12).bfloat16(), dense, "linear"),
    "float16": Animal(lambda: nn.Linear(9, 12).half(), dense, "linear"),
    "float64": Animal(lambda: nn.Linear(9, 12).double(), dense, "linear"),
    "complex": Animal(lambda: nn.Linear(9, 12, dtype=torch.complex64), dense, "linear"),
    "frozen": Animal(lambda: nn.Linear(9, 12).requires_grad_(False), dense, "linear"),
}

COMPUTED: dict[str, Animal] = {
    "weight_norm": Animal(
        lambda: with_(NEW_WEIGHT_NORM, nn.Linear(9, 12)), dense, "linear", inputs=x(9)
    ),
    "weight_norm of columns": Animal(
        lambda: with_(NEW_WEIGHT_NORM, nn.Linear(9, 12), dim=1), dense, "linear", inputs=x(9)
    ),
    "weight_norm of all": Animal(
        lambda: with_(NEW_WEIGHT_NORM, nn.Linear(9, 12), dim=None), dense, "linear", inputs=x(9)
    ),
    "weight_norm of a convolution": Animal(
        lambda: with_(NEW_WEIGHT_NORM, nn.Conv2d(9, 9, 3)), kernel, "conv2d", inputs=x(1, 9, 5, 5)
    ),
    "old weight_norm": Animal(
        lambda: with_(lambda layer: old(WEIGHT_NORM, layer), nn.Linear(9, 12)),
        dense,
        "linear",
        inputs=x(9),
    ),
    "old weight_norm of all": Animal(
        lambda: with_(lambda layer: old(WEIGHT_NORM, layer, dim=None), nn.Linear(9, 12)),
        dense,
        "linear",
        inputs=x(9),
    ),
    "old weight_norm of an lstm": Animal(
        lambda: old(WEIGHT_NORM, nn.LSTM(9, 10), name="weight_hh_l0"),
        recurrent("ifgo"),
        "rnn",
        inputs=x(1, 2, 9),
    ),
    "spectral_norm": Animal(
        lambda: with_(NEW_SPECTRAL_NORM, nn.Linear(9, 12)), dense, "linear", inputs=x(9)
    ),
    "spectral_norm of a square": Animal(
        lambda: with_(NEW_SPECTRAL_NORM, nn.Linear(9, 9)), dense, "linear", inputs=x(9)
    ),
    "spectral_norm of a transposed convolution": Animal(
        lambda: with_(NEW_SPECTRAL_NORM, nn.ConvTranspose2d(9, 9, 3)),
        kernel,
        "conv_transpose",
        kind_in_state="conv2d",
        inputs=x(1, 9, 5, 5),
    ),
    "old spectral_norm": Animal(
        lambda: with_(lambda layer: old(SPECTRAL_NORM, layer), nn.Linear(9, 12)),
        dense,
        "linear",
        inputs=x(9),
    ),
    "old spectral_norm of a convolution": Animal(
        lambda: with_(lambda layer: old(SPECTRAL_NORM, layer), nn.Conv1d(9, 12, 3)),
        kernel,
        "conv1d",
        inputs=x(1, 9, 5),
    ),
    "orthogonal": Animal(
        lambda: parametrizations.orthogonal(nn.Linear(9, 12)),
        dense,
        "linear",
        kind_in_state="",
        inputs=x(9),
    ),
    "custom": Animal(
        lambda: custom(nn.Linear(9, 9), Symmetric()),
        dense,
        "linear",
        kind_in_state="",
        inputs=x(9),
    ),
    "custom of two tensors": Animal(
        lambda: custom(nn.Linear(9, 12), LowRank()),
        dense,
        "linear",
        kind_in_state="",
        inputs=x(9),
    ),
    "parametrized conv1d of GPT-2": Animal(
        lambda: with_(NEW_WEIGHT_NORM, Conv1D(27, 9)), dense, "linear", inputs=x(9)
    ),
    "parametrized lstm": Animal(
        lambda: with_(NEW_WEIGHT_NORM, nn.LSTM(9, 10), name="weight_hh_l0"),
        recurrent("ifgo"),
        "rnn",
    ),
    "pruned": Animal(lambda: pruned(nn.Linear(9, 12), "l1"), dense, "linear", inputs=x(9)),
    "pruned conv1d of GPT-2": Animal(
        lambda: pruned(Conv1D(27, 9), "l1"), dense, "linear", inputs=x(9)
    ),
    "pruned again and again": Animal(
        lambda: pruned(nn.Conv2d(9, 12, 3), "l1", "structured", "random"),
        kernel,
        "conv2d",
        inputs=x(1, 9, 5, 5),
    ),
    "pruned lstm": Animal(
        lambda: pruned(nn.LSTM(9, 10), "l1", name="weight_ih_l0"), recurrent("ifgo"), "rnn"
    ),
}
ALL = PLAIN | COMPUTED
