"""The `miipher2` command: parses options, runs one subcommand, and reports a user's mistake in one line."""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from miipher2.cli import degrade, demo, doctor, evaluate, export, import_weights, params, restore
from miipher2.cli.checkpoint import commands as checkpoint

DESCRIPTION = """\
Restore, degrade and evaluate recordings, inspect checkpoints, and repair what a killed DVC leaves behind. To train, use
`uv run dvc repro` or the scripts in stages/.
"""
EXAMPLES = """\
examples:
  miipher2 checkpoint ls exp/adapter_embedded   what can be resumed
  miipher2 checkpoint show exp/adapter_embedded/published
  miipher2 doctor                              after a crash: what is left, and how to repair it
  miipher2 restore noisy.wav clean.wav
  miipher2 demo                                try it in a browser
  miipher2 degrade clean/ noisy/ --config miipher2   a test set
  miipher2 evaluate clean/ noisy/ restored/    content, speaker and quality, with intervals

exit codes: 0 success, 1 something was found or failed, 2 wrong usage or input
"""


class Parser(argparse.ArgumentParser):
    """Keeps the line breaks of help texts, and reports an error in one line."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False, **settings})

    def error(self, message: str) -> NoReturn:
        """End the process with the exit code 2."""
        self.exit(2, f"ERROR: {message}; see {self.prog} --help\n")


def make_parser() -> Parser:
    """Return the parser of the whole command."""
    parser = Parser(prog="miipher2", description=DESCRIPTION, epilog=EXAMPLES)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in (checkpoint, doctor, evaluate, export, import_weights, restore, demo, degrade, params):
        module.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    options = make_parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that is not UTF-8 is printed with escapes, as on stderr
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError) as error:
        sys.stderr.write(f"ERROR: {' '.join(str(error).split())}\n")
        return 2
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
