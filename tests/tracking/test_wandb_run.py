"""W&B offline: one run through kills and resumes, in order, without a network and without touching a result."""

import json
import os
import signal
import socket
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image
from tiny_run import Tiny, content_of, differences

from miipher2 import rng
from miipher2.config.schema import WandbConfig
from miipher2.tracking.wandb_run import AudioClip, Picture, WandbRun, start_wandb
from miipher2.training.checkpoint import digest_of

CONFIG = WandbConfig(mode="offline", project="restoration", tags=["a"])
OFFLINE = {"mode": "offline", "project": "restoration"}


def started(folder: Path, inherited: dict[str, str] | None, config: WandbConfig = CONFIG) -> WandbRun:
    """Return a started W&B run."""
    run = start_wandb(folder, config, {"optim": {"lr": 0.1}}, inherited)
    assert run is not None
    return run


def test_disabled_means_no_run(tmp_path: Path) -> None:
    assert start_wandb(tmp_path, replace(CONFIG, mode="disabled"), {}, None) is None


def test_a_resume_with_wandb_disabled_keeps_the_identity_for_a_later_one(tmp_path: Path, no_network: None) -> None:
    def train() -> Any:
        Tiny(tmp_path / "run", steps=4, wandb=OFFLINE)()
        first = content_of(tmp_path / "run/checkpoint_4.pt")["wandb"]
        Tiny(tmp_path / "run", steps=8)(tmp_path / "run/checkpoint_4.pt")
        return first, content_of(tmp_path / "run/checkpoint_8.pt")["wandb"]

    _, (first, second) = in_child(train)
    assert first == second
    assert set(first) == {"id", "name", "project"}


def test_logging_to_wandb_changes_no_result(tmp_path: Path, no_network: None) -> None:
    in_child(lambda: Tiny(tmp_path / "with", wandb=OFFLINE)().run.run_id)
    Tiny(tmp_path / "without")()
    assert differences(tmp_path / "with/checkpoint_12.pt", tmp_path / "without/checkpoint_12.pt") == []


def in_child(work: Any) -> tuple[int, Any]:
    """Run `work` in a process of its own, since W&B allows one run per process; return exit code and result."""
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

    runs = []
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
        runs.append((run_id, steps))
    return runs


def leveldb_records(data: bytes) -> list[bytes]:
    """Return the records of a W&B file: LevelDB's log format, blocks of 32 KiB after a header of 7 bytes."""
    bodies, part, at = [], b"", 7
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
            bodies.append(part)
        at += 7 + length
    return bodies


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
        run = started(tmp_path, None)
        for step in range(1, 7):
            run.log(step, {"loss": float(step)})
        run.close(0)
        return run.identity

    def killed() -> Any:
        run = started(tmp_path, identity)
        for step in range(5, 9):
            run.log(step, {"loss": float(step)})
        os.kill(os.getpid(), signal.SIGKILL)

    def resumed() -> Any:
        run = started(tmp_path, identity, replace(CONFIG, name="another", project="other"))
        for step in range(3, 6):
            run.log(step, {"loss": -float(step)})
        run.close(0)
        return run.identity

    _, identity = in_child(first)
    assert set(identity) == {"id", "name", "project"}
    assert identity["name"] == tmp_path.name
    assert identity["project"] == "restoration"
    assert in_child(killed)[0] == -9
    assert in_child(resumed)[1] == identity, "id, name and project are the first run's"
    (one, first_steps), (_, killed_steps), (three, resumed_steps) = records(tmp_path)
    assert one == three == identity["id"]
    assert first_steps == [1, 2, 3, 4, 5, 6]
    assert killed_steps == list(range(5, 5 + len(killed_steps)))  # what W&B had written when it was killed
    assert resumed_steps == [3, 4, 5], "steps at or below one that was logged before are there too"


def test_without_saved_metadata_a_resume_starts_another_run(tmp_path: Path, no_network: None) -> None:
    folder = tmp_path / "run"

    def train(steps: int, resume_from: Path | None) -> Any:
        Tiny(folder, steps=steps, wandb=OFFLINE, save_wandb_metadata=False)(resume_from)
        return content_of(folder / f"checkpoint_{steps}.pt")["wandb"]

    assert in_child(lambda: train(4, None))[1] is None
    assert in_child(lambda: train(8, folder / "checkpoint_4.pt"))[1] is None
    assert len({run_id for run_id, _ in records(folder)}) == 2


def test_wandb_leaves_the_global_generators_as_they_were(tmp_path: Path, no_network: None) -> None:
    def log() -> Any:
        rng.seed_all(1)
        before = digest_of(rng.get_state())
        with rng.guarded():
            run = started(tmp_path, None)
            run.log(1, {"loss": 1.0})
            run.close(0)
        return before == digest_of(rng.get_state())

    assert in_child(log)[1] is True


def test_audio_and_pictures_use_the_same_step_axis_and_are_files_of_the_run(tmp_path: Path, no_network: None) -> None:
    wave = np.linspace(-0.5, 2.0, 800, dtype=np.float32)  # a vocoder's output may exceed full scale
    pixels = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)

    def log(start_step: int, inherited: Any) -> Any:
        run = started(tmp_path, inherited)
        for step in range(start_step + 1, start_step + 4):
            run.log(step, {"loss": float(step)})
            if step == start_step + 2:
                clip, picture = AudioClip(wave, 16_000, "a"), Picture(pixels, "a")
                run.log_media(step, {"example_1/restored": clip, "example_1/restored_mel": picture})
        run.close(0)
        return run.identity

    _, identity = in_child(lambda: log(4, None))
    in_child(lambda: log(1, identity))
    assert records(tmp_path) == [(identity["id"], [5, 6, 6, 7]), (identity["id"], [2, 3, 3, 4])]
    clips, pictures = (
        sorted(tmp_path.glob(f"wandb/offline-run-*/files/media/{kind}/example_1/*")) for kind in ("audio", "images")
    )
    assert (len(clips), len(pictures)) == (2, 2)
    logged, rate_hz = soundfile.read(clips[0], dtype="float32")
    assert rate_hz == 16_000
    np.testing.assert_allclose(logged, wave.clip(-1, 1), atol=1 / 16_000)
    np.testing.assert_array_equal(np.asarray(Image.open(pictures[0])), pixels)
