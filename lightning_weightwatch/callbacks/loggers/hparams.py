"""TensorBoard's HParams page as events: its columns, and a run that is a row of it."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lightning_weightwatch.callbacks.loggers.tensorboard import scalar_summary

if TYPE_CHECKING:
    from tensorboard.compat.proto.summary_pb2 import Summary

Scalar = float | str


def columns(
    hparams: Mapping[str, Scalar], titles: Mapping[str, str], metrics: Mapping[str, str]
) -> "Summary":
    """The head of the table.

    Args:
        hparams: A value of each column, for its type.
        titles: Of columns that stand first: five are shown unasked.
        metrics: Tags of scalars with their titles.
    """
    from tensorboard.plugins.hparams.api_pb2 import (
        DATA_TYPE_FLOAT64,
        DATA_TYPE_STRING,
        Experiment,
        HParamInfo,
        MetricInfo,
        MetricName,
    )
    from tensorboard.plugins.hparams.metadata import EXPERIMENT_TAG

    infos = [
        HParamInfo(
            name=name,
            display_name=titles.get(name, ""),
            type=DATA_TYPE_STRING if isinstance(value, str) else DATA_TYPE_FLOAT64,
            differs=name in titles,
        )
        for name, value in hparams.items()
    ]
    shown = [
        MetricInfo(name=MetricName(tag=tag), display_name=title) for tag, title in metrics.items()
    ]
    return _summary(EXPERIMENT_TAG, experiment=Experiment(hparam_infos=infos, metric_infos=shown))


def write_row(
    folder: str,
    head: "Summary",
    name: str,
    hparams: Mapping[str, Scalar],
    metrics: Mapping[str, float],
    descriptions: Mapping[str, str],
    step: int,
    seconds: float,
) -> None:
    """A run of its own, with its event file closed.

    Args:
        folder: Of the run.
        head: The columns of the table, which TensorBoard takes from any run.
        name: Of the row. Rows of one name would be merged into their mean.
        hparams: Its hyperparameters.
        metrics: Scalars by their tags.
        descriptions: Markdown for the same tags.
        step: Their x.
        seconds: How long it took.
    """
    from tensorboard.plugins.hparams.api_pb2 import STATUS_SUCCESS
    from tensorboard.plugins.hparams.metadata import SESSION_END_INFO_TAG, SESSION_START_INFO_TAG
    from tensorboard.plugins.hparams.plugin_data_pb2 import SessionEndInfo, SessionStartInfo
    from torch.utils.tensorboard.writer import FileWriter

    end = time.time()
    start = SessionStartInfo(group_name=name, start_time_secs=end - seconds)
    for key, value in hparams.items():
        if isinstance(value, str):
            start.hparams[key].string_value = value
        else:  # truth values as well: torch writes them so, in the run of the fit
            start.hparams[key].number_value = value
    events: Any = FileWriter(folder)
    try:
        events.add_summary(head)
        events.add_summary(_summary(SESSION_START_INFO_TAG, session_start_info=start))
        events.add_summary(scalar_summary(metrics, descriptions), step)
        ended = SessionEndInfo(status=STATUS_SUCCESS, end_time_secs=end)
        events.add_summary(_summary(SESSION_END_INFO_TAG, session_end_info=ended))
    finally:
        events.close()


def _summary(tag: str, **content: Any) -> "Summary":
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams.metadata import create_summary_metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    metadata = create_summary_metadata(HParamsPluginData(**content))
    return Summary(value=[Summary.Value(tag=tag, metadata=metadata)])
