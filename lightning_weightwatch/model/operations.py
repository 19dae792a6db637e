"""What torch's functions do to the channels of what they are given, told by their names."""

from collections.abc import Callable, Sequence
from typing import Any

_SHORT = {
    "iadd": "add", "radd": "add", "isub": "sub", "rsub": "sub", "subtract": "sub",
    "imul": "mul", "rmul": "mul", "multiply": "mul", "truediv": "div", "itruediv": "div",
    "rtruediv": "div", "rdiv": "div", "true_divide": "div", "divide": "div", "imatmul": "matmul",
    "rmatmul": "matmul", "bmm": "matmul", "mm": "matmul", "baddbmm": "matmul",
    "concat": "cat", "concatenate": "cat", "hstack": "cat", "vstack": "cat", "dstack": "cat",
    "column_stack": "cat", "row_stack": "cat", "setitem": "set", "copy": "set", "getitem": "get",
    "scaled_dot_product_attention": "attention", "multi_head_attention_forward": "attention",
    "flex_attention": "attention", "max": "maximum", "min": "minimum",
}  # fmt: skip
_JOINING = {"cat", "stack", "set", "block_diag", "cartesian_prod"}
_ELEMENT_BY_ELEMENT = {
    "add", "sub", "mul", "div", "maximum", "minimum", "where", "lerp", "addcmul", "addcdiv",
    "masked_fill", "masked_scatter",
}  # fmt: skip
_PRODUCTS = {
    "linear", "matmul", "addmm", "addmv", "mv", "einsum", "tensordot", "bilinear", "embedding",
    "embedding_bag", "attention",
}  # fmt: skip
_LOSSES = {"cross_entropy", "binary_cross_entropy", "kl_div"}


def label_of(func: Callable[..., Any]) -> str:
    """A function in a word: `add` for `torch.add`, `x + y` and `x += y`."""
    name = getattr(func, "__name__", type(func).__name__).strip("_")
    return _SHORT.get(name, name)


def keeps_channels(label: str) -> bool:
    """Whether channel c of the result is made of the channels c of what is joined."""
    return label in _ELEMENT_BY_ELEMENT


def is_loss(label: str) -> bool:
    """Whether a function compares with a target."""
    return label in _LOSSES or label.endswith(("_loss", "_with_logits"))


def takes_masks(label: str) -> bool:
    """Whether integers and truth values among floats choose, and are no data of their own."""
    return label not in _JOINING


def multiplies(label: str) -> bool:
    """Whether a function with a matrix is a layer."""
    return label in _PRODUCTS or label.startswith("conv")


def outputs_of_product(
    label: str, given: Sequence[int], made: Sequence[int]
) -> tuple[int | None, int | None]:
    """Channels or features before and after a product with a weight, from the sizes of both."""
    axis = 1 if label.startswith("conv") and min(len(given), len(made)) > 1 else -1
    before = given[axis] if given and not label.startswith("embedding") else None
    return before, made[axis] if made else None


def outputs_of_junction(label: str, known: Sequence[int | None], made: Sequence[int]) -> int | None:
    """Channels of what joins steps with so many.

    Args:
        label: Of the function.
        known: Channels of each step, in order.
        made: Sizes of the result.
    """
    counts = [count for count in known if count is not None]
    if not counts:
        return None
    if label == "cat" and len(counts) == len(known) and sum(counts) in made:
        return sum(counts)
    # Of query, key and value, the value; of others the larger, to which a gate is spread.
    return counts[-1] if label in ("attention", "matmul") else max(counts)
