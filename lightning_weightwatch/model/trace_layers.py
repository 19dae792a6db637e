"""Which modules a graph has as a whole, and how many channels they take and give."""

from collections.abc import Sequence

from torch import Tensor, nn

from lightning_weightwatch.model.weights import kind_of, parametrizations_of

#: Kinds of modules that are layers whatever is in them.
LAYER_KINDS = frozenset({
    "linear", "embedding", "conv1d", "conv2d", "conv3d", "conv_transpose", "bilinear", "attention",
    "rnn",
})  # fmt: skip
_INPUTS = (
    "in_features",
    "in_channels",
    "num_embeddings",
    "input_size",
    "embed_dim",
    "in1_features",
)
_OUTPUTS = ("out_features", "out_channels", "embedding_dim", "embed_dim")


def is_whole(module: nn.Module, *, is_model: bool) -> bool:
    """Whether it is a step as a whole: it has matrices and no part that has weights."""
    kind = kind_of(module)
    if kind in LAYER_KINDS:
        return True
    if kind == "norm" or is_model or any(True for child in module.children() if _weighs(child)):
        return False
    return any(
        sum(size > 1 for size in parameter.shape) >= 2
        for parameter in module.parameters(recurse=False)
        if not isinstance(parameter, nn.UninitializedParameter)
    )


def _weighs(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


def sizes_of(module: nn.Module, made: Sequence[Tensor]) -> tuple[int | None, int | None]:
    """Channels or features that a layer takes and gives."""
    inputs = next((getattr(module, name) for name in _INPUTS if hasattr(module, name)), None)
    outputs = next((getattr(module, name) for name in _OUTPUTS if hasattr(module, name)), None)
    if outputs is None and made and made[0].dim():
        outputs = made[0].shape[-1]
        if inputs is None and kind_of(module) == "linear":  # the Conv1D of GPT-2
            inputs = module.get_parameter("weight").shape[0]
    return inputs, outputs


def class_of(module: nn.Module) -> str:
    """The class that a layer was made of, parametrized or not."""
    made = type(module).__bases__[0] if parametrizations_of(module) else type(module)
    return made.__name__
