"""`miipher2 restore`: files and folders in, restored files out, failures listed."""

from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoints import Command

from miipher2 import audio
from miipher2.commands.restore import find_jobs
from miipher2.restore import Restorer
from miipher2.rng import stream


class HalfAsLoud:
    """Stands for a restorer: the weights are not the subject here."""

    sample_rate_hz = 16_000

    def __call__(self, wave: np.ndarray, sample_rate_hz: int) -> np.ndarray:
        """Return the wave at half its level."""
        return (0.5 * audio.resample(wave, sample_rate_hz, 16_000)).astype(np.float32)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, Path, str]]:
    """Replace the loading of weights, and return what was asked for."""
    seen: list[tuple[Path, Path, str]] = []

    def from_published(adapter: Path, vocoder: Path, *, root: Path, device: str) -> HalfAsLoud:
        seen.append((adapter.relative_to(root) if adapter.is_relative_to(root) else adapter, vocoder, device))
        return HalfAsLoud()

    monkeypatch.setattr(Restorer, "from_published", from_published)
    return seen


def noise(seconds: float = 0.2, rate_hz: int = 16_000) -> np.ndarray:
    return stream(0, "noise").uniform(-0.5, 0.5, round(seconds * rate_hz)).astype(np.float32)


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    audio.write(folder / "a.wav", noise(), 16_000)
    audio.write(folder / "deep/b.flac", noise(rate_hz=24_000), 24_000)
    audio.write(folder / "deep/c.ogg", noise(), 16_000)
    (folder / "notes.txt").write_text("no sound")
    return folder


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_a_file_becomes_what_its_suffix_says(
    suffix: str, recordings: Path, tmp_path: Path, miipher2: Command, asked: list[tuple[Path, Path, str]]
) -> None:
    said = miipher2("restore", recordings / "deep/b.flac", tmp_path / f"new/out{suffix}")
    assert said.code == 0, said.error
    wave, rate_hz = audio.read(tmp_path / f"new/out{suffix}")
    assert (rate_hz, len(wave)) == (16_000, 3200)
    assert np.abs(wave).max() > 0.1
    assert str(asked[0][0]) == "exp/adapter_mini/published"
    assert asked[0][2] == "cpu"


def test_a_folder_keeps_its_tree_and_a_file_that_fails_stops_no_other(
    recordings: Path, tmp_path: Path, miipher2: Command, asked: list[tuple[Path, Path, str]]
) -> None:
    (recordings / "bad.wav").write_bytes(b"no sound")
    said = miipher2("restore", recordings, tmp_path / "out")
    assert said.code == 1
    made = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")}
    assert made == {"a.wav", "deep/b.flac", "deep/c.wav"}
    assert said.out == f"3 of 4 restored to {tmp_path / 'out'}\n"
    assert said.error.startswith(f"FAILED  {recordings / 'bad.wav'}")
    (recordings / "bad.wav").unlink()
    assert miipher2("restore", recordings, tmp_path / "out").code == 0
    assert len(asked) == 2


def test_weights_and_device_are_taken_as_given(
    recordings: Path,
    tmp_path: Path,
    miipher2: Command,
    asked: list[tuple[Path, Path, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    said = miipher2("restore", recordings / "a.wav", "out.wav", "--adapter", "x/published", "--vocoder", "/y/published")
    assert said.code == 0, said.error
    assert asked == [(tmp_path / "x/published", Path("/y/published"), "cpu")]


def test_weights_that_are_missing_are_said_in_one_line(recordings: Path, tmp_path: Path, miipher2: Command) -> None:
    said = miipher2("restore", recordings / "a.wav", tmp_path / "out.wav", "--adapter", tmp_path)
    assert said.code == 2
    assert "config.yaml: missing" in said.error
    assert said.error.count("\n") == 1
    assert not (tmp_path / "out.wav").exists()


def test_what_cannot_be_done_is_said_before_anything_is_loaded(
    recordings: Path, tmp_path: Path, miipher2: Command
) -> None:
    (tmp_path / "empty").mkdir()
    wrong = [
        (recordings / "a.wav", tmp_path / "out.mp3", "should end in .wav or .flac"),
        (recordings / "a.wav", recordings / "a.wav", "replaced by its own restoration"),
        (recordings / "a.wav", recordings, "replaced by its own restoration"),
        (recordings, recordings, "another folder"),
        (recordings, recordings / "a.wav", "another folder"),
        (tmp_path / "empty", tmp_path / "out", "holds no recordings"),
    ]
    for source, target, named in wrong:
        said = miipher2("restore", source, target)
        assert said.code == 2
        assert named in said.error


def test_two_files_for_one_name_are_refused(recordings: Path, tmp_path: Path) -> None:
    audio.write(recordings / "deep/c.wav", noise(), 16_000)
    with pytest.raises(ValueError, match=r"would both become .*c\.wav"):
        find_jobs(recordings, tmp_path / "out")


def test_what_was_restored_into_the_folder_itself_is_not_restored_again(recordings: Path) -> None:
    before = find_jobs(recordings, recordings / "restored")
    (recordings / "restored").mkdir()
    audio.write(recordings / "restored/a.wav", noise(), 16_000)
    assert find_jobs(recordings, recordings / "restored") == before


def test_a_file_into_a_folder_keeps_its_name(recordings: Path, tmp_path: Path) -> None:
    assert find_jobs(recordings / "deep/c.ogg", tmp_path) == [(recordings / "deep/c.ogg", tmp_path / "c.wav")]
