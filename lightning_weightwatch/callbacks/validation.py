"""The trainer's own validation loop, run once more without a trace.

Measured on lightning 2.4 to 2.6: a second Trainer re-binds the module, `trainer.validate` within
a fit leaves the wrong state behind, a copied module loses its metrics. So the fit's loop itself is
run, while callbacks and loggers are out of the way, and everything it moves is put back.
"""

import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch

from lightning_weightwatch.callbacks._lightning import DummyLogger, Trainer, isolate_rng
from lightning_weightwatch.callbacks.batch_values import fingerprinted, over_all_ranks, recorded
from lightning_weightwatch.callbacks.epoch_mean import scalars_on
from lightning_weightwatch.callbacks.same_batches import same_batches
from lightning_weightwatch.trials.evaluation import Evaluation

#: How many batches, or which share of them. Marked, because `typing` takes `int | float` and
#: `float | int` for one, of which jsonargparse then gets whichever any package wrote first: 2 in a
#: YAML file would become 2.0.
BatchLimit = Annotated[int, "batches"] | float


class NoValidation(RuntimeError):
    """The Trainer has no validation to run."""


def evaluate_isolated(trainer: Trainer, limit_batches: float | None = None) -> Evaluation:
    """Validate the model as it is now, within a fit, and return what it logged.

    Callable in `on_train_start` and `on_train_end`, on all ranks together.

    Args:
        trainer: In the midst of its fit.
        limit_batches: Of each loader take so many batches at most (an integer), or such a share
            of them (up to 1.0). None: those that the fit validates on.

    Returns:
        The metrics of all validation loaders, as in `trainer.callback_metrics`; and batch by batch
        those that are means over batches, the batches of all ranks together.

    Raises:
        NoValidation: When `can_evaluate` is false.
    """
    if not can_evaluate(trainer):
        raise NoValidation("the Trainer has no validation, or has not loaded its data yet")
    loop = trainer.fit_loop.epoch_loop.val_loop
    with _untouched(trainer), isolate_rng(), _limited(loop, limit_batches):
        before = dict(trainer.callback_metrics)  # those of the training stay in it
        with recorded(loop._results) as record, fingerprinted(loop) as checksums:
            per_loader = loop.run()
        merged = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if value is not before.get(name)
        }
    for metrics in per_loader:
        merged.update({name: float(value) for name, value in metrics.items()})
    means = {name: record[name] for name in sorted(record) if name in merged}
    mine = scalars_on(trainer, [zlib.crc32(repr(checksums).encode())])
    seen = float(torch.as_tensor(trainer.strategy.reduce(mine, reduce_op="sum")))
    return Evaluation(_over_ranks(trainer, merged), over_all_ranks(trainer, means), seen)


def check_limit_batches(limit: int | float | None) -> None:
    """Refuse what is no number of batches and no share of them.

    Raises:
        ValueError: For that.
    """
    if limit is None:
        return
    number = isinstance(limit, int | float) and not isinstance(limit, bool)
    if not number or not limit > 0 or (isinstance(limit, float) and limit > 1):
        raise ValueError(
            "limit_batches must be a number of batches (an integer, 1 or more), a share of them (a "
            f"float above 0, up to 1.0) or None for all, got {limit!r}"
        )


@contextmanager
def _limited(loop: Any, limit: float | None) -> Iterator[None]:
    """Fewer batches for a while."""
    usual = loop._max_batches
    if limit is not None:
        loop._max_batches = [_fewer(count, limit) for count in usual]
    try:
        yield
    finally:
        loop._max_batches = usual


def _fewer(count: float, limit: int | float) -> float:
    """As Lightning counts `limit_val_batches`, but for one batch at least."""
    if not isinstance(limit, float):
        return min(count, limit)
    if limit == 1.0:
        return count
    if count == math.inf:
        raise ValueError(
            f"limit_batches={limit} is a share of a validation loader without a length; give a "
            "number of batches"
        )
    return max(int(count * limit), 1)


def _over_ranks(trainer: Trainer, metrics: dict[str, float]) -> dict[str, float]:
    """The mean over the ranks, where all of them logged the same metrics."""
    if trainer.world_size == 1:
        return metrics
    names = trainer.strategy.broadcast(sorted(metrics))
    if not trainer.strategy.reduce_boolean_decision(names == sorted(metrics), all=True):
        return metrics
    values = scalars_on(trainer, [metrics[name] for name in names])
    means = trainer.strategy.reduce(values, reduce_op="mean").tolist()
    return dict(zip(names, means, strict=True))


def can_evaluate(trainer: Trainer) -> bool:
    """Whether there is a validation with a batch at least, whose loaders are made.

    Making them early would change the random numbers of the training.
    """
    loop = trainer.fit_loop.epoch_loop.val_loop
    return loop._combined_loader is not None and sum(loop.max_batches) > 0


@contextmanager
def _untouched(trainer: Trainer) -> Iterator[None]:
    """Take callbacks and loggers away, and put back all that a run of the loop changes.

    A silent logger rather than none: modules call `self.logger.experiment.add_image`. The progress
    bar stays: it shows how far this is, and the thread of a RichProgressBar dies when its bar is
    not in the list.
    """
    connector, module = trainer._logger_connector, trainer.lightning_module
    loop = trainer.fit_loop.epoch_loop.val_loop
    metrics: list[dict[str, Any]] = [
        connector._callback_metrics,
        connector._logged_metrics,
        connector._progress_bar_metrics,
    ]
    copies = [dict(kept) for kept in metrics]
    progress = loop.batch_progress.state_dict()
    bar = trainer.progress_bar_callback
    now: list[tuple[Any, dict[str, Any]]] = [
        (trainer, {"callbacks": [bar] if bar else [], "validating": True}),
        (loop, {"verbose": False, "_last_val_dl_reload_epoch": trainer.current_epoch}),
    ]
    kept = [
        (trainer, ("callbacks", "loggers", "should_stop", "_last_val_time")),
        (trainer.state, ("stage",)),
        (loop, ("verbose", "_has_run", "_last_val_dl_reload_epoch")),
        (connector, ("_first_loop_iter",)),
        (module, ("_current_fx_name",)),
    ]
    before = [
        (owner, {name: getattr(owner, name) for name in names if hasattr(owner, name)})
        for owner, names in kept
    ]
    saving = {name: v for name, v in vars(trainer).items() if name == "save_checkpoint"}
    loggers = max(len(trainer.loggers), 1)
    try:
        for owner, values in now:
            _set(owner, values)
        trainer.save_checkpoint = _saves_nothing  # type: ignore[method-assign]
        with (
            TemporaryDirectory(prefix="weightwatch-") as folder,
            _line_of_training(bar),
            same_batches(loop._combined_loader),
        ):
            trainer.loggers = [_Silent(folder) for _ in range(loggers)]
            yield
    except BaseException:  # the next run would add its values to those of this one
        loop._results.reset()
        loop._logged_outputs = []
        raise
    finally:
        del trainer.save_checkpoint
        vars(trainer).update(saving)
        for owner, values in before:
            _set(owner, values)
        loop.batch_progress.load_state_dict(progress)
        for current, copy in zip(metrics, copies, strict=True):
            current.clear()
            current.update(copy)


def _set(owner: Any, values: dict[str, Any]) -> None:
    for name, value in values.items():
        setattr(owner, name, value)


def _saves_nothing(*_: Any, **__: Any) -> None:
    """In place of `save_checkpoint`: a file of the user's would get compressed weights."""


class _Silent(DummyLogger):
    """Takes what a module logs, and a folder that is gone afterwards for files it writes itself."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._folder = folder

    @property
    def save_dir(self) -> str:
        return self._folder

    @property
    def root_dir(self) -> str:
        return self._folder

    @property
    def log_dir(self) -> str:
        return self._folder


@contextmanager
def _line_of_training(bar: Any) -> Iterator[None]:
    """Keep the numbers in the line of the training: bars update it after each validation.

    By private names, the same from Lightning 2.4 on; other bars show the numbers of the trials.
    """
    kept = {
        name: vars(bar)[name]
        for name in ("_train_progress_bar", "_metric_component")
        if bar is not None and vars(bar).get(name) is not None
    }
    for name in kept:
        setattr(bar, name, None)
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(bar, name, value)
