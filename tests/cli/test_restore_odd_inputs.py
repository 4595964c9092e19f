"""`miipher2 restore` in practice: odd names, odd formats, a terminal, a pipe."""

import fcntl
import os
import re
import struct
import sys
import termios
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_checkpoints import Command
from tiny_weights import publish_all

from miipher2.audio.stream import Recording
from miipher2.cli.main import main
from miipher2.rng import stream


@pytest.fixture(scope="module")
def weights_args(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    root = tmp_path_factory.mktemp("weights")
    publish_all(root, "hubert", absolute=True)
    return ["--adapter", root / "adapter", "--vocoder", root / "vocoder"]


def write_recording(path: Path, seconds: float = 0.2, rate_hz: int = 16_000, channels: int = 1, **form: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = stream(0, "noise").uniform(-0.5, 0.5, (round(seconds * rate_hz), channels)).astype(np.float32)
    soundfile.write(os.fsencode(path), values, rate_hz, **form)


def files(folder: Path) -> set[bytes]:
    """Return the files in a folder, except journals and lineage."""
    names = {os.fsencode(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {name for name in names if not name.startswith(b".restoring/")} - {b"lineage.json"}


def test_odd_names_are_kept_and_distinguished(tmp_path: Path, miipher2: Command, weights_args: list[object]) -> None:
    names = ["a b.wav", "日本語 ü.flac", "quo'te\"\n.wav", "UPPER.WAV", os.fsdecode(b"lat\xe9in.wav"), "same.wav"]
    for name in names:
        write_recording(tmp_path / "in" / name, format="FLAC" if name.endswith("flac") else "WAV")
    write_recording(tmp_path / "in/same.mp3")
    write_recording(tmp_path / "in/.hidden.wav")
    write_recording(tmp_path / "in/no suffix", format="WAV")
    result = miipher2("restore", tmp_path / "in", tmp_path / "out", *weights_args)
    assert result.code == 0, result.error
    assert files(tmp_path / "out") == {os.fsencode(name) for name in [*names, "same.mp3.wav"]}
    result = miipher2("restore", tmp_path / "in", tmp_path / "out", *weights_args)
    assert result.out.startswith("0 restored, 7 already there")
    # Given by name, it is restored.
    result = miipher2("restore", tmp_path / "in/no suffix", tmp_path / "one.wav", *weights_args)
    assert result.code == 0, result.error
    shards = [
        miipher2("restore", tmp_path / "in", tmp_path / "out", *weights_args, "--shard", f"{i}/2") for i in (1, 2)
    ]
    assert sum(int(one.out.split()[2]) for one in shards) == 7


def test_all_common_formats_are_restored(tmp_path: Path, miipher2: Command, weights_args: list[object]) -> None:
    write_recording(tmp_path / "in/eight.wav", rate_hz=8_000, subtype="PCM_U8")
    write_recording(tmp_path / "in/deep.flac", rate_hz=96_000, subtype="PCM_24")
    write_recording(tmp_path / "in/adpcm.wav", 0.253125, subtype="IMA_ADPCM")
    write_recording(tmp_path / "in/double.wav", subtype="DOUBLE")
    write_recording(tmp_path / "in/song.mp3", rate_hz=44_100, channels=2)
    write_recording(tmp_path / "in/5.1.wav", rate_hz=48_000, channels=6)
    result = miipher2("restore", tmp_path / "in", tmp_path / "out", *weights_args)
    assert result.code == 0, result.error
    for name in ("eight.wav", "deep.flac", "adpcm.wav", "double.wav", "5.1.wav", "song.wav"):
        (source,) = (tmp_path / "in").glob(f"{Path(name).stem}.*")
        before, after = Recording(source), Recording(tmp_path / "out" / name)
        assert after.channels == before.channels
        assert after.samples == round(before.samples * 16_000 / before.sample_rate_hz)


def test_unreadable_files_are_listed_and_the_others_restored(
    tmp_path: Path, miipher2: Command, weights_args: list[object]
) -> None:
    write_recording(tmp_path / "in/good.wav")
    write_recording(tmp_path / "in/none.wav", 0)
    (tmp_path / "in/empty.wav").write_bytes(b"")
    (tmp_path / "in/dangling.wav").symlink_to("nowhere.wav")
    result = miipher2("restore", tmp_path / "in", tmp_path / "in/out", *weights_args)
    assert result.code == 1
    failures = {line.removeprefix(f"FAILED  {tmp_path}/in/").partition(":")[0] for line in result.error.splitlines()}
    assert failures == {"none.wav", "empty.wav", "dangling.wav"}
    assert files(tmp_path / "in/out") == {b"good.wav"}
    result = miipher2("restore", tmp_path / "in", tmp_path / "in/out", *weights_args)  # OUT inside IN is not an input
    assert result.out.startswith("0 restored, 1 already there, 3 failed")


def test_pipe_is_refused(tmp_path: Path, miipher2: Command) -> None:
    os.mkfifo(tmp_path / "pipe")
    result = miipher2("restore", tmp_path / "pipe", tmp_path / "out.wav")
    assert (result.code, "should be a file or a folder, not a pipe" in result.error) == (2, True)


@pytest.mark.parametrize("columns", [0, 120])
def test_terminal_shows_speed_and_remaining_time(
    columns: int, tmp_path: Path, weights_args: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container's terminal may report 0 columns."""
    write_recording(tmp_path / "in/long.wav", 40.0)
    (tmp_path / "in/bad.wav").write_bytes(b"not audio")
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40 if columns else 0, columns, 0, 0))
    shown: list[bytes] = []

    def read() -> None:
        while b"\x04" not in (part := os.read(master, 65_536)):
            shown.append(part)
        shown.append(part)

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(slave, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        words = ["restore", tmp_path / "in", tmp_path / "out", *weights_args, "--chunk-seconds", 2]
        assert main([*map(str, words)]) == 1
        terminal.write("\x04")
        terminal.flush()
        reader.join(30)
    os.close(master)
    lines = b"".join(shown).decode().split("\r")
    bars = [line for line in lines if "%|" in line]
    total = ((tmp_path / "in/long.wav").stat().st_size + 8) / 1e6
    assert "100%|" in bars[-1]
    assert f"{total:.2f}M/{total:.2f}M" in bars[-1]  # failed files count as done
    assert any(re.search(r"\[\d\d:\d\d<\d\d:\d\d, .*B/s, \d+\.\d x real time\]", bar) for bar in bars[:-1])
    assert max(map(len, bars)) <= (columns or 100)
