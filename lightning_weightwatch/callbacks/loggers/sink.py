"""What a logger can take: the one shape that every kind of logger is given."""

from collections.abc import Mapping
from typing import Protocol

from lightning_weightwatch.values.statistics import Histogram, Moments


class Sink(Protocol):
    """A logger as the publisher sees it. A method may raise: the other loggers get theirs.

    What a logger cannot take it says beforehand, so that nothing is drawn for nobody.
    """

    @property
    def takes_histograms(self) -> bool:
        """Whether `histogram` keeps anything."""
        ...

    @property
    def takes_figures(self) -> bool:
        """Whether `figure` keeps anything."""
        ...

    @property
    def takes_text(self) -> bool:
        """Whether `text` keeps anything."""
        ...

    def scalars(
        self, values: Mapping[str, float], step: int, descriptions: Mapping[str, str]
    ) -> None:
        """Write numbers.

        Args:
            values: By their tags.
            step: Their x.
            descriptions: Markdown for the tags that are new.
        """
        ...

    def histogram(
        self, tag: str, histogram: Histogram, moments: Moments, step: int, description: str
    ) -> None:
        """Write a histogram that is already counted.

        Args:
            tag: Its name.
            histogram: Its edges and counts.
            moments: Of the same values.
            step: Its x.
            description: Markdown, or `""` when the tag is not new.
        """
        ...

    def figure(self, tag: str, png: bytes, step: int, description: str) -> None:
        """Write a picture; the arguments are as above."""
        ...

    def text(self, tag: str, markdown: str, step: int, description: str) -> None:
        """Write Markdown; the arguments are as above."""
        ...
