"""The operators that a network may have: a list of what is allowed, and nothing else is.

All are functions of tensors and numbers. None reads a file, runs Python, calls a graph (higher-order operators),
shows memory that was not written, or makes more of a tensor because of the values in it. Random numbers are drawn by
dropout alone, which evaluation turns off.
"""

from __future__ import annotations


def _listed(text: str) -> frozenset[str]:
    """The operators of a table: `add.Tensor`, or `relu`, which stands for `relu.default`."""
    return frozenset(f"aten.{word}" if "." in word else f"aten.{word}.default" for word in text.split())


_ELEMENTWISE = _listed("""
    abs acos acosh asin asinh atan atan2 atanh ceil cos cosh deg2rad digamma erf erfc erfinv exp exp2 expm1 floor frac
    lgamma log log10 log1p log2 neg negative positive rad2deg reciprocal round round.decimals rsqrt sgn sigmoid sign
    signbit sin sinc sinh sqrt square tan tanh trunc logit nan_to_num xlogy.Tensor hypot copysign.Tensor copysign.Scalar
    add.Tensor add.Scalar sub.Tensor sub.Scalar rsub.Tensor rsub.Scalar mul.Tensor mul.Scalar multiply.Tensor
    multiply.Scalar subtract.Tensor subtract.Scalar div.Tensor div.Scalar div.Tensor_mode div.Scalar_mode divide.Tensor
    divide.Scalar true_divide.Tensor true_divide.Scalar floor_divide floor_divide.Scalar fmod.Tensor fmod.Scalar
    remainder.Tensor remainder.Scalar pow.Tensor_Scalar pow.Tensor_Tensor pow.Scalar float_power.Tensor_Scalar
    maximum minimum fmax fmin max.other min.other clamp clamp.Tensor clamp_min clamp_min.Tensor clamp_max
    clamp_max.Tensor clip clip.Tensor lerp.Scalar lerp.Tensor addcmul addcdiv logaddexp logaddexp2
    eq.Tensor eq.Scalar ne.Tensor ne.Scalar lt.Tensor lt.Scalar le.Tensor le.Scalar gt.Tensor gt.Scalar ge.Tensor
    ge.Scalar isnan isinf isfinite isclose logical_and logical_or logical_xor logical_not bitwise_and.Tensor
    bitwise_and.Scalar bitwise_or.Tensor bitwise_or.Scalar bitwise_xor.Tensor bitwise_xor.Scalar bitwise_not
    __and__.Tensor __and__.Scalar __or__.Tensor __or__.Scalar __xor__.Tensor __xor__.Scalar
    bitwise_left_shift.Tensor bitwise_left_shift.Tensor_Scalar bitwise_right_shift.Tensor
    bitwise_right_shift.Tensor_Scalar
    where.self where.ScalarOther where.ScalarSelf where.Scalar masked_fill.Scalar masked_fill.Tensor
    relu relu6 elu selu celu gelu silu mish leaky_relu prelu _prelu_kernel rrelu hardtanh hardsigmoid hardswish
    hardshrink softshrink softplus log_sigmoid threshold glu
""")

_REDUCTIONS = _listed("""
    sum sum.dim_IntList mean mean.dim prod prod.dim_int std std.dim std.correction var var.dim var.correction
    var_mean.dim var_mean.correction std_mean.dim std_mean.correction amax amin aminmax max max.dim min min.dim argmax
    argmin any any.dim any.dims all all.dim all.dims norm.Scalar norm.ScalarOpt_dim norm.ScalarOpt_dim_dtype
    linalg_vector_norm nansum nanmean median.dim count_nonzero count_nonzero.dim_IntList logsumexp cumsum cumprod cummax
    cummin logcumsumexp softmax.int log_softmax.int _softmax _log_softmax _safe_softmax topk sort sort.stable argsort
    argsort.stable kthvalue
""")

_LAYERS = _listed("""
    linear bilinear conv1d conv1d.padding conv2d conv2d.padding conv3d conv3d.padding conv_transpose1d
    conv_transpose2d.input conv_transpose3d.input convolution conv_tbc
    batch_norm instance_norm layer_norm group_norm rms_norm native_layer_norm native_group_norm
    dropout feature_dropout alpha_dropout feature_alpha_dropout native_dropout
    avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
    embedding embedding_bag.padding_idx one_hot
    gru.input lstm.input rnn_tanh.input rnn_relu.input gru_cell lstm_cell rnn_tanh_cell rnn_relu_cell
    scaled_dot_product_attention cosine_similarity pairwise_distance cdist
    upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_nearest1d.vec upsample_nearest2d.vec
    upsample_nearest3d.vec _upsample_nearest_exact1d.vec _upsample_nearest_exact2d.vec _upsample_nearest_exact3d.vec
    upsample_linear1d upsample_linear1d.vec upsample_bilinear2d upsample_bilinear2d.vec upsample_trilinear3d
    upsample_trilinear3d.vec upsample_bicubic2d upsample_bicubic2d.vec _upsample_bilinear2d_aa.vec
    _upsample_bicubic2d_aa.vec grid_sampler grid_sampler_2d affine_grid_generator pixel_shuffle pixel_unshuffle
    channel_shuffle native_channel_shuffle im2col col2im _weight_norm
""")

_PRODUCTS = _listed("""
    mm bmm mv dot matmul addmm addbmm addmv addr baddbmm einsum outer inner tensordot kron cross linalg_cross
    chain_matmul
""")

_SHAPES = _listed("""
    view reshape view_as reshape_as _unsafe_view flatten.using_ints unflatten.int ravel squeeze squeeze.dim squeeze.dims
    unsqueeze expand expand_as broadcast_to broadcast_tensors repeat repeat_interleave.self_int tile
    permute transpose.int t swapaxes swapdims movedim.int movedim.intlist moveaxis.int numpy_T mT adjoint
    cat concat concatenate stack hstack vstack dstack column_stack
    chunk split.Tensor split.sizes split_with_sizes tensor_split.sections tensor_split.indices unsafe_chunk
    unsafe_split.Tensor unbind.int select.int slice.Tensor narrow unfold
    index.Tensor index_select index_add index_copy index_fill.int_Scalar index_put gather scatter.src scatter.value
    scatter_add scatter_reduce.two take take_along_dim select_scatter slice_scatter
    diagonal diag diag_embed diff tril triu trace flip fliplr flipud rot90 roll
    pad constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d
    replication_pad3d meshgrid meshgrid.indexing
    clone contiguous detach alias lift_fresh lift_fresh_copy to.dtype to.dtype_layout to.other _to_copy type_as
    isin.Tensor_Tensor searchsorted.Tensor bucketize.Tensor copy fill.Scalar fill.Tensor
    view_as_complex view_as_real real imag complex polar fft_fft fft_ifft fft_rfft fft_irfft fft_fft2 fft_ifft2
    fft_rfft2 fft_irfft2 fft_fftn fft_ifftn fft_rfftn fft_irfftn
""")

#: Operators that make a tensor out of numbers alone; where it is made, the builder says.
CREATING = _listed("""
    zeros ones full eye eye.m arange arange.start arange.start_step linspace scalar_tensor tril_indices triu_indices
""")

_LIKE = _listed("""
    zeros_like ones_like full_like new_zeros new_ones new_full
""")

#: Operators that write their result over their first argument.
IN_PLACE = _listed("""
    abs_ ceil_ exp_ floor_ log_ neg_ reciprocal_ round_ rsqrt_ sigmoid_ sqrt_ square_ tanh_ add_.Tensor add_.Scalar
    sub_.Tensor sub_.Scalar mul_.Tensor mul_.Scalar div_.Tensor div_.Scalar pow_.Scalar clamp_ clamp_min_ clamp_max_
    lerp_.Scalar lerp_.Tensor addcmul_ addcdiv_ relu_ relu6_ elu_ selu_ celu_ gelu_ silu_ mish_ leaky_relu_ rrelu_
    hardtanh_ hardsigmoid_ hardswish_ threshold_ dropout_ feature_dropout_ alpha_dropout_ feature_alpha_dropout_
    masked_fill_.Scalar masked_fill_.Tensor fill_.Scalar fill_.Tensor zero_ copy_ index_put_ index_add_ index_copy_
    scatter_.src scatter_.value scatter_add_ tril_ triu_ logical_and_ logical_or_ logical_not_
""")

#: Operators whose result may lie in the memory of what they are given: views, and what returns an argument as it is.
MAY_SHARE = _SHAPES | _listed("""
    positive round ceil floor trunc dropout feature_dropout alpha_dropout feature_alpha_dropout native_dropout
    pixel_shuffle pixel_unshuffle channel_shuffle einsum chain_matmul rrelu
""")

#: Arithmetic on sizes, which a dynamic batch brings along.
_SYMBOLIC = """
    _operator.add _operator.sub _operator.mul _operator.floordiv _operator.truediv _operator.mod _operator.neg
    _operator.pos _operator.pow _operator.eq _operator.ne _operator.lt _operator.le _operator.gt _operator.ge
    math.trunc math.ceil math.floor
    torch.sym_int torch.sym_float torch.sym_max torch.sym_min torch.sym_not torch.sym_ite
    aten.sym_size.int aten.sym_numel.default
"""
SYMBOLIC = frozenset(_SYMBOLIC.split())

OPERATORS = _ELEMENTWISE | _REDUCTIONS | _LAYERS | _PRODUCTS | _SHAPES | CREATING | _LIKE | IN_PLACE | SYMBOLIC

_RANDOM = "It draws random numbers in evaluation, too; export the network in evaluation mode, or take them out"

#: What to do about some operators that people meet.
REMEDIES = {
    **dict.fromkeys(
        _listed("rand randn rand_like randn_like bernoulli bernoulli.p bernoulli_.float uniform_ normal_"), _RANDOM
    ),
    "aten._transformer_encoder_layer_fwd.default": "Export the network outside of torch.no_grad()",
    "aten._native_multi_head_attention.default": "Export the network outside of torch.no_grad()",
    "aten.item.default": "Its result depends on the value of a tensor; compute with the tensor itself",
    "aten._local_scalar_dense.default": "Its result depends on the value of a tensor; compute with the tensor itself",
    "aten.nonzero.default": "The size of its result depends on values; use torch.where(mask, a, b)",
    "aten.masked_select.default": "The size of its result depends on values; use torch.where(mask, a, b)",
    "higher_order.wrap_with_set_grad_enabled": "Take torch.no_grad() out of forward(); x.detach() does the same",
    "higher_order.wrap_with_autocast": "Take torch.autocast out of forward(), and convert types with x.to(dtype)",
}
