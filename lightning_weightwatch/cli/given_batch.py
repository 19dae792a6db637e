"""The batch that a command line describes, made of shapes: `1,3,224,224`, `ids=1,128:int64`."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_weightwatch.cli.refusal import Refusal

_EXPECTED = (
    "must be sizes with commas between them, such as 1,3,224,224, with a dtype after a colon, "
    "such as 1,128:int64, and a name before an equals sign, such as input_ids=1,128:int64"
)
_DTYPES = "float32, float16, bfloat16, float64, int64, int32, uint8, bool"


@dataclass(frozen=True)
class Input:
    """A tensor of a batch.

    Attributes:
        text: As it was given.
        name: Of the parameter that it is for; None for one by its position.
        shape: Its sizes, the batch first.
        given_dtype: Of its values; None for torch's default once the code of the model has run.
    """

    text: str
    name: str | None
    shape: tuple[int, ...]
    given_dtype: torch.dtype | None

    @property
    def dtype(self) -> torch.dtype:
        """Of its values."""
        return self.given_dtype or torch.get_default_dtype()

    def made(self, device: torch.device) -> Tensor:
        """The tensor: integers and truth values are all 0, others normally distributed.

        Raises:
            Refusal: If there is no room for it.
        """
        try:
            if device.type == "meta" or not (self.dtype.is_floating_point or self.dtype.is_complex):
                return torch.zeros(self.shape, dtype=self.dtype, device=device)
            chance = torch.Generator().manual_seed(0)
            return torch.randn(self.shape, generator=chance).to(device, self.dtype)
        except (RuntimeError, TypeError, OverflowError, MemoryError) as error:
            raise Refusal(f"--input {self.text}: too large for the memory") from error

    def __str__(self) -> str:
        name = f"{self.name} " if self.name else ""
        plain = self.dtype == torch.get_default_dtype()
        kind = "" if plain else f" {str(self.dtype).removeprefix('torch.')}"
        return f"{name}{'×'.join(map(str, self.shape))}{kind}"


def parsed_inputs(texts: Sequence[str]) -> list[Input]:
    """The inputs that a command line gives.

    Raises:
        Refusal: For one that is not understood, or a name that is there twice.
    """
    inputs = [_parsed(text) for text in texts]
    names = [given.name for given in inputs if given.name is not None]
    for name in names:
        if names.count(name) > 1:
            raise Refusal(f"--input {name}=...: given twice")
    return inputs


def _parsed(text: str) -> Input:
    name, equals, rest = text.rpartition("=")
    sizes, colon, kind = rest.partition(":")
    dtype = getattr(torch, kind, None) if colon else None
    if equals and not name.isidentifier():
        raise Refusal(f"--input {text}: {_EXPECTED}")
    if colon and not isinstance(dtype, torch.dtype):
        raise Refusal(f"--input {text}: {kind!r} is no dtype. There are: {_DTYPES}, ...")
    shape = [int(size) if size.strip().isdecimal() else 0 for size in sizes.split(",")]
    if min(shape) < 1:
        raise Refusal(f"--input {text}: {_EXPECTED}. Sizes are 1 or more")
    return Input(text, name or None, tuple(shape), dtype)


def made_batch(inputs: Sequence[Input], device: torch.device) -> Any:
    """A batch as a loader gives it: a tensor, a tuple of tensors, or a dictionary of the named.

    Of both sorts, a tuple with the dictionary last.
    """
    placed = tuple(given.made(device) for given in inputs if given.name is None)
    named = {given.name: given.made(device) for given in inputs if given.name is not None}
    if named:
        return (*placed, named) if placed else named
    return placed[0] if len(placed) == 1 else placed


def run_as_given(model: nn.Module, batch: Any) -> Any:
    """Run `forward` on all of a batch: a single parameter called `batch` gets it as it is."""
    args, kwargs = _arguments(model, batch)
    return model(*args, **kwargs)


def check_fit(model: nn.Module, batch: Any, target: str) -> None:
    """Refuse a batch whose parts are not the parameters of `forward`.

    Raises:
        Refusal: If it does not fit, with what the model takes.
    """
    signature, (args, kwargs) = _signature(model), _arguments(model, batch)
    if signature is None:
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        takes = ", ".join(str(parameter) for parameter in signature.parameters.values())
        raise Refusal(f"{target}: forward({takes}): {error}; give an --input for each") from error


def _arguments(model: nn.Module, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    signature = _signature(model)
    takes_it_whole = signature is not None and list(signature.parameters) == ["batch"]
    if takes_it_whole and not (isinstance(batch, dict) and "batch" in batch):
        return (batch,), {}
    if isinstance(batch, dict):
        return (), batch
    if not isinstance(batch, tuple):
        return (batch,), {}
    if batch and isinstance(batch[-1], dict):
        return batch[:-1], batch[-1]
    return batch, {}


def _signature(model: nn.Module) -> inspect.Signature | None:
    try:
        return inspect.signature(model.forward)
    except (TypeError, ValueError):  # of what is not written in Python
        return None
