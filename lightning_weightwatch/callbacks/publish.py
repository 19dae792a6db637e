"""The one way to the loggers and to callback_metrics: tags, x axis, what each logger can take."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from lightning_weightwatch.callbacks._lightning import Logger, Trainer
from lightning_weightwatch.views.png import pixels
from lightning_weightwatch.weights.statistics import Histogram, Moments

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def logging_step(trainer: Trainer) -> int:
    """The x that `self.log` gives to a value logged now, so that our points stand above it.

    That is a private counter of the loop, which `global_step` is not: it runs ahead by one, and
    counts every optimizer.
    """
    stepped: int = getattr(
        trainer.fit_loop.epoch_loop, "_batches_that_stepped", trainer.global_step
    )
    return max(stepped if trainer.validating else stepped - 1, 0)


def set_monitored(trainer: Trainer, scalars: Mapping[str, float]) -> None:
    """Put values where EarlyStopping and ModelCheckpoint look, on every rank.

    Not through `log`: that is forbidden in some hooks, dead under `barebones=True` and ten
    times slower.
    """
    device = trainer.strategy.root_device
    dtype = torch.float32 if device.type == "mps" else torch.float64
    for key, value in scalars.items():
        trainer.callback_metrics[key] = torch.tensor(value, dtype=dtype, device=device)


def log_scalars(trainer: Trainer, scalars: Mapping[str, float], step: int) -> None:
    """Write scalars to every logger; tables (CSV and the like) get the epoch beside them."""
    faults = []
    for logger in trainer.loggers if scalars else []:
        try:
            has_steps = callable(getattr(_experiment(logger), "add_scalar", None))
            row = dict(scalars) if has_steps else {"epoch": trainer.current_epoch, **scalars}
            logger.log_metrics(row, step=step)
        except Exception as fault:  # the other loggers get theirs all the same
            faults.append(fault)
    if faults:
        raise faults[0]


def log_histogram(
    trainer: Trainer, tag: str, histogram: Histogram, moments: Moments, step: int
) -> None:
    """Write a histogram that is already counted, 1 kB each, to TensorBoard writers."""
    for writer in _writers(trainer, "add_histogram_raw"):
        writer.add_histogram_raw(
            tag,
            min=moments.min,
            max=moments.max,
            num=sum(histogram.counts),
            sum=moments.total,
            sum_squares=moments.sum_of_squares,
            bucket_limits=list(histogram.edges[1:]),
            bucket_counts=list(histogram.counts),
            global_step=step,
        )


def log_figure(trainer: Trainer, tag: str, draw: Callable[[], "Figure"], step: int) -> None:
    """Draw a figure, only if a writer will take it, and write it as an image."""
    image = None
    for writer in _writers(trainer, "add_image"):
        image = pixels(draw()) if image is None else image
        writer.add_image(tag, image, step, dataformats="HWC")


def log_text(trainer: Trainer, tag: str, markdown: str, step: int) -> None:
    """Write Markdown to TensorBoard writers."""
    for writer in _writers(trainer, "add_text"):
        writer.add_text(tag, markdown, step)


def _writers(trainer: Trainer, method: str) -> Iterator[Any]:
    """The experiments that can do `method`: told by what they can, not by their class.

    TensorBoardLogger has two classes (lightning's and pytorch_lightning's) and SummaryWriter two
    more. Under `fast_dev_run` a dummy would take everything and keep nothing.
    """
    if getattr(trainer, "fast_dev_run", False) or not trainer.is_global_zero:
        return
    for logger in trainer.loggers:
        writer = _experiment(logger)
        if callable(getattr(writer, method, None)):
            yield writer


def _experiment(logger: Logger) -> Any:
    """What a logger writes to; not every logger has one."""
    return getattr(logger, "experiment", None)
