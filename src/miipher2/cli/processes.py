"""Which processes of a repository are alive: its stages' scripts, DVC, Git."""

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psutil

from miipher2.cli.finding import Finding


@dataclass(frozen=True)
class Training:
    """A running script of stages/; `dvc_pid` is the DVC that waits for it, if any does."""

    pid: int
    script: str
    since: datetime
    was_started_by_dvc: bool
    dvc_pid: int | None


def find_trainings(root: Path) -> list[Training]:
    """Return the scripts of stages/ that run in this repository, without their data workers."""
    found: dict[int, tuple[psutil.Process, Path]] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # it ended meanwhile, or is another user's
            script = _script(process)
            if script is not None and script.parent == root.resolve() / "stages":
                found[process.pid] = (process, script)
    trainings = []
    for process, script in found.values():
        with suppress(psutil.Error):
            if process.ppid() in found:
                continue
            above = [parent.pid for parent in process.parents() if _is_dvc(parent)]
            since = datetime.fromtimestamp(process.create_time())
            by_dvc = bool(above) or "DVC_STAGE" in process.environ()
            dvc_pid = above[0] if above else None
            trainings.append(Training(process.pid, f"stages/{script.name}", since, by_dvc, dvc_pid))
    return trainings


def find_tools(root: Path) -> list[str]:
    """Return the DVC and Git processes that work in this repository, as `dvc (pid 17)`."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = process.cmdline()
            name = "dvc" if _is_dvc(process) else Path(words[0]).name if words else ""
            if name in ("dvc", "git") and Path(process.cwd()).resolve().is_relative_to(root.resolve()):
                found.append(f"{name} (pid {process.pid})")
    return found


def process_findings(trainings: list[Training]) -> list[Finding]:
    """Return what the running scripts mean: one that outlived its DVC is a problem."""
    findings = []
    for training in trainings:
        text = f"pid {training.pid}, {training.script}, since {training.since:%Y-%m-%d %H:%M:%S}"
        if training.was_started_by_dvc and training.dvc_pid is None:
            text = (
                f"a stage whose dvc has ended is still running: {text}. It goes on writing its run's folder, where no "
                "other can train meanwhile. Wait for it, or end it: training saves a checkpoint first"
            )
            findings.append(Finding("process", text, [f"kill {training.pid}"]))
        else:
            by = f"dvc (pid {training.dvc_pid})" if training.was_started_by_dvc else "hand"
            text = f"a stage is running: {text}, started by {by}"
            findings.append(Finding("process", text, is_problem=False))
    return findings


def is_dvc_pid(pid: int) -> bool:
    """Say whether a process is alive and is DVC; a number may have passed on to another program."""
    try:
        return _is_dvc(psutil.Process(pid))
    except psutil.AccessDenied:
        return True
    except psutil.Error:
        return False


def _script(process: psutil.Process) -> Path | None:
    """Return the file that a Python process runs; None where it is no Python, or runs a module or a text."""
    words = process.cmdline()
    if not words or not Path(words[0]).name.startswith("python"):
        return None
    rest = iter(words[1:])
    for word in rest:
        if word in ("-X", "-W"):
            next(rest, None)
        elif word in ("-c", "-m"):
            return None
        elif not word.startswith("-"):
            return (Path(process.cwd()) / word).resolve()
    return None


def _is_dvc(process: psutil.Process) -> bool:
    words = process.cmdline()
    return any(Path(word).name == "dvc" for word in words[:2]) or words[1:3] == ["-m", "dvc"]
