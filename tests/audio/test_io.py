"""Sound files are written atomically, read whole and in parts, and everything unusable is an error with its reason."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from speech_like import speech_like

from miipher2.audio.decode import AudioError
from miipher2.audio.io import AudioInfo, read_audio, read_info, write_audio

RATE_HZ = 16_000


@pytest.mark.parametrize(("name", "subtype"), [("a.wav", "FLOAT"), ("a.wav", None), ("a.flac", None)])
def test_written_sound_reads_back(tmp_path: Path, name: str, subtype: str | None) -> None:
    wave = speech_like()
    write_audio(tmp_path / name, wave, RATE_HZ, subtype)
    read, rate_hz = read_audio(tmp_path / name)
    assert rate_hz == RATE_HZ
    np.testing.assert_allclose(read, wave, atol=0 if subtype == "FLOAT" else 2**-15)
    np.testing.assert_array_equal(read_audio(tmp_path / name, 100, 50)[0], read[100:150])
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_float_sound_holds_no_timestamp(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", speech_like(), RATE_HZ, "FLOAT")
    content = (tmp_path / "a.wav").read_bytes()
    peak = content.find(b"PEAK")
    assert peak < 0 or content[peak + 12 : peak + 16] == bytes(4)


def test_failed_write_leaves_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    write_audio(path, speech_like(), RATE_HZ)
    before = path.read_bytes()
    with pytest.raises(AudioError, match=r"a\.wav.*finite"):
        write_audio(path, np.full(10, np.nan, np.float32), RATE_HZ)
    assert path.read_bytes() == before
    with pytest.raises(AudioError, match=r"\.xyz"):
        write_audio(tmp_path / "a.xyz", speech_like(), RATE_HZ)


def test_stereo_is_written_as_two_channels_and_read_as_their_mean(tmp_path: Path) -> None:
    left, right = speech_like(seed=1), speech_like(seed=2)
    write_audio(tmp_path / "a.wav", np.stack([left, right]), RATE_HZ, "FLOAT")
    assert read_info(tmp_path / "a.wav") == AudioInfo(1.0, 16000, RATE_HZ, 2)
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav")[0], (left + right) / 2, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.wav", "does not exist"),
        ("text.wav", "cannot be read"),
        ("zero.wav", "no audio"),
        ("nan.wav", "should be finite"),
    ],
)
def test_an_unusable_file_is_an_error_with_its_reason(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "text.wav").write_text("no sound")
    soundfile.write(tmp_path / "zero.wav", np.zeros(0, np.float32), RATE_HZ)
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan], np.float32), RATE_HZ, "FLOAT")
    with pytest.raises(AudioError, match=rf"{name}.*{reason}"):
        read_audio(tmp_path / name)


def test_a_folder_and_a_range_beyond_the_end_are_errors(tmp_path: Path) -> None:
    write_audio(tmp_path / "good.wav", speech_like(), RATE_HZ)
    with pytest.raises(AudioError, match="is a folder"):
        read_info(tmp_path)
    with pytest.raises(AudioError, match="holds 16000 samples; should hold 15000 to 17000"):
        read_audio(tmp_path / "good.wav", 15000, 2000)


def test_a_truncated_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "cut.flac"
    write_audio(path, speech_like(), RATE_HZ)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(AudioError, match=r"cut\.flac"):
        read_audio(path)
