"""Which checkpoint files hold the weights of the best epoch."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning_weightwatch.callbacks._lightning import Trainer

#: What tells a file from a later one of its name: time of change in ns, size, inode.
Stamp = tuple[int, int, int]


class WrittenFiles:
    """Follows the checkpoint callbacks of a Trainer, whatever they monitor, or nothing.

    What one of them writes between a best validation and the next training step holds the weights
    of that validation, until the file is removed or overwritten. Files that cannot be looked at
    from here (remote ones, and those still to be written in the background) are not among them.
    """

    def __init__(self) -> None:
        self._before: dict[str, Stamp] = {}
        self._kept: dict[str, Stamp] = {}
        self._writing = False

    def begin(self, trainer: Trainer) -> None:
        """The weights are those of a new best, and no checkpoint callback has looked yet."""
        already = _written_by_now(trainer)
        self._before = {
            path: stamp for path, stamp in stamps_of(_known(trainer)).items() if path not in already
        }
        self._kept, self._writing = {}, True

    def end(self, trainer: Trainer) -> None:
        """The weights are about to change, or have just changed: note what was written."""
        if self._writing:
            now = stamps_of(_known(trainer))
            self._kept = {p: stamp for p, stamp in now.items() if self._before.get(p) != stamp}
            self._before, self._writing = {}, False

    def found(self) -> list[str]:
        """The files that are still what they were; those that are renewed each epoch last."""
        return unchanged(self._kept)

    def state(self) -> dict[str, Any]:
        """For a checkpoint, which may itself be one of those files."""
        kept = {path: list(stamp) for path, stamp in self._kept.items()}
        return {"kept": kept, "writing": self._writing}

    def restore(self, state: dict[str, Any], source: str | None) -> None:
        """Carry on with the state in the checkpoint at `source`."""
        self._kept = {path: tuple(stamp) for path, stamp in state["kept"].items()}
        if state["writing"] and source is not None:
            self._kept |= stamps_of([source])


def _known(trainer: Trainer) -> list[str]:
    """The files that the checkpoint callbacks keep, each once; what is renewed each epoch last."""
    steady: list[Any] = []
    renewed: list[Any] = []
    for callback in trainer.checkpoint_callbacks:
        steady.append(getattr(callback, "best_model_path", None))
        steady.extend(getattr(callback, "best_k_models", None) or ())
        renewed.append(getattr(callback, "last_model_path", None))
    return list(dict.fromkeys(str(path) for path in [*steady, *renewed] if path))


def _written_by_now(trainer: Trainer) -> set[str]:
    """What was written since the last training step, as every n steps, before it was validated."""
    return {
        str(getattr(callback, "_last_checkpoint_saved", ""))
        for callback in trainer.checkpoint_callbacks
        if getattr(callback, "_last_global_step_saved", None) == trainer.global_step
    }


def unchanged(stamped: dict[str, Stamp]) -> list[str]:
    """Those that are there as they were."""
    return [path for path, stamp in stamps_of(stamped).items() if stamp == stamped[path]]


def stamps_of(paths: Iterable[str]) -> dict[str, Stamp]:
    """The stamps of those files that are there."""
    found = {}
    for path in paths:
        try:
            stat = Path(path).stat()
        except (OSError, ValueError):
            continue
        found[path] = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
    return found
