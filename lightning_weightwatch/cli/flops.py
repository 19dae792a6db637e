"""`flops`: what a model costs, by module."""

import math
import traceback
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from rich.text import Text
from torch import nn

from lightning_weightwatch.cli.built_model import Given, parsed_arguments, said
from lightning_weightwatch.cli.found_model import users_code
from lightning_weightwatch.cli.given_batch import (
    Input,
    check_fit,
    made_batch,
    parsed_inputs,
    run_as_given,
)
from lightning_weightwatch.cli.output import STDOUT, check_targets, publish, show
from lightning_weightwatch.cli.picture import check_picture, picture_bytes
from lightning_weightwatch.cli.refusal import Refusal
from lightning_weightwatch.files.printable import in_one_line
from lightning_weightwatch.model.running import CannotRun, device_of, has_forward, step_of
from lightning_weightwatch.usage.flops.count import count_flops
from lightning_weightwatch.usage.flops.report import FlopReport
from lightning_weightwatch.views.flop_figure import flop_figure
from lightning_weightwatch.views.flops import flop_markdown, flop_view
from lightning_weightwatch.views.records import csv_text, json_text
from lightning_weightwatch.views.tables import escape_markdown, one_line

# A model that takes no more bytes is built for real whenever it cannot be counted on meta; a larger
# one only where the error says that meta was to blame.
_SMALL = 2e9
_ON_META = ("meta", "storage", "data pointer", "data-dependent")


def run_flops(options: Namespace) -> None:
    """`lightning-weightwatch flops`.

    Raises:
        Refusal: For wrong arguments, for a model that cannot be found, built or run, and for files
            that cannot be written.
    """
    targets = {f"--{name}": options[name] for name in ("json", "csv", "markdown", "figure")}
    check_picture(options.figure)
    check_targets(options.model.rpartition(":")[0], targets)
    inputs = parsed_inputs(options.input or ())
    arguments = parsed_arguments(options.init or ())
    if options.device is not None and not options.profile:
        raise Refusal("--device is for --profile: to count, nothing is run")
    if options.device == "meta":
        raise Refusal("--device meta: nothing that takes time runs there")
    places = {name: _whole_path(target) for name, target in targets.items()}
    with users_code(options.model, arguments) as given:
        check_targets(given.file, places)  # the module of an import path
        report, shapes = _counted(given, inputs, options)
    title = f"{options.model} on {shapes}"
    if options.profile:
        title += f", timed on {options.device or 'cpu'}"
    settings = {
        "inputs": list(options.input or ()),
        "arguments": arguments,
        "profile": options.profile,
        "steps": options.steps,
        "samples": options.samples,
    }
    more = {"steps": options.steps, "samples": options.samples, "top": options.top}
    publish(
        [
            (options.json, lambda: _json(report, options, settings)),
            (options.csv, lambda: csv_text(report.records())),
            (
                options.markdown,
                lambda: f"# {escape_markdown(title)}\n\n{flop_markdown(report, **more)}\n",
            ),
            (options.figure, lambda: _picture(report, options.figure, title, options.top)),
        ],
        lambda width: flop_view(report, title, width, depth=options.depth, **more),
    )
    if options.figure is not None and STDOUT not in targets.values():
        show(lambda _: Text(f"\nThe hot spots are in {one_line(options.figure)}.", overflow="fold"))


def _whole_path(target: str | None) -> str | None:
    """From the root on: the code of a model may go to another folder."""
    return target if target in (None, STDOUT) else str(Path.cwd() / str(target))


def _counted(given: Given, inputs: Sequence[Input], options: Namespace) -> tuple[FlopReport, str]:
    """The costs, and the shapes of what the model ran on: without values, if that will do."""
    model = None if options.profile else given.on_meta()
    if model is not None:
        try:
            return _counted_on(model, given, inputs, profile=False)
        except _Failed as failed:
            if not _is_worth_another(failed.error, model, inputs):
                raise Refusal(str(failed)) from failed.error
    model = given.whole()
    if options.device is not None:
        try:
            model = model.to(torch.device(options.device))
        except (RuntimeError, AssertionError) as error:
            raise Refusal(f"--device {options.device}: {in_one_line(error)}") from error
    try:
        return _counted_on(model, given, inputs, profile=options.profile)
    except _Failed as failed:
        raise Refusal(str(failed)) from failed.error


class _Failed(Exception):
    """A model that raised when it was run, and where."""

    def __init__(self, target: str, shapes: str, error: BaseException) -> None:
        super().__init__(f"{target} cannot be run on {shapes}{_where(error)}: {said(error)}")
        self.error = error


def _counted_on(
    model: nn.Module, given: Given, inputs: Sequence[Input], *, profile: bool
) -> tuple[FlopReport, str]:
    batch, shapes = getattr(model, "example_input_array", None), "its example_input_array"
    if inputs:
        batch, shapes = made_batch(inputs, device_of(model)), ", ".join(map(str, inputs))
    if batch is None:
        raise Refusal(f"{given.target}: say what it is run on, with --input SHAPE")
    if has_forward(model):
        check_fit(model, batch, given.target)
    elif step_of(model) is None:
        raise Refusal(f"{given.target} has neither a forward nor a training_step to run")
    run = run_as_given if has_forward(model) else None
    try:
        report = count_flops(model, batch, run=run, profile=profile)
    except CannotRun as error:
        if error.__cause__ is None:
            raise Refusal(f"{given.target}: {error}") from error
        raise _Failed(given.target, shapes, error.__cause__) from error
    except (Exception, SystemExit) as error:
        raise _Failed(given.target, shapes, error) from error
    report = replace(report, ran="forward") if run is not None else report
    return replace(report, batch_size=inputs[0].shape[0]) if inputs else report, shapes


def _is_worth_another(error: BaseException, model: nn.Module, inputs: Sequence[Input]) -> bool:
    """Whether a model that failed on meta may work with values, and is worth the memory."""
    size = sum(parameter.nbytes for parameter in model.parameters())
    size += sum(math.prod(given.shape) * given.dtype.itemsize for given in inputs)
    blamed = any(word in str(error) for word in _ON_META)
    return blamed or isinstance(error, NotImplementedError) or size <= _SMALL


def _where(error: BaseException) -> str:
    """In which layer the code of a model raised."""
    running = [
        module
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if isinstance(module := frame.f_locals.get("self"), nn.Module)
    ]
    if not running:
        return ""
    names = {id(module): name for name, module in running[0].named_modules()}
    name = names.get(id(running[-1]), "")
    return f" in {name} ({type(running[-1]).__name__})" if name else ""


def _json(report: FlopReport, options: Namespace, settings: dict[str, Any]) -> str:
    """The report as JSON, with the operations in no count and the costs that were asked for."""
    more: dict[str, Any] = {
        "batch_size": report.batch_size,
        "device": report.device,
        "fallback": report.fallback,
        "ran": report.ran,
        "uncounted": [asdict(item) for item in report.uncounted],
    }
    if options.steps is not None:
        more["training_flops"] = report.training(options.steps)
    if options.samples is not None:
        more["inference_flops"] = report.inference(options.samples)
    return json_text(report, options.model, settings, "modules", more)


def _picture(report: FlopReport, target: str, title: str, top: int) -> bytes:
    """The figure in the format that the name of its file says.

    Raises:
        Refusal: If there is nothing to draw.
    """
    figure = flop_figure(report, top=top, title=title)
    if figure is None:
        raise Refusal(f"--figure {target}: no FLOPs and no parameters to draw")
    return picture_bytes(figure, target)
