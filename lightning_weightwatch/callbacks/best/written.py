"""Which checkpoint files hold the weights of the best epoch."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning_weightwatch.callbacks._lightning import Trainer

#: What tells a file from a later one of its name: time of change in ns, size, inode.
Stamp = tuple[int, int, int]


class WrittenFiles:
    """Follows the checkpoint callbacks of a Trainer, whatever they monitor, or nothing.

    What one of them writes between a batch and the next holds the weights that were validated in
    between, until the file is removed or overwritten. Files that cannot be looked at from here are
    not among them: remote ones, and those that are still to be written in the background.
    """

    def __init__(self) -> None:
        self._seen: dict[str, Stamp | None] = {}
        self._seen_at: int | None = None
        self._before: dict[str, Stamp | None] = {}
        self._kept: dict[str, Stamp] = {}
        self._writing = False

    def saving(self, trainer: Trainer) -> None:
        """A checkpoint is about to be written."""
        if self._seen_at != trainer.fit_loop.total_batch_idx and not _in_background(trainer):
            self._seen_at = trainer.fit_loop.total_batch_idx
            # A file that is known and not there is the one that is about to be written.
            self._seen = {path: stamp for path, stamp in _known(trainer).items() if stamp}
        self._look(trainer)

    def begin(self, trainer: Trainer) -> None:
        """The weights of the last batch are a new best."""
        written = self._seen_at == trainer.fit_loop.total_batch_idx
        self._before = self._seen if written else _known(trainer)
        self._kept, self._writing = {}, True
        self._look(trainer)

    def end(self, trainer: Trainer) -> None:
        """The next batch is about to change them, or training is over."""
        self._look(trainer)
        self._before, self._writing = {}, False

    def _look(self, trainer: Trainer) -> None:
        """Note what was written."""
        if not self._writing:
            return
        late = _in_background(trainer)
        for path, stamp in _known(trainer).items():
            before = self._before.get(path)
            # One that was known and not there may have come late, from an earlier epoch.
            new = path not in self._before or (before is not None and not late)
            if new and stamp is not None and stamp != before:
                self._kept[path] = stamp

    def found(self, trainer: Trainer) -> list[str]:
        """The files that still are what they were; those that are renewed each epoch last."""
        renewed, doomed = set(), set()
        for callback in trainer.checkpoint_callbacks:
            last = str(getattr(callback, "last_model_path", ""))
            renewed.add(last)
            # It writes its last file at the end of a fit in which it has written no other.
            if getattr(callback, "save_last", None) and not getattr(
                callback, "_last_checkpoint_saved", True
            ):
                doomed.add(last)
        there = [path for path in unchanged(self._kept) if path not in doomed]
        return sorted(there, key=renewed.__contains__)

    def state(self) -> dict[str, Any]:
        """For a checkpoint, which may itself be one of those files."""
        kept = {path: list(stamp) for path, stamp in self._kept.items()}
        return {"kept": kept, "writing": self._writing}

    def restore(self, state: dict[str, Any], source: str | None) -> None:
        """Carry on with the state in the checkpoint at `source`."""
        self._kept = {path: tuple(stamp) for path, stamp in state["kept"].items()}
        if state["writing"] and source is not None:
            self._kept |= stamps_of([str(Path(source).resolve())])


def _known(trainer: Trainer) -> dict[str, Stamp | None]:
    """What the checkpoint callbacks keep, each file once; what is renewed each epoch last."""
    steady: list[Any] = []
    renewed: list[Any] = []
    for callback in trainer.checkpoint_callbacks:
        steady.append(getattr(callback, "best_model_path", None))
        steady.extend(getattr(callback, "best_k_models", None) or ())
        renewed.append(getattr(callback, "last_model_path", None))
    paths = dict.fromkeys(str(path) for path in [*steady, *renewed] if path)
    there = stamps_of(paths)
    return {path: there.get(path) for path in paths}


def _in_background(trainer: Trainer) -> bool:
    """Whether checkpoints are written while the training goes on."""
    plugin: Any = trainer.strategy.checkpoint_io
    while plugin is not None:
        if "Async" in type(plugin).__name__:
            return True
        plugin = getattr(plugin, "checkpoint_io", None)  # a plugin may wrap another
    return False


def unchanged(stamped: dict[str, Stamp]) -> list[str]:
    """Those that are there as they were."""
    there = stamps_of(stamped)
    return [path for path, stamp in stamped.items() if there.get(path) == stamp]


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
