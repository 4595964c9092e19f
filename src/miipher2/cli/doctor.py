"""`miipher2 doctor`: what a killed run or a killed DVC left behind, and the commands that repair it."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from miipher2.config.paths import ROOT

DOCTOR = """\
Find what a crash leaves behind in this repository, explain it, and print the commands that repair it:

  process     a training process whose dvc has ended and that is still running
  head        a HEAD that a killed `dvc exp run` left detached
  lock        truncated or stale locks of DVC and Git
  params      a params.yaml that no longer matches configs/
  checkpoint  live checkpoints newer than the published ones, and the command that resumes
  temporary   half-written files
  replaced    runs set aside in exp/.replaced, and their size (a note, as is a stage that is running normally)

Nothing is changed without --fix, and --fix does only what cannot lose work: it removes locks of dead processes (only
while no dvc and no git is running here) and temporary files (only while no stage is running), and it puts HEAD back on
its branch where both are at the same commit. It never ends a process, removes a checkpoint or anything in
exp/.replaced, or switches to another commit.

exit codes: 0 nothing to repair (or --fix repaired everything), 1 something to repair

examples:
  miipher2 doctor
  miipher2 doctor --fix
  miipher2 doctor --json | jq -r '.[] | select(.is_problem) | .commands[]'
"""


def add_parser(commands: Any) -> None:
    """Add `doctor` to the command line."""
    parser = commands.add_parser("doctor", help="find and repair what a crash left behind", description=DOCTOR)
    parser.add_argument("--fix", action="store_true", help="do what cannot lose work")
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Examine the repository, repair what is safe to repair, and report."""
    running = _running(ROOT)
    findings = examine(ROOT)
    if options.fix and _running(ROOT) != running:
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


def examine(root: Path) -> list[Any]:
    """Return all findings in a repository, in the order in which they are best repaired."""
    from miipher2.cli import doctor_checks as checks  # psutil, Hydra: a help text should not wait for them

    trainings, tools = checks.find_trainings(root), checks.find_tools(root)
    return [
        *checks.process_findings(trainings),
        *checks.head_findings(root, tools),
        *checks.lock_findings(root, tools),
        *checks.params_findings(root),
        *checks.checkpoint_findings(root),
        *checks.temporary_findings(root, [training.pid for training in trainings]),
        *checks.replaced_findings(root),
    ]


def _running(root: Path) -> tuple[set[str], set[int]]:
    from miipher2.cli.doctor_checks import find_tools, find_trainings

    return set(find_tools(root)), {training.pid for training in find_trainings(root)}


def _lines(finding: Any) -> str:
    if finding.is_fixed:
        return f"FIXED    {finding.kind}: {finding.text}\n"
    word = "PROBLEM" if finding.is_problem else "note   "
    return f"{word}  {finding.kind}: {finding.text}\n" + "".join(f"             {one}\n" for one in finding.commands)
