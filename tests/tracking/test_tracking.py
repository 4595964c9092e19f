"""history.csv always, and W&B offline: one run through kills and resumes, in order, without a network."""

import json
import os
import signal
import socket
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from miipher2.tracking.tracker import Picture, Sound, Tracker, start_wandb
from PIL import Image

SETTINGS: dict[str, Any] = {
    "mode": "offline", "project": "restoration", "entity": None, "name": None, "tags": ["a"], "notes": None
}  # fmt: skip


def tracker(folder: Path, **changed: Any) -> Tracker:
    """Return a tracker of a run of 10 steps."""
    usual: dict[str, Any] = {"start_step": 0, "steps": 10, "history": "", "wandb_run": None, "inherit_wandb": True}
    return Tracker(folder, ("loss", "valid/loss"), **{**usual, **changed})


def test_history_has_a_row_for_each_step_that_was_logged(tmp_path: Path) -> None:
    made = tracker(tmp_path)
    made.log(1, {})
    made.log(2, {"loss": 0.1 + 0.2})
    made.log(3, {"valid/loss": float("nan"), "loss": 1e-9})
    text = "step,loss,valid/loss\n2,0.3,\n3,1e-09,nan\n"
    assert (tmp_path / "history.csv").read_text() == made.history() == text, (
        "a row is on the disk as soon as it is logged"
    )
    made.close(0)


def test_history_goes_on_from_the_resumed_step_and_not_from_what_lies_there(tmp_path: Path) -> None:
    (tmp_path / "history.csv").write_text("step,loss,valid/loss\n1,1,\n2,2,\n3,3,\n4,4")
    made = tracker(tmp_path, start_step=2, history="step,loss,valid/loss\n1,1,\n2,2,\n")
    made.log(3, {"loss": 5.0})
    made.close(0)
    assert (tmp_path / "history.csv").read_text() == "step,loss,valid/loss\n1,1,\n2,2,\n3,5,\n"


def test_a_metric_that_the_recipe_did_not_name_is_our_mistake(tmp_path: Path) -> None:
    made = tracker(tmp_path)
    with pytest.raises(AssertionError, match="other"):
        made.log(1, {"other": 1.0})
    made.close(1)


def test_without_wandb_there_is_no_identity(tmp_path: Path) -> None:
    assert start_wandb(tmp_path, **{**SETTINGS, "mode": "disabled"}, config={}, inherited=None) is None
    assert tracker(tmp_path).identity() is None


def test_a_resume_with_wandb_switched_off_keeps_the_identity_for_a_later_one(tmp_path: Path) -> None:
    known = {"id": "abc", "name": "first", "project": "restoration"}
    run = start_wandb(tmp_path, **{**SETTINGS, "mode": "disabled"}, config={}, inherited=known)
    made = tracker(tmp_path, wandb_run=run)
    made.log(1, {"loss": 1.0})
    assert made.identity() == known
    made.close(0)
    assert tracker(tmp_path, wandb_run=run, inherit_wandb=False).identity() is None


def in_child(work: Any) -> tuple[int, Any]:
    """Run `work` in a process of its own, as W&B allows one run after another there; return exit code and result."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            result = work()
            os.write(write, json.dumps(result).encode())
        except BaseException:  # noqa: BLE001 - it is passed on to the parent
            os.write(write, json.dumps({"failed": traceback.format_exc()}).encode())
        finally:
            os._exit(3)
    os.close(write)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with os.fdopen(read) as pipe:
        text = pipe.read()
    result = json.loads(text) if text else None
    assert not isinstance(result, dict) or "failed" not in result, result["failed"]
    return code, result


def records(folder: Path) -> list[tuple[str, list[int]]]:
    """Return the id and the steps logged in each of the offline runs below a folder, oldest first."""
    from wandb.proto.wandb_internal_pb2 import Record

    found = []
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda file: file.stat().st_mtime_ns):
        run_id, steps = "", []
        for data in leveldb_records(file.read_bytes()):
            record = Record()
            record.ParseFromString(data)
            if record.HasField("run"):
                run_id = record.run.run_id
            if record.HasField("history"):
                values = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
                steps.append(int(json.loads(values["step"])))
        found.append((run_id, steps))
    return found


def leveldb_records(data: bytes) -> list[bytes]:
    """Return the records of a W&B file: LevelDB's log format, blocks of 32 KiB after a header of 7 bytes."""
    found, part, at = [], b"", 7
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        if kind == 0:
            break
        body = data[at + 7 : at + 7 + length]
        part = body if kind in (1, 2) else part + body
        if kind in (1, 4):
            found.append(part)
        at += 7 + length
    return found


@pytest.fixture
def no_network(monkeypatch: Any) -> None:
    """Fail every connection to another machine."""
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> Any:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "localhost", "::1"):
            raise AssertionError(f"a connection to {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


def test_one_offline_run_through_a_kill_and_a_return_to_an_older_checkpoint(tmp_path: Path, no_network: None) -> None:
    def first() -> Any:
        run = start_wandb(tmp_path, **SETTINGS, config={"optim": {"lr": 0.1}}, inherited=None)
        made = tracker(tmp_path, wandb_run=run)
        for step in range(1, 7):
            made.log(step, {"loss": float(step)})
        made.close(0)
        return made.identity()

    def killed() -> Any:
        made = tracker(tmp_path, wandb_run=start_wandb(tmp_path, **SETTINGS, config={}, inherited=known), start_step=4)
        for step in range(5, 9):
            made.log(step, {"loss": float(step)})
        os.kill(os.getpid(), signal.SIGKILL)

    def back() -> Any:
        settings = {**SETTINGS, "name": "another", "project": "other"}
        made = tracker(tmp_path, wandb_run=start_wandb(tmp_path, **settings, config={}, inherited=known), start_step=2)
        for step in range(3, 6):
            made.log(step, {"loss": -float(step)})
        made.close(0)
        return made.identity()

    _, known = in_child(first)
    assert set(known) == {"id", "name", "project"}
    assert known["name"] == tmp_path.name
    assert known["project"] == "restoration"
    assert in_child(killed)[0] == -9
    assert in_child(back)[1] == known, "id, name and project are the first run's"
    (one, first_steps), (_, killed_steps), (three, back_steps) = records(tmp_path)
    assert one == three == known["id"]
    assert first_steps == [1, 2, 3, 4, 5, 6]
    assert killed_steps == list(range(5, 5 + len(killed_steps)))  # what W&B had taken over when it was killed
    assert back_steps == [3, 4, 5], "points at or below a step that was logged before are there"


def test_without_saved_metadata_a_resume_starts_another_run(tmp_path: Path, no_network: None) -> None:
    def begin() -> Any:
        made = tracker(
            tmp_path, wandb_run=start_wandb(tmp_path, **SETTINGS, config={}, inherited=None), inherit_wandb=False
        )
        made.log(1, {"loss": 1.0})
        made.close(0)
        return made.identity()

    assert [in_child(begin)[1] for _ in range(2)] == [None, None]
    ids = [run_id for run_id, _ in records(tmp_path)]
    assert len(set(ids)) == 2


def test_wandb_draws_nothing_from_the_global_generators_that_is_not_put_back(tmp_path: Path, no_network: None) -> None:
    from miipher2 import rng
    from miipher2.training.checkpoint import digest_of

    def begin() -> Any:
        rng.seed_all(1)
        before = digest_of(rng.get_state())
        with rng.guarded():
            run = start_wandb(tmp_path, **SETTINGS, config={}, inherited=None)
            made = tracker(tmp_path, wandb_run=run)
            made.log(1, {"loss": 1.0})
            made.close(0)
        return before == digest_of(rng.get_state())

    assert in_child(begin)[1] is True


def test_sounds_and_pictures_hang_on_the_own_step_axis_and_are_files_of_the_run(
    tmp_path: Path, no_network: None
) -> None:
    wave = np.linspace(-0.5, 2.0, 800, dtype=np.float32)  # what a vocoder makes may pass full scale
    pixels = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)

    def run(start_step: int, inherited: Any) -> Any:
        wandb_run = start_wandb(tmp_path, **SETTINGS, config={}, inherited=inherited)
        made = tracker(tmp_path, wandb_run=wandb_run, start_step=start_step)
        assert made.shows
        for step in range(start_step + 1, start_step + 4):
            made.log(step, {"loss": float(step)})
            if step == start_step + 2:
                media = {"example_1/restored": Sound(wave, 16_000, "a")}
                made.show(step, {**media, "example_1/restored_mel": Picture(pixels, "a")})
        made.close(0)
        return made.identity()

    _, known = in_child(lambda: run(4, None))
    in_child(lambda: run(1, known))
    assert records(tmp_path) == [(known["id"], [5, 6, 6, 7]), (known["id"], [2, 3, 3, 4])]
    sounds, pictures = (
        sorted(tmp_path.glob(f"wandb/offline-run-*/files/media/{kind}/example_1/*")) for kind in ("audio", "images")
    )
    assert (len(sounds), len(pictures)) == (2, 2)
    heard, rate_hz = soundfile.read(sounds[0], dtype="float32")
    assert rate_hz == 16_000
    np.testing.assert_allclose(heard, wave.clip(-1, 1), atol=1 / 16_000)
    np.testing.assert_array_equal(np.asarray(Image.open(pictures[0])), pixels)
