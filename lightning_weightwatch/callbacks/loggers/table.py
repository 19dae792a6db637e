"""A logger that takes numbers alone, such as CSVLogger."""

from collections.abc import Mapping

from lightning_weightwatch.callbacks._lightning import Logger
from lightning_weightwatch.values.statistics import Histogram, Moments


class TableSink:
    """Scalars, with the epoch beside them as Lightning's own rows have it.

    Args:
        logger: The logger.
        epoch: The current one.
    """

    takes_histograms = takes_figures = takes_text = False

    def __init__(self, logger: Logger, epoch: int) -> None:
        self._logger, self._epoch = logger, epoch

    def scalars(
        self, values: Mapping[str, float], step: int, descriptions: Mapping[str, str]
    ) -> None:
        """One row."""
        self._logger.log_metrics({"epoch": self._epoch, **values}, step=step)

    def histogram(
        self, tag: str, histogram: Histogram, moments: Moments, step: int, description: str
    ) -> None:
        """Nothing."""

    def figure(self, tag: str, png: bytes, step: int, description: str) -> None:
        """Nothing."""

    def text(self, tag: str, markdown: str, step: int, description: str) -> None:
        """Nothing."""
