"""`miipher2 doctor` finds, explains and repairs each kind of leftover, and touches nothing else."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_checkpoints import Command
from tiny_repository import detach, git, make_run

from miipher2.cli import doctor
from miipher2.cli.doctor_checks import (
    Finding,
    find_tools,
    find_trainings,
    head_findings,
    lock_findings,
    process_findings,
    replaced_findings,
    temporary_findings,
)
from miipher2.config.paths import ROOT

DEAD_PID = 2**22 + 1  # above Linux's largest


def start(
    root: Path, script: str, text: str, *, named: str | None = None, **environment: str
) -> subprocess.Popen[bytes]:
    """Run a Python script in a folder, and wait until it prints; `named` gives the program's own name."""
    file = root / script
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{text}\nprint(flush=True)\nimport time\ntime.sleep(60)\n")
    command = [named or sys.executable, script]
    process = subprocess.Popen(
        command, executable=sys.executable, cwd=root, stdout=subprocess.PIPE, env={**os.environ, **environment}
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    """End what a test started."""
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def test_an_intact_repository_has_nothing_to_report(here: Path, miipher2: Command) -> None:
    result = miipher2("doctor")
    assert (result.code, result.out) == (0, "nothing to report\n")
    assert json.loads(miipher2("doctor", "--json").out) == []


def test_a_stage_that_outlived_its_dvc_is_a_problem_and_one_by_hand_is_a_note(
    repository: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    fork = "import os\nif os.fork() == 0:\n    import time\n    time.sleep(60)"  # a data worker
    started.append(start(repository, "stages/train_adapter.py", fork, DVC_STAGE="train_adapter"))
    started.append(start(repository, "stages/pre_train_vocoder.py", ""))
    started.append(start(repository, "elsewhere/train_adapter.py", "", DVC_STAGE="train_adapter"))
    orphan, by_hand = sorted(process_findings(find_trainings(repository)), key=lambda finding: not finding.is_problem)
    assert orphan.commands == [f"kill {started[0].pid}"]
    assert f"pid {started[0].pid}, stages/train_adapter.py, since {time.strftime('%Y-')}" in orphan.text
    assert not by_hand.is_problem
    assert f"pid {started[1].pid}" in by_hand.text
    assert "by hand" in by_hand.text
    assert all(finding.fix is None for finding in (orphan, by_hand))


def test_a_stage_under_a_running_dvc_is_not_a_problem(repository: Path, started: list[subprocess.Popen[bytes]]) -> None:
    (repository / "stages").mkdir()
    (repository / "stages/train_adapter.py").write_text("import time\nprint(flush=True)\ntime.sleep(60)\n")
    text = f"import subprocess\nchild = subprocess.Popen([{sys.executable!r}, 'stages/train_adapter.py'])\n"
    text += f"import pathlib\npathlib.Path({str(repository / 'child')!r}).write_text(str(child.pid))"
    started.append(start(repository, "dvc", text))
    (training,) = find_trainings(repository)
    assert training.dvc_pid == started[0].pid
    assert [finding.is_problem for finding in process_findings([training])] == [False]
    assert find_tools(repository) == [f"dvc (pid {started[0].pid})"]
    assert find_tools(repository / "configs") == []
    os.kill(training.pid, 9)


def test_a_detached_head_is_reattached_where_no_file_changes(here: Path, miipher2: Command) -> None:
    detach(here)
    (here / "params.yaml").write_text((here / "params.yaml").read_text() + "# edited\n")
    git(here, "add", "params.yaml")
    (here / "models").unlink()
    (here / "models").symlink_to(ROOT / "models")
    before = git(here, "status", "--porcelain")
    result = miipher2("doctor")
    assert result.code == 1
    assert "git switch main" in result.out
    assert git(here, "rev-parse", "--abbrev-ref", "HEAD") == "HEAD"
    assert miipher2("doctor", "--fix").code == 0
    assert git(here, "rev-parse", "--abbrev-ref", "HEAD") == "main"
    assert git(here, "status", "--porcelain") == before
    assert miipher2("doctor").code == 0


def test_a_head_with_its_own_commits_is_not_moved(here: Path, miipher2: Command) -> None:
    detach(here)
    git(here, "commit", "-q", "--allow-empty", "-m", "mine")
    mine = git(here, "rev-parse", "HEAD")
    result = miipher2("doctor", "--fix")
    assert result.code == 1
    assert f"git branch kept-{mine[:7]}" in result.out
    assert git(here, "rev-parse", "HEAD") == mine


def test_a_head_detached_by_the_user_or_needed_by_dvc_is_not_reported(repository: Path) -> None:
    git(repository, "checkout", "-q", "--detach")
    assert list(head_findings(repository, [])) == []
    detach(repository)
    assert list(head_findings(repository, ["dvc (pid 1)"])) == []
    (finding,) = head_findings(repository, [])
    assert finding.fix is not None
    (finding,) = head_findings(repository, ["git (pid 1)"])
    assert finding.fix is None


def locked_by(pid: int) -> str:
    return json.dumps(
        {"write": {"x": {"pid": pid, "cmd": "dvc repro"}}, "read": {"y": [{"pid": pid, "cmd": "dvc repro"}]}}
    )


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "truncated"),
        ('{"write": {"a', "truncated"),
        ("[1]", "truncated"),
        (locked_by(DEAD_PID), f"pid {DEAD_PID}"),
        # Running, but not DVC: the number passed on to another program. Process 1 always runs.
        (locked_by(1), "pid 1"),
    ],
    ids=["empty", "truncated", "no mapping", "dead", "another program"],
)
def test_a_lock_of_dead_processes_is_removed(text: str, named: str, here: Path, miipher2: Command) -> None:
    lock = here / ".dvc/tmp/rwlock"
    lock.write_text(text)
    result = miipher2("doctor")
    assert result.code == 1
    assert named in result.out
    assert "rm .dvc/tmp/rwlock" in result.out
    assert lock.exists()
    fixed = miipher2("doctor", "--fix")
    assert fixed.code == 0
    assert fixed.out.startswith("FIXED")
    assert not lock.exists()


def test_a_lock_of_a_running_dvc_stays(here: Path, miipher2: Command, started: list[subprocess.Popen[bytes]]) -> None:
    started.append(start(here, "dvc", ""))
    lock = here / ".dvc/tmp/rwlock"
    lock.write_text(locked_by(started[0].pid))
    assert miipher2("doctor", "--fix").code == 0
    lock.write_text("")
    result = miipher2("doctor", "--fix")
    assert result.code == 1
    assert f"wait for dvc (pid {started[0].pid})" in result.out
    assert lock.exists()


def test_unlocked_rwlocks_are_not_reported(repository: Path) -> None:
    (repository / ".dvc/tmp/rwlock").write_text('{"write": {}, "read": {}}')
    assert list(lock_findings(repository, [])) == []


def test_an_old_lock_of_git_is_removed_and_a_new_one_is_not(repository: Path) -> None:
    lock = repository / ".git/index.lock"
    lock.touch()
    assert list(lock_findings(repository, [])) == []
    os.utime(lock, (time.time() - 60,) * 2)
    assert list(lock_findings(repository, ["git (pid 1)"])) == []
    (finding,) = lock_findings(repository, [])
    assert finding.fix is not None
    finding.fix()
    git(repository, "add", "-A")


def test_stale_params_are_found(here: Path, miipher2: Command) -> None:
    (here / "configs/pipeline.yaml").write_text((here / "configs/pipeline.yaml").read_text() + "\n# edited\n")
    result = miipher2("doctor")
    assert result.code == 1
    assert "PROBLEM  params: params.yaml was composed from other files" in result.out
    assert "uv run miipher2 params" in result.out


@pytest.mark.parametrize("text", ["", "a: [", "- 1", "configs_digest: 1"])
def test_broken_params_are_found(text: str, here: Path, miipher2: Command) -> None:
    (here / "params.yaml").write_text(text)
    assert "params: " in miipher2("doctor").out
    (here / "params.yaml").unlink()
    assert "params: params.yaml is missing" in miipher2("doctor").out


def test_half_written_files_are_removed_and_complete_ones_stay(here: Path, miipher2: Command) -> None:
    folder = make_run(here, "train_adapter", (200,), (200,))
    keep = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    (folder / ".checkpoint_9.pt.tmp").write_bytes(b"x" * 1000)
    (folder / ".published.tmp").mkdir()
    os.link(folder / "checkpoint_200.pt", folder / ".published.tmp/checkpoint_200.pt")
    result = miipher2("doctor")
    assert result.code == 1
    assert "rm exp/adapter_embedded/.checkpoint_9.pt.tmp" in result.out
    assert "rm -r exp/adapter_embedded/.published.tmp" in result.out
    assert miipher2("doctor", "--fix").code == 0
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == keep


def test_half_written_files_of_a_running_stage_are_left_alone(repository: Path) -> None:
    folder = make_run(repository, "train_adapter", (200,), (200,))
    (folder / ".checkpoint_9.pt.tmp").touch()
    assert list(temporary_findings(repository, [1])) == []
    assert len(list(temporary_findings(repository, []))) == 1


def test_the_only_copy_of_prepared_data_is_not_removed(repository: Path) -> None:
    earlier = repository / "data/prepared/.embedded.earlier.tmp"
    earlier.mkdir(parents=True)
    (finding,) = temporary_findings(repository, [])
    assert finding.fix is None
    assert finding.commands[0].startswith("mv ")
    (repository / "data/prepared/embedded").mkdir()
    (finding,) = temporary_findings(repository, [])
    assert finding.fix is not None


def test_runs_set_aside_are_a_note_with_their_size(here: Path, miipher2: Command) -> None:
    folder = here / "exp/.replaced/adapter_embedded.20260101-000000"
    folder.mkdir(parents=True)
    (folder / "checkpoint_1.pt").write_bytes(b"x" * 3_000_000)
    os.link(folder / "checkpoint_1.pt", folder / "again.pt")
    (finding,) = replaced_findings(here)
    assert "1 set aside, 3.0 MB" in finding.text
    result = miipher2("doctor", "--fix")
    assert result.code == 0
    assert folder.exists()


def test_fix_stops_if_something_started_meanwhile(
    here: Path, miipher2: Command, monkeypatch: pytest.MonkeyPatch, started: list[subprocess.Popen[bytes]]
) -> None:
    (here / ".dvc/tmp/rwlock").write_text("")
    examine = doctor.examine

    def examine_slowly(root: Path) -> list[Finding]:
        findings = examine(root)
        started.append(start(here, "dvc", ""))
        return findings

    monkeypatch.setattr(doctor, "examine", examine_slowly)
    result = miipher2("doctor", "--fix")
    assert result.code == 2
    assert "run this again" in result.error
    assert (here / ".dvc/tmp/rwlock").exists()
