"""Sound files are read and written whole, in parts and from parts of other files, and lengths are exact."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from miipher2.audio.io import AudioError, AudioInfo, read_audio, read_info, write_audio
from miipher2.audio.resample import resample
from miipher2.rng import stream

RATE_HZ = 16000


def speech_like(samples: int = 16000, seed: int = 0) -> np.ndarray:
    """Return noise between 100 Hz and 3 kHz in bursts: any codec passes it, and its delay shows."""
    spectrum = np.fft.rfft(stream(seed, "wave").standard_normal(samples))
    frequencies = np.fft.rfftfreq(samples, 1 / RATE_HZ)
    wave = np.fft.irfft(spectrum * ((frequencies > 100) & (frequencies < 3000)), samples)
    wave *= np.sin(np.pi * np.arange(samples) / 4000) ** 2
    return (0.5 * wave / np.abs(wave).max()).astype(np.float32)


@pytest.mark.parametrize("rates", [(16000, 8000), (44100, 16000), (16000, 24000), (48000, 22050)])
def test_resampled_length_is_exact(rates: tuple[int, int]) -> None:
    from_hz, to_hz = rates
    for samples in (0, 1, 2, 999, 16001):
        assert len(resample(np.zeros(samples, np.float32), from_hz, to_hz)) == round(samples * to_hz / from_hz)


def test_resampling_keeps_a_tone_and_removes_what_would_alias() -> None:
    seconds = np.arange(RATE_HZ) / RATE_HZ
    low, high = (np.sin(2 * np.pi * hz * seconds).astype(np.float32) for hz in (1000, 6000))
    there_and_back = resample(resample(low, RATE_HZ, 24000), 24000, RATE_HZ)
    np.testing.assert_allclose(there_and_back[500:-500], low[500:-500], atol=1e-3)
    assert np.abs(resample(high, RATE_HZ, 8000)[500:-500]).max() < 1e-3


@pytest.mark.parametrize(("name", "subtype"), [("a.wav", "FLOAT"), ("a.wav", None), ("a.flac", None)])
def test_written_sound_reads_back(tmp_path: Path, name: str, subtype: str | None) -> None:
    wave = speech_like()
    write_audio(tmp_path / name, wave, RATE_HZ, subtype)
    back, rate_hz = read_audio(tmp_path / name)
    assert rate_hz == RATE_HZ
    np.testing.assert_allclose(back, wave, atol=0 if subtype == "FLOAT" else 2**-15)
    part, _ = read_audio(tmp_path / name, 100, 50)
    np.testing.assert_array_equal(part, back[100:150])
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_float_sound_holds_no_time_of_writing(tmp_path: Path) -> None:
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


def test_what_cannot_be_read_is_named_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no sound")
    soundfile.write(tmp_path / "zero.wav", np.zeros(0, np.float32), RATE_HZ)
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan], np.float32), RATE_HZ, "FLOAT")
    write_audio(tmp_path / "good.wav", speech_like(), RATE_HZ)
    for name, reason in [
        ("missing.wav", "does not exist"),
        ("text.wav", "cannot be read"),
        ("zero.wav", "no audio"),
        ("nan.wav", "not finite"),
    ]:
        with pytest.raises(AudioError, match=rf"{name}.*{reason}"):
            read_audio(tmp_path / name)
    with pytest.raises(AudioError, match="is a folder"):
        read_info(tmp_path)
    with pytest.raises(AudioError, match="holds 16000 values"):
        read_audio(tmp_path / "good.wav", 15000, 2000)


def test_cut_off_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.flac"
    write_audio(path, speech_like(), RATE_HZ)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(AudioError, match=r"cut\.flac"):
        read_audio(path)
