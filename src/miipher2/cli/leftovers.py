"""What a killed process leaves in a repository: a detached HEAD, locks, temporary files, set-aside runs."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from miipher2.cli.finding import Finding
from miipher2.cli.processes import is_dvc_pid

# A lock of a living Git is there for moments only.
LOCK_SECONDS = 10


def head_findings(root: Path, tools: list[str]) -> Iterator[Finding]:
    """Find a HEAD that `dvc exp run` detached and did not put back; while a DVC runs, that is as it should be."""
    head, baseline = (
        _git(root, "rev-parse", "HEAD"),
        _git(root, "rev-parse", "-q", "--verify", "refs/exps/exec/EXEC_BASELINE"),
    )
    is_detached = _git(root, "symbolic-ref", "-q", "HEAD") is None
    if head is None or baseline is None or not is_detached or any(tool.startswith("dvc") for tool in tools):
        return
    if _git(root, "merge-base", "--is-ancestor", baseline, "HEAD") is None:
        return
    text = f"HEAD is detached at {head[:7]}: a `dvc exp run` was killed before it put it back"
    branch = _branch_left(root)
    if branch is None:
        yield Finding("head", f"{text}; the branch that it left is not known", ["git branch", "git switch <branch>"])
    elif _git(root, "rev-parse", f"refs/heads/{branch}") == head:
        text += f". The branch {branch} is at the same commit, so going back to it alters no file"
        fix = None if tools else partial(_attach, root, branch)
        yield Finding("head", text, [f"git switch {branch}"], fix=fix)
    else:
        text += f", and has commits that {branch} has not, or the other way round; keep them under a name first"
        yield Finding("head", text, [f"git branch kept-{head[:7]}", f"git switch {branch}"])


def lock_findings(root: Path, tools: list[str]) -> Iterator[Finding]:
    """Find locks that no living process holds."""
    for lock in (root / ".dvc/tmp/rwlock", root / ".dvc/tmp/exps/rwlock"):
        text = _lock_problem(lock) if lock.is_file() else None
        if text is not None:
            yield _removable("lock", f"{lock.relative_to(root)}: {text}", lock, root, tools)
    folder = _git(root, "rev-parse", "--absolute-git-dir")
    for lock in [] if folder is None else sorted({*Path(folder).glob("*.lock"), *Path(folder).glob("refs/**/*.lock")}):
        if not tools and time.time() - lock.stat().st_mtime > LOCK_SECONDS:
            yield _removable("lock", f"{lock}: no Git is running that holds it; Git refuses to work", lock, root, tools)


def temporary_findings(root: Path, running: list[int]) -> Iterator[Finding]:
    """Find the half-written files of killed runs; they were never visible as checkpoints or results."""
    exp = root / "exp"
    found = [*exp.glob(".*.tmp"), *exp.glob("*/.*.tmp"), *root.glob("data/prepared/.*.tmp")]
    for path in [] if running else sorted(found):
        whole = path.with_name(path.name.removeprefix(".").removesuffix(".earlier.tmp"))
        if path.name.endswith(".earlier.tmp") and not whole.exists():
            text = f"{path.relative_to(root)}: the earlier {whole.name}; its successor was not put in place"
            yield Finding("temporary", text, [f"mv {path} {whole}"])
        else:
            text = f"{path.relative_to(root)}: half-written when a process was killed, {_megabytes(path)}"
            yield _removable("temporary", text, path, root, [])


def replaced_findings(root: Path) -> Iterator[Finding]:
    """Say what the runs set aside take on the disk."""
    for folder in sorted([*root.glob("exp/.replaced"), *root.glob("exp/*/.replaced")]):
        runs = sorted(path.name for path in folder.iterdir())
        if runs:
            name = folder.relative_to(root)
            text = f"{name}: {len(runs)} set aside, {_megabytes(folder)}; no command needs them"
            yield Finding("replaced", text, [f"rm -r {name}/{runs[0]}"], is_problem=False)


def _removable(kind: str, text: str, path: Path, root: Path, tools: list[str]) -> Finding:
    """Return the finding of something that can go, though not while `tools` may need it."""
    inside = path.relative_to(root) if path.is_relative_to(root) else path
    remove: Callable[[], None] = partial(shutil.rmtree, path) if path.is_dir() else path.unlink
    if tools:
        text += f"; wait for {', '.join(tools)} to end before removing it"
    return Finding(kind, text, [f"rm {'-r ' if path.is_dir() else ''}{inside}"], fix=None if tools else remove)


def _lock_problem(lock: Path) -> str | None:
    try:
        content = json.loads(lock.read_text())
        writers = list(content.get("write", {}).values())
        readers = [reader for readers in content.get("read", {}).values() for reader in readers]
        holders = {int(holder["pid"]) for holder in writers + readers if holder}
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"cut off while it was written ({lock.stat().st_size} bytes); every dvc command stops at it"
    dead = sorted(pid for pid in holders if not is_dvc_pid(pid))
    if holders and len(dead) == len(holders):
        return f"held by dvc processes that have ended (pid {', '.join(map(str, dead))})"
    return None


def _branch_left(root: Path) -> str | None:
    """Return the branch that HEAD was on last, as the reflog tells."""
    for line in (_git(root, "reflog", "-n", "100", "--format=%gs") or "").splitlines():
        if line.startswith("checkout: moving from "):
            name = line.split()[3]
            if _git(root, "show-ref", "--verify", f"refs/heads/{name}") is not None:
                return name
    return None


def _attach(root: Path, branch: str) -> None:
    """Put HEAD on a branch that is at the same commit: neither the index nor a file changes."""
    if _git(root, "symbolic-ref", "-m", "miipher2 doctor", "HEAD", f"refs/heads/{branch}") is None:
        raise OSError(f"git could not put HEAD on {branch}; type: git switch {branch}")


def _git(root: Path, *words: str) -> str | None:
    """Return what Git says, or None where it fails or is not there."""
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _megabytes(path: Path) -> str:
    """Return the size of a file or folder, hard links counted once."""
    files = [path] if path.is_file() else [inner for inner in path.rglob("*") if inner.is_file()]
    sizes = {(stat.st_dev, stat.st_ino): stat.st_size for stat in (file.stat() for file in files)}
    return f"{sum(sizes.values()) / 1e6:.1f} MB"
