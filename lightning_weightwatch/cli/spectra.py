"""`analyze` and `describe`: the spectra, or the shapes, of the layers in a file."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jsonargparse import Namespace
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from torch import nn

from lightning_weightwatch.cli.interrupt import ends_at_once
from lightning_weightwatch.cli.output import check_targets, publish
from lightning_weightwatch.cli.refusal import Refusal
from lightning_weightwatch.files.checkpoint import BadFile
from lightning_weightwatch.report import Report
from lightning_weightwatch.spectral.analysis import analyze, describe
from lightning_weightwatch.spectral.selection import Weights, opened, select
from lightning_weightwatch.views.records import csv_text, json_text
from lightning_weightwatch.views.spectra import shape_view, spectral_view
from lightning_weightwatch.views.tables import one_line

_NAMED = 8
_SHOWN_OF_A_NAME = 60


def run_analyze(options: Namespace) -> None:
    """`lightning-weightwatch analyze`.

    Raises:
        Refusal: For wrong arguments, and for files that cannot be read or written.
    """
    arguments = _arguments(options)
    arguments["dtype"] = getattr(torch, options.dtype)
    _check(options, lambda: analyze(nn.Module(), **arguments))
    with _reading(options) as weights, _progress() as progress:
        report = analyze(weights, **arguments, progress=progress)
    _publish(options, report, lambda width: spectral_view(report, options.file, width))


def run_describe(options: Namespace) -> None:
    """`lightning-weightwatch describe`.

    Raises:
        Refusal: For wrong arguments, and for files that cannot be read or written.
    """
    arguments = _arguments(options)
    _check(options, lambda: describe(nn.Module(), **arguments))
    with _reading(options) as weights:
        report = describe(weights, **arguments)
    _publish(options, report, lambda width: shape_view(report, options.file, width))


def _arguments(options: Namespace) -> dict[str, Any]:
    """The options that are arguments of `analyze` or `describe`, under the same names."""
    return {
        key: value for key, value in vars(options).items() if key not in ("file", "json", "csv")
    }


def _check(options: Namespace, on_no_layers: Callable[[], object]) -> None:
    """Refuse wrong arguments, before the file is read.

    The measurement of a model without layers does nothing but look at its arguments. A ValueError
    of the real one is therefore a fault of ours, and is not taken for one of the arguments.
    """
    check_targets(options.file, {"--json": options.json, "--csv": options.csv})
    try:
        on_no_layers()
    except ValueError as error:
        raise Refusal(f"--{error}") from error


@contextmanager
def _reading(options: Namespace) -> Iterator[Weights]:
    """The weights of the file, open within the block.

    Raises:
        Refusal: If it cannot be read, or a pattern fits no layer in it.
    """
    file = options.file
    try:
        with opened(file, trust=options.trust) as weights:
            _check_patterns(options.layers or (), weights)
            yield weights
    except BadFile as error:
        raise Refusal(str(error)) from error
    except MemoryError as error:
        raise Refusal(f"{file}: it needs more memory than there is") from error
    except OSError as error:
        raise Refusal(f"{file}: cannot be read ({error.strerror or error})") from error


def _check_patterns(patterns: Sequence[str], weights: Weights) -> None:
    """Refuse a pattern that fits no layer: a typing error would look like an empty file."""
    for pattern in patterns:
        fitting = select(weights, layers=[pattern], min_evals=1)
        if not fitting.matrices and not fitting.skipped:
            there = [part.name for part in select(weights, min_evals=1).matrices]
            raise Refusal(f"--layers {pattern} fits no layer. There are: {_some(there)}.")


def _some(names: list[str]) -> str:
    shown = [
        name if len(name) <= _SHOWN_OF_A_NAME else f"{name[:_SHOWN_OF_A_NAME]}…"
        for name in map(one_line, names[:_NAMED])
    ]
    more = len(names) - _NAMED
    return (", ".join(shown) or "none") + (f" and {more} more" if more > 0 else "")


@contextmanager
def _progress() -> Iterator[Callable[[float], None]]:
    """A bar on stderr, where that is a terminal that can draw one."""
    console = Console(stderr=True)
    if not sys.stderr.isatty() or console.is_dumb_terminal:
        with ends_at_once(lambda: None):
            yield lambda share: None
        return
    columns = (TextColumn("Measuring"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True)
    with ends_at_once(bar.stop), bar:
        task = bar.add_task("", total=1.0)
        yield lambda share: bar.update(task, completed=share)


def _publish(
    options: Namespace, report: Report, view: Callable[[int | None], RenderableType]
) -> None:
    publish(
        [
            (options.json, lambda: json_text(report, options.file, _arguments(options))),
            (options.csv, lambda: csv_text(report.records())),
        ],
        view,
    )
