"""The formulas of operations that run on devices which are not at hand: their arguments on meta."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_weightwatch.usage.flops.conventions import sort_of
from lightning_weightwatch.usage.flops.count import count_flops
from lightning_weightwatch.usage.flops.formulas import products

ATEN = torch.ops.aten


def empty(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


def macs(operation: Any, *args: Any, out: Any = None, **kwargs: Any) -> int:
    found = products(operation, args, kwargs, empty(1) if out is None else out)
    assert found is not None
    total = sum(product.flops for product in found)
    assert total % 2 == 0
    return total // 2


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("projected", [0, 5])
def test_recurrent_layers_cost_on_cudnn_what_they_cost_elsewhere(
    projected: int, bidirectional: bool
) -> None:
    layer = nn.LSTM(8, 16, 2, proj_size=projected, bidirectional=bidirectional, device="meta")
    x, state = empty(7, 3, 8), empty(1)
    weights = list(layer.parameters())
    rest: Any = (2, 16, projected, 2, False, 0.0, True, bidirectional, [], None)
    found = macs(ATEN._cudnn_rnn.default, x, weights, 4, None, state, state, *rest)
    assert found == count_flops(layer, x).macs
    rest = (2, 16, 2, False, 0.0, True, bidirectional, [], None)
    assert macs(ATEN.miopen_rnn.default, x, weights, 4, state, state, *rest) == found
    rest = (True, 2, 0.0, True, bidirectional, False)
    assert macs(ATEN._lstm_mps.default, x, [state, state], weights, *rest) == found


@pytest.mark.parametrize(
    "operation",
    [
        ATEN._scaled_dot_product_flash_attention.default,
        ATEN._scaled_dot_product_efficient_attention.default,
        ATEN._scaled_dot_product_cudnn_attention.default,
        ATEN._scaled_dot_product_flash_attention_for_cpu.default,
        ATEN._scaled_dot_product_attention_math_for_mps.default,
    ],
    ids=str,
)
def test_attention_costs_the_same_in_every_kernel(operation: Any) -> None:
    """Of 2 samples and 4 heads, 5 queries meet 7 keys of width 8 and values of width 6."""
    query, key, value = empty(2, 4, 5, 8), empty(2, 2, 7, 8), empty(2, 2, 7, 6)
    assert macs(operation, query, key, value) == 2 * 4 * 5 * 7 * (8 + 6)


def test_the_backward_pass_of_attention_has_five_products() -> None:
    """The scores once more, then the gradients of weights, values, queries and keys."""
    tensors = [empty(2, 4, 5, 8) for _ in range(5)]
    operation = ATEN._scaled_dot_product_flash_attention_for_cpu_backward.default
    assert macs(operation, *tensors, empty(2, 4, 5), 0.0, False) == 5 * 2 * 4 * 5 * 5 * 8


@pytest.mark.parametrize("wanted", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("transposed", [True, False])
def test_gradients_of_grouped_convolutions_cost_what_the_convolution_does(
    transposed: bool, wanted: tuple[bool, bool]
) -> None:
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    layer = kind(8, 8, 3, groups=4, device="meta")
    x = empty(2, 8, 9, 9)
    forward = count_flops(layer, x).macs
    places = ([1, 1], [0, 0], [1, 1], transposed, [0, 0], 4, [*wanted, False])
    arguments = (layer(x), x, layer.weight, None, *places)
    assert macs(ATEN.convolution_backward.default, *arguments) == forward * sum(wanted)


def test_other_products_with_a_formula() -> None:
    assert macs(ATEN._int_mm.default, empty(3, 4), empty(4, 5), out=empty(3, 5)) == 60
    fused = ATEN._addmm_activation.default
    assert macs(fused, empty(5), empty(3, 4), empty(4, 5), out=empty(3, 5)) == 60
    assert macs(ATEN.vdot.default, empty(9), empty(9), out=empty()) == 9
    times = ATEN.conv_tbc.default
    assert macs(times, empty(9, 2, 4), empty(3, 4, 6), empty(6), 0, out=empty(7, 2, 6)) == (
        7 * 2 * 3 * 4 * 6
    )


def test_multi_head_attention_in_one_operation_is_its_parts() -> None:
    query, key = empty(2, 5, 8), empty(2, 7, 8)
    weights = empty(24, 8), empty(24), empty(8, 8), empty(8)
    found = macs(ATEN._native_multi_head_attention.default, query, key, key, 8, 2, *weights)
    assert found == 2 * (2 * 5 + 2 * 7) * 8 * 8 + 2 * 2 * 5 * 7 * 8


def test_a_product_of_three_that_is_none_of_a_bilinear_layer_has_no_formula() -> None:
    x = empty(3, 4)
    with pytest.raises(ValueError, match="not the product of"):
        products(ATEN._trilinear.default, (x, x, x, [], [], [], [0]), {}, empty(4))

    class Three(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch._trilinear(x, x, x, [], [], [], [0])

    (unknown,) = count_flops(Three(), torch.ones(3, 4)).unknown
    assert unknown.operation == "aten._trilinear"


@pytest.mark.parametrize(
    ("operation", "sort"),
    [
        (ATEN.transpose.int, "free"),
        (ATEN._unsafe_view.default, "free"),
        (ATEN.zeros_like.default, "free"),
        (ATEN.detach.default, "free"),
        (ATEN.add.Tensor, "elementwise"),
        (ATEN.add_.Tensor, "elementwise"),
        (ATEN.silu.default, "elementwise"),
        (ATEN.sum.dim_IntList, "elementwise"),
        (ATEN.native_layer_norm.default, "elementwise"),
        (ATEN.native_layer_norm_backward.default, "elementwise"),
        (ATEN.max_pool2d_with_indices_backward.default, "elementwise"),
        (ATEN.nll_loss_backward.default, "elementwise"),
        (ATEN._softmax_backward_data.default, "elementwise"),
        (ATEN.upsample_bilinear2d.default, "elementwise"),
        (ATEN.embedding.default, "elementwise"),
        (ATEN.index_put_.default, "elementwise"),
        (ATEN._to_copy.default, "elementwise"),
        (ATEN.cat.default, "elementwise"),
        (ATEN.sort.default, "unknown"),
        (ATEN.topk.default, "unknown"),
        (ATEN._fft_r2c.default, "unknown"),
        (ATEN._linalg_svd.default, "unknown"),
        (ATEN._cdist_forward.default, "unknown"),
        (ATEN._ctc_loss.default, "unknown"),
    ],
    ids=str,
)
def test_what_is_not_counted_is_free_elementwise_or_unknown(operation: Any, sort: str) -> None:
    assert sort_of(operation, (empty(2),), {}, empty(2)) == sort
    assert sort_of(operation, (), {}, empty(2)) == "free"
    assert sort_of(operation, (empty(2),), {}, 1.0) == "free"
