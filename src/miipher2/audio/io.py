"""Sound files and sound values: the only file that reads, writes or resamples audio."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
from jaxtyping import Float32

from miipher2.atomic_io import write_atomically


@dataclass(frozen=True)
class FileSection:
    """A stretch of a file's bytes: a member of a tar."""

    path: Path
    offset_bytes: int
    size_bytes: int
    member: str

    def open(self) -> io.BufferedReader:
        """Open it for reading, as a file that begins and ends where it does."""
        return io.BufferedReader(_Window(self.path.open("rb"), self.offset_bytes, self.size_bytes), 2**16)

    def __str__(self) -> str:
        return f"{self.path}:{self.member}"


class AudioError(ValueError):
    """A sound file or wave that cannot be used; the message names it, what it is and what it should be."""


@dataclass(frozen=True)
class AudioInfo:
    """What a sound file's header says; `samples` counts the values of one channel."""

    seconds: float
    samples: int
    sample_rate_hz: int
    channels: int


def read_info(path: Path | FileSection | str) -> AudioInfo:
    """Return length, rate and channels of a sound file without decoding it.

    Raises:
        AudioError: the file is missing, is no sound file, or holds no audio.
    """
    with _opened(path) as file:
        return AudioInfo(file.frames / file.samplerate, file.frames, file.samplerate, file.channels)


def read_audio(
    path: Path | FileSection | str, start_samples: int = 0, samples: int | None = None
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


def read_blocks(path: Path | FileSection | str, samples: int) -> Iterator[Float32[np.ndarray, "time"]]:
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


def write_audio(
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
        encoded = encode_audio(wave.T, sample_rate_hz, sound_format, subtype)
    except (soundfile.LibsndfileError, ValueError) as error:
        raise AudioError(
            f"{path}: cannot be written at {sample_rate_hz} Hz as {subtype or 'default'}: {error}"
        ) from error
    write_atomically(path, encoded)


def soundfile_name(path: Path | str) -> str | bytes:
    """Return a path as soundfile takes it: as bytes where its name is not UTF-8."""
    name = os.fsencode(path)
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name


@contextmanager
def _opened(path: Path | FileSection | str) -> Iterator[soundfile.SoundFile]:
    """Open a sound file that holds audio."""
    if isinstance(path, Path | str):
        if not Path(path).is_file():
            what = "is a folder" if Path(path).is_dir() else "does not exist"
            raise AudioError(f"{path}: {what}; it should be a sound file")
        whole_or_part: Any = nullcontext(soundfile_name(path))
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
    path: Path | FileSection | str, channels: Float32[np.ndarray, "time channel"]
) -> Float32[np.ndarray, "time"]:
    wave = channels[:, 0] if channels.shape[1] == 1 else channels.mean(axis=1, dtype=np.float32)
    if not np.isfinite(wave).all():
        raise AudioError(f"{path}: holds values that are not finite (NaN or infinity); they should lie in [-1, 1]")
    return np.ascontiguousarray(wave)


def encode_audio(
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


def decode_audio(encoded: bytes) -> Float32[np.ndarray, "time"]:
    """Return the values of a sound file's bytes, of one channel."""
    return soundfile.read(io.BytesIO(encoded), dtype="float32")[0]


class _Window(io.RawIOBase):
    """A file that is a stretch of another."""

    def __init__(self, file: BinaryIO, offset: int, size: int) -> None:
        self._file, self._offset, self._size, self._place = file, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        self._place = place + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        wanted = max(0, min(len(buffer), self._size - self._place))
        self._file.seek(self._offset + self._place)
        count = self._file.readinto(memoryview(buffer)[:wanted])  # type: ignore[attr-defined]
        self._place += count
        return int(count)

    def close(self) -> None:
        self._file.close()
        super().close()
