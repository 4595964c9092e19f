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
    """Return a repository in which two stages have published tiny weights, with their encoder by absolute path."""
    root = tmp_path_factory.mktemp("weights")
    publish_all(root, "hubert", absolute=True)
    return root


@pytest.fixture
def weights_args(weights: Path) -> list[object]:
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
    (folder / "notes.txt").write_text("not audio")
    return folder


def files(folder: Path) -> set[str]:
    """Return the files in a folder, except journals."""
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {name for name in names if not name.startswith(".restoring/")}


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_suffix_sets_the_output_format(
    suffix: str, recordings: Path, tmp_path: Path, miipher2: Command, weights_args: list[object], weights: Path
) -> None:
    result = miipher2("restore", recordings / "deep/b.flac", tmp_path / f"new/out{suffix}", *weights_args)
    assert result.code == 0, result.error
    assert files(tmp_path / "new") == {f"out{suffix}"}
    restored = Recording(tmp_path / f"new/out{suffix}")
    assert (restored.sample_rate_hz, restored.channels, restored.samples) == (16_000, 2, 3200)
    source = np.concatenate(list(Recording(recordings / "deep/b.flac").blocks()), 1)
    expected = load(weights)(source, 24_000)
    np.testing.assert_allclose(np.concatenate(list(restored.blocks()), 1), expected, atol=2**-15)


def test_folder_keeps_its_tree_and_a_failed_file_does_not_stop_the_others(
    recordings: Path, tmp_path: Path, miipher2: Command, weights_args: list[object]
) -> None:
    (recordings / "bad.wav").write_bytes(b"not audio")
    broken = noise(12.0)
    broken[0, 100_000] = np.inf
    import soundfile

    soundfile.write(recordings / "inf.wav", broken[0], 16_000, subtype="FLOAT")
    result = miipher2("restore", recordings, tmp_path / "out", *weights_args)
    assert result.code == 1
    assert files(tmp_path / "out") == {"a.wav", "deep/b.flac", "deep/c.wav", "lineage.json"}
    assert result.out.startswith(f"3 restored, 2 failed: {tmp_path / 'out'}; 0.6 s of audio at ")
    first, second = (line for line in result.error.splitlines() if line.startswith("FAILED"))
    assert first.startswith(f"FAILED  {recordings / 'bad.wav'}: cannot be read as sound")
    assert second == f"FAILED  {recordings / 'inf.wav'}: holds inf at value 100000 of channel 0; should be finite"
    (recordings / "bad.wav").unlink()
    (recordings / "inf.wav").unlink()
    result = miipher2("restore", recordings, tmp_path / "out", *weights_args)
    assert (result.code, result.out) == (0, f"0 restored, 3 already there: {tmp_path / 'out'}\n")


def test_changed_inputs_outputs_options_and_weights_are_restored_again(
    recordings: Path, tmp_path: Path, miipher2: Command, weights_args: list[object]
) -> None:
    def restore(*more: object) -> str:
        result = miipher2("restore", recordings, tmp_path / "out", *weights_args, *more)
        assert result.code == 0, result.error
        return result.out.partition(":")[0]

    assert restore() == "3 restored"
    write_audio(recordings / "a.wav", 0.5 * noise(), 16_000)  # an input
    assert restore() == "1 restored, 2 already there"
    assert restore("--batch-size", 2, "--chunk-seconds", 2) == "0 restored, 3 already there"  # changes no result
    (tmp_path / "out/a.wav").write_bytes((tmp_path / "out/a.wav").read_bytes()[:-2])  # an output
    assert restore() == "1 restored, 2 already there"
    (tmp_path / "out/deep/b.flac").unlink()
    assert restore() == "1 restored, 2 already there"
    assert restore("--level", "model") == "3 restored"  # options
    assert restore("--level", "model", "--strength", "1.0") == "0 restored, 3 already there"
    assert restore("--level", "model", "--strength", "0.5") == "3 restored"
    assert restore("--level", "model", "--strength", "1") == "3 restored"
    publish_all(Path(str(weights_args[1])).parent, "hubert", absolute=True, seed=1)  # weights
    assert restore("--level", "model") == "3 restored"


def test_lineage_records_weights_training_and_options(
    recordings: Path, tmp_path: Path, miipher2: Command, weights_args: list[object], weights: Path
) -> None:
    training = {"stage": "train_adapter", "step": 7, "run_id": "run-1", "parents": [], "sha256": "0" * 64}
    training["upstream_digests"] = {"encoder": "1" * 64}
    (weights / "adapter/checkpoint_7.json").write_text(json.dumps(training | {"config": {}}))
    assert miipher2("restore", recordings, tmp_path / "out", *weights_args).code == 0
    lineage = json.loads((tmp_path / "out/lineage.json").read_text())
    assert lineage["options"] == {
        "precision": "fp32",
        "window_seconds": 20.0,
        "overlap_seconds": 3.0,
        "level": "input",
        "strength": 1.0,
    }
    assert lineage["weights"] == load(weights).weights.digest()
    assert lineage["lineage"]["adapter"]["training"] == training
    assert set(lineage["lineage"]["encoder"]) >= {"hubert_model_name", "sha256"}


def test_lists_formats_and_suffixes(
    recordings: Path, tmp_path: Path, miipher2: Command, weights_args: list[object]
) -> None:
    (tmp_path / "list.txt").write_text("in/a.wav\n# a comment\n\nin/deep/b.flac\n")
    result = miipher2(
        "restore", tmp_path / "list.txt", tmp_path / "out", *weights_args, "--format", "ogg", "--suffix", "_clean"
    )
    assert result.code == 0, result.error
    assert files(tmp_path / "out") == {"a_clean.ogg", "deep/b_clean.ogg", "lineage.json"}
    (tmp_path / "list.txt").write_text("in/a.wav\nin/missing.wav\n")
    result = miipher2("restore", tmp_path / "list.txt", tmp_path / "other", *weights_args)
    assert result.code == 1
    assert result.error == f"FAILED  {tmp_path / 'in/missing.wav'}: does not exist; it should be a sound file\n"


START = "import sys; from miipher2.cli.main import main; sys.exit(main(sys.argv[1:]))"


def test_killed_job_continues_where_it_stopped(
    recordings: Path, tmp_path: Path, miipher2: Command, weights_args: list[object]
) -> None:
    names = [f"{number}.wav" for number in range(12)]
    for number, name in enumerate(names):
        write_audio(recordings / name, noise(3.0 + number / 10), 16_000)
    out = tmp_path / "out"
    words = [*map(str, ("restore", recordings, out, *weights_args, "--workers", 1))]
    kills = 0
    for finished in (2, 6):
        process = subprocess.Popen([sys.executable, "-c", START, *words], stdout=subprocess.DEVNULL)
        while process.poll() is None and len(list(out.glob("*.wav"))) < finished:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += process.returncode == -signal.SIGKILL
        for path in out.rglob("*.wav"):  # visible files are whole
            assert path.name.startswith(".") or Recording(path).samples > 0
    assert kills == 2
    before = {path: path.stat().st_ino for path in out.glob("*.wav")}
    assert 2 <= len(before) < 15
    result = miipher2(*words)
    assert result.code == 0, result.error
    assert files(out) == {*names, "a.wav", "deep/b.flac", "deep/c.wav", "lineage.json"}  # no temporary file is left
    kept = sum(path.stat().st_ino == number for path, number in before.items())
    assert kept >= len(before) - 1  # the last may have appeared a moment before its record
    assert f"{15 - kept} restored, {kept} already there" in result.out
    fresh = miipher2("restore", recordings, tmp_path / "fresh", *weights_args)
    assert fresh.code == 0
    for name in files(out) - {"lineage.json"}:
        assert (out / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes(), name


@pytest.mark.slow
def test_two_processes_can_share_one_folder(
    recordings: Path, tmp_path: Path, miipher2: Command, weights_args: list[object]
) -> None:
    for number in range(6):
        write_audio(recordings / f"{number}.wav", noise(1.0), 16_000)
    words = [*map(str, ("restore", recordings, tmp_path / "out", *weights_args))]
    both = [subprocess.Popen([sys.executable, "-c", START, *words], stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(600) for process in both] == [0, 0]
    assert len(files(tmp_path / "out")) == 10
    result = miipher2(*words)
    assert (result.code, result.out) == (0, f"0 restored, 9 already there: {tmp_path / 'out'}\n")


def test_shards_divide_the_work(
    recordings: Path, tmp_path: Path, miipher2: Command, weights_args: list[object]
) -> None:
    for number in range(8):
        write_audio(recordings / f"{number}.wav", noise(0.05), 16_000)
    restored = []
    for shard in ("1/3", "2/3", "3/3"):
        result = miipher2("restore", recordings, tmp_path / "out", *weights_args, "--shard", shard)
        assert result.code == 0, result.error
        restored.append(int(result.out.split()[0]))
    assert sum(restored) == 11
    assert max(restored) < 11
    assert len(files(tmp_path / "out")) == 12
    result = miipher2("restore", recordings, tmp_path / "out", "--shard", "4/3")
    assert (result.code, "should be i/n" in result.error) == (2, True)


def test_missing_weights_are_reported_in_one_line(recordings: Path, tmp_path: Path, miipher2: Command) -> None:
    result = miipher2("restore", recordings / "a.wav", tmp_path / "out.wav", "--adapter", tmp_path)
    assert (result.code, "--vocoder is missing: --adapter and --vocoder go together" in result.error) == (2, True)
    both = ("--adapter", tmp_path, "--vocoder", tmp_path)
    result = miipher2("restore", recordings / "a.wav", tmp_path / "out.wav", *both)
    assert result.code == 2
    assert "config.yaml: missing" in result.error
    assert result.error.count("\n") == 1
    assert not (tmp_path / "out.wav").exists()


def test_wrong_usage_is_reported_before_anything_is_loaded(recordings: Path, tmp_path: Path, miipher2: Command) -> None:
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
    for source, target, message in wrong:
        result = miipher2("restore", source, target)
        assert result.code == 2
        assert message in result.error


def test_failed_write_is_a_failure_of_that_file_only(
    recordings: Path, tmp_path: Path, miipher2: Command, weights_args: list[object]
) -> None:
    (tmp_path / "out/a.wav").mkdir(parents=True)
    result = miipher2("restore", recordings, tmp_path / "out", *weights_args)
    assert result.code == 1
    assert str(tmp_path / "out/a.wav") in result.error
    assert files(tmp_path / "out") == {"deep/b.flac", "deep/c.wav", "lineage.json"}
    assert list((tmp_path / "out/a.wav").iterdir()) == []


@pytest.mark.parametrize("device", ["cuda:1", "auto"])
def test_ray_gives_each_actor_its_own_gpu(device: str, recordings: Path, tmp_path: Path, miipher2: Command) -> None:
    result = miipher2("restore", recordings, tmp_path / "out", "--ray", "local", "--device", device)
    expected = f"ERROR: --ray --device {device}: should be cpu or cuda; Ray gives each actor its own GPU\n"
    assert (result.code, result.error.splitlines(keepends=True)[-1]) == (2, expected)
