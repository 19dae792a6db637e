"""The arguments of `flops`. Nothing heavy is imported here."""

from jsonargparse import ArgumentParser

from lightning_weightwatch.cli.numbers import integer_from_0, integer_from_1

FLOPS = """\
Count what a model costs: FLOPs of a forward pass and of a training step,
parameters, and the memory of activations, in all and of every module.

MODEL is the import path of a class or of a function that returns a model
(package.module:Name, looked for in the current folder too), or file.py:Name.
Its code is run. The model itself is not, where its operations can be counted
by their shapes alone: one of 7 billion parameters takes no memory.
"""
FLOPS_EXAMPLES = """\
examples:
  lightning-weightwatch flops torchvision.models:resnet18 --input 1,3,224,224
  lightning-weightwatch flops net.py:UNet --init channels=1 --input 8,1,256,256
  lightning-weightwatch flops my.models:Bert --input ids=1,128:int64 --depth 3
  lightning-weightwatch flops net.py:Net --input 8,784 --json - | jq .summary
"""


def add_model(parser: ArgumentParser) -> None:
    """Which model, and how it is made and run."""
    parser.add_argument("model", type=str, metavar="MODEL", help="the class or function")
    group = parser.add_argument_group("how the model is made and run")
    group.add_argument(
        "--input",
        type=str,
        action="append",
        metavar="SHAPE",
        help="an input by its sizes, the batch first: 8,3,224,224; with a dtype, 1,128:int64; by"
        " the name of its parameter, ids=1,128:int64. Again for each further input (default:"
        " example_input_array of a LightningModule)",
    )
    group.add_argument(
        "--init",
        type=str,
        action="append",
        metavar="NAME=VALUE",
        help="an argument of the class or function, its value in JSON or a text: depth=50,"
        " sizes=[2,2], activation=relu. Again for each further one",
    )
    group.add_argument(
        "--profile",
        action="store_true",
        help="also build and run the model for real, and measure the time of each module",
    )
    group.add_argument(
        "--device",
        type=str,
        metavar="DEVICE",
        help="where to run for --profile, such as cuda (default: the CPU)",
    )


def add_view(parser: ArgumentParser) -> None:
    """What is shown of it."""
    group = parser.add_argument_group("what to show")
    group.add_argument(
        "--depth",
        type=integer_from_0,
        metavar="N",
        help="modules down to this depth, 0 for the model alone (default: as many as fit, in a"
        " pipe all)",
    )
    group.add_argument(
        "--top",
        type=integer_from_1,
        default=5,
        metavar="N",
        help="hot spots: so many modules by FLOPs, so many by parameters; in the figure at most 16"
        " (default: 5)",
    )
    group.add_argument(
        "--steps",
        type=integer_from_1,
        metavar="N",
        help="also the cost of a training of N steps",
    )
    group.add_argument(
        "--samples",
        type=integer_from_1,
        metavar="N",
        help="also the cost of running the model on N samples",
    )
