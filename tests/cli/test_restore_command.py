"""`miipher2 restore`: files and folders in, restored files out, failures listed."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoints import Command
from tiny_weights import load, publish_all

from miipher2.audio.io import write_audio
from miipher2.audio.stream import Recording
from miipher2.rng import stream


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository in which two stages have published tiny weights, of which absolute paths are known."""
    root = tmp_path_factory.mktemp("weights")
    publish_all(root, "hubert", absolute=True)
    return root


@pytest.fixture
def given(weights: Path) -> list[object]:
    return ["--adapter", weights / "adapter", "--vocoder", weights / "vocoder"]


def noise(seconds: float = 0.2, rate_hz: int = 16_000, channels: int = 1) -> np.ndarray:
    return stream(0, "noise").uniform(-0.5, 0.5, (channels, round(seconds * rate_hz))).astype(np.float32)


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    write_audio(folder / "a.wav", noise(), 16_000)
    write_audio(folder / "deep/b.flac", noise(rate_hz=24_000, channels=2), 24_000)
    write_audio(folder / "deep/c.ogg", noise(), 16_000)
    (folder / "notes.txt").write_text("no sound")
    return folder


def files(folder: Path) -> set[str]:
    """Return what lies in a folder, journals aside."""
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {name for name in found if not name.startswith(".restoring/")}


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_a_file_becomes_what_its_suffix_says(
    suffix: str, recordings: Path, tmp_path: Path, miipher2: Command, given: list[object], weights: Path
) -> None:
    said = miipher2("restore", recordings / "deep/b.flac", tmp_path / f"new/out{suffix}", *given)
    assert said.code == 0, said.error
    assert files(tmp_path / "new") == {f"out{suffix}"}
    restored = Recording(tmp_path / f"new/out{suffix}")
    assert (restored.sample_rate_hz, restored.channels, restored.samples) == (16_000, 2, 3200)
    source = np.concatenate(list(Recording(recordings / "deep/b.flac").blocks()), 1)
    expected = load(weights)(source, 24_000)
    np.testing.assert_allclose(np.concatenate(list(restored.blocks()), 1), expected, atol=2**-15)


def test_a_folder_keeps_its_tree_and_a_file_that_fails_stops_no_other(
    recordings: Path, tmp_path: Path, miipher2: Command, given: list[object]
) -> None:
    (recordings / "bad.wav").write_bytes(b"no sound")
    broken = noise(12.0)
    broken[0, 100_000] = np.inf
    import soundfile

    soundfile.write(recordings / "inf.wav", broken[0], 16_000, subtype="FLOAT")
    said = miipher2("restore", recordings, tmp_path / "out", *given)
    assert said.code == 1
    assert files(tmp_path / "out") == {"a.wav", "deep/b.flac", "deep/c.wav", "lineage.json"}
    assert said.out.startswith(f"3 restored, 2 failed: {tmp_path / 'out'}; 0.6 s of audio at ")
    first, second = said.error.splitlines()
    assert first.startswith(f"FAILED  {recordings / 'bad.wav'}: cannot be read as sound")
    assert second == f"FAILED  {recordings / 'inf.wav'}: holds inf at value 100000 of channel 0; should be finite"
    (recordings / "bad.wav").unlink()
    (recordings / "inf.wav").unlink()
    said = miipher2("restore", recordings, tmp_path / "out", *given)
    assert (said.code, said.out) == (0, f"0 restored, 3 already there: {tmp_path / 'out'}\n")


def test_what_has_changed_is_done_again(
    recordings: Path, tmp_path: Path, miipher2: Command, given: list[object]
) -> None:
    def restore(*more: object) -> str:
        said = miipher2("restore", recordings, tmp_path / "out", *given, *more)
        assert said.code == 0, said.error
        return said.out.partition(":")[0]

    assert restore() == "3 restored"
    write_audio(recordings / "a.wav", 0.5 * noise(), 16_000)  # an input
    assert restore() == "1 restored, 2 already there"
    assert restore("--batch-size", 2, "--chunk-seconds", 2) == "0 restored, 3 already there"  # changes no result
    (tmp_path / "out/a.wav").write_bytes((tmp_path / "out/a.wav").read_bytes()[:-2])  # an output
    assert restore() == "1 restored, 2 already there"
    (tmp_path / "out/deep/b.flac").unlink()
    assert restore() == "1 restored, 2 already there"
    assert restore("--precision", "bf16") == "3 restored"  # options
    assert restore("--precision", "bf16") == "0 restored, 3 already there"
    publish_all(Path(str(given[1])).parent, "hubert", absolute=True, seed=1)  # weights
    assert restore("--precision", "bf16") == "3 restored"


def test_lineage_names_weights_training_and_options(
    recordings: Path, tmp_path: Path, miipher2: Command, given: list[object], weights: Path
) -> None:
    said = {"stage": "train_adapter", "step": 7, "run_id": "run-1", "parents": [], "sha256": "0" * 64}
    (weights / "adapter/checkpoint_7.json").write_text(json.dumps(said | {"config": {}}))
    assert miipher2("restore", recordings, tmp_path / "out", *given).code == 0
    lineage = json.loads((tmp_path / "out/lineage.json").read_text())
    assert lineage["options"] == {"precision": "fp32", "window_seconds": 20.0, "overlap_seconds": 3.0}
    assert lineage["weights"] == load(weights).weights.digest()
    assert lineage["lineage"]["adapter"]["training"] == said
    assert set(lineage["lineage"]["encoder"]) >= {"hubert_model_name", "sha256"}


def test_formats_suffixes_and_lists(recordings: Path, tmp_path: Path, miipher2: Command, given: list[object]) -> None:
    (tmp_path / "list.txt").write_text("in/a.wav\n# a remark\n\nin/deep/b.flac\n")
    said = miipher2("restore", tmp_path / "list.txt", tmp_path / "out", *given, "--format", "ogg", "--suffix", "_clean")
    assert said.code == 0, said.error
    assert files(tmp_path / "out") == {"a_clean.ogg", "deep/b_clean.ogg", "lineage.json"}
    (tmp_path / "list.txt").write_text("in/a.wav\nin/missing.wav\n")
    said = miipher2("restore", tmp_path / "list.txt", tmp_path / "other", *given)
    assert said.code == 1
    assert said.error == f"FAILED  {tmp_path / 'in/missing.wav'}: does not exist; it should be a sound file\n"


START = "import sys; from miipher2.cli import main; sys.exit(main(sys.argv[1:]))"


def test_a_job_killed_anywhere_goes_on_where_it_was(
    recordings: Path, tmp_path: Path, miipher2: Command, given: list[object]
) -> None:
    names = [f"{number}.wav" for number in range(12)]
    for number, name in enumerate(names):
        write_audio(recordings / name, noise(3.0 + number / 10), 16_000)
    out = tmp_path / "out"
    words = [*map(str, ("restore", recordings, out, *given, "--workers", 1))]
    kills = 0
    for wanted in (2, 6):
        process = subprocess.Popen([sys.executable, "-c", START, *words], stdout=subprocess.DEVNULL)
        while process.poll() is None and len(list(out.glob("*.wav"))) < wanted:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += process.returncode == -signal.SIGKILL
        for path in out.rglob("*.wav"):  # what is visible is whole
            assert path.name.startswith(".") or Recording(path).samples > 0
    assert kills == 2
    before = {path: path.stat().st_ino for path in out.glob("*.wav")}
    assert 2 <= len(before) < 15
    said = miipher2(*words)
    assert said.code == 0, said.error
    assert files(out) == {*names, "a.wav", "deep/b.flac", "deep/c.wav", "lineage.json"}  # no temporary file is left
    kept = sum(path.stat().st_ino == number for path, number in before.items())
    assert kept >= len(before) - 1  # the last may have appeared a moment before its record
    assert f"{15 - kept} restored, {kept} already there" in said.out
    fresh = miipher2("restore", recordings, tmp_path / "fresh", *given)
    assert fresh.code == 0
    for name in files(out) - {"lineage.json"}:
        assert (out / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes(), name


def test_two_processes_on_one_folder_do_not_disturb_each_other(
    recordings: Path, tmp_path: Path, miipher2: Command, given: list[object]
) -> None:
    for number in range(6):
        write_audio(recordings / f"{number}.wav", noise(1.0), 16_000)
    words = [*map(str, ("restore", recordings, tmp_path / "out", *given))]
    both = [subprocess.Popen([sys.executable, "-c", START, *words], stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(600) for process in both] == [0, 0]
    assert len(files(tmp_path / "out")) == 10
    said = miipher2(*words)
    assert (said.code, said.out) == (0, f"0 restored, 9 already there: {tmp_path / 'out'}\n")


def test_shards_share_the_work(recordings: Path, tmp_path: Path, miipher2: Command, given: list[object]) -> None:
    for number in range(8):
        write_audio(recordings / f"{number}.wav", noise(0.05), 16_000)
    restored = []
    for shard in ("1/3", "2/3", "3/3"):
        said = miipher2("restore", recordings, tmp_path / "out", *given, "--shard", shard)
        assert said.code == 0, said.error
        restored.append(int(said.out.split()[0]))
    assert sum(restored) == 11
    assert max(restored) < 11
    assert len(files(tmp_path / "out")) == 12
    said = miipher2("restore", recordings, tmp_path / "out", "--shard", "4/3")
    assert (said.code, "should be i/n" in said.error) == (2, True)


def test_weights_that_are_missing_are_said_in_one_line(recordings: Path, tmp_path: Path, miipher2: Command) -> None:
    said = miipher2("restore", recordings / "a.wav", tmp_path / "out.wav", "--adapter", tmp_path)
    assert (said.code, "--vocoder is missing: the two go together" in said.error) == (2, True)
    both = ("--adapter", tmp_path, "--vocoder", tmp_path)
    said = miipher2("restore", recordings / "a.wav", tmp_path / "out.wav", *both)
    assert said.code == 2
    assert "config.yaml: missing" in said.error
    assert said.error.count("\n") == 1
    assert not (tmp_path / "out.wav").exists()


def test_what_cannot_be_done_is_said_before_anything_is_loaded(
    recordings: Path, tmp_path: Path, miipher2: Command
) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("c.wav", "c.ogg.wav"):
        write_audio(recordings / "deep" / name, noise(), 16_000)
    wrong = [
        (recordings / "a.wav", tmp_path / "out.mp3", "should end in .wav, .flac or .ogg"),
        (recordings / "a.wav", recordings / "a.wav", "replaced by its own restoration"),
        (recordings / "a.wav", recordings, "replaced by its own restoration"),
        (recordings, recordings, "another folder"),
        (recordings, recordings / "a.wav", "another folder"),
        (tmp_path / "empty", tmp_path / "out", "holds no recordings"),
        (recordings, tmp_path / "out", "would both become"),
    ]
    for source, target, named in wrong:
        said = miipher2("restore", source, target)
        assert said.code == 2
        assert named in said.error


def test_a_failed_write_is_a_failure_of_that_file(
    recordings: Path, tmp_path: Path, miipher2: Command, given: list[object]
) -> None:
    (tmp_path / "out/a.wav").mkdir(parents=True)
    said = miipher2("restore", recordings, tmp_path / "out", *given)
    assert said.code == 1
    assert str(tmp_path / "out/a.wav") in said.error
    assert files(tmp_path / "out") == {"deep/b.flac", "deep/c.wav", "lineage.json"}
    assert list((tmp_path / "out/a.wav").iterdir()) == []
