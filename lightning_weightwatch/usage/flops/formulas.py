"""How many FLOPs an operation counts, and for which products.

The formulas are those that `torch.utils.flop_counter` knows, with those that users have registered
there. The formulas here are for operations that it does not know, or counts in another way.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

#: The tensors that a factor of a product is made from.
Factor = tuple[Tensor, ...]

_Formula = Callable[[tuple[Any, ...], Tensor], "list[Product]"]


class Product(NamedTuple):
    """A product of two factors. Its backward pass has two as large, one for each gradient."""

    flops: int
    left: Factor
    right: Factor


def products(
    operation: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any
) -> list[Product] | None:
    """What an operation multiplies; None for one without a formula.

    Args:
        operation: As a dispatch mode is given it.
        args: Of its call.
        kwargs: Of its call.
        out: What it returned.
    """
    packet = getattr(operation, "_overloadpacket", operation)
    tensors = list(tensors_of((args, kwargs)))
    if any(tensor.layout != torch.strided for tensor in tensors):
        return None  # how many zeros there are is not known
    made = next(tensors_of(out), None)
    own = _OWN.get(operation_name(operation))
    if own is not None and made is not None:
        found = own(args, made)
    elif packet in flop_registry:
        flops = int(flop_registry[packet](*args, **kwargs, out_val=out))
        first, *others = tensors
        found = [Product(flops, (first,), tuple(others))]
    else:
        return None
    # A complex product is four real ones.
    times = 4 if any(tensor.is_complex() for tensor in tensors) else 1
    return [product._replace(flops=times * product.flops) for product in found]


def operation_name(operation: Any) -> str:
    """Such as `aten.addmm`, also for the variant that works in place."""
    return str(getattr(operation, "_overloadpacket", operation)).rstrip("_")


def tensors_of(values: Any) -> Iterator[Tensor]:
    """All tensors in arguments or outputs, in their order."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping):
        for value in values.values():
            yield from tensors_of(value)
    elif isinstance(values, list | tuple):
        for value in values:
            yield from tensors_of(value)


def _matrices(first: int) -> _Formula:
    """Of a matrix product, whose factors are the arguments from the `first` on."""

    def formula(args: tuple[Any, ...], out: Tensor) -> list[Product]:
        left, right = args[first : first + 2]
        return [Product(2 * out.numel() * left.shape[-1], (left,), (right,))]

    return formula


def _sum_of_matrices(args: tuple[Any, ...], out: Tensor) -> list[Product]:
    _, left, right = args[:3]
    return [Product(2 * left.numel() * right.shape[-1], (left,), (right,))]


def _convolution(args: tuple[Any, ...], out: Tensor) -> list[Product]:
    """Every value on the smaller side meets a kernel: 2 · values · weights / their channels."""
    x, weight, transposed = args[0], args[1], args[6]
    return [Product(_of_kernel(x if transposed else out, weight), (x,), (weight,))]


def _convolution_backward(args: tuple[Any, ...], _: Tensor) -> list[Product]:
    given, x, weight, transposed, wanted = args[0], args[1], args[2], args[7], args[10]
    flops = _of_kernel(x if transposed else given, weight)
    found = [Product(flops, (given,), (weight,)), Product(flops, (given,), (x,))]
    return [product for product, asked in zip(found, wanted, strict=False) if asked]


def _of_kernel(values: Tensor, weight: Tensor) -> int:
    return 2 * values.numel() // values.shape[1] * weight.numel()


def _time_convolution(args: tuple[Any, ...], out: Tensor) -> list[Product]:
    x, weight = args[:2]
    return [Product(2 * out.shape[0] * out.shape[1] * weight.numel(), (x,), (weight,))]


def _attention(args: tuple[Any, ...], _: Tensor) -> list[Product]:
    return _of_attention(*args[:3])


def _of_attention(query: Tensor, key: Tensor, value: Tensor) -> list[Product]:
    """Scores and weighted values; a causal mask saves nothing, as is the custom."""
    pairs = 2 * query.shape[:-1].numel() * key.shape[-2]
    return [
        Product(pairs * query.shape[-1], (query,), (key,)),
        Product(pairs * value.shape[-1], (query, key), (value,)),
    ]


def _attention_backward(args: tuple[Any, ...], _: Tensor) -> list[Product]:
    """The scores once more, and two products for each of the forward pass."""
    scores, values = _of_attention(*args[1:4])
    return [scores._replace(flops=3 * scores.flops), values._replace(flops=2 * values.flops)]


def _recurrent(weights: slice) -> _Formula:
    """Of recurrent layers: every step of every sample meets each matrix once."""

    def formula(args: tuple[Any, ...], _: Tensor) -> list[Product]:
        met: Factor = (args[0],)
        found = []
        for matrix in tensors_of(args[weights]):
            if matrix.dim() == 2:
                flops = 2 * args[0].shape[:-1].numel() * matrix.numel()
                found.append(Product(flops, met, (matrix,)))
                met = (*met, matrix)
        return found

    return formula


def _multi_head_attention(args: tuple[Any, ...], _: Tensor) -> list[Product]:
    query, key, value, _, heads, inward, _, outward = args[:8]
    return _of_heads((query, key, value), heads, inward, outward)


def _encoder_layer(args: tuple[Any, ...], _: Tensor) -> list[Product]:
    x, heads, inward, outward, widening, narrowing = (args[i] for i in (0, 2, 3, 5, 14, 16))
    found = _of_heads((x, x, x), heads, inward, outward)
    for weight in (widening, narrowing):
        found.append(Product(2 * x.shape[:-1].numel() * weight.numel(), (x,), (weight,)))
    return found


def _of_heads(inputs: Factor, heads: int, inward: Tensor, outward: Tensor) -> list[Product]:
    """Projections of queries, keys and values, attention in each head, and the last projection."""
    width = outward.shape[0]
    tokens = [given.shape[:-1].numel() for given in inputs]
    found = [
        Product(2 * count * width * width, (given,), (inward,))
        for count, given in zip(tokens, inputs, strict=True)
    ]
    pairs = 2 * tokens[0] * inputs[1].shape[-2] * width  # over all heads
    found += [Product(pairs, inputs[:1], inputs[1:2]), Product(pairs, inputs[:2], inputs[2:])]
    return [*found, Product(2 * tokens[0] * width * width, inputs, (outward,))]


def _groups_of_matrices(args: tuple[Any, ...], _: Tensor) -> list[Product]:
    """Rows, columns or terms of one product are shared out among groups; or each has its own."""
    left, right = args[:2]
    groups = left.shape[0] if left.dim() == right.dim() == 3 else 1
    rows, terms, columns = left.shape[-2], left.shape[-1], right.shape[-1]
    return [Product(2 * groups * rows * terms * columns, (left,), (right,))]


def _bilinear(args: tuple[Any, ...], out: Tensor) -> list[Product]:
    """x₁ᵀ A x₂ as `nn.Bilinear` calls it: first the product with A [out, in₁, in₂]."""
    first, weight, second = args[:3]
    if [list(axes) for axes in args[3:7]] != [[1, 3], [0], [1, 2], [2, 3]]:
        raise ValueError("not the product of nn.Bilinear")
    rows = first.shape[0]
    return [
        Product(2 * rows * weight.numel(), (first,), (weight,)),
        Product(2 * rows * weight.shape[0] * weight.shape[2], (first, weight), (second,)),
    ]


_KERNELS = ("flash", "efficient", "cudnn")
_OWN: dict[str, _Formula] = {
    **dict.fromkeys(
        ("aten.mm", "aten.bmm", "aten.mv", "aten.dot", "aten.vdot", "aten._int_mm",
         "aten._weight_int8pack_mm"),
        _matrices(0),
    ),
    **dict.fromkeys(
        ("aten.addmm", "aten.baddbmm", "aten.addmv", "aten._addmm_activation"), _matrices(1)
    ),
    "aten.addbmm": _sum_of_matrices,
    **dict.fromkeys(("aten._grouped_mm", "aten._scaled_grouped_mm"), _groups_of_matrices),
    **dict.fromkeys(
        ("aten.convolution", "aten._convolution", "aten.convolution_overrideable"), _convolution
    ),
    "aten.convolution_backward": _convolution_backward,
    "aten.conv_tbc": _time_convolution,
    **{f"aten._scaled_dot_product_{kernel}_attention": _attention for kernel in _KERNELS},
    "aten._scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten._scaled_dot_product_fused_attention_overrideable": _attention,
    "aten._scaled_dot_product_attention_math_for_mps": _attention,
    "aten._scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward,
    "aten.mkldnn_rnn_layer": _recurrent(slice(1, 3)),
    "aten._cudnn_rnn": _recurrent(slice(1, 2)),
    "aten.miopen_rnn": _recurrent(slice(1, 2)),
    "aten._lstm_mps": _recurrent(slice(2, 3)),
    "aten._native_multi_head_attention": _multi_head_attention,
    "aten._transformer_encoder_layer_fwd": _encoder_layer,
    "aten._trilinear": _bilinear,
}  # fmt: skip
