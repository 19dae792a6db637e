"""What weights meet within layers whose insides no hook sees: heads of attention, hidden states.

Their inputs are computed a second time, by torch's own functions, from what the layer was given.
"""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from lightning_weightwatch.model.weights import parametrizations_of
from lightning_weightwatch.usage.met import Args, Kwargs, Seen, first_of, over_columns


def heads_of(module: nn.MultiheadAttention, args: Args, kwargs: Kwargs) -> Seen | None:
    """What `out_proj` meets: the outputs of the heads, side by side.

    The attention is computed again, without dropout, with the identity in the place of `out_proj`.
    """
    _refuse_if_it_changes(module)
    names = ("query", "key", "value", "key_padding_mask", "need_weights", "attn_mask")
    given = dict(zip(names, args, strict=False)) | dict(kwargs)
    inputs = [given[name].detach() for name in names[:3]]
    ignored, lengths = given.get("key_padding_mask"), None
    if inputs[0].is_nested:  # only ever with itself, and with no mask
        lengths = [len(part) for part in inputs[0].unbind()]
        inputs = [inputs[0].to_padded_tensor(0.0)] * 3
        places = torch.arange(inputs[0].shape[1], device=inputs[0].device)
        ignored = places >= torch.tensor(lengths, device=places.device).unsqueeze(1)
    if module.batch_first and inputs[0].dim() == 3:
        inputs = [x.transpose(0, 1) for x in inputs]
    query, key, value = inputs
    in_proj = module.in_proj_weight
    heads, _ = F.multi_head_attention_forward(
        query,
        key,
        value,
        module.embed_dim,
        module.num_heads,
        in_proj,
        module.in_proj_bias,
        module.bias_k,
        module.bias_v,
        module.add_zero_attn,
        0.0,
        torch.eye(module.embed_dim, dtype=query.dtype, device=query.device),
        None,
        training=False,
        key_padding_mask=ignored,
        need_weights=False,
        attn_mask=given.get("attn_mask"),
        use_separate_proj_weight=in_proj is None,
        q_proj_weight=module.q_proj_weight,
        k_proj_weight=module.k_proj_weight,
        v_proj_weight=module.v_proj_weight,
    )
    if lengths is not None:
        heads = torch.cat([heads[:length, at] for at, length in enumerate(lengths)])
    squares = over_columns(heads)
    rows = heads.numel() // module.embed_dim
    return None if squares is None else Seen(squares, (rows,), (None,))


@dataclass(frozen=True)
class _Sequences:
    """Rows of several sequences, step after step.

    Attributes:
        rows: [steps, sequences, features]; packed [rows, features].
        sizes: Of packed ones how many sequences have each step; else None.
    """

    rows: Tensor
    sizes: Tensor | None

    def states_before_steps(self, first: Tensor, *, reverse: bool) -> Iterator[Tensor]:
        """The hidden states that steps begin with, if these are those that they end with."""
        yield first
        if self.sizes is None:
            yield self.rows[1:] if reverse else self.rows[:-1]
        elif reverse:
            yield self.rows[int(self.sizes[0]) :]
        else:
            parts = torch.split(self.rows, self.sizes.tolist())
            yield from (
                part[: int(following)]
                for part, following in zip(parts, self.sizes[1:], strict=False)
            )


def states_of(module: nn.RNNBase, args: Args, kwargs: Kwargs, output: Any) -> Mapping[str, Seen]:
    """What the weights of nn.RNN, nn.LSTM and nn.GRU meet, by their names.

    The last layer's states are the output; those of the others are computed again, layer by layer,
    without the dropout between them.
    """
    given = first_of(args, kwargs)
    sequences, states = _sequences(module, given), _sequences(module, output[0])
    hidden = args[1] if len(args) > 1 else kwargs.get("hx")
    first = _first_states(module, sequences, given, hidden)
    directions = 2 if module.bidirectional else 1
    seen: dict[str, Seen] = {}
    for layer in range(module.num_layers):
        last = layer == module.num_layers - 1
        chosen = slice(layer * directions, (layer + 1) * directions)
        own = [state[chosen] for state in first]
        after = states if last else _run(module, layer, sequences, own)
        squares, tensor = over_columns(sequences.rows), sequences.rows
        if layer == 0:
            tensor = given.data if isinstance(given, PackedSequence) else given
        count = sequences.rows.shape[:-1].numel()
        for direction, part in enumerate(after.rows.chunk(directions, -1)):
            suffix = f"_l{layer}" + "_reverse" * direction
            before = _Sequences(part, after.sizes).states_before_steps(
                own[0][direction], reverse=direction == 1
            )
            parts = [found for found in map(over_columns, before) if found is not None]
            if squares is not None:
                seen[f"weight_ih{suffix}"] = Seen(squares, (count,), (tensor,))
            seen[f"weight_hh{suffix}"] = Seen(torch.stack(parts).sum(0), (count,), (None,))
        sequences = after
    return seen


def state_of(module: nn.RNNCellBase, args: Args, kwargs: Kwargs, _: Any) -> Mapping[str, Seen]:
    """What the weights of nn.RNNCell, nn.LSTMCell and nn.GRUCell meet, by their names."""
    given = first_of(args, kwargs)
    hidden = args[1] if len(args) > 1 else kwargs.get("hx")
    state = hidden[0] if isinstance(hidden, tuple) else hidden
    if state is None:
        state = given.new_zeros(*given.shape[:-1], module.hidden_size)
    seen: dict[str, Seen] = {}
    for name, values, tensor in (("weight_ih", given, given), ("weight_hh", state, state)):
        squares = over_columns(values.detach())
        if squares is not None:
            seen[name] = Seen(squares, (values.shape[:-1].numel(),), (tensor,))
    return seen


def is_known(module: nn.Module) -> bool:
    """Whether its forward is that of torch, which is what is computed again here."""
    known = (nn.MultiheadAttention, nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell)
    own = next((base for base in known if isinstance(module, base)), None)
    return own is not None and type(module).forward is own.forward


def _sequences(module: nn.RNNBase, given: Any) -> _Sequences:
    if isinstance(given, PackedSequence):
        return _Sequences(given.data.detach(), given.batch_sizes)
    rows = given.detach()
    if rows.dim() == 2:
        return _Sequences(rows.unsqueeze(1), None)
    return _Sequences(rows.transpose(0, 1) if module.batch_first else rows, None)


def _first_states(
    module: nn.RNNBase, sequences: _Sequences, given: Any, hidden: Any
) -> list[Tensor]:
    """The states [layers · directions, sequences, width] to begin with: h, of an LSTM also c."""
    rows = sequences.rows
    count = rows.shape[1] if sequences.sizes is None else int(sequences.sizes[0])
    layers = module.num_layers * (2 if module.bidirectional else 1)
    if hidden is None:
        widths = [module.proj_size or module.hidden_size]
        widths += [module.hidden_size] if isinstance(module, nn.LSTM) else []
        return [rows.new_zeros(layers, count, width) for width in widths]
    states = [state.detach() for state in (hidden if isinstance(hidden, tuple) else (hidden,))]
    states = [state.unsqueeze(1) if state.dim() == 2 else state for state in states]
    order = given.sorted_indices if isinstance(given, PackedSequence) else None
    return states if order is None else [state.index_select(1, order) for state in states]


def _run(module: nn.RNNBase, layer: int, sequences: _Sequences, first: list[Tensor]) -> _Sequences:
    """The outputs of one layer."""
    _refuse_if_it_changes(module)
    names = ["weight_ih", "weight_hh"] + ["bias_ih", "bias_hh"] * module.bias
    names += ["weight_hr"] * bool(module.proj_size)
    suffixes = [f"_l{layer}"] + [f"_l{layer}_reverse"] * module.bidirectional
    weights = [getattr(module, f"{name}{suffix}") for suffix in suffixes for name in names]
    function = getattr(torch._VF, module.mode.lower())
    state = tuple(first) if isinstance(module, nn.LSTM) else first[0]
    common = (weights, module.bias, 1, 0.0, False, module.bidirectional)
    with warnings.catch_warnings():  # cuDNN: some of its weights lie in no piece of their own
        warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous")
        if sequences.sizes is None:
            rows = function(sequences.rows, state, *common, False)[0]
        else:
            rows = function(sequences.rows, sequences.sizes, state, *common)[0]
    return _Sequences(rows, sequences.sizes)


def _refuse_if_it_changes(module: nn.Module) -> None:
    """Some parametrizations do more in training than to compute a weight."""
    if parametrizations_of(module) and module.training:
        raise ValueError("its parametrized weights cannot be computed again while it trains")
