"""Checkpoints of `torch.save`, new (zip) and old: pickles, read without running what is in them."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from lightning_weightwatch.files.bad_file import BadFile
from lightning_weightwatch.files.printable import in_one_line, quoted
from lightning_weightwatch.files.state_dict import contents, find_weights, held
from lightning_weightwatch.files.weight_file import WeightFile

_TRUST = (
    "If you trust where the file comes from, open it with --trust (trust=True), which lets the "
    "code in it run; otherwise ask for a .safetensors file or a plain state_dict()."
)
_SHARDED = (
    "holds sharded tensors (DTensor), each only a part of a weight. Consolidate the checkpoint: "
    "save a full state_dict()."
)
_AGAIN = "Fetch or save it again."
_PLAIN = "Save the model's state_dict() with torch.save or as safetensors, and give that."


def open_pickle(path: Path, *, zipped: bool, trust: bool) -> WeightFile:
    """Open a checkpoint of `torch.save`.

    A zip is mapped: only the pages of the tensors that are used are read. An old pickle is loaded
    whole. Everything in it but the weights is let go at once. torch does not check the checksums
    of a zip, and neither does this: it would read the whole file.

    Args:
        path: The file.
        zipped: Whether it is a zip (torch 1.6 and newer) or an old pickle.
        trust: Let the code that is pickled in the file run, if it cannot be read otherwise.

    Raises:
        BadFile: If the file is damaged, is refused, or holds no weights.
    """
    if not trust and not refuses_code(torch.__version__):
        raise BadFile(
            f"{path}: a pickle, and torch {torch.__version__} cannot keep the code in one from "
            "running (CVE-2025-32434, CVE-2026-24747). Update torch to 2.10 or newer, convert the "
            "file to safetensors, or, if you trust where it comes from, use --trust (trust=True)."
        )
    mapped = zipped and _can_be_mapped(path)
    try:
        found = find_weights(content := _load(path, mapped=mapped, trust=trust))
    except BadFile:
        raise
    except Exception as error:  # hostile or damaged bytes can raise anything while they are built
        raise BadFile(f"{path}: {_fault(error)}") from error
    if found is None:
        raise BadFile(
            f"{path}: found no weights in it, only {contents(content)}. "
            "Save the model's state_dict() by itself, or under the key 'state_dict'."
        )
    # torch loads these, or not, by what else the process has imported: refused either way.
    if any(hasattr(tensor, "full_tensor") for tensor in found.tensors.values()):
        raise BadFile(f"{path}: {_SHARDED}")
    return held(path, found)


def refuses_code(version: str) -> bool:
    """Whether `torch.load(weights_only=True)` of a torch version keeps a file's code from running.

    Known bypasses were closed in 2.6.0 (CVE-2025-32434) and 2.10.0 (CVE-2026-24747). A pre-release
    of 2.10.0 may have been built before: it counts as older.

    >>> [refuses_code(version) for version in ("2.13.0+cpu", "2.10.0", "3.0.0.dev1", "2.10.1rc1")]
    [True, True, True, True]
    >>> [refuses_code(version) for version in ("2.9.1", "2.10.0a0+git1a", "2.10.0rc3", "unknown")]
    [False, False, False, False]
    """
    parts = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?(\.?(?:a|b|rc|dev))?", version)
    if parts is None:
        return False
    release = tuple(int(number or 0) for number in parts.group(1, 2, 3))
    return release > (2, 10, 0) or (release == (2, 10, 0) and parts[4] is None)


def _can_be_mapped(path: Path) -> bool:
    """Look at the table of contents of a zip.

    Returns:
        False where the bytes on disk are not those of the tensors, or torch would take the path
        for another format.

    Raises:
        BadFile: If it is damaged or not one of `torch.save`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception as error:  # NotImplementedError, struct.error, ... on damaged tables
        raise BadFile(
            f"{path}: a damaged or unfinished zip archive ({in_one_line(error)}). {_AGAIN}"
        ) from error
    inside = {entry.filename.rpartition("/")[2] for entry in entries}
    if "constants.pkl" in inside:
        raise BadFile(
            f"{path}: a TorchScript archive, which holds a program. "
            "Load it with torch.jit.load and save its state_dict() with torch.save."
        )
    if "data.pkl" not in inside:
        raise BadFile(
            f"{path}: a zip archive, but not of torch.save (no data.pkl in it). "
            "If a checkpoint is inside, unpack the archive and give that."
        )
    stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    # torch maps a file by its path alone, which must be Unicode: undecodable bytes do not print.
    return stored and path.suffix != ".safetensors" and str(path).isprintable()


def _load(path: Path, *, mapped: bool, trust: bool) -> Any:
    """What the file holds; with `trust`, its code may run where `weights_only` refused it."""
    try:
        return _torch_load(path, mapped=mapped, weights_only=True)
    except pickle.UnpicklingError as error:
        if not trust:
            raise BadFile(f"{path}: {_refusal(str(error))}") from error
    return _torch_load(path, mapped=mapped, weights_only=False)


def _torch_load(path: Path, *, mapped: bool, weights_only: bool) -> Any:
    with warnings.catch_warnings(), path.open("rb") as file:
        warnings.simplefilter("ignore")  # torch's advice to who calls torch.load, not to the reader
        try:
            return torch.load(
                str(path) if mapped else file,
                map_location="cpu",
                weights_only=weights_only,
                mmap=mapped,
            )
        except pickle.UnpicklingError as error:
            # A name cut off by the end of the file is refused as an unknown one, but no trust in
            # it would help. What is refused in a whole file is never the last of its bytes.
            if mapped or file.read(1):
                raise
            raise EOFError from error


def _refusal(message: str) -> str:
    """What `weights_only` refused, and the way out, from torch's page of advice."""
    if "must be imported to load DTensors" in message:
        return _SHARDED
    refused = re.search(r"GLOBAL (.+?)(?: was not an allowed| whose module)", message, re.DOTALL)
    if refused:
        return f"asks for {quoted(refused[1])}, which may run code, and was refused. {_TRUST}"
    return f"is damaged, or holds more than plain weights, and was refused. {_TRUST}"


def _fault(error: Exception) -> str:
    """Why loading failed, for one who does not know torch's reader, and what to do."""
    said = "it ends too early" if isinstance(error, EOFError) else in_one_line(error)
    if isinstance(error, ImportError) or "Can't get attribute" in said:
        return f"what is pickled in it needs code that is not here ({said}). {_PLAIN}"
    if isinstance(error, MemoryError):
        return f"it needs more memory than there is. {_PLAIN}"
    if "Invalid magic number" in said:
        return f"a pickle, but not of torch.save. {_PLAIN}"
    return f"torch cannot read it: damaged, unfinished or too unusual ({said}). {_AGAIN}"
