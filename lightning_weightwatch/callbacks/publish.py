"""The one way to the loggers and to callback_metrics: tags, x axis, what each logger can take."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from lightning_weightwatch.callbacks._lightning import Trainer
from lightning_weightwatch.callbacks.loggers import loggers_of, sink_of
from lightning_weightwatch.callbacks.loggers.sink import Sink
from lightning_weightwatch.callbacks.loggers.tensorboard import (
    RunBeside,
    log_dir_of,
    scalar_summary,
    tag_prefix,
)
from lightning_weightwatch.values.statistics import Histogram, Moments
from lightning_weightwatch.views.png import png_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Figures of a callback may take this share of the fit, and besides this many seconds, in which
#: matplotlib is loaded and short fits have theirs; those at the end of a fit are drawn in any case.
FIGURE_SHARE = 0.03
FIGURE_SECONDS = 1.0


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
    # What `callback_metrics` returns; but that first computes, and so fixes, what the module logs.
    connector = getattr(trainer, "_logger_connector", None)
    metrics = getattr(connector, "_callback_metrics", None)
    if not isinstance(metrics, dict):
        metrics = trainer.callback_metrics
    for key, value in scalars.items():
        metrics[key] = torch.tensor(value, dtype=dtype, device=device)


class Publisher:
    """Writes what one callback has to show to every logger of its Trainer.

    TensorBoard gets everything, with a description on every card; any other logger what it can
    take; none is no error. Where a logger fails, the others get theirs, and its exception is raised
    at the end.

    Args:
        describe: What a tag means, in Markdown.
    """

    def __init__(self, describe: Callable[[str], str]) -> None:
        self._describe = describe
        self._written: set[str] = set()
        self._beside: dict[str, RunBeside] = {}
        self._started = time.perf_counter()
        #: Seconds that figures have taken.
        self.drawing = 0.0

    def scalars(self, trainer: Trainer, values: Mapping[str, float], step: int) -> None:
        """Write numbers by their tags."""
        if values:
            new = self._descriptions(values)
            self._each(trainer, lambda sink: sink.scalars(values, step, new))
            self._written.update(values)

    def histogram(
        self, trainer: Trainer, tag: str, histogram: Histogram, moments: Moments, step: int
    ) -> None:
        """Write a histogram that is already counted, and the moments of the same values."""
        new = self._descriptions([tag]).get(tag, "")

        def write(sink: Sink) -> None:
            if sink.takes_histograms:
                sink.histogram(tag, histogram, moments, step, new)

        self._each(trainer, write)
        self._written.add(tag)

    def takes_figures(self, trainer: Trainer) -> bool:
        """Whether a logger does."""
        sinks = [sink_of(logger, trainer.current_epoch) for logger in loggers_of(trainer)]
        return any(sink.takes_figures for sink in sinks)

    @property
    def can_afford_figures(self) -> bool:
        """Whether those drawn so far took no more than they may."""
        elapsed = time.perf_counter() - self._started
        return self.drawing <= FIGURE_SECONDS + FIGURE_SHARE * elapsed

    def figure(
        self,
        trainer: Trainer,
        tag: str,
        draw: Callable[[], "Figure | None"],
        step: int,
        as_png: Callable[["Figure"], bytes] = png_bytes,
    ) -> None:
        """Draw a figure, if a logger will take it, and write it; None is nothing to draw."""
        drawn: list[bytes | None] = []
        new = self._descriptions([tag]).get(tag, "")

        def write(sink: Sink) -> None:
            if not sink.takes_figures:
                return
            if not drawn:
                import matplotlib.backends.backend_agg  # noqa: F401  # once, and not by this figure

                started = time.perf_counter()
                figure = draw()
                drawn.append(as_png(figure) if figure is not None else None)
                self.drawing += time.perf_counter() - started
            if drawn[0] is not None:
                sink.figure(tag, drawn[0], step, new)
                self._written.add(tag)

        self._each(trainer, write)

    def text(self, trainer: Trainer, tag: str, markdown: str, step: int) -> None:
        """Write Markdown."""

        def write(sink: Sink) -> None:
            if sink.takes_text:
                sink.text(tag, markdown, step, self._describe(tag))

        self._each(trainer, write)

    def beside(self, trainer: Trainer, run: str, values: Mapping[str, float], step: int) -> None:
        """Write numbers to a run of TensorBoard below that of the logger: one more line in a chart.

        TensorBoard draws the values of one tag in one chart, a line for each run.
        """
        descriptions = {tag: self._describe(tag) for tag in values}
        for prefix, events in self.runs_beside(trainer, run):
            tagged = {f"{prefix}{tag}": value for tag, value in values.items()}
            described = {f"{prefix}{tag}": text for tag, text in descriptions.items()}
            events.add_summary(scalar_summary(tagged, described), step)
            self._written.update(values)

    def runs_beside(self, trainer: Trainer, run: str) -> list[tuple[str, Any]]:
        """What takes the events of such a run, one for each TensorBoard logger, and its prefix."""
        found = []
        for logger in loggers_of(trainer):
            folder = log_dir_of(getattr(logger, "experiment", None))
            if folder is not None:
                path = f"{folder}/{run}"
                if path not in self._beside:
                    self._beside[path] = RunBeside.of(path)
                found.append((tag_prefix(logger), self._beside[path].events))
        return found

    def has_written(self, tag: str) -> bool:
        """Whether numbers, a histogram or a figure of this name went to the loggers."""
        return tag in self._written

    def close(self) -> None:
        """Close the runs beside; the loggers close their own."""
        for run in self._beside.values():
            run.let_go()
        self._beside.clear()

    def _descriptions(self, tags: Iterable[str]) -> dict[str, str]:
        """Those of tags that have none yet: they count on the first event of a tag alone."""
        return {tag: self._describe(tag) for tag in tags if tag not in self._written}

    def _each(self, trainer: Trainer, write: Callable[[Sink], None]) -> None:
        faults = []
        for logger in loggers_of(trainer):
            try:
                write(sink_of(logger, trainer.current_epoch))
            except Exception as fault:  # the other loggers get theirs all the same
                faults.append(fault)
        if faults:
            raise faults[0]
