"""Weights & Biases: everything, each as the kind of panel that the site has for it."""

import io
import sys
from collections.abc import Mapping
from typing import Any

from lightning_weightwatch.callbacks._lightning import Logger
from lightning_weightwatch.values.statistics import Histogram, Moments

# The page is a white frame of its own, without the style of the site around it.
_STYLE = (
    "<style>body{font:14px sans-serif}table{border-collapse:collapse}"
    "td,th{border:1px solid #ccc;padding:2px 8px;text-align:left}</style>"
)


def accepts(logger: Logger) -> bool:
    """Whether a logger writes to a run of W&B.

    It is the class that is asked: an instance may say yes to every name, as Lightning's dummy does.
    """
    run = type(getattr(logger, "experiment", None))
    return "wandb" in sys.modules and all(
        callable(getattr(run, method, None)) for method in ("log", "define_metric")
    )


class WandbSink:
    """Writes through `log_metrics`, whose x is `trainer/global_step` for whatever is logged.

    W&B's own `step` is a counter of calls: with it, points behind the last one are thrown away.

    Args:
        logger: One that `accepts` takes.
        epoch: The current one.
    """

    takes_histograms = takes_figures = takes_text = True

    def __init__(self, logger: Logger, epoch: int) -> None:
        self._logger, self._epoch = logger, epoch

    def scalars(
        self, values: Mapping[str, float], step: int, descriptions: Mapping[str, str]
    ) -> None:
        """One row of the history; W&B has no place for descriptions of numbers."""
        self._logger.log_metrics({"epoch": self._epoch, **values}, step=step)

    def histogram(
        self, tag: str, histogram: Histogram, moments: Moments, step: int, description: str
    ) -> None:
        """The counts as they are: W&B takes up to 512 bins."""
        counted = (list(histogram.counts), list(histogram.edges))
        self._log(tag, _wandb().Histogram(np_histogram=counted), step)

    def figure(self, tag: str, png: bytes, step: int, description: str) -> None:
        """A picture, with its description under it."""
        from PIL import Image

        with Image.open(io.BytesIO(png)) as picture:
            self._log(tag, _wandb().Image(picture, caption=description or None), step)

    def text(self, tag: str, markdown: str, step: int, description: str) -> None:
        """A page; W&B renders no Markdown that is logged, so TensorBoard's renderer does.

        It is the one that removes scripts, too.
        """
        from tensorboard.plugin_util import markdown_to_safe_html

        page = _STYLE + markdown_to_safe_html(markdown)
        self._log(tag, _wandb().Html(page, inject=False), step)

    def _log(self, tag: str, medium: Any, step: int) -> None:
        self._logger.log_metrics({tag: medium}, step=step)


def _wandb() -> Any:
    """The module, which whoever made the run has imported."""
    return sys.modules["wandb"]
