"""TensorBoard: one event for many numbers, a description on every card, pictures as they are."""

import io
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from lightning_weightwatch.callbacks._lightning import Logger
from lightning_weightwatch.values.statistics import Histogram, Moments

if TYPE_CHECKING:
    from tensorboard.compat.proto.summary_pb2 import Summary


class WriterSink:
    """A writer with TensorBoard's methods, such as tensorboardX's.

    Args:
        logger: The logger, which writes the scalars itself.
        writer: Its experiment.
    """

    takes_histograms = takes_figures = takes_text = True

    def __init__(self, logger: Logger, writer: Any) -> None:
        self._logger, self._writer, self._prefix = logger, writer, tag_prefix(logger)

    def scalars(
        self, values: Mapping[str, float], step: int, descriptions: Mapping[str, str]
    ) -> None:
        """As the logger does it."""
        self._logger.log_metrics(dict(values), step=step)

    def histogram(
        self, tag: str, histogram: Histogram, moments: Moments, step: int, description: str
    ) -> None:
        """Through `add_histogram_raw`."""
        tag = f"{self._prefix}{tag}"
        self._writer.add_histogram_raw(tag, **_raw(histogram, moments), global_step=step)

    def figure(self, tag: str, png: bytes, step: int, description: str) -> None:
        """As an array of pixels."""
        import numpy as np
        from PIL import Image

        with Image.open(io.BytesIO(png)) as image:
            pixels = np.asarray(image.convert("RGB"))
        self._writer.add_image(f"{self._prefix}{tag}", pixels, step, dataformats="HWC")

    def text(self, tag: str, markdown: str, step: int, description: str) -> None:
        """Through `add_text`."""
        self._writer.add_text(f"{self._prefix}{tag}", markdown, step)


class EventSink(WriterSink):
    """The writer of torch, whose events we write ourselves where its methods fall short.

    They have no place for a description, write an event for each number, and take pictures as
    arrays only.

    Args:
        logger: The logger.
        writer: Its `SummaryWriter`.
    """

    def scalars(
        self, values: Mapping[str, float], step: int, descriptions: Mapping[str, str]
    ) -> None:
        """All of them in one event."""
        tagged = {f"{self._prefix}{tag}": value for tag, value in values.items()}
        described = {f"{self._prefix}{tag}": text for tag, text in descriptions.items()}
        self._add(scalar_summary(tagged, described), step)

    def histogram(
        self, tag: str, histogram: Histogram, moments: Moments, step: int, description: str
    ) -> None:
        """About 1 kB for 64 bins."""
        if not description:
            super().histogram(tag, histogram, moments, step, description)
            return
        from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR
        from torch.utils.tensorboard.summary import histogram_raw

        summary = histogram_raw(f"{self._prefix}{tag}", **_raw(histogram, moments))  # type: ignore[no-untyped-call]
        _describe(summary.value[0], "histograms", DATA_CLASS_TENSOR, description)
        self._add(summary, step)

    def figure(self, tag: str, png: bytes, step: int, description: str) -> None:
        """The bytes of the file as they are."""
        from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_BLOB_SEQUENCE, Summary

        width, height = (int.from_bytes(png[start : start + 4], "big") for start in (16, 20))
        image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=png)
        summary = Summary(value=[Summary.Value(tag=f"{self._prefix}{tag}", image=image)])
        _describe(summary.value[0], "images", DATA_CLASS_BLOB_SEQUENCE, description)
        self._add(summary, step)

    def _add(self, summary: "Summary", step: int) -> None:
        self._writer._get_file_writer().add_summary(summary, step)


class RunBeside:
    """A run of TensorBoard of our own, which several callbacks share and the last one closes.

    The Python loader leaves an event file for good when there is a later one in its folder.

    Args:
        folder: Of the run.
    """

    _open: ClassVar[dict[str, "RunBeside"]] = {}

    def __init__(self, folder: str) -> None:
        from torch.utils.tensorboard.writer import FileWriter

        self._folder, self._users = folder, 0
        #: What has `add_summary(summary, step)`.
        self.events: Any = FileWriter(folder)

    @classmethod
    def of(cls, folder: str) -> "RunBeside":
        """The one that is open in a folder, or a new one; to be let go once for each call."""
        run = cls._open.get(folder) or cls._open.setdefault(folder, cls(folder))
        run._users += 1
        return run

    def let_go(self) -> None:
        """Close it, if nobody else writes to it."""
        self._users -= 1
        if not self._users:
            del self._open[self._folder]
            self.events.close()


def tag_prefix(logger: Logger) -> str:
    """What a logger with a prefix of its own puts before every name."""
    prefix = getattr(logger, "_prefix", "")
    return f"{prefix}{getattr(logger, 'LOGGER_JOIN_CHAR', '-')}" if prefix else ""


def scalar_summary(values: Mapping[str, float], descriptions: Mapping[str, str]) -> "Summary":
    """Numbers in one event, which takes a seventh of the time of an event for each.

    Args:
        values: By their tags.
        descriptions: Markdown for the tags that are new.
    """
    from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_SCALAR, Summary

    summary = Summary(
        value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
    )
    for value in summary.value:
        _describe(value, "scalars", DATA_CLASS_SCALAR, descriptions.get(value.tag, ""))
    return summary


def is_of_torch(writer: Any) -> bool:
    """Whether it is torch's `SummaryWriter`, which writes the events of TensorBoard itself."""
    of_torch = sys.modules.get("torch.utils.tensorboard")
    return of_torch is not None and isinstance(writer, of_torch.SummaryWriter)


def events_of(writer: Any) -> Any:
    """What takes the events of torch's `SummaryWriter`; None for any other writer."""
    return writer._get_file_writer() if is_of_torch(writer) else None


def log_dir_of(writer: Any) -> str | None:
    """The folder that a `SummaryWriter` of torch writes to; None for any other writer."""
    return str(writer.log_dir) if is_of_torch(writer) else None


def _raw(histogram: Histogram, moments: Moments) -> dict[str, Any]:
    """The arguments of `add_histogram_raw`."""
    return {
        "min": moments.min,
        "max": moments.max,
        "num": sum(histogram.counts),
        "sum": moments.total,
        "sum_squares": moments.sum_of_squares,
        "bucket_limits": list(histogram.edges[1:]),
        "bucket_counts": list(histogram.counts),
    }


def _describe(value: "Summary.Value", plugin: str, data_class: int, description: str) -> None:
    """A description counts on the first event of a tag alone.

    Both loaders of TensorBoard read it only where the class of the data stands beside it.
    """
    if description:
        value.metadata.plugin_data.plugin_name = plugin
        value.metadata.data_class = data_class
        value.metadata.summary_description = description
