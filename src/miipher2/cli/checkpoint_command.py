"""`miipher2 checkpoint command`, and runs that were cut off: the exact command that resumes from a checkpoint."""

import argparse
import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from miipher2.cli.finding import Finding
from miipher2.config.command import resume_command
from miipher2.training.checkpoint import read_summary
from miipher2.training.run_dir import PUBLISHED, is_locked


def run(options: argparse.Namespace) -> int:
    """Print the command that resumes from one checkpoint."""
    if not options.file.is_file():
        raise FileNotFoundError(f"{options.file}: no such file")
    summary = read_summary(options.file)
    if not summary:
        raise ValueError(f"{options.file.with_suffix('.json')}: missing or damaged; it says how the run was started")
    command = command_for(options.file, summary)
    if "command" not in summary:
        sys.stderr.write("its version did not record the run's overrides; the resume lists what is different\n")
    sys.stdout.write((json.dumps({"command": shlex.split(command)}) if options.json else command) + "\n")
    return 0


def command_for(checkpoint: Path, summary: dict[str, Any]) -> str:
    """Return the command that resumes from a checkpoint with the settings of the run.

    Args:
        summary: the checkpoint's JSON; without a recorded command, the configuration of the run's name is assumed.
    """
    stage, name = summary["stage"], summary["config"]["name"]
    words = summary.get("command") or ["uv", "run", f"stages/{stage}.py", f"--config-name={name}"]
    return resume_command(words, str(checkpoint))


def checkpoint_findings(root: Path) -> Iterator[Finding]:
    """Find the runs whose newest live checkpoint is newer than their published one, except those still running."""
    for folder in sorted(path for path in root.glob("exp/[!.]*") if path.is_dir()):
        live = _whole(folder)
        if not live or is_locked(folder):
            continue
        newest, summary = max(live.items(), key=lambda entry: (entry[1].get("saved_at", ""), entry[1]["step"]))
        published = _whole(folder / PUBLISHED).values()
        own = [other["step"] for other in published if other.get("run_id") == summary.get("run_id")]
        if own and max(own) >= summary["step"]:
            continue
        steps = summary["config"].get("steps")
        what = f"step {max(own)}" if own else "another run" if published else "nothing"
        text = (
            f"{newest.relative_to(root)}: step {summary['step']} of {steps}, newer than what its folder has published "
            f"({what})"
        )
        # Another experiment was checked out over a run that had finished: no work is waiting.
        is_problem = not (published and not own and summary["step"] >= steps)
        yield Finding("checkpoint", text, [command_for(newest, summary)], is_problem=is_problem)


def _whole(folder: Path) -> dict[Path, dict[str, Any]]:
    """Return the JSON of each checkpoint that has one and the size recorded in it."""
    summaries = {path: read_summary(path) for path in folder.glob("checkpoint_*.pt")}
    return {path: one for path, one in summaries.items() if one and one.get("bytes") == path.stat().st_size}
