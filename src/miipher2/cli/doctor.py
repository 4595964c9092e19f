"""`miipher2 doctor`: what a killed run or a killed DVC left behind, and the commands that mend it."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from miipher2.cli.finding import Finding

DOCTOR = """\
Find what a crash leaves behind in this repository, explain it, and print the commands that mend it:

  process     a training process whose dvc has ended and that is still running
  head        a detached HEAD left by a killed `dvc exp run`
  lock        truncated or stale locks of DVC and Git
  params      params.yaml that no longer fits configs/
  checkpoint  live checkpoints newer than the published ones, and the command that resumes
  temporary   half-written files
  replaced    runs set aside in exp/.replaced, and their size (a note, as is a stage that runs as it should)

It changes nothing without --fix. With --fix it does only what cannot lose work: it removes locks of dead processes
(only while no dvc and no git is running here) and temporary files (only while no stage is running), and it puts HEAD
back on its branch where both are at the same commit, so that no file changes. It never ends a process, never removes a
checkpoint or anything in exp/.replaced, never switches to another commit.

exit codes: 0 nothing to mend (or --fix mended it all), 1 something to mend

examples:
  miipher2 doctor
  miipher2 doctor --fix
  miipher2 doctor --json | jq -r '.[] | select(.is_problem) | .commands[]'
"""


def add_parser(commands: Any) -> None:
    """Add `doctor` to the command line."""
    parser = commands.add_parser("doctor", help="find and mend what a crash left behind", description=DOCTOR)
    parser.add_argument("--fix", action="store_true", help="do what cannot lose work")
    parser.add_argument("--json", action="store_true", help="write JSON, for scripts")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Examine the repository, mend what may be mended, and report."""
    from miipher2.config.paths import ROOT

    alive = _alive(ROOT)
    findings = examine(ROOT)
    if options.fix and _alive(ROOT) != alive:
        raise ValueError("a stage, dvc or git started or ended meanwhile; run this again")
    for finding in findings if options.fix else []:
        if finding.fix is not None:
            finding.fix()
            finding.is_fixed = True
    if options.json:
        keys = ("kind", "text", "commands", "is_problem", "is_fixed")
        plain = [{key: getattr(finding, key) for key in keys} for finding in findings]
        sys.stdout.write(json.dumps(plain, indent=2) + "\n")
    else:
        sys.stdout.write("".join(_lines(finding) for finding in findings) or "nothing to report\n")
    return int(any(finding.is_problem and not finding.is_fixed for finding in findings))


def examine(root: Path) -> "list[Finding]":
    """Return all findings in a repository, in the order in which they are best mended."""
    from miipher2.cli.checkpoint_command import checkpoint_findings
    from miipher2.cli.leftovers import head_findings, lock_findings, replaced_findings, temporary_findings
    from miipher2.cli.processes import find_tools, find_trainings, process_findings

    trainings, tools = find_trainings(root), find_tools(root)
    return [
        *process_findings(trainings),
        *head_findings(root, tools),
        *lock_findings(root, tools),
        *_params_findings(root),
        *checkpoint_findings(root),
        *temporary_findings(root, [training.pid for training in trainings]),
        *replaced_findings(root),
    ]


def _alive(root: Path) -> tuple[set[str], set[int]]:
    from miipher2.cli.processes import find_tools, find_trainings

    return set(find_tools(root)), {training.pid for training in find_trainings(root)}


def _params_findings(root: Path) -> "list[Finding]":
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from miipher2.cli.finding import Finding
    from miipher2.config.params import find_staleness

    again = ["uv run python -m miipher2.compose"]
    try:
        problem = find_staleness(OmegaConf.create(yaml.safe_load((root / "params.yaml").read_text())))
    except FileNotFoundError as error:
        missing = "params.yaml is missing" if error.filename is not None else str(error)
        return [Finding("params", missing, again)]
    except (ValueError, AttributeError, TypeError, yaml.YAMLError, OmegaConfBaseException) as error:
        return [Finding("params", f"params.yaml cannot be read: {' '.join(str(error).split())}", again)]
    return [] if problem is None else [Finding("params", problem, again)]


def _lines(finding: "Finding") -> str:
    if finding.is_fixed:
        return f"FIXED    {finding.kind}: {finding.text}\n"
    word = "PROBLEM" if finding.is_problem else "note   "
    return f"{word}  {finding.kind}: {finding.text}\n" + "".join(f"             {one}\n" for one in finding.commands)
