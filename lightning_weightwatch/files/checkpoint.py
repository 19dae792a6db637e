"""Open a file of weights by what is in it: safetensors, or a checkpoint of `torch.save`."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from lightning_weightwatch.files.bad_file import (
    BadFile,
    MissingFile,
    as_path,
    check_regular,
    reading,
)
from lightning_weightwatch.files.pickles import open_pickle
from lightning_weightwatch.files.safetensors import open_safetensors
from lightning_weightwatch.files.weight_file import TensorInfo, WeightFile

__all__ = ["BadFile", "MissingFile", "TensorInfo", "WeightFile", "open_weights"]

_EXPECTED = (
    "Give a checkpoint of torch.save or Lightning (.ckpt, .pt, .pth, .bin) or a .safetensors file."
)
_PICKLE = b"\x80"
_PICKLE_PROTOCOLS = range(2, 6)
_TAR_MARK = slice(257, 262)
# What people give by mistake, and know by name.
_KNOWN = {
    b"version https://git-lfs": "a Git LFS pointer: the file itself was not fetched (git lfs pull)",
    b"\x1f\x8b": "compressed (gzip): unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed (zstd): unpack it first",
    b"\x89HDF": "an HDF5 file",
    b"GGUF": "a GGUF file",
    b"\x93NUMPY": "a NumPy array",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"<": "a page of HTML or XML, perhaps saved by a failed download",
    b"{": "JSON text; if it is the index of a sharded model, give one of the shards",
}


def open_weights(path: str | os.PathLike[str], *, trust: bool = False) -> WeightFile:
    """Open a file of weights; its tensors are then read one at a time.

    The format is told by the content, never by the extension. Safetensors files hold no code. A
    checkpoint of `torch.save` is a pickle: it is read with `torch.load(weights_only=True)`, and
    refused on a torch older than 2.10, where that is not safe.

    Args:
        path: The file: `.ckpt`, `.pt`, `.pth`, `.bin`, `.safetensors` or any other name.
        trust: Let a pickle that cannot be read otherwise run the code in it. It can do whatever
            you can: only for files whose origin you trust.

    Returns:
        The open file, a context manager.

    Raises:
        MissingFile: If the file is not there: a `BadFile` and a `FileNotFoundError`.
        BadFile: A `ValueError`: if it is not one of weights, is damaged, or is refused.

    Example:
        >>> import tempfile
        >>> import torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save(torch.nn.Linear(3, 2).state_dict(), f"{folder}/model.pt")
        ...     with open_weights(f"{folder}/model.pt") as weights:
        ...         print(weights.names(), weights.info("weight").shape)
        ...         print(weights.read("bias").shape)
        ('weight', 'bias') (2, 3)
        torch.Size([2])
    """
    file = as_path(path)
    head = _head(file)
    # A header of 4 GiB or more is no header: those bytes are the text of something else.
    if head[8:9] == b"{" and head[4:8] == bytes(4):
        return open_safetensors(file)
    zipped = head.startswith(b"PK\x03\x04")
    if zipped or (head.startswith(_PICKLE) and head[1:2] and head[1] in _PICKLE_PROTOCOLS):
        return open_pickle(file, zipped=zipped, trust=trust)
    raise BadFile(f"{file}: not a file of weights: {_likeness(head)}. {_EXPECTED}")


def _head(file: Path) -> bytes:
    """The first bytes of a regular file, empty for none.

    Raises:
        BadFile: If there is no such file, or it cannot be read.
    """
    with reading(file):
        mode = file.stat().st_mode
        if stat.S_ISDIR(mode):
            raise BadFile(
                f"{file}: a folder. If it is a sharded checkpoint (FSDP, DeepSpeed), consolidate "
                "it into one file; otherwise give a file in it."
            )
        check_regular(file, mode, _EXPECTED)
        with file.open("rb") as opened:
            return opened.read(_TAR_MARK.stop)


def _likeness(head: bytes) -> str:
    """What the start of a file that holds no weights looks like."""
    if not head:
        return "it is empty"
    if head[_TAR_MARK] == b"ustar":
        return "a tar archive (or a checkpoint older than torch 0.2): unpack or save it anew"
    for mark, name in _KNOWN.items():
        if head.lstrip().startswith(mark):
            return name
    text = all(byte in b"\t\n\r\f" or 32 <= byte < 127 for byte in head)
    return "it is text" if text else "its first bytes are those of no known format"
