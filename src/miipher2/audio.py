"""Sound files and sound values: the only file that reads, writes or resamples audio."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import soundfile
import torch
from jaxtyping import Float32
from torchaudio.transforms import Resample

from miipher2.durable import write_durably

# What people keep as sound: a file with one of these suffixes that cannot be read is reported, not skipped.
SOUND_SUFFIXES = frozenset(
    (".flac", ".wav", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".w64", ".m4a", ".aac", ".wma", ".sph")
)


@runtime_checkable
class Part(Protocol):
    """A part of a file that can be opened as if it were one, such as a member of a tar; `str` names it."""

    def open(self) -> io.BufferedReader:
        """Open it for reading."""


class AudioError(ValueError):
    """A sound file or wave that cannot be used; the message names it, what it is and what it should be."""


@dataclass(frozen=True)
class AudioInfo:
    """What a sound file's header says; `samples` counts the values of one channel."""

    seconds: float
    samples: int
    sample_rate_hz: int
    channels: int


def info(path: Path | Part | str) -> AudioInfo:
    """Return length, rate and channels of a sound file without decoding it.

    Raises:
        AudioError: the file is missing, is no sound file, or holds no audio.
    """
    with _opened(path) as file:
        return AudioInfo(file.frames / file.samplerate, file.frames, file.samplerate, file.channels)


def read(
    path: Path | Part | str, start_samples: int = 0, samples: int | None = None
) -> tuple[Float32[np.ndarray, "time"], int]:
    """Return a sound file's values, its channels averaged to one, and its sample rate in Hz.

    Args:
        start_samples: the first value to read, counted in one channel.
        samples: how many values to read; None reads to the end.

    Raises:
        AudioError: the file is missing, unreadable, empty, damaged, shorter than asked for, or holds NaN or infinity.
    """
    with _opened(path) as file:
        wanted = file.frames - start_samples if samples is None else samples
        if start_samples < 0 or wanted < 1 or start_samples + wanted > file.frames:
            asked = f"values {start_samples} to {start_samples + wanted}"
            raise AudioError(f"{path}: holds {file.frames} values; {asked} were asked for")
        file.seek(start_samples)
        channels = file.read(wanted, dtype="float32", always_2d=True)
        rate_hz = int(file.samplerate)
    if len(channels) != wanted:
        raise AudioError(f"{path}: ends after {start_samples + len(channels)} values; its header promises more")
    return _mean_channel(path, channels), rate_hz


def blocks(path: Path | Part | str, samples: int) -> Iterator[Float32[np.ndarray, "time"]]:
    """Yield a sound file's values as `read` returns them, so many at a time: memory does not grow with its length.

    Raises:
        AudioError: as `read`.
    """
    with _opened(path) as file:
        left = file.frames
        while left > 0:
            channels = file.read(min(samples, left), dtype="float32", always_2d=True)
            if len(channels) != min(samples, left):
                done = file.frames - left + len(channels)
                raise AudioError(f"{path}: ends after {done} values; its header promises more")
            left -= len(channels)
            yield _mean_channel(path, channels)


def write(
    path: Path | str,
    wave: Float32[np.ndarray, "time"] | Float32[np.ndarray, "channel time"],
    sample_rate_hz: int,
    subtype: str | None = None,
) -> None:
    """Write a sound file whole or not at all, in its suffix's format; equal input gives equal bytes in WAV and FLAC.

    Args:
        subtype: libsndfile's name of the sample format, such as "FLOAT"; None takes the format's default, 16 bit in WAV
            and FLAC, which clips values outside [-1, 1].

    Raises:
        AudioError: the wave is empty or not finite, or the suffix or subtype is none that can be written.
    """
    path = Path(path)
    if wave.size == 0 or not np.isfinite(wave).all():
        state = "is empty" if wave.size == 0 else "holds values that are not finite"
        raise AudioError(f"{path}: the wave to write {state}; it should hold finite values in [-1, 1]")
    sound_format = {".OPUS": "OGG", ".OGA": "OGG", ".AIF": "AIFF"}.get(path.suffix.upper(), path.suffix.upper()[1:])
    subtype = "OPUS" if subtype is None and path.suffix.lower() == ".opus" else subtype
    if sound_format not in soundfile.available_formats():
        raise AudioError(f"{path}: cannot write sound with the suffix '{path.suffix}'; use .wav or .flac, say")
    try:
        encoded = encode(wave.T, sample_rate_hz, sound_format, subtype)
    except (soundfile.LibsndfileError, ValueError) as error:
        raise AudioError(
            f"{path}: cannot be written at {sample_rate_hz} Hz as {subtype or 'default'}: {error}"
        ) from error
    write_durably(path, encoded)


def resample(wave: Float32[np.ndarray, "time"], from_hz: int, to_hz: int) -> Float32[np.ndarray, "resampled"]:
    """Return `wave` at another sample rate, exactly `round(len(wave) * to_hz / from_hz)` values long."""
    if from_hz == to_hz:
        return wave
    length = round(len(wave) * to_hz / from_hz)
    if length == 0:
        return np.zeros(0, dtype=np.float32)
    # One thread, as in a data worker: the bits of a convolution may depend on how many share it.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        resampled = _resampler(from_hz, to_hz)(torch.from_numpy(np.array(wave)))
    finally:
        torch.set_num_threads(threads)
    return np.ascontiguousarray(resampled.numpy()[:length])


def file_name(path: Path | str) -> str | bytes:
    """Return a path as soundfile takes it: as bytes where its name is not UTF-8."""
    name = os.fsencode(path)
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name


@contextmanager
def _opened(path: Path | Part | str) -> Iterator[soundfile.SoundFile]:
    """Open a sound file that holds audio."""
    if isinstance(path, Path | str):
        if not Path(path).is_file():
            what = "is a folder" if Path(path).is_dir() else "does not exist"
            raise AudioError(f"{path}: {what}; it should be a sound file")
        whole_or_part: Any = nullcontext(file_name(path))
    else:
        try:
            whole_or_part = path.open()
        except OSError as error:
            raise AudioError(f"{path}: cannot be opened ({error}); it should be a part of a file") from error
    try:
        with whole_or_part as opened, soundfile.SoundFile(opened) as file:
            if file.frames < 1:
                raise AudioError(f"{path}: holds no audio (zero length); it should hold at least one value")
            yield file
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: a headerless format, .raw by its suffix
        raise AudioError(f"{path}: cannot be read as sound ({error}); it should be WAV, FLAC, OGG or MP3") from error


def _mean_channel(
    path: Path | Part | str, channels: Float32[np.ndarray, "time channel"]
) -> Float32[np.ndarray, "time"]:
    wave = channels[:, 0] if channels.shape[1] == 1 else channels.mean(axis=1, dtype=np.float32)
    if not np.isfinite(wave).all():
        raise AudioError(f"{path}: holds values that are not finite (NaN or infinity); they should lie in [-1, 1]")
    return np.ascontiguousarray(wave)


def encode(
    values: np.ndarray, rate_hz: int, sound_format: str, subtype: str | None, compression_level: float | None = None
) -> bytes:
    """Return `values`, [time] or [time channel], as the bytes of a sound file; equal input gives equal bytes in WAV."""
    file = io.BytesIO()
    mode = "CONSTANT" if sound_format == "MP3" and compression_level is not None else None
    soundfile.write(
        file, values, rate_hz, subtype, format=sound_format, compression_level=compression_level, bitrate_mode=mode
    )
    encoded = bytearray(file.getvalue())
    peak = encoded.find(b"PEAK", 0, 256)
    if sound_format.startswith("WAV") and peak >= 0:
        # Chunk name, size, version, then the time of writing, which would make equal sounds differ.
        encoded[peak + 12 : peak + 16] = bytes(4)
    return bytes(encoded)


def decode(encoded: bytes) -> Float32[np.ndarray, "time"]:
    """Return the values of a sound file's bytes, of one channel."""
    return soundfile.read(io.BytesIO(encoded), dtype="float32")[0]


@lru_cache(maxsize=16)
def _resampler(from_hz: int, to_hz: int) -> Resample:
    # The sharp Kaiser window of torchaudio's resampling tutorial ("kaiser_best"): aliases below -100 dB.
    return Resample(from_hz, to_hz, "sinc_interp_kaiser", 64, 0.9475937167399596, 14.769656459379492)
