"""The model that a command line names: an import path or a file, and a name in it."""

import contextlib
import difflib
import importlib
import importlib.util
import inspect
import os
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from lightning_weightwatch.cli.built_model import Given, said
from lightning_weightwatch.cli.refusal import Refusal

_SUFFIX = ".py"
_NAMED, _LONGEST = 8, 240


@contextlib.contextmanager
def users_code(target: str, arguments: Mapping[str, Any]) -> Iterator[Given]:
    """Find a model by its path; within the block its code runs as in a Python process of its own.

    The current folder, and that of the file, are on the path of imports. What the code prints goes
    to stderr, since stdout may hold a file. After the block the current folder is what it was.

    Args:
        target: `package.module:Name`, `package.module.Name` or `file.py:Name`.
        arguments: Of the class or function.

    Raises:
        Refusal: If it is not there, or is nothing that a model can be made of.
    """
    before, folder = list(sys.path), Path.cwd()
    place, name = _split(target)
    file = Path(place) if place.endswith(_SUFFIX) else None
    sys.path.insert(0, str(folder))
    if file is not None:
        sys.path.insert(0, str(file.resolve().parent))
    try:
        with contextlib.redirect_stdout(sys.stderr):
            if file is None:
                yield _given(target, *_imported(target, place, name), arguments)
            else:
                with _loaded(file) as module:
                    yield _given(target, module, name.split(".") if name else [], arguments)
    finally:
        sys.path[:] = before
        with contextlib.suppress(OSError):
            os.chdir(folder)


def _split(target: str) -> tuple[str, str]:
    """The module or file, and the name in it, empty where it is not set apart by a colon."""
    if target.endswith(_SUFFIX):
        return target, ""
    place, colon, name = target.rpartition(":")
    return (place, name) if colon else (target, "")


@contextlib.contextmanager
def _loaded(file: Path) -> Iterator[types.ModuleType]:
    """The module in a file, within the block by the name of the file, if no other has that."""
    name = file.stem if file.stem not in sys.modules else f"_given_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None or not file.is_file():
        raise Refusal(f"{file}: no such file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there for the module of a class
    try:
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            hint = ". Give it as package.module:Name" if "relative import" in str(error) else ""
            raise Refusal(f"{file} cannot be imported: {said(error)}{hint}") from error
        yield module
    finally:
        sys.modules.pop(name, None)


def _imported(target: str, place: str, name: str) -> tuple[types.ModuleType, list[str]]:
    """The module of a dotted path, and the names in it: without a colon, what is no module.

    Raises:
        Refusal: If there is no such module, or it cannot be imported.
    """
    parts = place.split(".")
    if not all(part.isidentifier() for part in parts):
        raise Refusal(f"{target}: must be package.module:Name or file.py:Name")
    for end in range(len(parts), len(parts) - 1 if name else 0, -1):
        module = _module(".".join(parts[:end]))
        if module is not None:
            break
    else:
        missing = place if name else parts[0]
        raise Refusal(
            f"{target}: there is no module {missing}, neither here nor among the installed packages"
        )
    if name:
        return module, name.split(".")
    above = sys.modules.get(".".join(parts[:-1]))
    if end == len(parts) and above is not None and getattr(above, parts[-1], module) is not module:
        return above, parts[-1:]  # a function that is called like the module it is from
    return module, parts[end:]


def _module(path: str) -> types.ModuleType | None:
    """A module, None if there is none of that name.

    Raises:
        Refusal: If it is there and cannot be imported.
    """
    try:
        return importlib.import_module(path)
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{path}.".startswith(f"{missing}."):
            return None
        raise Refusal(f"{path} cannot be imported: {said(error)}") from error


def _given(
    target: str, module: types.ModuleType, names: Sequence[str], arguments: Mapping[str, Any]
) -> Given:
    """What a model is made of, looked up in a module.

    Raises:
        Refusal: If there is nothing of that name, or it is nothing to make a model of.
    """
    found: Any = module
    for name in names:
        if not hasattr(found, name):
            raise Refusal(f"{target}: {_nothing_like(name, found)}")
        found = getattr(found, name)
    if isinstance(found, types.ModuleType):
        raise Refusal(f"{target}: a module; give MODULE:NAME. {_some(_models_in(found))}")
    file = getattr(module, "__file__", None) or ""
    if isinstance(found, nn.Module):
        if arguments:
            raise Refusal(f"{target} is a model already: --init is for a class or a function")
        return Given(target, found, arguments, file)
    if isinstance(found, type) and not issubclass(found, nn.Module):
        raise Refusal(f"{target} is a class, but not of nn.Module. {_some(_models_in(module))}")
    if not callable(found):
        told = f"{target} is of type {type(found).__name__}: give a class or a function"
        raise Refusal(f"{told}. {_some(_models_in(module))}")
    _check_arguments(target, found, arguments)
    return Given(target, found, arguments, file)


def _check_arguments(target: str, made_by: Any, arguments: Mapping[str, Any]) -> None:
    try:
        signature = inspect.signature(made_by)
    except (TypeError, ValueError):  # of what is not written in Python
        return
    try:
        signature.bind(**arguments)
    except TypeError as error:
        takes = ", ".join(map(str, signature.parameters.values()))
        raise Refusal(
            f"{target}({takes[:_LONGEST]}): {error}. Give its arguments with --init NAME=VALUE"
        ) from error


def _nothing_like(name: str, place: Any) -> str:
    """That a name is not there, and those that may be meant."""
    near = difflib.get_close_matches(name, [key for key in dir(place) if key[:1] != "_"], n=3)
    where = getattr(place, "__name__", "it")
    told = f"Did you mean {' or '.join(near)}?" if near else _some(_models_in(place))
    return f"{where} has no {name}. {told}"


def _models_in(place: Any) -> list[str]:
    """The classes of models in a module, its own before those that it imports."""
    found = [
        (getattr(value, "__module__", "") != getattr(place, "__name__", ""), name)
        for name, value in vars(place).items()
        if isinstance(value, type) and issubclass(value, nn.Module)
    ]
    return [name for _, name in sorted(found)]


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    shown = ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
    return f"There are: {shown}" if names else "There is no model in it"
