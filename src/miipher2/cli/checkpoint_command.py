"""`miipher2 checkpoint command`: the command that resumes from a checkpoint with the settings of its run."""

import argparse
import json
import shlex
import sys

from miipher2.cli.doctor_checks import command_for
from miipher2.training.summary import read_summary


def run(options: argparse.Namespace) -> int:
    """Print the command."""
    if not options.file.is_file():
        raise FileNotFoundError(f"{options.file}: no such file")
    summary = read_summary(options.file)
    if not summary:
        raise ValueError(f"{options.file.with_suffix('.json')}: missing or damaged; it records how the run was started")
    command = command_for(str(options.file), summary)
    if "command" not in summary:
        sys.stderr.write("this checkpoint's version recorded no overrides; the resume will list what differs\n")
    sys.stdout.write((json.dumps({"command": shlex.split(command)}) if options.json else command) + "\n")
    return 0
