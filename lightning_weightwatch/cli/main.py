"""The entry point `lightning-weightwatch`: its subcommands, its errors, its exit codes."""

import re
import sys
from argparse import ArgumentError
from collections.abc import Sequence

from lightning_weightwatch.cli.arguments import command_parser
from lightning_weightwatch.cli.interrupt import INTERRUPTED
from lightning_weightwatch.cli.refusal import Refusal

PIPE_CLOSED = 141  # as a shell reports a program whose reader went away


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: The arguments; None for those of the process.

    Returns:
        The exit code: 0; 2 for wrong arguments and for files that cannot be read or written, with
        one line on stderr; 130 after Ctrl-C; 141 when the reader of stdout closed it. Any other
        exception is a bug and is not caught.
    """
    try:
        _run(argv)
    except ArgumentError as error:
        return _refused(f"{_in_words(error)} See --help.")
    except Refusal as refusal:
        return _refused(str(refusal))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return PIPE_CLOSED
    return 0


def _run(argv: Sequence[str] | None) -> None:
    options = command_parser().parse_args(argv)
    # Only now: --help, --version and a typing error need not wait for torch, nor does a diagnosis.
    if options.command == "diagnose":
        from lightning_weightwatch.cli import losses

        losses.run_diagnose(options.diagnose)
        return
    if options.command == "flops":
        from lightning_weightwatch.cli import flops

        flops.run_flops(options.flops)
        return
    from lightning_weightwatch.cli import spectra

    commands = {"analyze": spectra.run_analyze, "describe": spectra.run_describe}
    commands[options.command](options[options.command])


def _refused(message: str) -> int:
    from lightning_weightwatch.views.tables import one_line

    print(f"lightning-weightwatch: error: {one_line(message)}", file=sys.stderr)
    return 2


def _in_words(error: ArgumentError) -> str:
    """What the parser says, as a sentence in the words of the help."""
    message = " ".join(str(error).split()).rstrip(".")
    if re.search(r"\b\w+\.file\b.* required|required: \w+\.file$", message):
        message = "the following arguments are required: FILE, before any --layers"
    if re.search(r"\b\w+\.log\b.* required|required: \w+\.log$", message):
        message = "the following arguments are required: LOG"
    if re.search(r"\b\w+\.model\b.* required|required: \w+\.model$", message):
        message = "the following arguments are required: MODEL"
    if message.startswith('expected "command"'):
        message = "the following arguments are required: COMMAND"
    return f"{message}."
