"""The weights of the best epoch, in a copy, in a file of our own, or in a checkpoint."""

import time
from typing import Any

from torch import nn

from lightning_weightwatch.callbacks._lightning import Trainer
from lightning_weightwatch.callbacks.best.copies import BestCopy, write_weights
from lightning_weightwatch.callbacks.best.load import load_weights
from lightning_weightwatch.callbacks.best.written import Stamp, WrittenFiles, stamps_of, unchanged
from lightning_weightwatch.callbacks.keys import TrainerConfigurationError
from lightning_weightwatch.callbacks.monitored import AVERAGING
from lightning_weightwatch.callbacks.own_folder import folder_for_files
from lightning_weightwatch.callbacks.ranks import TrainerRanks
from lightning_weightwatch.files.checkpoint import BadFile

FILE = "best.pt"
_NOWHERE = (
    "they are not in memory (a fit that goes on after another, or after a resume, has none), and "
    "no file is known to hold them (save_best=True writes one, and so does ModelCheckpoint)"
)
# Strategies under which a parameter of the model is not a whole weight, nor a DTensor.
_ELSEWHERE = ("FSDP", "DeepSpeed")


class BestWeights:
    """Keeps them as was asked for, and knows who else did.

    Args:
        save: Write them to `best.pt`.
        restore: Copy them, to be put back into the model.
    """

    def __init__(self, *, save: bool, restore: bool) -> None:
        self._save, self._restore = save, restore
        self._copy = BestCopy()
        self._files = WrittenFiles()
        self._own: dict[str, Stamp] = {}
        self._started = time.time()

    def new_best(self, trainer: Trainer) -> None:
        """Whatever was kept is of an epoch that is the best no more."""
        self._copy.forget()
        self._own = {}
        self._files.begin(trainer)

    def copy(self, model: nn.Module) -> None:
        """Copy them, if that was asked for."""
        if self._restore:
            self._copy.take(model)

    def write(self, trainer: Trainer, model: nn.Module, prefix: str) -> None:
        """Write them to `best.pt`, if that was asked for. A collective."""
        folder = folder_for_files(trainer, prefix) if self._save else None
        if folder is not None:
            write_weights(model, folder / FILE, here=trainer.is_global_zero)
            self._own = stamps_of([str(folder / FILE)])

    def saving(self, trainer: Trainer) -> None:
        """A checkpoint is about to be written."""
        self._files.saving(trainer)

    def moving_on(self, trainer: Trainer) -> None:
        """The next batch is about to change the weights, or training is over."""
        self._files.end(trainer)

    def checkpoint(self, trainer: Trainer) -> str | None:
        """The checkpoint file that holds them, None when none does. A collective."""
        return _first(trainer, self._files.found(trainer))

    def own_file(self, trainer: Trainer) -> str | None:
        """`best.pt`, if it holds them. A collective."""
        return _first(trainer, unchanged(self._own))

    def put_back(self, trainer: Trainer, model: nn.Module) -> str:
        """Overwrite the weights of the model, on every process or on none. A collective.

        Returns:
            Where they were, in words.

        Raises:
            BadFile: If they are nowhere, or what is there cannot be read. The model is then as it
                was.
        """
        sources: list[str | None] = [self.own_file(trainer), self.checkpoint(trainer)]
        sources = [path for path in sources if path is not None]
        if TrainerRanks(trainer).all_agree(bool(self._copy)):
            sources.insert(0, None)
        faults: list[Exception] = []
        for path in sources:
            fault = self._put_back_from(path, trainer, model)
            if fault is None:
                self._copy = BestCopy()  # its memory is needed no more
                return path or "memory"
            faults.append(fault)
        raise next(iter(faults), BadFile(_NOWHERE))

    def _put_back_from(
        self, path: str | None, trainer: Trainer, model: nn.Module
    ) -> Exception | None:
        """Overwrite the weights with those in a file, or in memory; say what went wrong.

        Where it went wrong on any process, every one has the weights from before again.
        """
        before, fault = BestCopy(), None
        try:
            before.take(model)
            if path is None:
                self._copy.put_back(model)
            else:
                load_weights(model, path, self._started)
        except Exception as error:
            fault = error
        if TrainerRanks(trainer).all_agree(fault is None):
            return None
        if before:
            before.put_back(model)
        return fault or BadFile("another process could not load them")

    def state(self) -> dict[str, Any]:
        """For a checkpoint: where the files are, not the weights."""
        own = {path: list(stamp) for path, stamp in self._own.items()}
        return {"files": self._files.state(), "own": own}

    def restore(self, state: dict[str, Any], source: str | None) -> None:
        """Carry on with the state in the checkpoint at `source`."""
        self._files.restore(state["files"], source)
        self._own = {path: tuple(stamp) for path, stamp in state["own"].items()}


def _first(trainer: Trainer, paths: list[str]) -> str | None:
    """The first of those that rank 0 knows: it is the one that writes."""
    path: str | None = trainer.strategy.broadcast(paths[0] if paths else None)
    return path


def check_trainer(trainer: Trainer, asked: str) -> None:
    """Refuse a Trainer on which the weights of the model are not those that were validated.

    Args:
        trainer: With its callbacks and its strategy.
        asked: The argument that wants the best weights.

    Raises:
        TrainerConfigurationError: If another callback averages weights, or the strategy keeps
            them where the model has parts of them only.
    """
    strategy = type(trainer.strategy).__name__
    if any(word in strategy for word in _ELSEWHERE):
        raise TrainerConfigurationError(
            f"OverfittingMonitor({asked}=True) with {strategy}: it keeps the weights in a form of "
            f"its own. Leave out {asked}, and let ModelCheckpoint keep the best"
        )
    for other in trainer.callbacks:  # type: ignore[attr-defined]
        if {base.__name__ for base in type(other).__mro__}.intersection(AVERAGING):
            raise TrainerConfigurationError(
                f"OverfittingMonitor({asked}=True) beside {type(other).__name__}: it validates "
                "averaged weights, or puts an average into the model at the end. Leave out "
                f"{asked}, and let ModelCheckpoint keep the best"
            )
