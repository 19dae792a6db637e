"""A model out of what a command line says of it: built without values, or for real."""

import json
import os
import traceback
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_weightwatch.cli.refusal import Refusal

_LONGEST = 240
_WORDS = {"True": True, "False": False, "None": None}


@dataclass(frozen=True)
class Given:
    """What a command line says of a model.

    Attributes:
        target: As it was given.
        made_by: A class, a function, or the model itself.
        arguments: Of the class or function.
        file: The one with the code; empty if it is not known.
    """

    target: str
    made_by: Any
    arguments: Mapping[str, Any]
    file: str

    def on_meta(self) -> nn.Module | None:
        """The model without values, which takes no memory; None if it cannot be built like that."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one for each weight that is loaded to nowhere
            try:
                with torch.device("meta"):
                    return self._made()
            except Refusal:
                raise
            except (Exception, SystemExit):
                return None

    def whole(self) -> nn.Module:
        """The model with its values.

        Raises:
            Refusal: If it cannot be built, with what its code said.
        """
        try:
            return self._made()
        except Refusal:
            raise
        except (Exception, SystemExit) as error:
            raise Refusal(f"{self.target} cannot be built: {said(error)}") from error

    def _made(self) -> nn.Module:
        if isinstance(self.made_by, nn.Module):
            return self.made_by
        model = self.made_by(**self.arguments)
        if not isinstance(model, nn.Module):
            kind = type(model).__name__
            raise Refusal(f"{self.target} returned a value of type {kind}, not an nn.Module")
        return model


def parsed_arguments(texts: Sequence[str]) -> dict[str, Any]:
    """Arguments as a command line gives them: `width=64`, `sizes=[2,2]`, `activation=relu`.

    A value is JSON, or True, False or None; anything else is a text.

    Raises:
        Refusal: For one without a name, or with that of another.
    """
    arguments: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise Refusal(f"--init {text}: must be NAME=VALUE, such as num_classes=10")
        if name in arguments:
            raise Refusal(f"--init {text}: {name} is given twice")
        try:
            arguments[name] = _WORDS[value] if value in _WORDS else json.loads(value)
        except ValueError:
            arguments[name] = value
    return arguments


def said(error: BaseException) -> str:
    """An exception of the user's code: its type, its first line, and where that code raised it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    what = type(error).__name__ + (f": {lines[0][:_LONGEST]}" if lines else "")
    places = [
        f"{Path(frame.filename).name}, line {frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if _is_users(frame.filename)
    ]
    return f"{what.rstrip('.')} ({places[-1]})" if places else what


def _is_users(file: str) -> bool:
    """Whether code is neither ours, nor of Python, nor of an installed package."""
    path, others = Path(file), {Path(__file__).parents[1], Path(os.__file__).parent}
    installed = {"site-packages", "dist-packages"} & set(path.parts)
    return path.is_file() and not installed and others.isdisjoint(path.parents)
