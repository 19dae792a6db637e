"""MLflow: numbers as metrics, figures and texts as artifacts; it knows no histograms."""

import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_weightwatch.callbacks._lightning import Logger
from lightning_weightwatch.values.statistics import Histogram, Moments

# MLflow allows 250 characters; the logger may have a prefix of its own.
_LONGEST_NAME = 200


def accepts(logger: Logger) -> bool:
    """Whether a logger writes to a run of MLflow.

    It is the class that is asked: an instance may say yes to every name, as Lightning's dummy does.
    """
    client = type(getattr(logger, "experiment", None))
    return "mlflow" in sys.modules and all(
        callable(getattr(client, method, None))
        for method in ("log_batch", "log_text", "log_artifact")
    )


def allowed_name(tag: str) -> str:
    """The nearest name that MLflow takes, which would refuse the whole batch for one it does not.

    Two tags of one kind stay apart: the number of the layer comes first in them.

    >>> allowed_name("weightwatch-alpha/007_net.0")
    'weightwatch-alpha/007_net.0'
    >>> allowed_name("weightwatch-alpha/008_é/../:x")
    'weightwatch-alpha/008__/_/_x'
    """
    parts = re.sub(r"[^a-zA-Z0-9_. /-]", "_", tag)[:_LONGEST_NAME].split("/")
    return "/".join("_" if part in {"", ".", ".."} else part for part in parts)


class MLflowSink:
    """Writes metrics through the logger, and artifacts through its client.

    Args:
        logger: One that `accepts` takes.
        epoch: The current one.
    """

    takes_histograms = False
    takes_figures = takes_text = True

    def __init__(self, logger: Logger, epoch: int) -> None:
        # Of Lightning's loggers only MLflow's has a `run_id`.
        self._logger: Any = logger
        self._epoch = epoch

    def scalars(
        self, values: Mapping[str, float], step: int, descriptions: Mapping[str, str]
    ) -> None:
        """One batch; MLflow has no place for descriptions."""
        named = {allowed_name(tag): value for tag, value in values.items()}
        self._logger.log_metrics({"epoch": self._epoch, **named}, step=step)

    def histogram(
        self, tag: str, histogram: Histogram, moments: Moments, step: int, description: str
    ) -> None:
        """Nothing."""

    def figure(self, tag: str, png: bytes, step: int, description: str) -> None:
        """`<tag>/<step>.png`, the bytes as they are."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / _file_name(step, "png")
            file.write_bytes(png)
            client, run = self._logger.experiment, self._logger.run_id
            client.log_artifact(run, str(file), allowed_name(tag))

    def text(self, tag: str, markdown: str, step: int, description: str) -> None:
        """`<tag>/<step>.md`, which MLflow shows as it is written."""
        path = f"{allowed_name(tag)}/{_file_name(step, 'md')}"
        self._logger.experiment.log_text(self._logger.run_id, markdown, path)


def _file_name(step: int, ending: str) -> str:
    """With zeros in front, because MLflow lists files by the letters of their names."""
    return f"{step:07d}.{ending}"
