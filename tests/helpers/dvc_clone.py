"""A clone of this repository with tiny configurations, in which real dvc runs real or pretend stages."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
PRETEND = ("prepare_data", "train_adapter", "pre_train_vocoder", "finetune_vocoder", "evaluate")
TINY: dict[str, dict[str, Any]] = {
    "train_adapter/adapter_mini.yaml": {"batch_size": 2, "log_interval": 1, "validation_interval": 4},
    "train_adapter/adapter_embedded.yaml": {"steps": 8, "save_interval": 2},
    "pre_train_vocoder/hifigan_pretrain_mini.yaml": {
        "batch_size": 2,
        "log_interval": 1,
        "validation_interval": 3,
        "segment_frames": 8,
    },
    "pre_train_vocoder/harmonic_pretrain_embedded.yaml": {"steps": 6, "save_interval": 2, "adversarial_from_step": 3},
    "finetune_vocoder/harmonic_ft_embedded.yaml": {
        "steps": 6,
        "save_interval": 2,
        "log_interval": 1,
        "validation_interval": 3,
    },
    "wandb/offline.yaml": {"mode": "disabled"},
    "loader/mini.yaml": {"num_workers": 0},
    "runtime/mini.yaml": {"threads": 1},
    "evaluate/default.yaml": {"utterances": 2, "report_examples": 1, "metrics": ["log_mel", "log_spectral_distance"]},
    "data/embedded.yaml": {"held_out": None, "noise_files": 6, "rooms": 2},
}


@dataclass
class Clone:
    """A working tree with real dvc."""

    root: Path

    def run(self, *command: str, check: bool = True, cwd: str = ".", threads: int | None = 1) -> str:
        """Run a command in the clone and return its output."""
        done = subprocess.run(
            command,
            cwd=self.root / cwd,
            env=self.environment | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)}),
            capture_output=True,
            text=True,
            timeout=1200,
            check=False,
        )
        output = plain(done.stdout + done.stderr)
        assert not check or done.returncode == 0, (
            f"{' '.join(command)} exited with {done.returncode}:\n{output[-3000:]}"
        )
        return output

    def dvc(self, *words: str, check: bool = True, cwd: str = ".", threads: int | None = 1) -> str:
        """Run dvc."""
        return self.run(sys.executable, "-m", "dvc", *words, check=check, cwd=cwd, threads=threads)

    def experiment(self, *settings: str, check: bool = True) -> str:
        """Run `dvc exp run` with settings."""
        return self.dvc("exp", "run", *(word for setting in settings for word in ("-S", setting)), check=check)

    def interrupted(
        self,
        *settings: str,
        when: Callable[[], bool],
        kill: str,
        number: int = signal.SIGKILL,
        seconds_a_step: float = 0.0,  # of pretend stages
    ) -> str:
        """Run an experiment, send its `script` or `dvc` a signal as soon as `when` is true, and return the output."""
        words = [word for setting in settings for word in ("-S", setting)]
        printed = self.root / ".git" / "interrupted.log"
        with printed.open("w") as log:
            process = psutil.Popen(
                [sys.executable, "-m", "dvc", "exp", "run", *words],
                cwd=self.root,
                env=self.environment | {"OMP_NUM_THREADS": "1", "PRETEND_SECONDS_A_STEP": str(seconds_a_step)},
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + 180
        # The script runs in slices and is checked while it is suspended: otherwise it could end between two checks.
        while True:
            assert process.poll() is None, "the experiment ended before it could be killed"
            running = self.scripts(process)
            with suppress(psutil.NoSuchProcess):
                for script in running:
                    script.suspend()
                if when() and (running or kill == "dvc"):
                    break
                for script in running:
                    script.resume()
            assert time.monotonic() < end
            time.sleep(0.02)
        (process if kill == "dvc" else running[0]).send_signal(number)
        for script in running:
            with suppress(psutil.NoSuchProcess):
                script.resume()
        process.wait(60)
        return plain(printed.read_text())

    def scripts(self, process: psutil.Process) -> list[psutil.Process]:
        """Return the stage scripts that run below a process, without the shells that wait for them.

        DVC uses `dash` where SHELL is not set, which stays as the parent and passes no signal on.
        """
        scripts = []
        with suppress(psutil.NoSuchProcess):
            for each in process.children(recursive=True):
                with suppress(psutil.NoSuchProcess):  # a short git call that reads the code's version
                    if any(word.startswith("stages/") for word in each.cmdline()):
                        scripts.append(each)
        return scripts

    def orphans(self) -> list[psutil.Process]:
        """Return stage scripts that run in this clone, started by anyone."""
        orphans = []
        for each in psutil.process_iter(["cmdline", "cwd"]):
            words, folder = each.info["cmdline"] or [], each.info["cwd"]
            if folder == str(self.root) and any("stages/" in word for word in words):
                orphans.append(each)
        return orphans

    def digest(self, file: str) -> bytes:
        """Return a file's bytes."""
        return (self.root / file).read_bytes()

    def live(self) -> dict[str, bytes]:
        """Return every live checkpoint by its path: no DVC command may lose one."""
        files = (path for path in (self.root / "exp").glob("*/checkpoint_*") if ".replaced" not in path.parts)
        return {path.relative_to(self.root).as_posix(): path.read_bytes() for path in files}

    @property
    def environment(self) -> dict[str, str]:
        """Return an environment in which this clone's code comes first."""
        identity = {f"GIT_{who}_{what}": "test@test" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        bin_folder = str(Path(sys.executable).parent)
        return {
            **os.environ,
            **identity,
            "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.root / "src"),
            "DVC_NO_ANALYTICS": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
        }


def make_clone(root: Path, *, pretend: bool) -> Clone:
    """Return a clone in which the tiny pipeline has run once, from the start, and is committed."""
    root.mkdir()
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    speech = sorted((REPOSITORY / "data/embedded").rglob("*.flac"), key=lambda path: (path.stat().st_size, path.name))
    kept = {path.relative_to(REPOSITORY).as_posix() for path in speech[:30]}
    left_out = ("data/embedded/", "exp/", "tests/", "docs/", "benchmarks/")
    for name in filter(None, names):
        is_copied = name in kept or (not name.startswith(left_out) and name != "dvc.lock")
        if is_copied and (REPOSITORY / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / name, root / name)
    for name, values in TINY.items():
        edit(root / "configs" / name, values)
    for stage in PRETEND if pretend else ():
        shutil.copyfile(Path(__file__).with_name("pretend_stage.py"), root / "stages" / f"{stage}.py")
    clone = Clone(root)
    clone.run(sys.executable, "-m", "miipher2.cli.main", "params")
    clone.run("git", "init", "-q", "-b", "main")
    commit(clone, "tiny")
    clone.dvc("repro")
    commit(clone, "first run")
    return clone


def copy_clone(clone: Clone, root: Path) -> Clone:
    """Return a copy of a clone that a test may change."""
    shutil.copytree(clone.root, root, symlinks=True)
    copied = Clone(root)
    copied.dvc("checkout")  # hard links into its own cache
    return copied


def edit(path: Path, values: dict[str, Any]) -> None:
    """Set keys of a YAML file, wherever in it they stand, or at its top; crops and schedules become short."""
    content = yaml.safe_load(path.read_text())
    for key, value in {**values, "crop_seconds": 0.4, "decay_steps": values.get("steps", 8), "warmup_steps": 1}.items():
        if not _replace(content, key, value) and key in values:
            content[key] = value
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def _replace(node: Any, key: str, value: Any) -> bool:
    if not isinstance(node, dict):
        return False
    found = key in node
    if found:
        node[key] = value
    replaced = [_replace(inner, key, value) for inner in node.values()]
    return found or any(replaced)


def commit(clone: Clone, message: str) -> None:
    """Commit everything."""
    clone.run("git", "add", "-A")
    clone.run("git", "commit", "-qm", message)


def plain(text: str) -> str:
    """Return text without terminal colours."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def read_json(path: Path) -> Any:
    """Return a JSON file's content."""
    return json.loads(path.read_text())
