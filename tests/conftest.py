"""A workspace that tests share: this repository's code with a little speech, and its stages as processes."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from beartype._check.code import codemain

# Tests share two cores, and a forked process with more than one OpenMP thread would wait forever for the others.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before CUDA starts, in whichever test that is
torch.set_num_threads(1)

# beartype chooses the item of a list that it checks by Python's global generator, which our tests compare bit for bit.
assert codemain.getrandbits == random.getrandbits  # type: ignore[attr-defined]
codemain.getrandbits = random.Random(0).getrandbits  # type: ignore[attr-defined]


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs from the tests of the CPU: on a host with one, a child forked after a backward pass can make none."""
    if not re.search(r"(?<!not )\bgpu\b", config.option.markexpr):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Return to one thread after a test that trained or restored with more, since the next one may fork."""
    yield
    torch.set_num_threads(1)


REPOSITORY = Path(__file__).resolve().parents[1]
UTTERANCES = 30  # the shortest of the embedded speech: as few as leave something for every split


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the repository with its own exp/ and a small data/prepared/embedded; name each run anew."""
    from data_configs import prepare_folder

    root = tmp_path_factory.mktemp("workspace")
    for folder in ("src", "stages", "configs"):
        shutil.copytree(REPOSITORY / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for file in ("params.yaml", "dvc.yaml"):
        shutil.copyfile(REPOSITORY / file, root / file)
    (root / "models").symlink_to(REPOSITORY / "models")
    speech = sorted((REPOSITORY / "data/embedded").rglob("*.flac"), key=lambda path: (path.stat().st_size, path.name))
    for path in speech[:UTTERANCES]:
        (root / "data/embedded" / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, root / "data/embedded" / path.parent.name / path.name)
    prepare_folder(root / "data/embedded", root / "data/prepared/embedded", root, seed=0, noise_files=6, rooms=2)
    return root


@dataclass
class Outcome:
    """How a stage's process ended: its exit code (negative: the signal that killed it) and what it printed."""

    code: int
    output: str


@dataclass
class Stages:
    """Runs stages of a workspace as processes: forked from one that has imported everything, or started fresh."""

    root: Path
    logs: Path
    server: subprocess.Popen[str]
    started: list[int] = field(default_factory=list)

    def start(self, stage: str, *overrides: str, **environment: str) -> int:
        """Start a stage in a process of its own and return its process id; it has imported everything already."""
        self._log(len(self.started)).touch()  # it may be killed before it prints
        argv = [str(self.root / "stages" / f"{stage}.py"), *overrides]
        pid = self._ask(argv=argv, log=str(self._log(len(self.started))), environment=environment)
        self.started.append(pid)
        return pid

    def wait(self, pid: int) -> Outcome:
        """Wait for such a process."""
        code = self._ask(wait=pid)
        return Outcome(code, self._log(self.started.index(pid)).read_text())

    def run(self, stage: str, *overrides: str, **environment: str) -> Outcome:
        """Run a stage to its end."""
        return self.wait(self.start(stage, *overrides, **environment))

    def kill_when(
        self, pid: int, is_due: Callable[[], bool], number: int = signal.SIGKILL, limit_seconds: float = 60.0
    ) -> Outcome:
        """Send a signal to the process, not to its workers, as soon as `is_due`; or wait, if it ends before that."""
        end = time.monotonic() + limit_seconds
        while time.monotonic() < end and not is_due():
            if self._ask(poll=pid) is not None:
                return self.wait(pid)
            time.sleep(0.0002)
        os.kill(pid, number)
        return self.wait(pid)

    def run_cold(self, stage: str, *overrides: str, cwd: Path | None = None, **environment: str) -> Outcome:
        """Run a stage as a user does: a fresh interpreter."""
        command = [sys.executable, str(self.root / "stages" / f"{stage}.py"), *overrides]
        done = subprocess.run(
            command,
            cwd=cwd or self.root,
            env={**os.environ, **plain_environment(), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=300,
        )
        return Outcome(done.returncode, done.stdout)

    def _log(self, number: int) -> Path:
        return self.logs / f"{number}.log"

    def _ask(self, **question: Any) -> Any:
        into, out = self.server.stdin, self.server.stdout
        assert isinstance(into, IO) or into is not None
        assert out is not None
        into.write(json.dumps(question) + "\n")
        into.flush()
        return json.loads(out.readline())


def plain_environment() -> dict[str, str]:
    """Return the environment variables that a stage's process needs beyond the tests' own."""
    return {"OMP_NUM_THREADS": "1", "WANDB_ERROR_REPORTING": "false"}


@pytest.fixture(scope="session")
def stages(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stages]:
    """Return a runner of the workspace's stages."""
    server = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "tests/resume/stage_server.py"), str(workspace)],
        cwd=workspace,
        env={**os.environ, **plain_environment()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield Stages(workspace, tmp_path_factory.mktemp("logs"), server)
    assert server.stdin is not None
    server.stdin.close()
    server.wait(30)
