"""Where a command writes: files that are whole or not there, and stdout."""

import io
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from rich.console import Console, RenderableType

from lightning_weightwatch.cli.refusal import Refusal

STDOUT = "-"
# Into a pipe nothing is wrapped: what reads it wants a line per layer.
_UNBOUNDED = 1 << 20


def check_targets(source: str, targets: dict[str, str | None]) -> None:
    """Refuse files that cannot be written, before any work is done for them.

    Args:
        source: The file that is read.
        targets: Per option the file that it asks for, None where it is not given.

    Raises:
        Refusal: For what cannot be written, or would write over something that is needed.
    """
    given = {option: target for option, target in targets.items() if target is not None}
    places = [Path(target).resolve() if target != STDOUT else target for target in given.values()]
    if len(set(places)) < len(places):
        raise Refusal(f"{' and '.join(given)} name the same file: give two")
    for option, target in given.items():
        if target == STDOUT:
            continue
        try:
            _check(Path(target), Path(source))
        except (OSError, ValueError) as error:
            raise Refusal(f"{option} {target}: cannot be written ({_reason(error)})") from error


def _check(target: Path, source: Path) -> None:
    if target.is_dir():
        raise IsADirectoryError(0, "it is a folder")
    if target.exists():
        if source.exists() and target.samefile(source):
            raise FileExistsError(0, "it is the file that is read")
        if not os.access(target, os.W_OK):
            raise PermissionError(0, "no permission")
    if _is_replaced(target):
        draft = _draft_beside(target)
        draft.touch(exist_ok=False)
        draft.unlink()


def publish(
    contents: Iterable[tuple[str | None, Callable[[], str | bytes]]],
    view: Callable[[int | None], RenderableType],
) -> None:
    """Write the files that were asked for, and show the view; a file that fails does not cost it.

    Args:
        contents: The file, or None where it was not asked for, and what makes its content.
        view: As `show` takes it; where stdout is one of the files, it is not shown.

    Raises:
        Refusal: If a file cannot be written.
    """
    asked = [(target, content) for target, content in contents if target is not None]
    try:
        for target, content in asked:
            write(target, content())
    finally:
        if all(target != STDOUT for target, _ in asked):
            show(view)


def write(target: str, content: str | bytes) -> None:
    """Write a text in UTF-8, or bytes, whole or not at all; a file that was there is replaced.

    Raises:
        Refusal: If it cannot be written.
    """
    encoded = content.encode("utf-8") if isinstance(content, str) else content
    if target == STDOUT:
        to_stdout(encoded)
        return
    try:
        _write(Path(target), encoded)
    except OSError as error:
        raise Refusal(f"{target}: cannot be written ({_reason(error)})") from error


def _write(target: Path, content: bytes) -> None:
    if not _is_replaced(target):
        target.write_bytes(content)
        return
    draft = _draft_beside(target)
    try:
        draft.write_bytes(content)
        if target.exists():
            shutil.copymode(target, draft)
        draft.replace(target.resolve())
    finally:
        draft.unlink(missing_ok=True)


def _is_replaced(target: Path) -> bool:
    """Whether it is a file, or is to be one; a pipe or a device is written to as it is."""
    return target.is_file() or not target.exists()


def _draft_beside(target: Path) -> Path:
    """In the folder of the file itself, where a link leads to one: renaming takes one disk."""
    return target.resolve().parent / f".{secrets.token_hex(8)}.part"


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)


def to_stdout(content: bytes) -> None:
    """Write to stdout, whatever its encoding is.

    Raises:
        BrokenPipeError: If nobody reads it any more.
        Refusal: If it cannot be written.
    """
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    except OSError as error:
        _discard_stdout()
        if isinstance(error, BrokenPipeError):
            raise
        raise Refusal(f"stdout cannot be written ({_reason(error)})") from error


def _discard_stdout() -> None:
    """Python writes what is left in the buffer when it exits, and would complain once more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def show(view: Callable[[int | None], RenderableType]) -> None:
    """Print a view: as wide as the terminal, or in a pipe as wide as it is, without colours.

    Args:
        view: Makes it, for a width; None for no limit.
    """
    piped = not sys.stdout.isatty()
    text = io.StringIO()
    console = Console(
        file=text,
        force_terminal=not piped,
        width=_UNBOUNDED if piped else None,
        highlight=False,
        legacy_windows=False,
    )
    console.print(view(None if piped else console.width))
    lines = (line.rstrip() for line in text.getvalue().split("\n"))
    to_stdout("\n".join(lines).encode("utf-8"))
