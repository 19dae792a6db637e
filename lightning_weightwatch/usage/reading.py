"""At which module, and how, what a weight meets can be read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from lightning_weightwatch.model.weights import Weight
from lightning_weightwatch.usage.met import (
    Args,
    Convolution,
    Kwargs,
    Read,
    Seen,
    TransposedConvolution,
    read_attention,
    read_convolution,
    read_embedding,
    read_linear,
    read_transposed_convolution,
)
from lightning_weightwatch.usage.within import heads_of, is_known, state_of, states_of

_OUT_OF_SIGHT = {
    "embedding": "an embedding is a table to look up in: it has no inputs to weigh by",
    "rnn": "the hidden states of recurrent layers are not seen by hooks",
}


@dataclass(frozen=True)
class Reader:
    """Where and how to read the inputs of some weights.

    Attributes:
        module: The one to hook.
        read: From the module, its arguments and what it gave: what weights met, by attribute.
        after: Whether it needs what the module gave.
    """

    module: nn.Module
    read: Callable[[Any, Args, Kwargs, Any], Mapping[str, Seen]]
    after: bool = False


def plain_reader(weight: Weight) -> Reader | str:
    """Of a weight whose inputs are arguments of its module, or why they are not."""
    module = weight.module
    if isinstance(module, NonDynamicallyQuantizableLinear):
        return "the input of this layer is within MultiheadAttention, where hooks do not see it"
    if weight.kind == "linear":
        return _alone(weight, read_linear)
    if weight.kind == "attention":
        every = ("query", "key", "value")
        one = {"q_proj_weight": "query", "k_proj_weight": "key", "v_proj_weight": "value"}
        if weight.attribute == "in_proj_weight":
            return _alone(weight, partial(read_attention, every))
        if weight.attribute in one:
            return _alone(weight, partial(read_attention, (one[weight.attribute],)))
    if isinstance(module, TransposedConvolution):
        return _alone(weight, partial(read_transposed_convolution, module))
    if isinstance(module, Convolution):
        return _alone(weight, partial(read_convolution, module))
    return _OUT_OF_SIGHT.get(weight.kind, f"the inputs of {type(module).__name__} are not known")


def reader_within(holders: Mapping[int, nn.MultiheadAttention], weight: Weight) -> Reader | str:
    """The same, also of embeddings, and of what is met within attention and recurrent layers.

    Args:
        holders: By the ids of their `out_proj`.
        weight: A weight of the model.
    """
    module = weight.module
    if weight.parameter.dim() < 2:
        return f"a {weight.parameter.dim()}-D weight is not multiplied with inputs"
    if weight.kind in ("norm", "other"):
        return f"the inputs of {type(module).__name__} are not known"
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return _alone(weight, partial(read_embedding, module))
    if id(module) in holders:
        holder = holders[id(module)]
        if not is_known(holder):
            return f"the insides of {type(holder).__name__} are not known"
        return _alone(weight, partial(heads_of, holder), holder)
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        if weight.attribute.startswith("weight_hr"):
            return "the states that an LSTM projects are not seen by hooks"
        if not is_known(module):
            return f"the insides of {type(module).__name__} are not known"
        if isinstance(module, nn.RNNBase):
            return Reader(module, states_of, after=True)
        return Reader(module, state_of)
    return plain_reader(weight)


def _alone(weight: Weight, read: Read, module: nn.Module | None = None) -> Reader:
    """The reader of one weight."""

    def read_one(_: Any, args: Args, kwargs: Kwargs, __: Any) -> Mapping[str, Seen]:
        seen = read(args, kwargs)
        return {} if seen is None else {weight.attribute: seen}

    return Reader(weight.module if module is None else module, read_one)
