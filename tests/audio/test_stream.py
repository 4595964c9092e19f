"""Recordings are read block by block without loss, and written whole or not at all."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from miipher2.audio.decode import AudioError
from miipher2.audio.stream import BLOCK_SECONDS, Recording, RecordingWriter
from miipher2.rng import stream


def noise(channels: int, samples: int) -> np.ndarray:
    return stream(0, "noise").uniform(-0.9, 0.9, (channels, samples)).astype(np.float32)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
@pytest.mark.parametrize("samples", [1, 8_000 * BLOCK_SECONDS + 1])
def test_a_recording_written_in_blocks_reads_back_in_blocks(tmp_path: Path, suffix: str, samples: int) -> None:
    values, path = noise(2, samples), tmp_path / f"new/a{suffix}"
    with RecordingWriter(path, 8_000, 2, samples) as writer:
        for block in np.split(values, [samples // 3], axis=1):
            writer.write(block)
        assert not path.exists()
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    recording = Recording(path)
    assert (recording.sample_rate_hz, recording.channels, recording.samples) == (8_000, 2, samples)
    for _ in range(2):
        read = np.concatenate(list(recording.blocks()), 1)
        assert read.shape == values.shape
        if suffix != ".ogg":
            np.testing.assert_allclose(read, values, atol=2**-15)


def test_a_value_that_is_not_finite_is_an_error_with_its_position(tmp_path: Path) -> None:
    values = noise(2, 50_000)
    values[1, 43_210] = np.nan
    soundfile.write(tmp_path / "a.wav", values.T, 8_000, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"a.wav: holds nan at value 43210 of channel 1; should be finite"):
        list(Recording(tmp_path / "a.wav").blocks())


def test_a_truncated_recording_is_an_error(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", noise(1, 90_000).T, 8_000)
    recording = Recording(tmp_path / "a.flac")
    (tmp_path / "a.flac").write_bytes((tmp_path / "a.flac").read_bytes()[:60_000])
    with pytest.raises(AudioError, match=r"a.flac: (ends|cannot be read) after \d+ samples"):
        list(recording.blocks())


def write_and_fail(writer: RecordingWriter) -> None:
    writer.write(noise(1, 5))
    raise AudioError("of the caller")


def test_an_error_leaves_the_earlier_file(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"earlier")
    with pytest.raises(AudioError, match="of the caller"), RecordingWriter(tmp_path / "a.wav", 8_000, 1, 10) as writer:
        write_and_fail(writer)
    assert (tmp_path / "a.wav").read_bytes() == b"earlier"
    with pytest.raises(AudioError, match=r"a.mp4: should end in .wav, .flac, .ogg"):
        RecordingWriter(tmp_path / "a.mp4", 8_000, 1, 10)
    with pytest.raises(AudioError, match=r"b.flac: 9 channels"):
        RecordingWriter(tmp_path / "b.flac", 8_000, 9, 10)
    assert [file.name for file in tmp_path.iterdir()] == ["a.wav"]
