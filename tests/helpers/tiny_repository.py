"""A small repository with Git, configs/, a params.yaml that fits, and runs in exp/, for tests of the command line."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_checkpoints import make_checkpoint, write

from miipher2.cli import doctor
from miipher2.config import command, params, paths, resume_routing
from miipher2.config.paths import ROOT


def git(root: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(["git", *identity, "-C", str(root), *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a small repository with Git, configs/ and a params.yaml that fits."""
    root = tmp_path / "repository"
    root.mkdir()
    shutil.copytree(ROOT / "configs", root / "configs")
    shutil.copyfile(ROOT / "params.yaml", root / "params.yaml")
    (root / "models").symlink_to(ROOT / "models")
    (root / ".dvc/tmp").mkdir(parents=True)
    (root / ".gitignore").write_text("exp\n.dvc\n")
    git(root, "init", "-q", "-b", "main")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "one")
    return root


@pytest.fixture
def here(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make it the repository of this process."""
    for module in (paths, params, resume_routing, command, doctor):
        monkeypatch.setattr(module, "ROOT", repository, raising=False)
    monkeypatch.setattr(params, "PARAMS", repository / "params.yaml")
    return repository


def detach(root: Path) -> None:
    """Do what `dvc exp run` does to HEAD and its own references at its start, and undoes at its end."""
    git(root, "checkout", "-q", "--detach")
    for name in ("EXEC_HEAD", "EXEC_BASELINE"):
        git(root, "update-ref", f"refs/exps/exec/{name}", "HEAD")


DVC_COMMAND = ["uv", "run", "dvc", "exp", "run"]


def make_run(
    root: Path,
    stage: str,
    steps: tuple[int, ...],
    published: tuple[int, ...] = (),
    command: list[str] | None = DVC_COMMAND,
    **config: Any,
) -> Path:
    """Write checkpoints of a stage's run as configured, and its published ones; `command` is what started it."""
    plain = yaml.safe_load((root / "params.yaml").read_text())[stage] | config
    folder = root / "exp" / plain["name"]
    for target, several in ((folder, steps), (folder / "published", published)):
        for step in several:
            write(
                target,
                make_checkpoint(step, stage=stage, config=plain, run_id=f"run-{plain['name']}"),
                **({} if command is None else {"command": command}),  # type: ignore[arg-type]
            )
    return folder
