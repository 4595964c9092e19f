"""What a killed run or a killed DVC leaves behind in a repository, one check for each kind of leftover."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from shlex import join, quote
from typing import Any

import psutil
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from miipher2.config.command import hydra_word, is_dvc_command, resume_command
from miipher2.config.params import find_problem, repairs
from miipher2.config.paths import ROOT, runs_below
from miipher2.config.resume_routing import is_live
from miipher2.training.summary import read_summary

# A running Git holds its locks for moments only.
LOCK_SECONDS = 10


@dataclass
class Finding:
    """One thing that the doctor reports.

    Args:
        kind: a word for scripts: process, head, lock, params, checkpoint, temporary, replaced.
        text: what it is and what it means.
        commands: what a user types to repair it, in this order.
        is_problem: False for what is in order and only worth knowing.
        fix: repairs it, where that cannot lose work.
    """

    kind: str
    text: str
    commands: list[str] = field(default_factory=list)
    is_problem: bool = True
    fix: Callable[[], None] | None = None
    is_fixed: bool = False


@dataclass(frozen=True)
class Training:
    """A running script of stages/; `dvc_pid` is the DVC that waits for it, if any."""

    pid: int
    script: str
    since: datetime
    was_started_by_dvc: bool
    dvc_pid: int | None


def find_trainings(root: Path) -> list[Training]:
    """Return the scripts of stages/ that run in this repository, without their data workers."""
    scripts: dict[int, tuple[psutil.Process, Path]] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # it has ended, or belongs to another user
            script = _script(process)
            if script is not None and script.parent == root.resolve() / "stages":
                scripts[process.pid] = (process, script)
    trainings = []
    for process, script in scripts.values():
        with suppress(psutil.Error):
            if process.ppid() in scripts:
                continue
            dvc_pids = [parent.pid for parent in process.parents() if _is_dvc(parent)]
            since = datetime.fromtimestamp(process.create_time())
            by_dvc = bool(dvc_pids) or "DVC_STAGE" in process.environ()
            dvc_pid = dvc_pids[0] if dvc_pids else None
            trainings.append(Training(process.pid, f"stages/{script.name}", since, by_dvc, dvc_pid))
    return trainings


def find_tools(root: Path) -> list[str]:
    """Return the DVC and Git processes that work in this repository, as `dvc (pid 17)`."""
    tools = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = process.cmdline()
            name = "dvc" if _is_dvc(process) else Path(words[0]).name if words else ""
            if name in ("dvc", "git") and Path(process.cwd()).resolve().is_relative_to(root.resolve()):
                tools.append(f"{name} (pid {process.pid})")
    return tools


def process_findings(trainings: list[Training]) -> Iterator[Finding]:
    """Report running stages; one that outlived its DVC is a problem."""
    for training in trainings:
        text = f"pid {training.pid}, {training.script}, since {training.since:%Y-%m-%d %H:%M:%S}"
        if training.was_started_by_dvc and training.dvc_pid is None:
            text = (
                f"a stage whose dvc has ended is still running: {text}. It keeps its run's folder locked. Wait for it, "
                "or end it: training saves a checkpoint first"
            )
            yield Finding("process", text, [f"kill {training.pid}"])
        else:
            by = f"dvc (pid {training.dvc_pid})" if training.was_started_by_dvc else "hand"
            yield Finding("process", f"a stage is running: {text}, started by {by}", is_problem=False)


def head_findings(root: Path, tools: list[str]) -> Iterator[Finding]:
    """Find a HEAD that a killed `dvc exp run` left detached; while a DVC is running, a detached HEAD is normal."""
    head = _git(root, "rev-parse", "HEAD")
    baseline = _git(root, "rev-parse", "-q", "--verify", "refs/exps/exec/EXEC_BASELINE")
    is_detached = _git(root, "symbolic-ref", "-q", "HEAD") is None
    if head is None or baseline is None or not is_detached or any(tool.startswith("dvc") for tool in tools):
        return
    if _git(root, "merge-base", "--is-ancestor", baseline, "HEAD") is None:
        return
    text = f"HEAD is detached at {head[:7]}: a `dvc exp run` was killed before it restored it"
    branch = _last_branch(root)
    if branch is None:
        yield Finding("head", f"{text}; its branch is unknown", ["git branch", "git switch BRANCH"])
    elif _git(root, "rev-parse", f"refs/heads/{branch}") == head:
        text += f". The branch {branch} is at the same commit, so switching back changes no file"
        fix = None if tools else partial(_attach, root, branch)
        yield Finding("head", text, [join(["git", "switch", branch])], fix=fix)
    else:
        text += f", and {branch} is at another commit; keep the commits of HEAD under a name first"
        is_kept = _git(root, "show-ref", "--verify", f"refs/heads/kept-{head[:7]}") is not None
        keep = [] if is_kept else [f"git branch kept-{head[:7]}"]
        yield Finding("head", text, [*keep, join(["git", "switch", branch])])


def lock_findings(root: Path, tools: list[str]) -> Iterator[Finding]:
    """Find locks that no running process holds."""
    for lock in (root / ".dvc/tmp/rwlock", root / ".dvc/tmp/exps/rwlock"):
        text = _lock_problem(lock) if lock.is_file() else None
        if text is not None:
            yield _removable("lock", f"{lock.relative_to(root)}: {text}", lock, root, tools)
    folder = _git(root, "rev-parse", "--absolute-git-dir")
    for lock in [] if folder is None else sorted({*Path(folder).glob("*.lock"), *Path(folder).glob("refs/**/*.lock")}):
        if not tools and time.time() - lock.stat().st_mtime > LOCK_SECONDS:
            yield _removable("lock", f"{lock}: held by no running Git; Git refuses to work", lock, root, tools)


def params_findings(root: Path) -> Iterator[Finding]:
    """Find a params.yaml that is missing, unreadable, stale, or wrong."""
    loaded: Any = None
    try:
        loaded = yaml.safe_load((root / "params.yaml").read_text())
        problem = find_problem(OmegaConf.create(loaded))
    except FileNotFoundError as error:
        problem = "params.yaml is missing" if error.filename is not None else str(error)
    except (ValueError, AttributeError, TypeError, yaml.YAMLError, OmegaConfBaseException) as error:
        problem = f"params.yaml cannot be read: {' '.join(str(error).split())}"
    if problem is not None:
        command, _ = repairs(OmegaConf.create(loaded if isinstance(loaded, dict) else {}))
        yield Finding("params", problem, [join(command)])


def checkpoint_findings(root: Path) -> Iterator[Finding]:
    """Find runs whose newest live checkpoint is newer than their published one, except those still running."""
    # Locking is training's, which imports torch: only where there is a run to look at.
    for folder in runs_below(root / "exp"):
        live = _whole_checkpoints(folder)
        if not live:
            continue
        from miipher2.training.run_dir import PUBLISHED, is_locked

        if is_locked(folder):
            continue
        newest, summary = max(live.items(), key=lambda entry: (entry[1].get("saved_at", ""), entry[1]["step"]))
        published = _whole_checkpoints(folder / PUBLISHED).values()
        own = [other["step"] for other in published if other.get("run_id") == summary.get("run_id")]
        if own and max(own) >= summary["step"]:
            continue
        name, steps = newest.relative_to(root), summary["config"].get("steps")
        what = f"step {max(own)}" if own else "another run" if published else "nothing"
        text = f"{name}: step {summary['step']} of {steps}, newer than what its folder has published ({what})"
        if "command" not in summary:
            text += "; its version recorded no overrides, so the resume will list what differs"
        # A run that had finished when another experiment was checked out over it: no work is waiting.
        is_problem = not (published and not own and summary["step"] >= steps)
        yield Finding("checkpoint", text, commands_for(str(name), summary), is_problem=is_problem)


def commands_for(checkpoint: str, summary: dict[str, Any]) -> list[str]:
    """Return what a shell runs to resume from a checkpoint with the settings of its run; the last line resumes.

    The lines before it copy the file out of a `published/` that DVC empties before it trains.

    Args:
        checkpoint: relative to the repository, or absolute.
        summary: its JSON; where it records no command, the configuration with the run's name is assumed, or else the
            script's default.
    """
    stage, name = summary["stage"], summary["config"]["name"]
    words = summary.get("command")
    if words is None:
        is_named = (ROOT / "configs" / stage / f"{name}.yaml").is_file()
        words = ["uv", "run", f"stages/{stage}.py", f"--config-name={name}" if is_named else f"name={hydra_word(name)}"]
    path, live = Path(checkpoint), Path("exp", name)
    if not is_dvc_command(words) or path.parent not in (live, live / "published"):
        return [resume_command(words, checkpoint, stage)]
    if path.parent == live or is_live(ROOT / path, ROOT / live):
        return [resume_command(words, str(live / path.name))]
    copies = Path("resume", f"{name}-{summary.get('sha256', '')[:8]}".replace("/", "-").rstrip("-"))
    copy = f"mkdir -p {quote(str(copies))} && cp {quote(str(path.with_suffix('')))}.* {quote(str(copies))}"
    return [copy, resume_command(words, str(copies / path.name), stage)]


def temporary_findings(root: Path, running: list[int]) -> Iterator[Finding]:
    """Find the half-written files of killed runs; they were never visible as checkpoints or results."""
    exp = root / "exp"
    paths = {*exp.glob(".*.tmp"), *exp.glob("*/.*.tmp"), *root.glob("data/prepared/.*.tmp")}
    paths |= {path for folder in runs_below(exp) for path in folder.glob(".*.tmp")}
    for path in [] if running else sorted(paths):
        whole = path.with_name(path.name.removeprefix(".").removesuffix(".earlier.tmp"))
        if path.name.endswith(".earlier.tmp") and not whole.exists():
            text = f"{path.relative_to(root)}: the earlier {whole.name}; its successor was not put in place"
            yield Finding("temporary", text, [join(["mv", str(path.relative_to(root)), str(whole.relative_to(root))])])
        else:
            text = f"{path.relative_to(root)}: half-written when a process was killed, {_megabytes(path)}"
            yield _removable("temporary", text, path, root, [])


def replaced_findings(root: Path) -> Iterator[Finding]:
    """Report how much disk the runs set aside take."""
    folders = {root / "exp", *root.glob("exp/*/"), *(run.parent for run in runs_below(root / "exp"))}
    for folder in sorted(path / ".replaced" for path in folders if (path / ".replaced").is_dir()):
        runs = sorted(path.name for path in folder.iterdir())
        if runs:
            name = folder.relative_to(root)
            text = f"{name}: {len(runs)} set aside, {_megabytes(folder)}; no command needs them"
            yield Finding("replaced", text, [join(["rm", "-r", f"{name}/{runs[0]}"])], is_problem=False)


def _removable(kind: str, text: str, path: Path, root: Path, tools: list[str]) -> Finding:
    """Return a finding that can be removed, but not while `tools` may need it."""
    inside = path.relative_to(root) if path.is_relative_to(root) else path
    remove: Callable[[], None] = partial(shutil.rmtree, path) if path.is_dir() else path.unlink
    if tools:
        text += f"; wait for {', '.join(tools)} to end before removing it"
    return Finding(
        kind, text, [join(["rm", *(["-r"] if path.is_dir() else []), str(inside)])], fix=None if tools else remove
    )


def _whole_checkpoints(folder: Path) -> dict[Path, dict[str, Any]]:
    """Return the JSON of each checkpoint that has one and the size recorded in it."""
    summaries = {path: read_summary(path) for path in folder.glob("checkpoint_*.pt")}
    return {path: one for path, one in summaries.items() if one and one.get("bytes") == path.stat().st_size}


def _script(process: psutil.Process) -> Path | None:
    """Return the file that a Python process runs; None for other programs, `-m` and `-c`."""
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


def _is_dvc_pid(pid: int) -> bool:
    """Return whether a process is running and is DVC; a number may have passed on to another program."""
    try:
        return _is_dvc(psutil.Process(pid))
    except psutil.AccessDenied:
        return True
    except psutil.Error:
        return False


def _lock_problem(lock: Path) -> str | None:
    try:
        content = json.loads(lock.read_text())
        writers = list(content.get("write", {}).values())
        readers = [reader for readers in content.get("read", {}).values() for reader in readers]
        holders = {int(holder["pid"]) for holder in writers + readers if holder}
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"truncated while it was written ({lock.stat().st_size} bytes); every dvc command stops at it"
    dead = sorted(pid for pid in holders if not _is_dvc_pid(pid))
    if holders and len(dead) == len(holders):
        return f"held by dvc processes that have ended (pid {', '.join(map(str, dead))})"
    return None


def _last_branch(root: Path) -> str | None:
    """Return the branch that HEAD was on last, according to the reflog."""
    for line in (_git(root, "reflog", "-n", "100", "--format=%gs") or "").splitlines():
        if line.startswith("checkout: moving from "):
            name = line.split()[3]
            if _git(root, "show-ref", "--verify", f"refs/heads/{name}") is not None:
                return name
    return None


def _attach(root: Path, branch: str) -> None:
    """Put HEAD on a branch that is at the same commit: neither the index nor a file changes."""
    if _git(root, "symbolic-ref", "-m", "miipher2 doctor", "HEAD", f"refs/heads/{branch}") is None:
        raise OSError(f"git could not put HEAD on {branch}; type: {join(['git', 'switch', branch])}")


def _git(root: Path, *words: str) -> str | None:
    """Return what Git prints, or None where it fails or is not installed."""
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _megabytes(path: Path) -> str:
    """Return the size of a file or folder, counting hard links once."""
    files = [path] if path.is_file() else [inner for inner in path.rglob("*") if inner.is_file()]
    sizes = {(stat.st_dev, stat.st_ino): stat.st_size for stat in (file.stat() for file in files)}
    return f"{sum(sizes.values()) / 1e6:.1f} MB"
