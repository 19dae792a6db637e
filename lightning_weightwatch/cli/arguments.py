"""The arguments of every command. Nothing heavy is imported here: `--help` answers at once."""

from argparse import BooleanOptionalAction, RawDescriptionHelpFormatter
from typing import Any

from jsonargparse import ArgumentParser

import lightning_weightwatch
from lightning_weightwatch.cli.flop_arguments import FLOPS, FLOPS_EXAMPLES, add_model, add_view
from lightning_weightwatch.cli.numbers import integer_from_0, integer_from_1

_NAME = "lightning-weightwatch"
_ANALYZE = """\
Measure the spectrum of every layer in a file: the power-law exponent alpha of
its eigenvalues, the distance D of that fit, norms and stable rank.

FILE is a checkpoint of PyTorch or Lightning (.ckpt, .pt, .pth, .bin) or a
.safetensors file. The code in a checkpoint is not run.
"""
_ANALYZE_EXAMPLES = f"""\
examples:
  {_NAME} analyze model.safetensors
  {_NAME} analyze last.ckpt --layers 'encoder.*' --mp-fit
  {_NAME} analyze last.ckpt --csv layers.csv
  {_NAME} analyze last.ckpt --json - | jq .summary
"""
_DESCRIBE = """\
List the layers that `analyze` would measure, by name and shape alone. No
weight is read, so that it takes no time, however large the file.
"""
_DIAGNOSE = """\
Say what the learning curves of a run tell: whether it overfits and since when,
which epoch was the best, and the phases that it went through.

LOG is the folder of a run (lightning_logs/version_0), with metrics.csv or
events of TensorBoard, or a CSV file of Lightning, Keras or your own.
"""
_DIAGNOSE_EXAMPLES = f"""\
examples:
  {_NAME} diagnose lightning_logs/version_0
  {_NAME} diagnose run.csv --monitor val_acc --figure a.png
  {_NAME} diagnose run.csv --json - | jq .diagnosis
"""


def command_parser() -> ArgumentParser:
    """The parser; wrong arguments raise `argparse.ArgumentError`."""
    version = getattr(lightning_weightwatch, "__version__", "(not installed)")
    parser = _parser(
        "What training did to the weights in a file, how it went, and what a model costs.",
        version=version,
    )
    commands = parser.add_subcommands(
        dest="command", metavar="COMMAND", title="commands", description=None
    )
    analyze = _parser(_ANALYZE, epilog=_ANALYZE_EXAMPLES)
    _add_file(analyze)
    _add_selection(analyze)
    _add_measurement(analyze)
    _add_output(analyze, "layer")
    commands.add_subcommand("analyze", analyze, help="the spectra of the layers in a file")
    describe = _parser(_DESCRIBE)
    _add_file(describe)
    _add_selection(describe)
    _add_output(describe, "layer")
    commands.add_subcommand("describe", describe, help="what analyze would measure, by shape alone")
    diagnose = _parser(_DIAGNOSE, epilog=_DIAGNOSE_EXAMPLES)
    diagnose.add_argument("log", type=str, metavar="LOG", help="the folder or CSV file of the run")
    _add_curves(diagnose)
    _add_pages(_add_output(diagnose, "validation"), "curves")
    commands.add_subcommand("diagnose", diagnose, help="what the learning curves of a run tell")
    flops = _parser(FLOPS, epilog=FLOPS_EXAMPLES)
    add_model(flops)
    add_view(flops)
    _add_pages(_add_output(flops, "module"), "hot spots")
    commands.add_subcommand("flops", flops, help="what a model costs: FLOPs, parameters, memory")
    for usage, command in (
        ("analyze FILE", analyze),
        ("describe FILE", describe),
        ("diagnose LOG", diagnose),
        ("flops MODEL", flops),
    ):
        command.usage = f"{_NAME} {usage} [options]"
    return parser


def _parser(description: str, **settings: Any) -> ArgumentParser:
    return ArgumentParser(
        prog=_NAME,
        description=description,
        formatter_class=RawDescriptionHelpFormatter,
        exit_on_error=False,
        allow_abbrev=False,
        default_env=False,
        **settings,
    )


def _add_file(parser: ArgumentParser) -> None:
    parser.add_argument("file", type=str, metavar="FILE", help="the file with the weights")
    parser.add_argument(
        "--trust",
        action="store_true",
        help="let the code in a pickled checkpoint run: only for files whose origin you trust",
    )


def _add_selection(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("which layers")
    group.add_argument(
        "--layers",
        nargs="+",
        type=str,
        metavar="PATTERN",
        help="only these: names or shell patterns, such as 'encoder.*'",
    )
    group.add_argument(
        "--kinds",
        nargs="+",
        type=str,
        metavar="KIND",
        help="only these kinds: linear, embedding, conv1d, conv2d, conv3d, attention, rnn, ...",
    )
    group.add_argument(
        "--min-evals",
        type=integer_from_1,
        default=8,
        metavar="N",
        help="leave out layers with fewer than N eigenvalues (default: 8)",
    )


def _add_measurement(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("how to measure")
    group.add_argument(
        "--mp-fit",
        action="store_true",
        help="also fit the Marchenko-Pastur bulk: spikes beyond it, soft rank",
    )
    group.add_argument(
        "--randomize",
        action="store_true",
        help="also compare with the weights shuffled; takes several times as long",
    )
    group.add_argument(
        "--pool",
        action=BooleanOptionalAction,
        default=True,
        help="one row for all kernel positions of a convolution (default), or a row for each",
    )
    group.add_argument(
        "--convention",
        choices=["weightwatcher", "plain"],
        default="weightwatcher",
        help="the numbers of WeightWatcher 0.7.7 (default), or eigenvalues of convolutions not"
        " halved and floors relative to the largest one",
    )
    group.add_argument(
        "--dtype",
        choices=["float64", "float32"],
        default="float64",
        help="float32 is faster, alpha then within about 1e-3 (default: float64)",
    )
    group.add_argument(
        "--device",
        type=str,
        metavar="DEVICE",
        help="where to compute, such as cuda (default: the CPU)",
    )
    group.add_argument(
        "--seed",
        type=integer_from_0,
        default=0,
        metavar="N",
        help="of the shuffles of --randomize (default: 0)",
    )


def _add_curves(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("which curves")
    group.add_argument(
        "--monitor",
        type=str,
        metavar="NAME",
        help="the validation metric (default: val_loss, or another usual name)",
    )
    group.add_argument(
        "--train",
        type=str,
        metavar="NAME",
        help="the training loss (default: weightwatch/train_loss, train_loss_epoch, train_loss,"
        " or another usual name)",
    )
    group.add_argument(
        "--mode",
        choices=["min", "max"],
        help="whether the metric is to fall or to rise (default: min; max for accuracies and"
        " others that are known by their names)",
    )


def _add_output(parser: ArgumentParser, row: str) -> Any:
    group = parser.add_argument_group("where the numbers go, besides the table")
    group.add_argument(
        "--json", type=str, metavar="F", help="all of them as JSON to the file F; - for stdout"
    )
    group.add_argument(
        "--csv", type=str, metavar="F", help=f"a row for each {row} to the file F; - for stdout"
    )
    return group


def _add_pages(group: Any, picture: str) -> None:
    group.add_argument(
        "--markdown", type=str, metavar="F", help="the text as Markdown to the file F; - for stdout"
    )
    group.add_argument(
        "--figure",
        type=str,
        metavar="F",
        help=f"the {picture} as a picture: .png, .svg or .pdf",
    )
