"""Which operations cost nothing, which convention leaves out, and whose cost is not known."""

from typing import Any, Literal

from lightning_weightwatch.usage.flops.formulas import operation_name, tensors_of


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


Sort = Literal["free", "elementwise", "unknown"]

# Not marked as views by torch, or without anything to compute.
_FREE = _names(
    """
    _assert_async _assert_tensor_metadata _conj _dimI _dimV _functional_assert_async
    _functional_assert_scalar _fused_sdp_choice _has_compatible_shallow_copy_type
    _has_same_storage_numel _lazy_clone _local_scalar_dense _neg_view _nnz _reshape_alias
    _resize_output _unsafe_view _use_cudnn_ctc_loss alias as_strided detach detach_copy empty_like
    empty_permuted full_like is_coalesced is_pinned is_same_size is_set_to lift lift_fresh
    lift_fresh_copy linspace logspace new_empty new_empty_strided new_full new_ones new_zeros
    ones_like rand_like randint_like randn_like record_stream resize resize_as set set_data squeeze
    swapaxes swapdims t transpose unsafe_chunk unsafe_split unsafe_split_with_sizes unsqueeze
    view_as_complex view_as_real zero zeros_like
    """
)

# Those that torch has marked neither as pointwise nor as a reduction, in some version.
_ELEMENTWISE = _names(
    """
    _adaptive_avg_pool2d _adaptive_avg_pool3d _add_relu _aminmax _batch_norm_no_update
    _batch_norm_with_update _batch_norm_with_update_functional _chunk_cat _cummax_helper
    _cummin_helper _embedding_bag _embedding_bag_dense _embedding_bag_forward_only
    _embedding_bag_per_sample_weights _foreach_add _foreach_mul _fused_dropout _fused_rms_norm
    _index_put_impl _is_all_true _is_any_true _log_softmax _log_softmax_backward_data _logcumsumexp
    _masked_scale _masked_softmax _native_batch_norm_legit _native_batch_norm_legit_functional
    _native_batch_norm_legit_no_training _pack_padded_sequence _pin_memory _prelu_kernel
    _safe_softmax _sample_dirichlet _segment_reduce _softmax _softmax_backward_data _stack
    _standard_gamma _thnn_fused_gru_cell _thnn_fused_lstm_cell _thnn_fused_lstm_cell_backward_impl
    _to_copy _to_dense _transform_bias_rescale_qkv _unsafe_index _unsafe_index_put
    _unsafe_masked_index _unsafe_masked_index_put_accumulate _upsample_bicubic2d_aa
    _upsample_bilinear2d_aa _upsample_lanczos2d_aa _upsample_nearest_exact1d
    _upsample_nearest_exact2d _upsample_nearest_exact3d _weight_norm_interface abs
    adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d addr
    affine_grid_generator all allclose amax amin aminmax any argmax argmin as_strided_scatter
    avg_pool1d avg_pool2d avg_pool3d batch_norm_elemt batch_norm_gather_stats
    batch_norm_gather_stats_with_counts batch_norm_stats batch_norm_update_stats bernoulli
    binary_cross_entropy binary_cross_entropy_with_logits bincount binomial block_diag bucketize cat
    cauchy channel_shuffle clone col2im complex constant_pad_nd copy copysign count_nonzero
    cudnn_affine_grid_generator cudnn_batch_norm cudnn_grid_sampler cummax cummin cumprod cumsum
    dequantize diag_embed diagonal diagonal_copy diagonal_scatter dist dropout elu embedding
    embedding_dense embedding_renorm eq exponential fill flip floor_divide fractional_max_pool2d
    fractional_max_pool3d gather gcd ge gelu geometric glu glu_jvp grid_sampler_2d grid_sampler_3d
    gt hardshrink hardsigmoid hardswish hardtanh heaviside histc histogram huber_loss im2col index
    index_add index_copy index_fill index_put index_reduce index_select isin l1_loss lcm le
    leaky_relu linalg_vector_norm log_normal log_sigmoid_forward logcumsumexp logit logsumexp lt
    masked_fill masked_scatter masked_select max max_pool1d max_pool2d max_pool2d_with_indices
    max_pool3d_with_indices max_unpool2d max_unpool3d mean median min miopen_batch_norm mish
    mse_loss multi_margin_loss multilabel_margin_loss_forward multinomial nan_to_num nanmedian
    native_batch_norm native_channel_shuffle native_dropout native_group_norm native_layer_norm ne
    nll_loss2d_forward nll_loss_forward nonzero nonzero_static norm normal normal_functional one_hot
    pin_memory pixel_shuffle pixel_unshuffle poisson polar prelu prod put random randperm
    reflection_pad1d reflection_pad2d reflection_pad3d relu renorm repeat repeat_interleave
    replication_pad1d replication_pad2d replication_pad3d roll rot90 rrelu_with_noise
    rrelu_with_noise_functional rsub scatter scatter_add scatter_reduce searchsorted segment_reduce
    select select_scatter sigmoid silu slice slice_scatter smooth_l1_loss soft_margin_loss softplus
    softshrink split_with_sizes_copy stack std std_mean sum take tanh threshold to_padded_tensor
    trace tril triu unfold unfold_copy uniform upsample_bicubic2d upsample_bilinear2d
    upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d
    var var_mean where xlogy
    """
)


def sort_of(operation: Any, args: Any, kwargs: Any, out: Any) -> Sort:
    """What an operation without a formula is.

    | sort        | operations                                                              |
    |-------------|-------------------------------------------------------------------------|
    | free        | views, new tensors, questions about tensors                             |
    | elementwise | elementwise operations, reductions, normalisation, pooling, resizing,   |
    |             | padding, softmax, losses, look-ups, copies                              |
    | unknown     | all others: Fourier transforms, decompositions, sorting, users' own     |
    """
    if next(tensors_of(out), None) is None or next(tensors_of((args, kwargs)), None) is None:
        return "free"
    room, _, name = operation_name(operation).rpartition(".")
    if getattr(operation, "is_view", False) or (room == "aten" and name in _FREE):
        return "free"
    tags = set(map(str, getattr(operation, "tags", ())))
    if tags & {"Tag.pointwise", "Tag.reduction"}:
        return "elementwise"
    plain = name.removesuffix("_backward").removesuffix("_copy")
    left_out = not _ELEMENTWISE.isdisjoint({name, plain, f"{plain}_forward"})
    return "elementwise" if room == "aten" and (left_out or name.endswith("_copy")) else "unknown"
