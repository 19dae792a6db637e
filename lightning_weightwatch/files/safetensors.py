"""Safetensors files: no code in them, every tensor read from disk when it is asked for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_weightwatch.files.bad_file import BadFile
from lightning_weightwatch.files.printable import in_one_line
from lightning_weightwatch.files.weight_file import TensorInfo, WeightFile

# F4, F6_E2M3 and F6_E3M2 are missing on purpose: values of less than a byte, packed, with which
# torch cannot compute even where it has a name for them.
_DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
}


def open_safetensors(path: Path) -> WeightFile:
    """Open a safetensors file: its header is read, its values are not.

    Raises:
        BadFile: If the file is damaged, cut short, or holds no tensors.
    """
    from safetensors import safe_open

    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise BadFile(
            f"{path}: its path is not Unicode, which safetensors needs. Rename it."
        ) from error
    try:
        handle: Any = safe_open(path, framework="pt", device="cpu")
        tensors = {name: _info(handle, name) for name in list(handle.keys())}
    except Exception as error:
        raise BadFile(
            f"{path}: a damaged or unfinished safetensors file ({in_one_line(error)}). "
            "Fetch or save it again; if other programs read it, update safetensors."
        ) from error
    if not tensors:
        handle.__exit__(None, None, None)
        raise BadFile(f"{path}: a safetensors file without tensors. Give one that holds weights.")

    def read(name: str) -> Tensor:
        tensor: Tensor = handle.get_tensor(name)  # a view of the mapped file
        return tensor

    return WeightFile(path, _in_order(tensors), read, lambda: handle.__exit__(None, None, None))


def _info(handle: Any, name: str) -> TensorInfo:
    stored = handle.get_slice(name)
    kind = stored.get_dtype()
    dtype = getattr(torch, _DTYPES.get(kind, ""), None)
    unreadable = None if dtype else f"its dtype {kind} is not one that this torch computes with"
    return TensorInfo(tuple(stored.get_shape()), dtype, unreadable)


def _in_order(tensors: dict[str, TensorInfo]) -> dict[str, TensorInfo]:
    """By name, numbers by their value: the format keeps no order but that of the bytes."""
    return {name: tensors[name] for name in sorted(tensors, key=_natural)}


def _natural(name: str) -> list[tuple[int, str]]:
    parts = re.split(r"(\d{1,9})", name)
    return [(int(part), "") if part.isdecimal() else (0, part) for part in parts]
